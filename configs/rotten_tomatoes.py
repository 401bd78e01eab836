"""Rotten Tomatoes on BERT base, 512 positions, in the published recipe's shape.

    python -m ddllm.main --config configs/rotten_tomatoes.py
    python -m ddllm.main --config=configs/rotten_tomatoes.py:model=distilbert-base-uncased,examples=5
    python -m ddllm.main --config=configs/rotten_tomatoes.py:model=embedded,smoke --config.data.source=FOLDER

Time and score: not measured; no accelerator and no hub was at hand. Full-data BERT base: 84.71 (published figure).
"""

from ml_collections import ConfigDict

from ddllm.recipes import apply_argument, paper_config


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, changed by what stands after the colon."""
    config = paper_config("rotten_tomatoes")
    config.data.source = "cornell-movie-review-data/rotten_tomatoes"
    config.data.validation = "validation"
    return apply_argument(config, argument)
