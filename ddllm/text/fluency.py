"""How fluent a text is: hands on `Bigrams`, a small language model of the training texts, and `Causal`, a pretrained one, which a search keeps its texts
fluent with.

The probability of a token after another is its share among what follows there in the training texts, smoothed by its share among all tokens (Dirichlet
smoothing with `PRIOR` observations; Zhai and Lafferty, 2004). Counts of pairs are sparse, so that a vocabulary of 30,000 tokens takes a few megabytes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ddllm.data.tokens import TokenSplit
from ddllm.runtime.processes import from_first
from ddllm.text.distilled_text import read_texts
from ddllm.text.likelihood import LanguageModel
from ddllm.text.repetition import tidy

PRIOR = 5.0  # observations that all tokens' shares stand for


@dataclass(frozen=True)
class Bigrams:
    """A language model of pairs of tokens.

    Attributes:
        shares: of each token among all, smoothed by one observation each, float64 [V].
        totals: how often each token comes before another one, [V].
        after, before: counts [V, V] of (token, next token), by rows and by columns.
    """

    shares: np.ndarray
    totals: np.ndarray
    after: Any
    before: Any

    @classmethod
    def of(cls, split: TokenSplit, size: int) -> "Bigrams":
        """The model of tokenised texts, special tokens included, for a vocabulary of a size."""
        used = np.arange(split.ids.shape[1]) < split.lengths[:, None]
        pairs = used[:, 1:]
        first, second = split.ids[:, :-1][pairs], split.ids[:, 1:][pairs]
        counts = sparse.csr_matrix((np.ones(len(first)), (first, second)), shape=(size, size))
        alone = np.bincount(split.ids[used], minlength=size) + 1.0
        return cls(alone / alone.sum(), np.asarray(counts.sum(axis=1)).ravel(), counts, counts.tocsc())

    def log_next(self, token: int) -> np.ndarray:
        """Logarithms of the probabilities of what comes after a token, [V]."""
        counts = PRIOR * self.shares
        row = self.after[[token]]
        counts[row.indices] += row.data
        return np.log(counts / (self.totals[token] + PRIOR))

    def log_previous(self, token: int) -> np.ndarray:
        """Logarithms of the probabilities of a token after each other one, [V]."""
        counts = np.full(len(self.shares), PRIOR * self.shares[token])
        column = self.before[:, [token]]
        counts[column.indices] += column.data
        return np.log(counts / (self.totals + PRIOR))

    def surprise(self, ids_MNT: np.ndarray, mask_MNT: Any) -> float:
        """Mean negative logarithm of a token's probability after the one before it, over all used positions but first ones."""
        used = (np.asarray(mask_MNT) > 0)[..., 1:]
        first, second = ids_MNT[..., :-1][used], ids_MNT[..., 1:][used]
        counts = np.asarray(self.after[first, second]).ravel() + PRIOR * self.shares[second]
        return float(-np.mean(np.log(counts / (self.totals[first] + PRIOR))))

    def gains(self, ids_MNT: np.ndarray, mask_MNT: Any) -> np.ndarray:
        """By how much `surprise` falls with each other token in each place, float32 [P, V], places counted through all texts."""
        mask = np.asarray(mask_MNT) > 0
        pairs, length = mask[..., 1:].sum(), ids_MNT.shape[-1]
        rows, used = ids_MNT.reshape(-1, length), mask.reshape(-1, length)
        found = np.zeros((*rows.shape, len(self.shares)), np.float32)
        for number, row in enumerate(rows):
            for place in np.flatnonzero(used[number]):
                total = np.zeros(len(self.shares))
                if place > 0:
                    total += self.log_next(row[place - 1])
                if place + 1 < length and used[number, place + 1]:
                    total += self.log_previous(row[place + 1])
                found[number, place] = (total - total[row[place]]) / pairs
        return found.reshape(-1, len(self.shares))


@dataclass(frozen=True)
class Causal:
    """A causal language model with a vocabulary of its own, which therefore scores what tokens read like.

    Attributes:
        model: scores texts.
        tokenizer: of the encoder.
    """

    model: LanguageModel
    tokenizer: Any

    def surprises(self, texts: list[np.ndarray], mask_MNT: Any) -> np.ndarray:
        """Mean loss of each of K texts [M, N, T] for one of its used positions, in nats [K].

        Of all texts together those examples that are new go through the model, in one call: K of them where each text has another token in one place.
        """
        read = [[tidy(example) for example in read_texts(self.tokenizer, ids, mask_MNT)] for ids in texts]
        losses, _ = from_first(lambda: self.model.losses([example for examples in read for example in examples]))
        return losses.reshape(len(texts), -1).sum(axis=1) / np.sum(np.asarray(mask_MNT) > 0)
