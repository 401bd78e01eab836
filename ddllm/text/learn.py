"""The outer loop on behalf of texts: the one of ddllm/distill, with what is learned chosen and perhaps shaped; hands on what the best validation had."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddllm.artefact.base import Distilled
from ddllm.checks import validate_inner_loop
from ddllm.distill.dataset import BESIDE, DistilledData, Recipe, learned_parts
from ddllm.distill.learn import learn_from_texts
from ddllm.distill.plan import first_data, recipe_of, take_recipe
from ddllm.distill.shaping import Shaping
from ddllm.distill.teacher import Teacher
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.runtime.metrics import Metrics


@dataclass(frozen=True)
class Desk:
    """Where a route works.

    Attributes:
        folder: of its checkpoints, from which it goes on after it was stopped.
        metrics: opens the file that figures go to.
        teacher: loads what gives real texts their targets, once work is to be done; None: their labels do without.
        bodies: folder of partly fine-tuned bodies that outer steps may start from (see distill/bodies.py).
        name: of the set that texts are made of, in the figures' names; empty for the run's own.
    """

    folder: Path
    metrics: Callable[[], Metrics]
    teacher: Callable[[], Teacher] | None = None
    bodies: Path | None = None
    name: str = ""

    def named(self, work: str) -> str:
        """What figures of some work are called."""
        return f"{work} of {self.name}" if self.name else work


@dataclass(frozen=True)
class Found:
    """What an outer loop has found.

    Attributes:
        learned: the parts as they were learned, in numpy.
        notes: validation figure, its outer step and the seconds, as entries of a card.
    """

    learned: dict[str, Any]
    notes: dict[str, Any]


def plan_texts(prepared: Prepared, distilled: Distilled | None = None) -> tuple[Prepared, DistilledData, Recipe]:
    """What texts are learned with: config.distill as config.text changes it, the data to begin with, and the recipe.

    Args:
        prepared: data and model.
        distilled: what to begin with, which then brings its own recipe; None: what config.distill begins with.

    Raises:
        UserError: config.distill asks for something that so many inner steps do not have.
    """
    config = prepared.config.copy_and_resolve_references()
    distill, text = config.distill, config.text
    distill.outer_steps = text.steps or distill.outer_steps
    distill.validate_every = min(distill.validate_every, distill.outer_steps)
    dropped = () if text.auxiliary else BESIDE
    if dropped:
        distill.attention_labels, distill.feature_labels, distill.direction_labels = "none", False, False
        distill.gains = distill.word_scores = False
    distill.passes = text.passes or distill.passes
    if distilled is not None:
        data, recipe = distilled.data.replace(**dict.fromkeys(dropped)), distilled.recipe
        take_recipe(distill, data, recipe)
    try:
        validate_inner_loop(distill)
    except UserError as error:
        where = f"the set in {text.start}" if text.start and distilled is not None else f"config.text.passes={text.passes}"
        raise UserError(f"with {where}, {error}") from None
    prepared = replace(prepared, config=config)
    if distilled is None:
        return prepared, first_data(prepared), recipe_of(distill)
    return prepared, data, recipe


def learned_beside(data: DistilledData, recipe: Recipe) -> dict[str, Any]:
    """The parts that are learned where embeddings are not: labels, rates and whatever else the recipe has."""
    return {name: part for name, part in learned_parts(data, recipe).items() if name != "embeddings"}


def learn(
    prepared: Prepared,
    data: DistilledData,
    learned: dict[str, Any],
    desk: Desk,
    name: str,
    shaping: Shaping | None = None,
    more: dict[str, float] | None = None,
) -> Found:
    """Run an outer loop to its end, from its last checkpoint where there is one.

    Args:
        prepared: data, model, and a configuration that `plan_texts` has changed.
        data: gives what is not learned.
        learned: first values of what is.
        desk: where the state and the figures go.
        name: of the work, on its progress bar and in metrics.jsonl.
        shaping: between what is learned and the data (see distill/shaping.py).
        more: outer rates of parts that only the shaping knows.

    Raises:
        Diverged: the loss or the gradient became NaN or infinite.
        UserError: an outer step needs more memory than there is.
    """
    where = desk.folder / name.replace(" ", "-"), desk.bodies or desk.folder / "bodies", desk.metrics, desk.named(name)
    best, figures = learn_from_texts(prepared, data, learned, *where, desk.teacher, shaping, more)
    return Found(best, figures | {"outer_steps": prepared.config.distill.outer_steps})
