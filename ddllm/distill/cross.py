"""Real batches in which texts are crossed: the beginning of one runs into the end of another, and the teacher says what came of it.

In long runs distilled data come to know the training texts by heart. A crossed text is a new one, and nearly each of them comes once. It has no label, which
is why this is for outer loops with a teacher. (Mixtures of whole texts, halves too, are an old augmentation of classifiers, whose labels are mixed as well:
CutMix, Yun et al., 2019, arXiv 1905.04899; that a teacher be asked about what is augmented, and long, is from Beyer et al., 2021, arXiv 2106.05237.)
"""

from typing import Any

import numpy as np

from ddllm.data.batches import Batch, BatchStream
from ddllm.prepare import Prepared

CROSSING = 77  # keeps these draws apart from those of other numbers made of a seed and a step


class CrossedStream:
    """Batches of a stream, a share of whose texts are crossed with others of the same batch; a function of seed and number alone, as `BatchStream`.

    Args:
        stream: of whole texts.
        share: of texts that are crossed, in (0, 1].
    """

    def __init__(self, stream: BatchStream, share: float) -> None:
        self._stream, self._share = stream, share

    def batch(self, step: int) -> Batch:
        """Batch number `step`; labels are those of the texts that it would have had, which crossed ones begin like."""
        rng = np.random.default_rng([self._stream.seed, step, CROSSING])
        return cross(self._stream.batch(step), self._share, rng)


def cross(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """Replace texts by their beginning and the end of another one, both cut at the same share of their length, special tokens kept."""
    ids_BT, mask_BT = np.asarray(batch.ids).copy(), np.asarray(batch.mask).copy()
    texts, width = ids_BT.shape
    lengths = np.asarray(batch.mask).sum(axis=1).astype(int)
    whole_BT = np.asarray(batch.ids)
    for row in np.flatnonzero(rng.random(texts) < share):
        other, cut = rng.integers(texts), rng.random()
        # Without the special tokens that a text begins and ends with.
        inner, ending = max(lengths[row] - 2, 0), max(lengths[other] - 2, 0)
        begun, skipped = 1 + round(cut * inner), 1 + round(cut * ending)
        end = whole_BT[other, skipped : lengths[other]]
        new = np.concatenate([whole_BT[row, :begun], end[-(width - begun) :] if begun < width else end[:0]])
        ids_BT[row], mask_BT[row] = 0, 0
        ids_BT[row, : len(new)], mask_BT[row, : len(new)] = new, 1
    return batch._replace(ids=ids_BT, mask=mask_BT)


def real_batches(prepared: Prepared) -> Any:
    """The training texts as the outer loop meets them: `BatchStream`, or `CrossedStream` where config.distill says so and there is a teacher to ask.

    Pairs of texts stay whole: what ends one of them belongs to the other.
    """
    config, train = prepared.config.distill, prepared.tokens.train
    stream = BatchStream(train, config.batch_size, prepared.config.seed, prepared.buckets, config.balanced)
    return CrossedStream(stream, config.crossed) if config.crossed and config.teacher and train.types is None else stream
