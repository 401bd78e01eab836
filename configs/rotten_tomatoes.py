"""Rotten Tomatoes on BERT base by our recipe or a published one; on the embedded encoder, the sizes of two cores.

    python -m ddllm.main --config configs/rotten_tomatoes.py
    python -m ddllm.main --config=configs/rotten_tomatoes.py:model=distilbert-base-uncased,examples=5,recipe=maekawa2023
    python -m ddllm.main --config=configs/rotten_tomatoes.py:model=embedded --config.data.source=FOLDER

BERT base: not measured, its weights were not at hand; full data: 84.71 (published figure).
"""

from ml_collections import ConfigDict

from ddllm.recipes import apply_argument, data_set_config


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, changed by what stands after the colon."""
    config = data_set_config("rotten_tomatoes", 128, 48, argument)
    config.data.source = "cornell-movie-review-data/rotten_tomatoes"
    config.data.validation = "validation"
    return apply_argument(config, argument)
