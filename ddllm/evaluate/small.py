"""Training on a distilled data set, with its own head and over redrawn ones: the rows that stand beside full-data fine-tuning.

Real examples go through the same inner loop, see selection.py.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.inner_loop import same_every_time, train
from ddllm.models.learner import Learner, Start
from ddllm.models.products import in_products
from ddllm.models.scoring import Scorer
from ddllm.prepare import Prepared
from ddllm.report.results import ACCURACY, mean_figure, summarise
from ddllm.runtime.progress import Progress

train_small = jax.jit(train, static_argnames=("learner", "recipe"))


def training_seconds(learner: Learner, recipe: Recipe, start: Start, data: DistilledData) -> float:
    """Wall-clock of one training on the data, compilation left out."""
    run = partial(train_small, learner, recipe, start, data, jax.random.key(0))
    jax.block_until_ready(run())
    began = time.monotonic()
    jax.block_until_ready(run())
    return time.monotonic() - began


def score_heads(
    learner: Learner, recipe: Recipe, start: Start, data: DistilledData, scorer: Scorer, keys: list[jax.Array], progress: Progress
) -> list[dict[str, float]]:
    """Figures after training from each key's head."""
    scores = []
    for key in keys:
        scores.append(scorer.scores(train_small(learner, recipe, start, data, key)))
        progress.update(progress.done + 1, **{scorer.metric: mean_figure(scores, scorer.metric)})
    return scores


def small_row(
    name: str, scores: list[dict[str, float]], data: DistilledData, classes: int, seconds: float, metric: str = ACCURACY, **more: Any
) -> dict[str, Any]:
    """A results' row; the deviation is that of the runs (with n − 1), 0 for a single one."""
    return {
        "name": name,
        "examples_per_class": data.examples // classes,
        "examples": data.examples,
        "inner_steps": data.steps,
        "floats": data.floats,
        **summarise(scores, metric),
        **({"accuracies": [score[ACCURACY] for score in scores]} if ACCURACY in scores[0] else {}),
        "seconds": seconds,
        **more,
    }


def evaluate_distilled(prepared: Prepared, data: DistilledData, recipe: Recipe) -> list[dict[str, Any]]:
    """Test accuracy of a distilled data set: with its recipe's head and, where that is the same every time, over redrawn heads too.

    A shuffled order is drawn anew with each key, so that a head that is the same every time has a spread too.

    Returns:
        Rows of the results: "distilled", and perhaps "distilled, redrawn heads".
    """
    config, learner, start = prepared.config.evaluate, prepared.learner, prepared.start
    test = prepared.tokens.test
    data = jax.tree.map(jnp.asarray, data)
    keys = head_keys(prepared, config.heads)
    own = keys[:1] if same_every_time(learner, recipe) else keys
    seconds = training_seconds(learner, recipe, start, data)
    constants = (prepared.classes, seconds, prepared.metric)
    texts = config.head_texts or len(test)
    shuffled = ", orders redrawn" if recipe.order == "shuffled" else ""
    exact = in_products(learner.encoder.products)
    rows = []
    with Progress(len(keys) + learner.same_every_time * len(own), "evaluate: distilled") as progress:
        if learner.same_every_time:
            scorer = prepared.scorer(test, texts if shuffled else 0)
            scores = score_heads(learner, recipe, start, data, scorer, own, progress)
            note = f"{learner.start} head" + (shuffled or ": the same every time, so there is no deviation over heads")
            note += exact + of_texts(scorer.texts, len(test))
            rows.append(small_row("distilled", scores, data, *constants, head=learner.start, texts=scorer.texts, note=note))
        redrawn = replace(learner, start="redrawn")
        scorer = prepared.scorer(test, texts)
        scores = score_heads(redrawn, recipe, start, data.replace(head=None), scorer, keys, progress)
        name = "distilled, redrawn heads" if rows else "distilled"
        note = f"heads redrawn from N(0, {learner.head.deviation:g}²){shuffled}{exact}" + of_texts(scorer.texts, len(test))
        rows.append(small_row(name, scores, data, *constants, head="redrawn", texts=scorer.texts, note=note))
    return rows


def head_keys(prepared: Prepared, count: int) -> list[jax.Array]:
    """Keys of the heads (and shuffled orders) that results are averaged over, other ones than distillation saw."""
    return [head_key(prepared, index) for index in range(count)]


def head_key(prepared: Prepared, index: int) -> jax.Array:
    """One of `head_keys`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(prepared.config.seed), 2**31 - 2), index)


def of_texts(used: int, present: int) -> str:
    """The end of a note, where not all test texts were scored."""
    return "" if used == present else f", on a fixed random part of {used} test texts"
