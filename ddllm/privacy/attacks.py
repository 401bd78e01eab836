"""Membership inference: how well a score tells texts that were trained on from texts that were not.

A score is higher where a text looks more like a member. Figures follow Carlini et al. (IEEE S&P 2022, arXiv 2112.03570): the area under the curve,
and the share of members that are found where only one in a hundred, or in a thousand, others is taken for one.
"""

from dataclasses import dataclass

import numpy as np

FALSE_POSITIVES = (0.01, 0.001)
COVERED = 0.95  # share of the resamples within the interval
BLOCK = 200  # resamples at once


@dataclass(frozen=True)
class Attack:
    """What an attack reaches.

    Attributes:
        auc: area under the receiver operating characteristic; 0.5 is chance.
        low, high: its 95 % percentile interval over bootstrap resamples of members and of others.
        found: true positive rates at false positive rates of at most 1 % and 0.1 %; None where there are too few others to tell.
        members, others: texts of each kind.
    """

    auc: float
    low: float
    high: float
    found: tuple[float | None, float | None]
    members: int
    others: int

    def row(self) -> dict[str, float | int | None]:
        """The keys of a row of results.json."""
        interval = {"auc_low": self.low, "auc_high": self.high}
        rates = {"tpr_at_1_percent_fpr": self.found[0], "tpr_at_0.1_percent_fpr": self.found[1]}
        return {"auc": self.auc, **interval, **rates, "members": self.members, "others": self.others}


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
    return Attack(area(members_m, others_n), *_interval(aucs), _found(members_m, others_n), len(members_m), len(others_n))


def attack_in_turn(scores_TM: np.ndarray, inside_TM: np.ndarray, resamples: int, seed: int) -> Attack:
    """Figures of one attack on several targets, each with members of its own among the same texts: means over targets.

    Scores of different targets need not compare. The interval is that of other texts: resamples are of texts, each with its scores for all targets.

    Args:
        scores_TM: of every text for every target.
        inside_TM: whether a text is a member; of each target some are and some are not.
        resamples, seed: of the bootstrap.
    """
    scores_TM, texts = np.asarray(scores_TM, np.float64), scores_TM.shape[1]
    split = [(scores[inside], scores[~inside]) for scores, inside in zip(scores_TM, inside_TM, strict=True)]
    rng, areas = np.random.default_rng([seed, 59]), []
    for count in _blocks(resamples):
        weights_rM = rng.multinomial(texts, np.full(texts, 1 / texts), count)
        each = [
            _weighted_areas(members, others, weights_rM[:, inside], weights_rM[:, ~inside])
            for (members, others), inside in zip(split, inside_TM, strict=True)
        ]
        areas.append(np.mean(each, axis=0))
    auc = float(np.mean([area(*pair) for pair in split]))
    rates = zip(*(_found(*pair) for pair in split), strict=True)
    one, tenth = (None if None in found else float(np.mean(found)) for found in rates)
    members = round(float(inside_TM.sum(axis=1).mean()))
    return Attack(auc, *_interval(np.concatenate(areas)), (one, tenth), members, texts - members)


def area(members_m: np.ndarray, others_n: np.ndarray) -> float:
    """The chance that a member's score is above another text's, ties counted half."""
    below_m, upto_m = _places(members_m, np.sort(others_n))
    return float((below_m + upto_m).mean() / 2 / len(others_n))


def true_positives(members_m: np.ndarray, others_n: np.ndarray, false_positives: float = FALSE_POSITIVES[0]) -> float | None:
    """Share of the members above the lowest threshold that at most so large a share of the others is above; None where one other is a larger share."""
    allowed = int(np.floor(false_positives * len(others_n) + 1e-9))
    return float(np.mean(members_m > np.sort(others_n)[::-1][allowed])) if allowed else None


def bootstrap_auc(members_m: np.ndarray, others_n: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Areas [resamples] where members and others are each drawn anew with replacement."""
    others_n, areas = np.sort(others_n), []
    for count in _blocks(resamples):
        weights_rm, weights_rn = (rng.multinomial(size, np.full(size, 1 / size), count) for size in (len(members_m), len(others_n)))
        areas.append(_weighted_areas(members_m, others_n, weights_rm, weights_rn))
    return np.concatenate(areas)


def _weighted_areas(members_m: np.ndarray, others_n: np.ndarray, weights_rm: np.ndarray, weights_rn: np.ndarray) -> np.ndarray:
    """Area [r] of each resample, given how often it has each text.

    Others are sorted once: how many of a resample lie below a member's score is a running sum of how often each was drawn. NaN where a resample lacks
    members or others.
    """
    order = np.argsort(others_n, kind="stable")
    below_m, upto_m = _places(members_m, others_n[order])
    sums_rn = np.concatenate([np.zeros((len(weights_rn), 1)), np.cumsum(weights_rn[:, order], axis=1)], axis=1)
    beaten_rm = (sums_rn[:, below_m] + sums_rn[:, upto_m]) / 2
    with np.errstate(invalid="ignore"):
        return (weights_rm * beaten_rm).sum(axis=1) / (weights_rm.sum(axis=1) * sums_rn[:, -1])


def _places(members_m: np.ndarray, sorted_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the others lie below each member, and how many below or level with it."""
    return np.searchsorted(sorted_n, members_m, "left"), np.searchsorted(sorted_n, members_m, "right")


def _found(members_m: np.ndarray, others_n: np.ndarray) -> tuple[float | None, float | None]:
    one, tenth = (true_positives(members_m, others_n, rate) for rate in FALSE_POSITIVES)
    return one, tenth


def _interval(areas: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(areas, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)


def _blocks(resamples: int) -> list[int]:
    """Sizes of the blocks that resamples are drawn in."""
    return [min(BLOCK, resamples - first) for first in range(0, resamples, BLOCK)]
