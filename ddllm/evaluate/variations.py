"""Other ways to train on a distilled data set than its recipe: hands on `Variation`s, which robustness.py scores.

What happens to the rates where the steps become other ones follows the linear scaling rule (Goyal et al., arXiv 1706.02677): to first order the
parameters go as far as before. Each variation's `how` says so in one line, which becomes its note in the results.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import DistilledData, Recipe, actual_rates, raw_rate, raw_rates
from ddllm.distill.gains import mean_gains
from ddllm.distill.initialise import deal_labels
from ddllm.distill.optimizers import LEARNED_MOMENTUM
from ddllm.distill.perturb import DROPPED, drop_positions, scale_rates, single_examples, twice
from ddllm.models.task import Task

Draw = Callable[[DistilledData, jax.Array], DistilledData]
BASE = "as the recipe says"
HARD_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the learned rates, tried for hard labels


@dataclass(frozen=True)
class Variation:
    """One way of training on a distilled data set.

    Attributes:
        name: of its row.
        how: what differs from the recipe, for the row's note.
        candidates: the data by what is tried on validation texts ("rate 0.01"); a single one is not tried but taken.
        recipe: constants of learning from them.
        draw: changes the data anew with the key of each run; None where nothing is drawn.
        more: further entries of the row.
    """

    name: str
    how: str
    candidates: dict[str, DistilledData]
    recipe: Recipe
    draw: Draw | None = None
    more: dict[str, Any] = field(default_factory=dict)


def vary(data: DistilledData, recipe: Recipe, classes: int, adam_rates: tuple[float, ...]) -> list[Variation]:
    """The recipe itself, and every variation of it that keeps the encoder and that the data allow.

    Args:
        data: the distilled data set: M inner batches of N examples, S steps.
        recipe: its recipe.
        classes: number of classes that examples are dealt out over.
        adam_rates: constant rates tried for Adam and AdamW.
    """
    batches, examples = data.embeddings.shape[:2]
    made = [Variation(BASE, "", {"": data}, recipe)]

    def add(name: str, how: str, data: DistilledData, recipe: Recipe = recipe, draw: Draw | None = None) -> None:
        made.append(Variation(name, how, {"": data}, recipe, draw))

    if batches > 1 and recipe.order != "shuffled":
        add(
            "batches reversed",
            "in every pass the inner batches in reverse order; rates stay with the steps",
            reorder(data, np.arange(batches)[::-1]),
        )
        add(
            "batches shuffled",
            "the inner batches in an order drawn for each run, the same in every pass; rates stay with the steps",
            data,
            draw=shuffle,
        )
        if examples % classes == 0:
            how = "examples dealt into the inner batches anew in every pass and run, each class as often as before"
            add("examples dealt anew", how, data.replace(order=None), replace(recipe, order="shuffled"))
    if batches > 1:
        together = one_batch(data)
        how = "all examples in every step, as many steps as before at their own rates, and so more passes"
        add("all in one batch", how, together, replace(recipe, passes=data.steps, order="fixed"))
        how = "all examples in one step per pass, at the sum of the rates of the steps that it replaces"
        add("all in one batch, same passes", how, sum_steps(together, batches), replace(recipe, order="fixed"))
    if examples > 1:
        how = "a step for every example, N in the place of one, each at an Nth of its rates"
        add("single examples", how, single_examples(data), replace(recipe, order="fixed"))
    add("rates halved", "all rates times 1/2", scale_rates(data, 0.5))
    add("rates doubled", "all rates times 2", scale_rates(data, 2.0))
    made.append(constant(f"one rate, {recipe.optimizer}", data, recipe, typical_rates(data)))
    for name, optimizer in (("Adam", "adam"), ("AdamW", "adamw(weight_decay=0.01)")):
        made.append(constant(name, data, replace(recipe, optimizer=optimizer), adam_rates))
    add(
        "twice the passes",
        "the whole recipe again from where it has led to, at the same rates",
        twice(data),
        replace(recipe, passes=2 * recipe.passes),
    )
    add(
        "positions dropped",
        f"{DROPPED:.0%} of the positions masked, drawn for each run; never an example's first one",
        data,
        draw=drop_positions,
    )
    return made


def vary_labels(data: DistilledData, recipe: Recipe, task: Task) -> list[Variation]:
    """The recipe itself and the same inputs with hard labels; the recipe alone where its labels are hard or its examples were not dealt for classes."""
    how = "" if task.one_class else f", which {task.name} has no hard ones to hold against"
    made = [Variation(BASE, f"{recipe.labels} labels{how}", {"": data}, recipe)]
    if recipe.labels == "hard" or not task.one_class:
        return made
    labels = dealt_labels(data)
    others = int(np.sum(np.argmax(np.asarray(data.labels), axis=-1) != labels))
    hard = data.replace(labels=task.store(labels, data.labels.shape[-1], "hard"))
    how = f"one-hot labels of the class that each example began with; the largest learned label is another one for {others} of {data.examples}"
    recipe = replace(recipe, labels="hard")
    made.append(Variation("hard labels", how, {"": hard}, recipe))
    candidates = {f"rates times {factor:g}": scale_rates(hard, factor) for factor in HARD_FACTORS}
    made.append(Variation("hard labels, rates tuned", how, candidates, recipe))
    return made


def dealt_labels(data: DistilledData) -> np.ndarray:
    """The class that each example was dealt for, [M, N]; where batches do not divide into classes, that of the largest label."""
    batches, examples, classes = data.labels.shape
    if examples % classes:
        return np.argmax(np.asarray(data.labels), axis=-1)
    return deal_labels(classes, examples * batches // classes, batches)


def reorder(data: DistilledData, order: Any) -> DistilledData:
    """The inner batches in another order, [M]."""
    return data.replace(**{name: x[order] for name, x in data.batches.items()})


def shuffle(data: DistilledData, key: jax.Array) -> DistilledData:
    """The inner batches in a random order."""
    return reorder(data, jax.random.permutation(key, data.embeddings.shape[0]))


def one_batch(data: DistilledData) -> DistilledData:
    """All examples in one inner batch, the steps as they are."""
    return data.replace(**{name: x.reshape(1, -1, *x.shape[2:]) for name, x in data.batches.items()}, order=None)


def sum_steps(data: DistilledData, count: int) -> DistilledData:
    """One step in the place of every `count`: rates are summed, gains and coefficients of momentum averaged."""
    rates = actual_rates(data)
    rates = raw_rates(rates.reshape(-1, count, rates.shape[1]).sum(axis=1))
    momentum = None if data.momentum is None else data.momentum.reshape(-1, count).mean(axis=1)
    return data.replace(rates=rates, momentum=momentum, gains=mean_gains(data.gains, count))


def constant(name: str, data: DistilledData, recipe: Recipe, rates: tuple[float, ...]) -> Variation:
    """One rate for all steps and parameters, without gains, chosen on validation texts."""
    if recipe.optimizer != LEARNED_MOMENTUM:
        data = data.replace(momentum=None)
    data = data.replace(gains=None)
    candidates = {f"rate {rate:.2g}": data.replace(rates=jnp.full(data.rates.shape, raw_rate(rate))) for rate in rates}
    return Variation(name, f"{recipe.optimizer} at one constant rate for all steps and parameters", candidates, recipe)


def typical_rates(data: DistilledData, around: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)) -> tuple[float, ...]:
    """Multiples of the geometric mean of the learned rates, to try one constant rate around."""
    mean = float(np.exp(np.mean(np.log(np.asarray(actual_rates(data))))))
    return tuple(mean * factor for factor in around)
