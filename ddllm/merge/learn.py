"""Learning a merged distilled data set again, by the same outer loop as any other: on real texts, or on stand-ins where there are none."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddllm.data.batches import BatchStream
from ddllm.distill.dataset import DistilledData, Recipe, learned_parts
from ddllm.distill.outer_loop import distil
from ddllm.distill.plan import check_memory, make_outer_step
from ddllm.distill.teacher import Teacher
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.loop import Loop
from ddllm.runtime.metrics import Metrics

STAGE = "merge"


@dataclass(frozen=True)
class MeanScorer:
    """The mean of several scorers' figures, for what is chosen by all of them alike."""

    scorers: tuple[Any, ...]

    def figure(self, params: Any, words_VD: jax.Array | None = None) -> float:
        """The mean figure."""
        return float(np.mean([scorer.figure(params, words_VD) for scorer in self.scorers]))


def learn_again(
    prepared: Prepared,
    data: DistilledData,
    recipe: Recipe,
    parts: tuple[str, ...],
    stream: Any,
    scorer: Any,
    folder: Path,
    open_metrics: Callable[[], Metrics],
    outer_steps: int,
    teacher: Teacher | None = None,
    stage: str = STAGE,
) -> tuple[DistilledData, dict[str, Any]]:
    """Learn some parts of a data set, from where they are.

    Args:
        prepared: the encoder, the data set's learner, and config.distill for how is learned (but not for what the data set is).
        data: first values.
        recipe: its recipe, which stays.
        parts: names of the learned parts, of those that `learned_parts` knows; a learned momentum goes with the rates.
        stream: real batches or others, by number.
        scorer: has `figure`, which chooses.
        folder: of checkpoints: a start that was killed goes on there.
        open_metrics: opens where figures are written.
        outer_steps: how many.
        teacher: see `distil`.
        stage: names the figures.

    Returns:
        The data set with the best values, and {"validation_…", "outer_step", "distillation_seconds"} for its card.
    """
    prepared = replace(prepared, config=adapt(prepared, data, recipe, outer_steps, teacher is not None))
    config = prepared.config.distill
    wanted = (*parts, "momentum") if "rates" in parts else parts
    learned = {name: value for name, value in learned_parts(data, recipe).items() if name in wanted}
    checkpoints, metrics = Checkpoints(folder, config.checkpoints_kept), open_metrics()
    loop = Loop(stage, outer_steps, config.validate_every, config.checkpoint_every, checkpoints, metrics, prepared.metric)
    try:
        step = make_outer_step(prepared, data, config.gradient, 1)
        if (checkpoints.latest() or 0) < outer_steps:
            check_memory(prepared, step, data, tuple(learned), taught=not isinstance(stream, BatchStream))
        state, seconds = distil(loop, step, learned, stream, scorer, config.validation_heads, prepared.config.seed, teacher)
    finally:
        checkpoints.close()
        metrics.close()
    best = jax.tree.map(np.asarray, state.best)
    figures = {f"validation_{prepared.metric}": float(best["accuracy"]), "outer_step": int(best["step"]), "distillation_seconds": seconds}
    return data.replace(**best["learned"]), figures


def adapt(prepared: Prepared, data: DistilledData, recipe: Recipe, outer_steps: int, taught: bool) -> ConfigDict:
    """The configuration with what a data set is, and whether a teacher is there, in the place of what config.distill would have made."""
    config = prepared.config.copy_and_resolve_references()
    rows = "none" if data.attention is None else "cls" if np.ndim(data.attention) == 5 else "all"
    start = prepared.learner.start
    with config.unlocked():
        config.distill.update(
            {
                "batches": int(data.mask.shape[0]),
                "passes": recipe.passes,
                "labels": recipe.labels,
                "inner_optimizer": recipe.optimizer,
                "order": recipe.order,
                "head": start,
                "heads": config.distill.heads if start == "redrawn" else 1,
                "attention_labels": rows,
                "attention_weight": float(recipe.attention_weight),
                "feature_labels": data.features is not None,
                "feature_weight": float(recipe.feature_weight),
                "direction_labels": data.directions is not None,
                "outer_steps": outer_steps,
                "teacher": config.distill.teacher if taught else "",
                # About the steps and examples that were planned, not about those there are.
                "segments": 1,
                "truncate": 0,
                "window": "last",
                "curriculum": 0.0,
                "robust": (),
            }
        )
    return config
