"""Training on selected real examples, each selection with a recipe of its own: the baselines that distilled data is held against.

A selection becomes a `DistilledData` with hard labels and one constant rate, and is trained by the same inner loop from redrawn heads. Its rate and
its number of passes are chosen on validation texts, for all draws together; test texts are scored with that choice alone.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.initialise import assemble, deal_rows, pick_examples, real_data, real_types
from ddllm.distill.inner_loop import unroll
from ddllm.evaluate.small import head_key, of_texts, small_row
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner, Start
from ddllm.models.products import in_products
from ddllm.prepare import Prepared
from ddllm.report.results import mean_figure
from ddllm.runtime.mesh import place_parameters
from ddllm.runtime.processes import from_first
from ddllm.runtime.progress import Progress
from ddllm.select.methods import DETERMINISTIC

ONE_PASS = Recipe("hard", "sgd", passes=1)


@dataclass(frozen=True)
class Selection:
    """What training on selected examples reaches.

    Attributes:
        name: the selection method.
        data: the examples of the first draw, with the chosen rate, for one pass.
        rate, passes: the recipe that was chosen.
        validation: mean figure (as a rule accuracy) on validation texts that it was chosen by.
        scores: figures of each draw on test texts.
        texts: test texts behind each of them.
        seconds: wall-clock of one training, compilation left out.
    """

    name: str
    data: DistilledData
    rate: float
    passes: int
    validation: float
    scores: list[dict[str, float]]
    texts: int
    seconds: float


def evaluate_selection(prepared: Prepared, name: str, per_class: int, batches: int, seeds: Sequence[int]) -> Selection:
    """Test figures of plain SGD on whole real texts with hard labels, at the best of config.evaluate's selection_rates and selection_passes.

    Args:
        prepared: data and model.
        name: one of `select.methods.SELECTIONS`.
        per_class: examples of each class; in all, where labels are numbers or sets.
        batches: inner batches they are dealt into; divides per_class.
        seeds: of the draws, beside config.seed: each has a head of its own and, unless the method is deterministic, texts of its own.

    Raises:
        UserError: a class has fewer texts than are asked for.
    """
    config, tokens = prepared.config.evaluate, prepared.tokens
    rates, passes = tuple(config.selection_rates), sorted(set(config.selection_passes))
    picked = pick_for_seeds(prepared, name, per_class, seeds)
    train = partial(train_passes, replace(prepared.learner, start="redrawn"), prepared.start, prepared.mesh)
    keys = {seed: head_key(prepared, seed) for seed in seeds}

    def draw(seed: int, rate: float) -> DistilledData:
        return draw_selection(prepared, picked[seed], batches, rate)

    validation, test = prepared.scorer(tokens.validation, config.tuning_texts), prepared.scorer(tokens.test, config.head_texts)
    means = {(rate, count): 0.0 for rate in rates for count in passes}
    scores, seconds = [], 0.0
    with Progress((len(means) + 1) * len(seeds), f"evaluate: {name.replace('_', '-')} examples") as progress:
        for seed in seeds:
            for rate in rates:
                for count, params in train(draw(seed, rate), keys[seed], passes):
                    means[rate, count] += validation.figure(params) / len(seeds)
                    progress.update(progress.done + 1)
        rate, count = max(means, key=lambda recipe: means[recipe])
        for seed in seeds:
            data, began = draw(seed, rate), time.monotonic()
            [(_, params)] = train(data, keys[seed], [count])
            jax.block_until_ready(params)
            seconds += (time.monotonic() - began) / len(seeds)
            scores.append(test.scores(params))
            progress.update(progress.done + 1, **{prepared.metric: mean_figure(scores, prepared.metric)})
    return Selection(name, draw(seeds[0], rate), rate, count, means[rate, count], scores, test.texts, seconds)


def draw_selection(prepared: Prepared, picked: list[np.ndarray], batches: int, rate: float) -> DistilledData:
    """Chosen training texts as data to train on for one pass, with hard labels and a constant rate.

    Args:
        prepared: data and model.
        picked: row numbers, an array for each class.
        batches: inner batches they are dealt into.
        rate: of every step.
    """
    config, tokens = prepared.config, prepared.tokens
    # One length for all draws, so that one program serves them.
    length = min(config.data.length, max(prepared.buckets))
    inputs = real_data(np.asarray(prepared.pretrained.words), tokens.train, picked, batches, length)
    labels = prepared.learner.task.store(tokens.train.labels[deal_rows(picked, batches)], len(tokens.label_names), "hard")
    more = {"labels": labels, "types": real_types(tokens.train, picked, batches, length)}
    classes, per_class = prepared.classes, len(picked[0])
    data = assemble(*inputs, classes=classes, per_class=per_class, passes=1, kind="hard", groups=1, rate=rate, **more)
    return jax.tree.map(jnp.asarray, data)


def pick_for_seeds(prepared: Prepared, name: str, per_class: int, seeds: Sequence[int]) -> dict[int, list[np.ndarray]]:
    """Row numbers of the training texts that a method selects in each draw, an array for each class.

    Raises:
        UserError: a class has fewer texts than are asked for.
    """
    features = prepared.features if name != "random" else None

    def pick(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng([prepared.config.seed, 23, seed])
        return pick_examples(prepared.tokens.train, prepared.classes, per_class, rng, method=name, features_nD=features)

    def pick_all() -> dict[int, list[np.ndarray]]:
        return dict.fromkeys(seeds, pick(seeds[0])) if name in DETERMINISTIC else {seed: pick(seed) for seed in seeds}

    return from_first(pick_all)


@partial(jax.jit, static_argnames="learner")
def train_pass(learner: Learner, params: Tree, data: DistilledData) -> Tree:
    """Parameters after one pass over the inner batches."""
    return unroll(learner, ONE_PASS, params, data)


def train_passes(
    learner: Learner, start: Start, mesh: Mesh, data: DistilledData, key: jax.Array, passes: Sequence[int]
) -> Iterator[tuple[int, Tree]]:
    """Parameters after each of some numbers of passes, ascending, of one training at a constant rate.

    Plain SGD carries nothing from pass to pass but the parameters: a long training goes through the shorter ones' results, and one compiled pass
    serves every number of passes and every rate.
    """
    params = place_parameters({"body": start.body, "head": learner.init_head(key, start.pooler, data.head)}, mesh)
    for done in range(1, max(passes) + 1):
        params = place_parameters(train_pass(learner, params, data), mesh)
        if done in passes:
            yield done, params


def selection_row(prepared: Prepared, selection: Selection) -> dict[str, Any]:
    """The results' row of a selection, named by its method."""
    config, data = prepared.config.evaluate, selection.data
    rates, passes = _listed(config.selection_rates), _listed(config.selection_passes)
    note = f"SGD rate {selection.rate:g} of {rates} and {selection.passes} of {passes} passes, chosen on validation"
    if selection.name in DETERMINISTIC:
        note += "; the same texts in every run, so that runs differ by their heads alone"
    note += in_products(prepared.learner.encoder.products) + of_texts(selection.texts, len(prepared.tokens.test))
    more = {"rate": selection.rate, "passes": selection.passes, "inner_steps": data.steps * selection.passes, "texts": selection.texts}
    constants = (prepared.classes, selection.seconds, prepared.metric)
    return small_row(selection.name, selection.scores, data, *constants, head="redrawn", note=note, **more)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))
