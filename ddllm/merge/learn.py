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
from ddllm.distill.learn import learn
from ddllm.distill.memory import check_memory
from ddllm.distill.outer_step import OuterStep
from ddllm.distill.plan import make_outer_step, take_recipe
from ddllm.distill.teacher import Teacher
from ddllm.errors import UserError
from ddllm.merge.checks import PARTS
from ddllm.prepare import Prepared
from ddllm.runtime.metrics import Metrics

STAGE = "merge"
VALIDATIONS = 4  # at least, after what was there before: what is learned again begins far above what is learned for the first time


@dataclass(frozen=True)
class MeanScorer:
    """The mean of several scorers' figures, for what is chosen by all of them alike."""

    scorers: tuple[Any, ...]

    def figure(self, params: Any, words_VD: jax.Array | None = None) -> float:
        """The mean figure."""
        return float(np.mean([scorer.figure(params, words_VD) for scorer in self.scorers]))

    def loss(self, params: Any, words_VD: jax.Array | None = None) -> float:
        """The mean loss."""
        return float(np.mean([scorer.loss(params, words_VD) for scorer in self.scorers]))

    def standard_error(self, figure: float) -> float:
        """Of the mean, as if all figures had this value."""
        return float(np.linalg.norm([scorer.standard_error(figure) for scorer in self.scorers])) / len(self.scorers)


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
    """Learn some parts of a data set, from where they are; validations choose between what is learned and what was there.

    Args:
        prepared: the encoder, the data set's learner, and config.distill for how is learned (but not for what the data set is).
        data: first values.
        recipe: its recipe, which stays.
        parts: names of the learned parts, of those that `learned_parts` knows; gains, word scores and a learned momentum go with the rates.
        stream: real batches or others, by number.
        scorer: has `figure`, which chooses, and its `standard_error`.
        folder: of checkpoints: a start that was killed goes on there.
        open_metrics: opens where figures are written.
        outer_steps: how many.
        teacher: see `distil`.
        stage: names the figures.

    Returns:
        The data set with the best values, and {"validation_…", "validation_loss", "outer_step", "distillation_seconds"} for its card.

    Raises:
        UserError: the data set lacks one of the parts.
    """
    check_parts(parts, data, recipe)
    prepared = replace(prepared, config=adapt(prepared, data, recipe, outer_steps, teacher is not None))
    wanted = (*parts, "momentum", "gains", "word_scores", "word_shares") if "rates" in parts else parts
    learned = {name: value for name, value in learned_parts(data, recipe).items() if name in wanted}

    def make_step(unfinished: bool) -> OuterStep:
        step = make_outer_step(prepared, data)
        if unfinished:
            check_memory(prepared, step, data, tuple(learned), taught=not isinstance(stream, BatchStream))
        return step

    given = None if teacher is None else lambda: teacher
    best, figures = learn(prepared, learned, stream, scorer, folder, open_metrics, stage, make_step, given, keep_start=True)
    return data.replace(**best), figures


def check_parts(parts: tuple[str, ...], data: DistilledData, recipe: Recipe) -> None:
    """Raise `UserError` for parts that a data set has not; hard labels, which stay as they are, may stand beside others."""
    known = learned_parts(data, recipe)
    absent = [part for part in parts if part not in known and (part, recipe.labels) != ("labels", "hard")]
    if absent or not set(parts) & set(known):
        raise UserError(
            f"{', '.join(absent or parts)} cannot be learned, since the distilled data set has no such part; "
            f"config.merge.learn may have {', '.join(part for part in PARTS if part in known)}."
        )


def adapt(prepared: Prepared, data: DistilledData, recipe: Recipe, outer_steps: int, taught: bool) -> ConfigDict:
    """The configuration with what a data set is, and whether a teacher is there, in the place of what config.distill would have made."""
    config = prepared.config.copy_and_resolve_references()
    start = prepared.learner.start
    take_recipe(config.distill, data, recipe)
    with config.unlocked():
        config.distill.update(
            {
                "head": start,
                "heads": config.distill.heads if start == "redrawn" else 1,
                "outer_steps": outer_steps,
                "validate_every": min(config.distill.validate_every, max(outer_steps // VALIDATIONS, 1)),
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
