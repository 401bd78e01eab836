"""A memory of real texts: for every class as many as its share of the bytes allows, chosen at random or by herding (iCaRL, Rebuffi et al., CVPR 2017).

A stored text is its token numbers at 2 bytes each (4 where the vocabulary needs them), without the special ones, and a byte for its class: less than
its characters would take. When further classes come, each gives up those of its texts that were chosen last.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ddllm.continual.lessons import Lesson
from ddllm.data.tokens import TokenSplit, join_splits
from ddllm.merge.stand_ins import Texts, join_texts, real_texts
from ddllm.models.learner import Learner
from ddllm.select.methods import SELECTIONS

SPECIAL = 2  # tokens that every text has


def text_bytes(split: TokenSplit, vocabulary: int) -> np.ndarray:
    """Bytes that each text takes in the memory, [n]."""
    return (2 if vocabulary <= 2**16 else 4) * np.maximum(split.lengths.astype(np.int64) - SPECIAL, 0) + 1


@dataclass
class Exemplars:
    """The memory; `learn` adds a lesson's texts, `texts` gives what there is.

    Attributes:
        method: "random" or "herding".
        vocabulary: of the model.
        seed: of random choices.
        kept: for each class (numbered among all) its texts, the first chosen first; labels count all classes.
    """

    method: str
    vocabulary: int
    seed: int
    kept: dict[int, TokenSplit] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all texts kept."""
        return int(sum(text_bytes(split, self.vocabulary).sum() for split in self.kept.values()))

    def learn(self, lesson: Lesson, budget: int, features: Callable[[], np.ndarray]) -> None:
        """Choose texts of a lesson's classes, and make room for them.

        Args:
            lesson: the task that was just learned.
            budget: bytes that all classes seen so far may take.
            features: gives features [n, D] of its training texts, for methods that look at them.
        """
        train, own = lesson.tokens.train, len(lesson.columns)
        rng = np.random.default_rng([self.seed, 31, lesson.seen])
        found = None if self.method == "random" else features()
        # Twice as many as will fit, should the chosen ones be short.
        fitting = 2 * budget / len({*self.kept, *lesson.columns.tolist()}) / text_bytes(train, self.vocabulary).mean()
        most = min(int(fitting) + 1, int(np.bincount(train.labels, minlength=own).min()))
        picked = SELECTIONS[self.method](found, train.labels, own, most, rng)
        for column, rows in zip(lesson.columns.tolist(), picked, strict=True):
            split = train.take(rows)
            split = replace(split, labels=np.full(len(split), column, np.int32))
            earlier = self.kept.get(column)  # a class that an earlier task had too shares its bytes between both
            self.kept[column] = split if earlier is None else _alternate(earlier, split)
        each = budget // len(self.kept)
        for column, split in self.kept.items():
            fitting = np.cumsum(text_bytes(split, self.vocabulary)) <= each
            self.kept[column] = split.take(np.flatnonzero(fitting))

    def texts(self, learner: Learner) -> Texts | None:
        """All texts kept, for a learner of all classes; None where there is room for none."""
        parts = [real_texts(split, learner) for split in self.kept.values() if len(split)]
        return join_texts(parts) if parts else None


def _alternate(one: TokenSplit, other: TokenSplit) -> TokenSplit:
    """Texts of both in turn."""
    places = np.concatenate([np.arange(len(one)) * 2, np.arange(len(other)) * 2 + 1])
    return join_splits([one, other]).take(np.argsort(places, kind="stable"))
