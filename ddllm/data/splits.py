"""The types a corpus consists of, and what is done to splits: rows held out, duplicates removed, random parts drawn.

Everything random depends on a seed and on nothing else: the same configuration always gives the same rows. `corpus` hands the result on.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddllm.errors import UserError


@dataclass(frozen=True)
class Split:
    """Labelled texts.

    Attributes:
        texts: stripped and not empty.
        labels: int32 [n], positions in the corpus's label names; float32 [n], numbers; or float32 [n, C], 0 or 1 for each name.
        pairs: the second text of each row, where texts come in pairs; stripped and not empty.
    """

    texts: list[str]
    labels: np.ndarray
    pairs: list[str] | None = None

    @classmethod
    def unlabelled(cls, texts: list[str], pairs: list[str] | None = None) -> "Split":
        """Texts whose labels nobody looks at: all are 0."""
        return cls(texts, np.zeros(len(texts), np.int32), pairs)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Split":
        """The rows of these numbers (or of a boolean mask), in their order."""
        rows = np.arange(len(self))[rows]
        pairs = None if self.pairs is None else [self.pairs[row] for row in rows]
        return Split([self.texts[row] for row in rows], self.labels[rows], pairs)

    def keys(self) -> list[bytes]:
        """What each row is known by, the same for rows whose texts differ in white space alone."""
        if self.pairs is None:
            return [fold(text) for text in self.texts]
        return [fold(text) + fold(pair) for text, pair in zip(self.texts, self.pairs, strict=True)]


@dataclass(frozen=True)
class Corpus:
    """Three disjoint splits of one task.

    Attributes:
        name: for people.
        label_names: name of each class, in the order of the labels.
        train, validation, test: no text of one occurs in another.
        notes: what was done to the rows, as plain values: `rows`, `empty_removed`, `duplicates_removed` and `limited` (rows left out by a
            limit) by split; `validation` and `test` say where these come from, `unused` which of the source's splits were not taken for them.
        task: "classification", "regression" or "multilabel".
    """

    name: str
    label_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: dict[str, Any]
    task: str = "classification"


def strata(labels: np.ndarray) -> np.ndarray:
    """The class of each row [n], for what is drawn in proportion to classes; labels that are numbers or sets make one class."""
    return labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels), np.int32)


def fold(text: str) -> bytes:
    """A short key that two texts share when they differ in white space alone."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def count_rows(size: float, rows: int, available: int, key: str) -> int:
    """Rows that a size asks for: above 1 their number, otherwise a fraction of `rows`.

    Raises:
        UserError: that is no row, or leaves none of those available.
    """
    count = int(size) if size > 1 else round(size * rows)
    if not 0 < count < available:
        raise UserError(
            f"config.data.{key} is {size:g}, which would hold {count} of {available} training rows out; "
            "give a fraction between 0 and 1 or a smaller number of rows, above 1."
        )
    return count


def share_out(counts: np.ndarray, total: int) -> np.ndarray:
    """Share `total` rows out over classes in proportion to their counts [C]: every class that has rows gets one, if there are enough.

    Largest remainders; no class gets more than it has.
    """
    if total >= counts.sum():
        return counts.copy()
    ideal = counts * (total / counts.sum())
    present = counts > 0
    least = present.astype(counts.dtype) if total >= present.sum() else np.zeros_like(counts)
    shares = np.maximum(np.floor(ideal).astype(counts.dtype), least)
    while shares.sum() != total:
        step = 1 if shares.sum() < total else -1
        possible = shares < counts if step > 0 else shares > least
        shares[np.argmax(np.where(possible, step * (ideal - shares), -np.inf))] += step
    return shares


def draw_part(split: Split, limit: int, seed: list[int]) -> Split:
    """A random part of `limit` rows with the classes in proportion; the whole split where limit is 0 or no smaller."""
    if not 0 < limit < len(split):
        return split
    rng = np.random.default_rng(seed)
    classes = strata(split.labels)
    shares = share_out(np.bincount(classes), limit)
    rows = [rng.permutation(np.flatnonzero(classes == label))[:share] for label, share in enumerate(shares)]
    return split.take(np.sort(np.concatenate(rows)))


def hold_out(split: Split, count: int, seed: list[int]) -> tuple[Split, Split]:
    """Divide a split into a rest and `count` random rows, the classes in proportion.

    Rows of the same text go the same way together, so that the held-out part can be a few rows smaller than asked for.

    Returns:
        The rest and the held-out rows, both in the original order.
    """
    rng = np.random.default_rng(seed)
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(split.keys()):
        groups.setdefault(key, []).append(row)
    members, labels = list(groups.values()), strata(split.labels).tolist()
    # One row of every class stays, or the class would vanish from training.
    counts = np.bincount(strata(split.labels))
    left = np.minimum(share_out(counts, count), np.maximum(counts - 1, 0)).tolist()
    held = np.zeros(len(split), bool)
    for group in rng.permutation(len(groups)).tolist():
        sizes = Counter(labels[row] for row in members[group])
        if all(size <= left[label] for label, size in sizes.items()):
            held[members[group]] = True
            for label, size in sizes.items():
                left[label] -= size
    return split.take(~held), split.take(held)


def remove_texts(split: Split, others: Iterable[Split]) -> tuple[Split, int]:
    """The rows whose text (or pair of texts) occurs in none of the others, and how many did."""
    known = {key for other in others for key in other.keys()}
    keep = np.array([key not in known for key in split.keys()], bool)
    return split.take(keep), int(len(keep) - keep.sum())
