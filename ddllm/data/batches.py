"""Batches of real texts: an endless stream of random ones for learning, and every text once for scoring.

Texts of like length go together and each batch is padded to one of a few lengths only, so that little is computed in vain and few programs
are compiled.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ddllm.data.splits import strata
from ddllm.data.tokens import TokenSplit

POOL = 32  # batches among which texts are sorted by length; more means less padding and less chance


class Batch(NamedTuple):
    """Texts that are computed together.

    Attributes:
        ids: int32 [B, T].
        mask: float32 [B, T], 1 for tokens, 0 for padding.
        labels: classes int32 [B], numbers float32 [B], or sets float32 [B, C].
        weight: float32 [B], 0 for rows that only fill the batch up.
        targets: float32 [B, C], labels to learn instead of these, such as a teacher's probabilities; None: the labels.
        types: token types, int32 [B, T]; None where all are 0.
    """

    ids: Any
    mask: Any
    labels: Any
    weight: Any
    targets: Any = None
    types: Any = None


def length_buckets(lengths: np.ndarray, maximum: int, multiple: int = 8, most: int = 4) -> tuple[int, ...]:
    """The padded lengths that waste least.

    Args:
        lengths: tokens of each text, [n].
        maximum: no bucket is longer.
        multiple: buckets are multiples of this, save for one at `maximum`.
        most: number of buckets at most.

    Returns:
        Ascending lengths; the last holds the longest text, or as much of it as `maximum` allows.
    """
    rounded = np.minimum(-(-np.asarray(lengths) // multiple) * multiple, maximum)
    edges, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[j]: fewest padded tokens for texts up to edge j, with the buckets so far and the last of them at edge j;
    # how[k][j]: the edge of the bucket before that one.
    best, how = edges * below[1:], []
    costs, count = [best[-1]], len(edges)
    for _ in range(1, min(most, count)):
        table = np.full((count, count), np.inf)
        for last in range(1, count):
            table[last, :last] = best[:last] + edges[last] * (below[last + 1] - below[1 : last + 1])
        how.append(table.argmin(axis=1))
        best = table.min(axis=1)
        costs.append(best[-1])
    chosen, position = [], count - 1
    for back in reversed(how[: int(np.argmin(costs))]):
        chosen.append(position)
        position = int(back[position])
    return tuple(int(edges[index]) for index in reversed([*chosen, position]))


class BatchStream:
    """Random batches without end, each a function of the seed and its number alone, so that a resumed run goes on with the same ones.

    An epoch is a random order of all texts, cut into pools; within a pool texts are sorted by length and cut into batches; all batches of
    the epoch are then shuffled. The last batch is filled up from the epoch's beginning: every text occurs at least once per epoch.

    Args:
        split: tokenised texts, at least one.
        batch_size: texts per batch B.
        seed: not negative.
        buckets: padded lengths, ascending.
        balanced: give each batch the same number of texts of every class (one more or less where B does not divide). Texts of rare classes
            are then repeated, and an epoch leaves some texts of frequent ones out.

    Attributes:
        batches_per_epoch: batches in which every text occurs.
    """

    def __init__(self, split: TokenSplit, batch_size: int, seed: int, buckets: tuple[int, ...], balanced: bool = False) -> None:
        if not len(split):
            raise ValueError("a stream of batches needs at least one text")
        self.split, self.batch_size, self.seed, self.buckets = split, batch_size, seed, _reach(buckets, split)
        self.batches_per_epoch = -(-len(split) // batch_size)
        classes = strata(split.labels)
        groups = [np.flatnonzero(classes == label) for label in np.unique(classes)]
        self._groups = groups if balanced else [np.arange(len(split))]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> Batch:
        """Batch number `step`, counted from 0 through all epochs."""
        return _make_batch(self.split, self.rows(step), self.batch_size, self.buckets)

    def rows(self, step: int) -> np.ndarray:
        """Row numbers [B] of the texts of that batch."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw_order(epoch)
        return self._order[position]

    def _draw_order(self, epoch: int) -> np.ndarray:
        """Row numbers of an epoch's texts, [batch, B]."""
        rng = np.random.default_rng([self.seed, epoch])
        batches, groups = self.batches_per_epoch, len(self._groups)
        # How many texts of each group go into each batch; what does not divide goes round, on from where the last epoch left it.
        share, rest = divmod(self.batch_size, groups)
        shares, first = np.full((batches, groups), share), (epoch * batches + np.arange(batches)) * rest
        for extra in range(rest):
            shares[np.arange(batches), (first + extra) % groups] += 1
        pieces: list[list[np.ndarray]] = [[] for _ in range(batches)]
        for group, rows in enumerate(self._groups):
            drawn = np.resize(rng.permutation(rows), shares[:, group].sum())
            ends = np.cumsum(shares[:, group])
            for first in range(0, batches, POOL):
                last = min(first + POOL, batches)
                start = ends[first] - shares[first, group]
                pool = drawn[start : ends[last - 1]]
                pool = pool[np.argsort(self.split.lengths[pool], kind="stable")]
                for number, piece in enumerate(np.split(pool, ends[first : last - 1] - start), first):
                    pieces[number].append(piece)
        return np.stack([np.concatenate(piece) for piece in pieces])[rng.permutation(batches)]


