"""Figures of an attack: against scikit-learn, against chance, and an interval that covers what it should."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from ddllm.privacy.attacks import area, attack, attack_in_turn, bootstrap_auc, true_positives
from ddllm.privacy.nearness import hash_runs, shared_runs


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    members, others = np.round(rng.normal(0.7, 1, 300), 1), np.round(rng.normal(0, 1, 250), 1)  # with ties
    truth, scores = np.repeat([1, 0], [300, 250]), np.concatenate([members, others])
    assert area(members, others) == pytest.approx(roc_auc_score(truth, scores))
    wrong, right, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert true_positives(members, others) == pytest.approx(right[wrong <= 0.01].max())


def test_a_resample_is_an_area_of_its_own():
    rng = np.random.default_rng(1)
    members, others = np.round(rng.normal(0.4, 1, 40), 1), np.round(rng.normal(0, 1, 30), 1)
    areas = bootstrap_auc(members, others, 3, np.random.default_rng(5))
    again = np.random.default_rng(5)
    weights = [again.multinomial(size, np.full(size, 1 / size), 3) for size in (40, 30)]
    expected = [area(np.repeat(members, m), np.repeat(np.sort(others), n)) for m, n in zip(*weights, strict=True)]
    np.testing.assert_allclose(areas, expected)


def test_the_interval_covers():
    """Of scores that do not differ, about 95 % of the intervals hold 0.5."""
    rng, hits = np.random.default_rng(2), 0
    for seed in range(200):
        found = attack(rng.standard_normal(60), rng.standard_normal(60), 200, seed)
        hits += found.low <= 0.5 <= found.high
    assert 178 <= hits <= 199
    clear = attack(np.arange(50) + 100.0, np.arange(50.0), 100, 0)
    assert clear.auc == clear.low == 1.0 and (clear.members, clear.others) == (50, 50)


def test_rates_need_others_enough():
    members = np.arange(50) + 5000.0
    for others, found in ((99, (None, None)), (100, (1.0, None)), (999, (1.0, None)), (1000, (1.0, 1.0))):
        made = attack(members, np.arange(others), 10, 0)
        assert made.found == found and made.row()["tpr_at_0.1_percent_fpr"] == found[1]


def test_targets_in_turn():
    """Means over targets whose scores do not compare, and an interval that covers: texts, not scores, are drawn anew."""
    rng, hits = np.random.default_rng(3), 0
    inside = rng.random((4, 150)) < 0.5
    for seed in range(100):
        scores = np.array([[1.0], [10], [100], [5]]) * (rng.standard_normal((4, 150)) + 0.5 * rng.standard_normal(150)[None]) + np.arange(4)[:, None]
        found = attack_in_turn(scores, inside, 200, seed)
        hits += found.low <= 0.5 <= found.high
    assert 86 <= hits <= 100
    assert found.auc == pytest.approx(np.mean([roc_auc_score(which, row) for which, row in zip(inside, scores, strict=True)]))
    assert found.members == round(inside.sum() / 4) and found.members + found.others == 150
    scores[inside] += 1e4
    assert attack_in_turn(scores, inside, 50, 0).low == 1.0


def test_runs_of_tokens():
    texts = [np.array(text) for text in ([5, 6, 7, 8], [9, 5], [7])]
    assert len(hash_runs(texts, 2)) == 4 and len(hash_runs(texts, 5)) == 0 and len(np.unique(hash_runs(texts, 1))) == 5
    examples = [np.array([6, 7, 8, 9]), np.array([8, 9, 5]), np.array([1])]
    np.testing.assert_allclose(shared_runs(examples, texts, 2), [2 / 3, 1 / 2])  # 8 9 stands across two texts, in none
    np.testing.assert_allclose(shared_runs(examples, texts, 3), [1 / 2, 0])
    rng = np.random.default_rng(0)
    many = hash_runs([rng.integers(30000, size=200_000)], 3)
    assert len(np.unique(many)) == len(many)  # that any of so many runs of three comes twice has a chance below 0.1 %
