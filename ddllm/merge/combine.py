"""Aligned distilled data sets as one: their steps one after the other, in turn, or side by side in the same inner batches.

| way | steps | inner batches |
|---|---|---|
| `concatenate` | all steps of the first set, then all of the second, … | all sets' |
| `interleave` | those of all sets in turn, each set's evenly spread | all sets' |
| `join` | as many as each set has | batch t of all sets as one, at the mean of their rates and gains |

In these means a set that was itself joined counts as often as there were sets: joining them one after the other, as they come, is joining them all at once.

What comes out has a fixed order where one says the same, and otherwise a learned one, whose shares are 0 or 1 for sets whose order was fixed: each
of its steps then costs as many batches as there are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.distill.curriculum import ABSENT
from ddllm.distill.dataset import AUXILIARY, FED, DistilledData, Recipe, raw_rates, raw_share
from ddllm.distill.gains import same_in_all_steps, step_gains
from ddllm.distill.optimizers import SGD
from ddllm.distill.order import fixed_order
from ddllm.errors import UserError
from ddllm.merge.align import ONE
from ddllm.models.encoder import Tree

ADVICE = "set config.merge.how or, where that names no way, config.merge.order (in continual learning config.continual.way) to"


def choose_way(sets: Sequence[Distilled]) -> str:
    """`join` where the sets can be joined, which keeps more of their accuracy than taking turns (results/MERGING.md); else `interleave`."""
    return "join" if len(_sizes(d.data for d in sets)) == 1 and all(d.recipe.order != "learned" for d in sets) else "interleave"


def combine(sets: list[DistilledData], recipe: Recipe, way: str, classes: int = 1, weights: Sequence[int] = ()) -> tuple[DistilledData, Recipe]:
    """One data set of several aligned ones.

    Args:
        sets: with the same sizes, but for N where they are joined, and with `order` (see align.py).
        recipe: theirs, but for passes and order.
        way: one of the table above.
        classes: over how many classes examples are dealt out; they stay together in joined batches.
        weights: how much each set counts in the means of joined batches and of learned heads; left out, all count alike.

    Raises:
        UserError: the sets have other numbers of steps than the way can put together.
    """
    if way == "join":
        return join_batches(sets, recipe, classes, weights or [1] * len(sets))
    if recipe.order == "shuffled":
        if way == "concatenate":
            raise UserError(f"sets with a shuffled order cannot be trained on one after the other; {ADVICE} interleave or join.")
        passes = sets[0].steps // sets[0].mask.shape[0]
        steps = [(number, step) for part in range(passes) for number, s in enumerate(sets) for step in _of_pass(s, part)]
    else:
        steps = sequence(sets, way)
    firsts = _first_uses(sets, steps)
    batches = np.cumsum([0, *(s.mask.shape[0] for s in sets)])
    place = {batch: position for position, batch in enumerate(firsts)}
    # Batch numbers counted through all sets, in the order in which they are met first.
    changes: dict[str, Any] = {
        name: np.concatenate([np.asarray(getattr(s, name)) for s in sets])[firsts] for name in FED if getattr(sets[0], name) is not None
    }
    shares = np.full((len(steps), len(firsts)), 0.0, np.float32)
    for row, (number, step) in enumerate(steps):
        mine = [place[batch] for batch in range(batches[number], batches[number + 1])]
        logits = np.asarray(sets[number].order)[step]
        # Others' batches are out of reach, however the own ones are mixed.
        shares[row] = logits.min() - ONE
        shares[row, mine] = logits
    changes["rates"] = np.stack([np.asarray(sets[number].rates)[step] for number, step in steps])
    if sets[0].momentum is not None:
        changes["momentum"] = np.stack([np.asarray(sets[number].momentum)[step] for number, step in steps])
    changes["gains"] = merge_gains(sets, steps)
    data = sets[0].replace(order=shares, head=merge_heads(sets, first=way == "concatenate"), **changes)
    return settle_order(data, recipe)


def settle_order(data: DistilledData, recipe: Recipe) -> tuple[DistilledData, Recipe]:
    """The simplest order that gives the same steps, with steps that do nothing where their number is no multiple of that of the batches.

    Raises:
        UserError: such steps are needed, but an optimizer with a memory would not do nothing in them.
    """
    batches, steps = data.mask.shape[0], data.steps
    passes = -(-steps // batches)
    missing = passes * batches - steps
    if missing:
        if recipe.optimizer != SGD:
            raise UserError(
                f"the sets have {steps} inner steps for {batches} inner batches in all, which only the inner optimizer sgd can be given, and theirs is "
                f"{recipe.optimizer}; distil them with the same number of passes."
            )
        rates = np.concatenate([data.rates, np.full((missing, data.rates.shape[1]), ABSENT, np.float32)])
        order = np.concatenate([data.order, (ONE * np.eye(batches, dtype=np.float32))[fixed_order(batches, passes)[steps:]]])
        gains = data.gains if same_in_all_steps(data.gains) else np.concatenate([data.gains, np.ones((missing, data.gains.shape[1]), np.float32)])
        data = data.replace(rates=rates, order=order, gains=gains)
    order = np.asarray(data.order)
    if recipe.order == "shuffled":
        return data.replace(order=None), replace(recipe, passes=passes)
    hard = np.all(np.sort(order, axis=1)[:, :-1] <= order.max(axis=1, keepdims=True) - ONE)
    if hard and np.array_equal(order.argmax(axis=1), fixed_order(batches, passes)):
        return data.replace(order=None), replace(recipe, passes=passes, order="fixed")
    return data, replace(recipe, passes=passes, order="learned")


def sequence(sets: Sequence[DistilledData], way: str) -> list[tuple[int, int]]:
    """(set, its step) for each step of the merged training."""
    steps = [(number, step) for number, s in enumerate(sets) for step in range(s.steps)]
    if way == "concatenate":
        return steps
    return sorted(steps, key=lambda pair: ((pair[1] + 0.5) / sets[pair[0]].steps, pair[0]))


def join_batches(sets: list[DistilledData], recipe: Recipe, classes: int, weights: Sequence[int]) -> tuple[DistilledData, Recipe]:
    """Batch t of all sets as one inner batch, whose step is the weighted mean of theirs; rates, gains and momentum are means as well.

    The loss is the mean over all examples. Where that gives a set another weight than its own, its labels make up for it, which then have to enter the
    loss linearly (others are repeated until they need not; see align.py).

    Raises:
        UserError: the sets have other numbers of batches or steps, or learned orders.
    """
    sizes = _sizes(sets)
    if len(sizes) > 1:
        listed = ", ".join(f"{batches} batches in {steps} steps" for batches, steps in sorted(sizes))
        raise UserError(f"only sets of as many inner batches and steps can be joined, and these have {listed}; {ADVICE} interleave.")
    if recipe.order == "learned":
        raise UserError(f"sets with a learned order cannot be joined batch by batch; {ADVICE} interleave.")
    [(batches, steps)] = sizes
    counts = np.array([s.mask.shape[1] for s in sets])
    scales = np.asarray(weights) / np.sum(weights) * counts.sum() / counts
    # Class after class, as batches that are dealt anew have to be.
    groups = classes if not np.any(counts % classes) else 1
    dealt = [np.arange(end - count, end).reshape(groups, -1) for count, end in zip(counts, np.cumsum(counts), strict=True)]
    places = np.concatenate(dealt, axis=1).reshape(-1)

    def joined(name: str) -> np.ndarray:
        arrays = [np.asarray(getattr(s, name)) for s in sets]
        if name in ("labels", *AUXILIARY):
            arrays = [array if np.isclose(scale, 1) else np.float32(scale) * array for array, scale in zip(arrays, scales, strict=True)]
        return np.concatenate(arrays, axis=1)[:, places]

    changes: dict[str, Any] = {name: joined(name) for name in FED if getattr(sets[0], name) is not None}
    rates: Any = np.average([np.logaddexp(0, np.asarray(s.rates, np.float64)) for s in sets], axis=0, weights=weights)
    changes["rates"] = np.asarray(raw_rates(rates))
    if sets[0].momentum is not None:
        shares = np.average([np.asarray(jax.nn.sigmoid(np.asarray(s.momentum))) for s in sets], axis=0, weights=weights)
        changes["momentum"] = np.array([raw_share(share) for share in shares], np.float32)
    if sets[0].gains is not None:
        rows = steps if any(not same_in_all_steps(s.gains) for s in sets) else 1
        changes["gains"] = np.average([step_gains(s.gains, rows) for s in sets], axis=0, weights=weights).astype(np.float32)
    data = sets[0].replace(order=None, head=merge_heads(sets, weights), **changes)
    return data, replace(recipe, passes=steps // batches)


def merge_gains(sets: list[DistilledData], steps: list[tuple[int, int]]) -> np.ndarray | None:
    """Gains of (set, its step) one after the other: once for all of them where all sets have the same."""
    if sets[0].gains is None:
        return None
    if all(same_in_all_steps(s.gains) and np.array_equal(s.gains, sets[0].gains) for s in sets):
        return np.asarray(sets[0].gains)
    each = [np.asarray(step_gains(s.gains, s.steps)) for s in sets]
    return np.stack([each[number][step] for number, step in steps])


def merge_heads(sets: list[DistilledData], weights: Sequence[int] = (), first: bool = False) -> Tree | None:
    """A learned head for the merged set: the (weighted) mean of the heads, or the first one; outputs that a set does not have are left to the others."""
    heads = [s.head for s in sets if s.head is not None]
    if not heads:
        return None
    counts = np.asarray(weights or [1] * len(heads), np.float64)  # all sets have learned heads, or none has
    kernels, biases = (np.stack([np.asarray(head["out"][part]) for head in heads]) for part in ("kernel", "bias"))
    there = np.any(kernels != 0, axis=1) | (biases != 0)  # [set, C]
    if first:
        there = there & (np.cumsum(there, axis=0) == 1)
    shares = there * counts[:, None]
    shares = shares / np.maximum(shares.sum(axis=0, keepdims=True), 1)
    out = {"kernel": np.sum(shares[:, None] * kernels, axis=0), "bias": np.sum(shares * biases, axis=0)}
    dense = [head["dense"] for head in heads if "dense" in head]
    mean = [jax.tree.map(lambda *leaves: leaves[0] if first else np.average(leaves, axis=0, weights=counts), *dense)] if dense else []
    merged = {"out": out, **({"dense": mean[0]} if mean else {})}
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), merged)


def _sizes(sets: Iterable[DistilledData]) -> set[tuple[int, int]]:
    """The numbers of inner batches and steps that sets have."""
    return {(s.mask.shape[0], s.steps) for s in sets}


def _first_uses(sets: list[DistilledData], steps: list[tuple[int, int]]) -> list[int]:
    """Batches, counted through all sets, in the order in which steps take most of them first; those that none does come last."""
    before = np.cumsum([0, *(s.mask.shape[0] for s in sets)])
    taken = [int(before[number] + np.asarray(sets[number].order)[step].argmax()) for number, step in steps]
    return list(dict.fromkeys([*taken, *range(before[-1])]))


def _of_pass(data: DistilledData, number: int) -> range:
    batches = data.mask.shape[0]
    return range(number * batches, (number + 1) * batches)