def evaluation_batches(split: TokenSplit, batch_size: int, buckets: tuple[int, ...]) -> Iterator[Batch]:
    """Every text once, from short to long; rows of weight 0 fill the last batch up.

    Such rows have one unmasked position, so that no mean over positions divides by zero.
    """
    order = np.argsort(split.lengths, kind="stable")
    buckets = _reach(buckets, split)
    for start in range(0, len(order), batch_size):
        yield _make_batch(split, order[start : start + batch_size], batch_size, buckets)


def compute_rows(split: TokenSplit, batch_size: int, buckets: tuple[int, ...], width: int, compute: Callable[[Batch], Any]) -> np.ndarray:
    """What `compute` gives for every text, float32 [n, width], in the order of the split.

    Args:
        split: tokenised texts; their labels are not looked at.
        batch_size: texts per batch.
        buckets: padded lengths, ascending.
        width: numbers for each text.
        compute: from a batch to an array [B, width].
    """
    rows = np.zeros((len(split), width), np.float32)
    # The row number takes the label's place, so that the texts' order can be restored.
    numbered = replace(split, labels=np.arange(len(split), dtype=np.int32))
    for batch in evaluation_batches(numbered, batch_size, buckets):
        real = batch.weight > 0
        rows[batch.labels[real]] = np.asarray(compute(batch))[real]
    return rows


def _reach(buckets: tuple[int, ...], split: TokenSplit) -> tuple[int, ...]:
    """The buckets, with one more where they were chosen on another split and this one has a longer text."""
    longest = int(split.lengths.max(initial=1))
    return buckets if buckets and buckets[-1] >= longest else (*buckets, longest)


def _make_batch(split: TokenSplit, rows: np.ndarray, batch_size: int, buckets: tuple[int, ...]) -> Batch:
    count, longest = len(rows), split.lengths[rows].max()
    width = next(bucket for bucket in buckets if bucket >= longest)

    def widen(array: np.ndarray) -> np.ndarray:
        wide = np.zeros((batch_size, width), np.int32)
        present = array[rows, :width]
        wide[:count, : present.shape[1]] = present
        return wide

    lengths, labels = np.ones(batch_size, np.int32), np.zeros((batch_size, *split.labels.shape[1:]), split.labels.dtype)
    lengths[:count], labels[:count] = split.lengths[rows], split.labels[rows]
    mask = (np.arange(width) < lengths[:, None]).astype(np.float32)
    types = None if split.types is None else widen(split.types)
    return Batch(widen(split.ids), mask, labels, (np.arange(batch_size) < count).astype(np.float32), types=types)
