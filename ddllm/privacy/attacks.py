"""Membership inference: how well a score tells texts that were trained on from texts that were not.

A score is higher where a text looks more like a member. Figures follow Carlini et al. (IEEE S&P 2022): the area under the curve, and the share of members that
are found where only one in a hundred others is taken for one.
"""

from dataclasses import dataclass

import numpy as np

FALSE_POSITIVES = 0.01
COVERED = 0.95  # share of the resamples within the interval
BLOCK = 200  # resamples at once


@dataclass(frozen=True)
class Attack:
    """What an attack reaches.

    Attributes:
        auc: area under the receiver operating characteristic; 0.5 is chance.
        low, high: its 95 % percentile interval over bootstrap resamples of members and of others.
        found: true positive rate at a false positive rate of at most 1 %.
        members, others: texts of each kind.
    """

    auc: float
    low: float
    high: float
    found: float
    members: int
    others: int

    def row(self) -> dict[str, float | int]:
        """The keys of a row of results.json."""
        interval = {"auc_low": self.low, "auc_high": self.high}
        return {"auc": self.auc, **interval, "tpr_at_1_percent_fpr": self.found, "members": self.members, "others": self.others}


def attack(members_m: np.ndarray, others_n: np.ndarray, resamples: int, seed: int) -> Attack:
    """Figures of one attack.

    Args:
        members_m: scores of texts that were trained on; at least one.
        others_n: scores of texts that were not; at least one.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    members_m, others_n = np.asarray(members_m, np.float64), np.asarray(others_n, np.float64)
    if not len(members_m) or not len(others_n):
        raise ValueError("an attack needs members and others")
    aucs = bootstrap_auc(members_m, others_n, resamples, np.random.default_rng([seed, 43]))
    low, high = np.quantile(aucs, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    found = true_positives(members_m, others_n)
    return Attack(area(members_m, others_n), float(low), float(high), found, len(members_m), len(others_n))


def area(members_m: np.ndarray, others_n: np.ndarray) -> float:
    """The chance that a member's score is above another text's, ties counted half."""
    return float(_beaten(members_m, others_n).mean() / len(others_n))


def true_positives(members_m: np.ndarray, others_n: np.ndarray, false_positives: float = FALSE_POSITIVES) -> float:
    """Share of the members above the lowest threshold that at most so large a share of the others is above."""
    allowed = int(np.floor(false_positives * len(others_n) + 1e-9))
    threshold = np.sort(others_n)[::-1][allowed] if allowed < len(others_n) else -np.inf
    return float(np.mean(members_m > threshold))


def bootstrap_auc(members_m: np.ndarray, others_n: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Areas [resamples] where members and others are each drawn anew with replacement.

    Others are sorted once: how many of a resample lie below a member's score is a running sum of how often each was drawn.
    """
    others_n = np.sort(others_n)
    below_m, upto_m = (np.searchsorted(others_n, members_m, side) for side in ("left", "right"))
    m, n = len(members_m), len(others_n)
    areas = []
    for first in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - first)
        weights_rm, weights_rn = (rng.multinomial(size, np.full(size, 1 / size), count) for size in (m, n))
        sums_rn = np.concatenate([np.zeros((count, 1)), np.cumsum(weights_rn, axis=1)], axis=1)
        beaten_rm = (sums_rn[:, below_m] + sums_rn[:, upto_m]) / 2
        areas.append((weights_rm * beaten_rm).sum(axis=1) / (m * n))
    return np.concatenate(areas)


def _beaten(members_m: np.ndarray, others_n: np.ndarray) -> np.ndarray:
    """How many of the others lie below each member [m], ties counted half."""
    others_n = np.sort(others_n)
    return (np.searchsorted(others_n, members_m, "left") + np.searchsorted(others_n, members_m, "right")) / 2
