"""IMDB on BERT base, 512 positions, in the published recipe's shape.

    python -m ddllm.main --config configs/imdb.py
    python -m ddllm.main --config=configs/imdb.py:model=distilbert-base-uncased,examples=5
    python -m ddllm.main --config=configs/imdb.py:model=embedded,smoke --config.data.source=FOLDER

Time and score: not measured; no accelerator and no hub was at hand. Full-data BERT base: 93.86 (published figure).
"""

from ml_collections import ConfigDict

from ddllm.recipes import apply_argument, paper_config


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, changed by what stands after the colon."""
    config = paper_config("imdb")
    config.data.source = "stanfordnlp/imdb"
    return apply_argument(config, argument)
