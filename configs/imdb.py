"""IMDB on BERT base by our recipe or a published one; on the embedded encoder, the sizes of two cores.

    python -m ddllm.main --config configs/imdb.py
    python -m ddllm.main --config=configs/imdb.py:model=distilbert-base-uncased,examples=5,recipe=maekawa2023
    python -m ddllm.main --config=configs/imdb.py:model=embedded --config.data.source=FOLDER

The embedded encoder trains on 12,000 of the 25,000 training texts, with 1,000 for validation and 4,000 test texts:
`data.limit_train`, `limit_validation` and `limit_test`, which make_small of ddllm/recipes.py sets.

BERT base: not measured, its weights were not at hand; full data: 93.86 (published figure).
"""

from ml_collections import ConfigDict

from ddllm.recipes import apply_argument, data_set_config


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, changed by what stands after the colon."""
    # Its texts are long, and more outer steps have not been tried.
    config = data_set_config("imdb", 512, 128, argument, small_steps=600)
    config.data.source = "stanfordnlp/imdb"
    return apply_argument(config, argument)
