"""Shadow sets: data sets distilled as the run's own is, each from half of the training and test texts, so that what a text's presence does is known.

Shadows come in pairs, one for a random half of the texts of every class and one for the rest: a text is in exactly one of both, and however many
pairs there are it is in as many shadows as it is not. A shadow has a seed of its own, and whatever config.distill fine-tunes first (a teacher, bodies)
is fine-tuned on its half alone. Each has a folder of its own, where its checkpoints lie until it is there, so that a start that was killed goes on.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ddllm.artefact.base import Distilled, describe_base
from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.data.splits import strata
from ddllm.data.tokens import TokenSplit, join_splits
from ddllm.distill.learn import distil_texts
from ddllm.distill.plan import recipe_of
from ddllm.distill.teacher import make_teacher
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.runtime.metrics import Metrics
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say

SEEDS = 20_000  # of shadows, far from those of the run
WORK = "work"  # folder of a shadow's checkpoints, until the set is there


@dataclass(frozen=True)
class Shadows:
    """Shadow sets, and what each was distilled from.

    Attributes:
        sets: S of them, pair after pair.
        inside: whether a text is among those of a shadow, [S, n]; training texts come first, then test texts.
        outer_steps: of each.
    """

    sets: list[Distilled]
    inside: np.ndarray
    outer_steps: int


def plan_shadows(prepared: Prepared, folder: Path, seconds: float | None) -> None:
    """Say what the shadows of config.privacy will cost.

    Args:
        prepared: the run's.
        folder: where shadows are kept.
        seconds: that the run's own distillation took; None where that is not known.

    Raises:
        UserError: half of the texts are too few to distil from.
    """
    count, steps, config = prepared.config.privacy.shadows, shadow_steps(prepared), prepared.config.distill
    pool = pool_texts(prepared)
    classes, least = prepared.classes, config.examples_per_class
    each = np.bincount(strata(pool.labels), minlength=classes).min() // 2
    if each < least:
        raise UserError(
            f"a shadow set has half of the {len(pool):,} training and test texts, with {each} of the rarest class, but "
            f"config.distill.examples_per_class is {least}; set config.privacy.shadows to 0."
        )
    there = from_first(lambda: sum(_place(folder, steps, number).is_dir() for number in range(1, count + 1)))
    known = f" and {there} of them are there" if there else ""
    say(f"  shadow sets: {count} distillations of {steps} outer steps{', each with a teacher of its own' if config.teacher else ''}{known}")
    if seconds and there < count:
        one, left = seconds * steps / config.outer_steps / 60, count - there
        took = f"the run's own took {seconds / 60:,.1f} minutes for {config.outer_steps}"
        say(f"  {took}: about {one:,.1f} minutes for each, {one * left:,.1f} for the {left} to come{', and the teachers' if config.teacher else ''}")


def distil_shadows(prepared: Prepared, folder: Path, open_metrics: Callable[[], Metrics]) -> Shadows:
    """All shadows of config.privacy: loaded where they are there, or else distilled.

    Args:
        prepared: the run's, with the learner that config.distill asks for.
        folder: where shadows are kept.
        open_metrics: opens where figures are written.
    """
    pool, steps, count = pool_texts(prepared), shadow_steps(prepared), prepared.config.privacy.shadows
    inside_Sn = make_halves(strata(pool.labels), count // 2, prepared.config.seed)
    sets = []
    for number, inside in enumerate(inside_Sn, 1):
        place = _place(folder, steps, number)
        if not from_first(place.is_dir):
            say(f"  shadow set {number} of {count}")
            _distil(of_half(prepared, pool.take(np.flatnonzero(inside)), number), place, open_metrics, f"shadow-{number}")
        sets.append(from_first(partial(load_distilled, place)))
        if is_first():
            shutil.rmtree(place.parent / WORK, ignore_errors=True)
    return Shadows(sets, inside_Sn, steps)


def pool_texts(prepared: Prepared) -> TokenSplit:
    """The texts that shadows are distilled from: all training texts, and behind them all test texts."""
    return join_splits([prepared.tokens.train, prepared.tokens.test])


def shadow_steps(prepared: Prepared) -> int:
    """Outer steps of a shadow."""
    return prepared.config.privacy.shadow_steps or prepared.config.distill.outer_steps


def make_halves(classes_n: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """Whether a text is in a shadow, [2 · pairs, n]: in each pair, a random half of every class and the rest; a text that is over goes to either."""
    inside = []
    for pair in range(pairs):
        rng, half_n = np.random.default_rng([seed, 61, pair]), np.zeros(len(classes_n), bool)
        for label in np.unique(classes_n):
            rows = rng.permutation(np.flatnonzero(classes_n == label))
            half_n[rows[: (len(rows) + rng.integers(2)) // 2]] = True
        inside += [half_n, ~half_n]
    return np.stack(inside)


def of_half(prepared: Prepared, half: TokenSplit, number: int) -> Prepared:
    """What is prepared, with the texts of a shadow for training texts, its seed and its outer steps."""
    config = prepared.config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = prepared.config.seed + SEEDS + number
        config.distill.outer_steps = shadow_steps(prepared)
    fingerprint = hashlib.sha256(f"{prepared.tokens.fingerprint} shadow {number}".encode()).hexdigest()
    tokens = replace(prepared.tokens, train=half, fingerprint=fingerprint)
    return replace(prepared, config=config, tokens=tokens, cache=None)


def _place(folder: Path, steps: int, number: int) -> Path:
    return folder / f"{steps}-steps" / str(number) / "distilled"


def _distil(prepared: Prepared, place: Path, open_metrics: Callable[[], Metrics], name: str) -> None:
    config, work = prepared.config.distill, place.parent / WORK
    teacher = partial(make_teacher, prepared, work / "finetune", open_metrics, f"{name}-teacher") if config.teacher else None
    data, figures = distil_texts(prepared, work / "checkpoints", work / "bodies", open_metrics, name, teacher)
    if is_first():
        base = describe_base(prepared.pretrained, prepared.learner, prepared.config.data.length, bool(prepared.config.data.pair_column))
        save_distilled(place, data, recipe_of(config), prepared.tokens.label_names, config.storage, **base, **figures)
