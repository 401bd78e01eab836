"""Training on a small data set, distilled or real, over redrawn heads: the rows that stand beside full-data fine-tuning.

Both kinds go through the same inner loop; random real examples are a `DistilledData` with hard labels and one constant rate, tuned on
validation texts.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.initialise import assemble, deal_rows, pick_examples, real_data, real_types
from ddllm.distill.inner_loop import same_every_time, train
from ddllm.models.learner import Learner, Start
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
    rows = []
    with Progress(len(keys) + learner.same_every_time * len(own), "evaluate: distilled") as progress:
        if learner.same_every_time:
            scorer = prepared.scorer(test, texts if shuffled else 0)
            scores = score_heads(learner, recipe, start, data, scorer, own, progress)
            note = f"{learner.start} head" + (shuffled or ": the same every time, so there is no deviation over heads")
            note += _of_texts(scorer.texts, len(test))
            rows.append(small_row("distilled", scores, data, *constants, head=learner.start, texts=scorer.texts, note=note))
        redrawn = replace(learner, start="redrawn")
        scorer = prepared.scorer(test, texts)
        scores = score_heads(redrawn, recipe, start, data.replace(head=None), scorer, keys, progress)
        name = "distilled, redrawn heads" if rows else "distilled"
        note = f"heads redrawn from N(0, {learner.head.deviation:g}²){shuffled}" + _of_texts(scorer.texts, len(test))
        rows.append(small_row(name, scores, data, *constants, head="redrawn", texts=scorer.texts, note=note))
    return rows


def evaluate_random(prepared: Prepared, like: DistilledData, recipe: Recipe) -> dict[str, Any]:
    """Test accuracy of random real examples at the distilled data's budget: as many examples, batches and steps, whole texts, hard labels.

    Their one constant rate is chosen on validation texts, for all draws together; each draw has a head of its own.
    """
    config, start = prepared.config.evaluate, prepared.start
    tokens, classes = prepared.tokens, prepared.classes
    learner = replace(prepared.learner, start="redrawn")
    per_class, batches = like.examples // classes, like.embeddings.shape[0]
    recipe = Recipe("hard", "sgd", recipe.passes)
    words = np.asarray(prepared.pretrained.words)
    # One length for all draws, so that one program serves them.
    length = min(prepared.config.data.length, max(prepared.buckets))

    def draw(index: int, rate: float) -> DistilledData:
        rng = np.random.default_rng([prepared.config.seed, 23, index])
        picked = pick_examples(tokens.train, classes, per_class, rng)
        embeddings, mask = real_data(words, tokens.train, picked, batches, length)
        labels = learner.task.store(tokens.train.labels[deal_rows(picked, batches)], len(tokens.label_names), "hard")
        more = {"labels": labels, "types": real_types(tokens.train, picked, batches, length)}
        sizes = {"classes": classes, "per_class": per_class, "passes": recipe.passes}
        return jax.tree.map(jnp.asarray, assemble(embeddings, mask, **sizes, kind="hard", groups=1, rate=rate, **more))

    rates, draws = tuple(config.random_rates), config.random_draws
    keys = head_keys(prepared, draws)
    validation = prepared.scorer(tokens.validation, config.tuning_texts)
    test = prepared.scorer(tokens.test, config.head_texts)
    with Progress((len(rates) + 1) * draws, "evaluate: random real examples") as progress:

        def scores(rate: float, scorer: Scorer) -> list[dict[str, float]]:
            return [score_heads(learner, recipe, start, draw(index, rate), scorer, [keys[index]], progress)[0] for index in range(draws)]

        tuned = max(rates, key=lambda rate: mean_figure(scores(rate, validation), prepared.metric))
        reached = scores(tuned, test)
    data = draw(0, tuned)
    seconds = training_seconds(learner, recipe, start, data)
    note = f"SGD rate {tuned:g} of {', '.join(f'{rate:g}' for rate in rates)}, chosen on validation" + _of_texts(
        test.texts, len(tokens.test)
    )
    return small_row("random", reached, data, classes, seconds, prepared.metric, head="redrawn", texts=test.texts, note=note)


def head_keys(prepared: Prepared, count: int) -> list[jax.Array]:
    """Keys of the heads (and shuffled orders) that results are averaged over, other ones than distillation saw."""
    base = jax.random.fold_in(jax.random.key(prepared.config.seed), 2**31 - 2)
    return [jax.random.fold_in(base, index) for index in range(count)]


def _of_texts(used: int, present: int) -> str:
    return "" if used == present else f", on a fixed random part of {used} test texts"
