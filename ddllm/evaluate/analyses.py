"""Analyses of one distilled data set, each a list of rows in results.json: hard-label accuracy, accuracy against stored bytes and against compute."""

from typing import Any

import jax
import jax.numpy as jnp

from ddllm.artefact.base import Distilled
from ddllm.evaluate.compute import evaluate_compute
from ddllm.evaluate.robustness import score_variations
from ddllm.evaluate.storage import vary_storage
from ddllm.evaluate.variations import vary_labels
from ddllm.prepare import Prepared

Row = dict[str, Any]


def analyse_distilled(prepared: Prepared, distilled: Distilled, full: Row, own: Row, short: list[Row]) -> dict[str, list[Row]]:
    """All of them.

    Args:
        prepared: data, model and configuration; its learner is the one that the data set was distilled for.
        distilled: the distilled data set.
        full, own: the rows of results.json about fine-tuning on all texts and about this set; empty where there are none.
        short: of shorter fine-tunings, as `finetune_shortly` gives them.

    Returns:
        {"labels": …, "storage": …, "compute": …}: the first two as `score_variations` gives them, the last as `evaluate_compute` does.
    """
    data, recipe = jax.tree.map(jnp.asarray, distilled.data), distilled.recipe
    return {
        "labels": score_variations(prepared, vary_labels(data, recipe, prepared.learner.task)),
        "storage": score_variations(prepared, vary_storage(data, recipe)),
        "compute": evaluate_compute(prepared, distilled, full, own, short),
    }
