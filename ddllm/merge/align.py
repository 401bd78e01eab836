"""Distilled data sets brought to the same shapes, each still training exactly as it did.

    positions T    filled up with mask 0
    examples N     filled up with examples whose labels are 0, the others' labels multiplied by what the mean loses; or repeated, where
                   labels do not enter the loss linearly. Sets that are to be joined keep their own, or are repeated in proportion to their weights
    classes C      columns of the common classes, 0 where a set says nothing; all labels in the least special of their kinds
    rates G        of the finest groups among the sets
    gains          1 for sets without, where others have them
    word scores    of all sets, each with moves of its own, in which others' examples have no shares
    order          logits of batches' shares for every set, a fixed order being one with shares of 0 and 1

`combine` puts what comes out one behind the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.distill.dataset import AUXILIARY, DistilledData, Recipe, group_names, raw_rate, spread_rates
from ddllm.distill.gains import first_gains
from ddllm.distill.order import fixed_order
from ddllm.distill.word_scores import add_rate
from ddllm.models.encoder import Tree
from ddllm.models.multi_head import MultiHead
from ddllm.models.task import AS_THEY_STAND, Task
from ddllm.models.tasks import Classification, read_task
from ddllm.models.words import MOVES

MOVED = raw_rate(0.05)  # rate of moves, where a set has none and others do
ONE = 200.0  # a logit beside zeros that is all of the softmax in float32


@dataclass(frozen=True)
class Classes:
    """The classes of the merged set and where each set's are among them.

    Attributes:
        names: of all classes.
        columns: for each set the numbers of its classes [C of the set].
        task: of the merged set.
    """

    names: tuple[str, ...]
    columns: list[np.ndarray]
    task: Task


def same_classes(sets: list[Distilled]) -> Classes:
    """The first set's classes, which all others have in some order."""
    names = sets[0].label_names
    return Classes(names, [np.array([names.index(name) for name in s.label_names]) for s in sets], read_task(sets[0].card))


def united_classes(sets: list[Distilled], names: tuple[str, ...] = ()) -> Classes:
    """All sets' classes, each once: in the order of `names`, where these are the same ones, or else of the sets."""
    found = tuple(dict.fromkeys(name for distilled in sets for name in distilled.label_names))
    names = names if sorted(names) == sorted(found) else found
    return Classes(names, [np.array([names.index(name) for name in s.label_names]) for s in sets], Classification())


def headed_classes(sets: list[Distilled], names: list[str]) -> Classes:
    """All sets' classes side by side, in a head of each set's own; `names` are the heads'."""
    sizes = [len(distilled.label_names) for distilled in sets]
    ends = np.cumsum([0, *sizes])
    columns = [np.arange(first, first + size) for first, size in zip(ends, sizes, strict=False)]
    return Classes(tuple(name for s in sets for name in s.label_names), columns, MultiHead(tuple(names), tuple(sizes)))


