"""Distilled examples in the place of the texts that they were distilled from: texts over a word table of their own, with a model's opinion as label.

Rows of their embeddings are laid behind the rows of the word table, and numbered like words: whatever learns from token numbers, the outer loop
or fine-tuning, then learns from them without knowing. Their targets are what the model says that their own recipe trains, since labels of a recipe are
steps to be taken rather than opinions to be had. `Replay` mixes them with texts, batch by batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.data.batches import Batch, BatchStream, compute_rows, length_buckets
from ddllm.data.tokens import TokenSplit, join_splits
from ddllm.distill.dataset import DistilledData
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.models.scoring import batch_logits
from ddllm.models.task import AS_THEY_STAND

DROPPED = 0.2  # share of the positions that a variant lacks


@dataclass(frozen=True)
class Texts:
    """Texts to learn from, real ones or stand-ins.

    Attributes:
        split: their tokens.
        labels: classes (or numbers, or sets) [n, …].
        targets: what is to be learned instead, [n, C].
    """

    split: TokenSplit
    labels: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labelled(self) -> TokenSplit:
        """The tokens with the labels, as a scorer takes them."""
        return replace(self.split, labels=self.labels)


def real_texts(split: TokenSplit, learner: Learner, columns: np.ndarray | None = None, outputs: int = 0) -> Texts:
    """Real texts with their labels as targets; `columns` says where their classes are among a learner's outputs."""
    labels = split.labels if columns is None else columns[split.labels].astype(np.int32)
    targets = learner.task.targets(jnp.asarray(labels), outputs or learner.head.classes)
    return Texts(split, labels, np.asarray(targets, np.float32))


def make_stand_ins(data: DistilledData, words_before: int, variants: int, seed: int) -> tuple[np.ndarray, TokenSplit]:
    """Examples as texts over the rows of their own embeddings.

    Args:
        data: the distilled data set.
        words_before: rows of the word table, behind which those of the examples will lie.
        variants: how often each example occurs beside itself, each time without a part of its positions but never without the first.
        seed: of what variants lack.

    Returns:
        Rows [M · N · T, D] to be laid behind the word table, and the texts [n · (1 + variants)]; their labels are 0.
    """
    length, hidden = data.embeddings.shape[2:]
    mask_nT = np.asarray(data.mask).reshape(-1, length) > 0
    rng = np.random.default_rng([seed, 41])
    rows, types = [], None if data.types is None else np.asarray(data.types).reshape(-1, length)
    for variant in range(variants + 1):
        for example, mask_T in enumerate(mask_nT):
            kept = mask_T.copy()
            if variant:
                kept[1:] &= rng.random(length - 1) >= DROPPED
            rows.append((example, np.flatnonzero(kept)))
    lengths = np.array([len(places) for _, places in rows], np.int32)
    ids, kinds = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.int32)
    for row, (example, places) in enumerate(rows):
        ids[row, : len(places)] = words_before + example * length + places
        if types is not None:
            kinds[row, : len(places)] = types[example, places]
    split = TokenSplit(ids, lengths, np.zeros(len(rows), np.int32), None if types is None else kinds)
    return np.asarray(data.embeddings, np.float32).reshape(-1, hidden), split


def ask(params: Tree, learner: Learner, words_VD: jax.Array, split: TokenSplit, batch_size: int, examples: int = 0) -> Texts:
    """Stand-ins with a model's opinion of them as targets, and what it decides as labels.

    With `examples`, so many of which come first and their variants behind them, targets are decisions instead, and a variant's is its example's: a model
    that a few steps have trained is right more often than it is sure.
    """
    buckets = length_buckets(split.lengths, int(split.lengths.max()))
    logits = compute_rows(
        split, batch_size, buckets, learner.head.classes, lambda batch: batch_logits(params, words_VD, batch, learner)
    )
    if examples:
        labels = np.resize(learner.task.decide(logits[:examples]), (len(split), *learner.task.decide(logits[:1]).shape[1:]))
        return Texts(split, labels, np.asarray(learner.task.targets(jnp.asarray(labels), learner.head.classes), np.float32))
    return Texts(split, learner.task.decide(logits), np.asarray(learner.task.opinion(jnp.asarray(logits), AS_THEY_STAND)))


def widen(texts: Texts, columns: np.ndarray, outputs: int, one_class: bool = True) -> Texts:
    """The same among more classes, of which the own ones are in `columns`."""
    targets = np.zeros((len(texts), outputs), np.float32)
    targets[:, columns] = texts.targets
    labels = texts.labels
    if one_class:
        labels = columns[labels].astype(np.int32)
    elif labels.ndim == 2:  # sets of labels
        labels = np.zeros((len(texts), outputs), labels.dtype)
        labels[:, columns] = texts.labels
    return replace(texts, targets=targets, labels=labels)


def join_texts(parts: Sequence[Texts]) -> Texts:
    """All of them, one behind the other."""
    split = join_splits([part.split for part in parts])
    return Texts(split, np.concatenate([part.labels for part in parts]), np.concatenate([part.targets for part in parts]))


class Replay:
    """Random batches without end in which several kinds of texts have fixed numbers of places; a function of seed and step alone, as `BatchStream`.

    Args:
        kinds: what is mixed; an epoch is one of the first.
        sizes: places of each in every batch, greater than 0.
        seed: of the order.
        buckets: padded lengths.
    """

    def __init__(self, kinds: Sequence[Texts], sizes: Sequence[int], seed: int, buckets: tuple[int, ...]) -> None:
        self.kinds = list(kinds)
        # Row numbers take the labels' places, so that labels and targets can be looked up.
        numbered = [replace(kind.split, labels=np.arange(len(kind), dtype=np.int32)) for kind in kinds]
        self.streams = [BatchStream(split, size, seed, buckets) for split, size in zip(numbered, sizes, strict=True)]
        self.batches_per_epoch = self.streams[0].batches_per_epoch

    def batch(self, step: int) -> Batch:
        """Batch number `step`, with targets."""
        parts = [stream.batch(step) for stream in self.streams]
        width = max(part.ids.shape[1] for part in parts)

        def wide(arrays: list[np.ndarray]) -> np.ndarray:
            return np.concatenate([np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays])

        rows = [part.labels for part in parts]
        typed = any(part.types is not None for part in parts)
        return Batch(
            wide([part.ids for part in parts]),
            wide([part.mask for part in parts]),
            np.concatenate([kind.labels[row] for kind, row in zip(self.kinds, rows, strict=True)]),
            np.concatenate([part.weight for part in parts]),
            np.concatenate([kind.targets[row] for kind, row in zip(self.kinds, rows, strict=True)]),
            wide([np.zeros_like(part.ids) if part.types is None else part.types for part in parts]) if typed else None,
        )


def share_places(size: int, share: float) -> tuple[int, int]:
    """Places in a batch for new texts and for old ones, at least one of each."""
    old = min(max(round(size * share), 1), size - 1)
    return size - old, old
