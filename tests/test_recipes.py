"""Recipes by name: the settings that are published, and that each of them distils."""

import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled
from ddllm.config import default_config
from ddllm.main import main
from ddllm.recipes import RECIPES, apply_argument

RATES = ("rate_embeddings", "rate_labels", "rate_rates")
# What papers and public commands say, by the keys of config.distill.
PUBLISHED = {
    "maekawa2023": {
        "initial": "normal",
        "labels": "unrestricted",
        "head": "redrawn",
        "rates": "step",
        "initial_rate": 1e-2,
        "inner_optimizer": "sgd",
        "attention_labels": "cls",
        "attention_initial": "noise",
        "attention_weight": 100.0,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        **dict.fromkeys((*RATES, "rate_attention"), 1e-2),
        "decay": "linear",
        "warmup": 0.1,
        "clip": 1.0,
        "adaptive_clip": 0.0,
        "batches": 4,
        "passes": 1,
        "direction_labels": False,
        "gains": False,
        "word_scores": False,
        "teacher": "",
        "average": 0.0,
        "choose": "best",
    },
    "sucholutsky": {
        "initial": "normal",
        "labels": "soft",
        "head": "redrawn",
        "rates": "step",
        "initial_rate": 1e-2,
        "inner_optimizer": "sgd",
        "attention_labels": "none",
        "optimizer": "adam",
        "weight_decay": 0.0,
        **dict.fromkeys(RATES, 1e-2),
        "warmup": 0.0,
        "clip": 0.0,
        "batches": 1,
        "passes": 5,
        "direction_labels": False,
        "gains": False,
        "word_scores": False,
        "teacher": "",
        "average": 0.0,
        "choose": "best",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_others_are_as_published(name):
    config = default_config()
    RECIPES["ddllm"](config.distill)  # which a data set's configuration begins with
    distill = apply_argument(config, f"examples=4,recipe={name}").distill
    assert {key: distill[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_distils(name, small_runs, make_model, tmp_path):
    amounts = {"outer_steps": 2, "validate_every": 1, "checkpoint_every": 2, "length": 6, "teacher": ""}
    make = small_runs("distill", model__name=make_model(16, 1), runtime__devices=1, **{f"distill__{key}": value for key, value in amounts.items()})
    config, *line = make(tmp_path)
    assert main([f"{config}:examples=2,recipe={name}", *line]) == 0
    distilled = load_distilled(tmp_path / "distilled")
    inner = {"ddllm": 2, "maekawa2023": 2, "sucholutsky": 5}[name]
    assert distilled.data.examples == 4 and distilled.data.steps == inner and np.isfinite(distilled.data.rates).all()
    parts = {part: getattr(distilled.data, part) is not None for part in ("attention", "directions", "gains", "word_scores", "word_shares")}
    assert parts == {"attention": name == "maekawa2023"} | dict.fromkeys(("directions", "gains", "word_scores", "word_shares"), name == "ddllm")