def align(sets: list[Distilled], classes: Classes, params: Tree, weights: Sequence[int] = ()) -> tuple[list[DistilledData], Recipe]:
    """The sets' arrays in the same shapes, and the recipe that all of them then have, but for passes and order.

    Args:
        sets: of one encoder, head and optimizer (see fit.py), of any classes.
        classes: the merged set's.
        params: parameters {"body", "head"} of the encoder and any head of its kind, or their shapes: they say which groups have rates.
        weights: how much each set counts in the mean, where their batches are to be joined.

    Returns:
        Data with `order` [S, M] and the same sizes T, C and G, and N unless there are weights; and constants.
    """
    kinds = {distilled.recipe.labels for distilled in sets}
    kind = kinds.pop() if len(kinds) == 1 else AS_THEY_STAND
    if kind == "soft" and any(len(columns) < len(classes.names) for columns in classes.columns):
        kind = AS_THEY_STAND  # a distribution over some classes only has no logits
    linear = kind == AS_THEY_STAND and isinstance(classes.task, Classification | MultiHead)
    linear = linear and all(d.data.attention is None and d.data.features is None for d in sets)
    shapes = [distilled.data.embeddings.shape for distilled in sets]
    counts = [shape[1] for shape in shapes]
    if linear:
        examples = counts if weights else [max(counts)] * len(sets)
    else:
        shares = weights or [1] * len(sets)
        unit = math.lcm(*(count // math.gcd(count, share) for count, share in zip(counts, shares, strict=True)))
        examples = [unit * share for share in shares]
    length, scores = max(shape[2] for shape in shapes), join_scores([distilled.data for distilled in sets])
    params = params if scores is None else params | {MOVES: 0.0}
    rates = [add_rate(d.data.rates, MOVED) if scores is not None and d.data.word_scores is None else d.data.rates for d in sets]
    groups = max(rates_SG.shape[1] for rates_SG in rates)
    absent = {
        name: next((np.shape(getattr(d.data, name))[2:] for d in sets if getattr(d.data, name) is not None), None)
        for name in ("types", "directions")
    }
    aligned, moves = [], 0
    for distilled, columns, wanted, rates_SG in zip(sets, classes.columns, examples, rates, strict=True):
        data = distilled.data.replace(labels=place_labels(distilled, columns, classes, kind))
        if scores is not None:
            data, moves = place_shares(data, scores, moves)
        data = lengthen(fill_absent(data, absent), length)
        data = pad_examples(data, wanted) if linear else repeat_examples(data, wanted)
        head = None if data.head is None else place_head(data.head, columns, len(classes.names))
        data = data.replace(rates=finer_rates(rates_SG, groups, params), order=order_logits(data, distilled.recipe), head=head)
        if data.gains is None and any(d.data.gains is not None for d in sets):
            data = data.replace(gains=first_gains(params["body"]))
        aligned.append(data)
    first = sets[0].recipe
    lambdas = {"attention_weight": first.attention_weight, "feature_weight": first.feature_weight}
    return aligned, Recipe(kind, first.optimizer, 1, first.order, **lambdas)


def place_labels(distilled: Distilled, columns: np.ndarray, classes: Classes, kind: str) -> np.ndarray:
    """Labels [M, N, C] of all classes, those of the set's own in their columns."""
    labels = np.asarray(distilled.data.labels, np.float32)
    if distilled.recipe.labels == "soft" and kind != "soft":
        one_class = read_task(distilled.card).one_class
        labels = np.asarray(jax.nn.softmax(labels, axis=-1) if one_class else jax.nn.sigmoid(labels))
    placed = np.zeros((*labels.shape[:2], len(classes.names)), np.float32)
    placed[..., columns] = labels
    return placed


def join_scores(sets: list[DistilledData]) -> np.ndarray | None:
    """Word scores of all sets, one under the other; None where no set has any."""
    scores = [np.asarray(data.word_scores) for data in sets if data.word_scores is not None]
    return np.concatenate(scores) if scores else None


def place_shares(data: DistilledData, scores_RV: np.ndarray, first: int) -> tuple[DistilledData, int]:
    """A data set with all sets' word scores, its own moves beginning with number `first`; and where the next set's begin."""
    own = 0 if data.word_scores is None else np.shape(data.word_scores)[0]
    shares = np.zeros((*data.mask.shape, len(scores_RV)), np.float32)
    if own:
        shares[..., first : first + own] = data.word_shares
    return data.replace(word_scores=scores_RV, word_shares=shares), first + own


def place_head(head: Tree, columns: np.ndarray, classes: int) -> Tree:
    """A learned head with outputs for all classes, those of the set's own in their columns and 0 for others."""
    kernel = np.zeros((head["out"]["kernel"].shape[0], classes), np.float32)
    bias = np.zeros(classes, np.float32)
    kernel[:, columns], bias[columns] = head["out"]["kernel"], head["out"]["bias"]
    return head | {"out": {"kernel": kernel, "bias": bias}}


def fill_absent(data: DistilledData, shapes: dict[str, tuple[int, ...] | None]) -> DistilledData:
    """Zeros for token types and direction labels that others have, which is what their absence means."""
    for name, shape in shapes.items():
        if shape is not None and getattr(data, name) is None:
            shape = data.mask.shape[2:] if name == "types" else shape
            data = data.replace(**{name: np.zeros((*data.mask.shape[:2], *shape), np.float32)})
    return data


def lengthen(data: DistilledData, length: int) -> DistilledData:
    """Examples filled up to so many positions with mask 0, of embeddings, types, word shares and attention too."""
    more = length - data.mask.shape[2]
    if not more:
        return data

    def pad(array: Any, axes: tuple[int, ...]) -> np.ndarray:
        return np.pad(np.asarray(array), [(0, more if axis in axes else 0) for axis in range(np.ndim(array))])

    changes = {"embeddings": pad(data.embeddings, (2,)), "mask": pad(data.mask, (2,))}
    for name in ("types", "word_shares"):
        if getattr(data, name) is not None:
            changes[name] = pad(getattr(data, name), (2,))
    if data.attention is not None:
        changes["attention"] = pad(data.attention, tuple(range(4, np.ndim(data.attention))))
    return data.replace(**changes)


def pad_examples(data: DistilledData, examples: int) -> DistilledData:
    """Inner batches filled up with examples of one position and no labels, for losses in which labels are linear: no gradient changes."""
    count = data.mask.shape[1]
    if examples == count:
        return data
    changes = {}
    for name, array in data.batches.items():
        scale = examples / count if name in ("labels", *AUXILIARY) else 1.0
        changes[name] = np.pad(scale * np.asarray(array), [(0, examples - count if axis == 1 else 0) for axis in range(np.ndim(array))])
    changes["mask"][:, count:, 0] = 1  # a mean over no positions is none
    return data.replace(**changes)


def repeat_examples(data: DistilledData, examples: int) -> DistilledData:
    """Inner batches in which every example stands several times, so that their mean loss stays what it was."""
    times = examples // data.mask.shape[1]
    return data.replace(**{name: np.repeat(np.asarray(array), times, axis=1) for name, array in data.batches.items()})


def finer_rates(rates_SG: np.ndarray, groups: int, params: Tree) -> np.ndarray:
    """Raw rates for as many groups as another set has."""
    if rates_SG.shape[1] == groups:
        return np.asarray(rates_SG)
    if rates_SG.shape[1] == 1:
        return np.repeat(np.asarray(rates_SG), groups, axis=1)
    spread = [jax.tree.leaves(spread_rates(row, params)) for row in np.asarray(rates_SG)]
    assert len(spread[0]) == len(group_names(params, "tensor"))
    return np.array(spread, np.float32)


def order_logits(data: DistilledData, recipe: Recipe) -> np.ndarray:
    """Logits [S, M] of the batches' shares in each step; of a shuffled order those of the places that are dealt to."""
    if data.order is not None:
        return np.asarray(data.order)
    batches = data.mask.shape[0]
    return (ONE * np.eye(batches, dtype=np.float32))[fixed_order(batches, recipe.passes)]
