"""LiRA on synthetic confidences: against the likelihood ratio that is known, and against chance where nothing leaks; halves, and confidences."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from ddllm.models.tasks import Classification, MultiLabel
from ddllm.privacy.attacks import attack_in_turn
from ddllm.privacy.lira import confidences, mean_where, offline_scores, online_scores, score_all, score_in_turn, standardise
from ddllm.privacy.shadows import make_halves

TEXTS = 3000


def draw(pairs, gap, spread_in=1.0, spread_out=1.0, seed=0):
    """Confidences [S, n] of texts whose difficulties differ far more than what membership does, and whether each is inside."""
    rng = np.random.default_rng(seed)
    inside = make_halves(rng.integers(2, size=TEXTS), pairs, seed)
    hard, noise = 5 * rng.standard_normal(TEXTS), rng.standard_normal(inside.shape)
    return hard[None] + np.where(inside, gap + spread_in * noise, spread_out * noise), inside, hard


def test_many_shadows_reach_the_known_likelihood_ratio():
    found, inside, hard = draw(pairs=65, gap=1.0, spread_in=0.5, spread_out=1.5)
    target, member, shadows, known = found[0], inside[0], found[2:], inside[2:]
    ratio = norm.logpdf(target, hard + 1.0, 0.5) - norm.logpdf(target, hard, 1.5)
    best = roc_auc_score(member, ratio)
    scores = score_all(target, shadows, known)
    assert best > 0.8 > 0.6 > roc_auc_score(member, target)  # difficulty hides what membership does
    assert best - 0.02 < roc_auc_score(member, scores["LiRA"]) <= best + 0.005
    # The offline variant knows the Gaussian without the text alone: the area of a one-sided test, which here is known too.
    one_sided = roc_auc_score(member, (target - hard) / 1.5)
    assert roc_auc_score(member, scores["LiRA offline"]) == pytest.approx(one_sided, abs=0.02) and one_sided < best - 0.02


def test_equal_deviations_in_closed_form():
    found, inside, _ = draw(pairs=40, gap=1.5)
    online = [roc_auc_score(inside[0], online_scores(found[0], found[2:], inside[2:])), norm.cdf(1.5 / np.sqrt(2))]
    assert online[0] == pytest.approx(online[1], abs=0.02)


def test_few_shadows_find_less_and_nothing_where_there_is_nothing():
    found, inside, _ = draw(pairs=3, gap=1.5)
    scores = score_in_turn(found, inside)
    few = {name: attack_in_turn(values, inside, 100, 0) for name, values in scores.items()}
    assert few["confidence"].high < 0.61 < 0.65 < few["LiRA"].low and 0.65 < few["LiRA offline"].low
    assert few["LiRA"].high < norm.cdf(1.5 / np.sqrt(2))
    # As many shadows with a text as without it, member or not: with the pair's own in, members would be told by their number.
    found, inside, _ = draw(pairs=3, gap=0.0, seed=1)
    for values in score_in_turn(found, inside).values():
        assert attack_in_turn(values, inside, 100, 0).auc == pytest.approx(0.5, abs=0.015)
    rest = np.arange(6) != 0
    assert roc_auc_score(inside[0], online_scores(found[0], found[rest], inside[rest])) < 0.49


def test_one_pair_is_enough_for_another_target():
    found, inside, _ = draw(pairs=2, gap=2.0)
    for score in (online_scores, offline_scores):
        assert roc_auc_score(inside[0], score(found[0], found[2:], inside[2:])) > 0.7


def test_confidences():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    labels = np.arange(50) % 4
    right = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(50), labels]
    np.testing.assert_allclose(confidences(Classification(), logits, labels), np.log(right / (1 - right)), rtol=1e-3, atol=1e-4)
    # A probability of 1 in single precision is no infinite confidence.
    assert confidences(Classification(), np.array([[90.0, 0.0]], np.float32), np.array([0])) == pytest.approx([90.0])
    sets = np.eye(4, dtype=np.float32)[labels]
    losses = np.asarray(MultiLabel().outer_losses(logits, sets))
    np.testing.assert_allclose(confidences(MultiLabel(), logits, sets), -losses)


def test_models_are_made_comparable():
    rng = np.random.default_rng(1)
    labels, plain = np.arange(200) % 2, rng.standard_normal((2, 200))
    surer = np.stack([plain[0], 7 * plain[0] + np.where(labels, 3, -2)])
    first, second = standardise(surer, labels)
    np.testing.assert_allclose(first, second, atol=1e-12)
    assert first.std() == pytest.approx(1) and abs(first[labels == 1].mean()) < 1e-12
    assert not standardise(np.zeros((1, 200)), labels).any()


def test_means_over_what_is_chosen():
    values, chosen = np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), np.array([[True, True, False], [True, False, False]])
    np.testing.assert_allclose(mean_where(values, chosen), [3, 2, 5])


def test_halves():
    classes = np.array([0] * 7 + [1] * 10)
    inside = make_halves(classes, 3, 0)
    assert inside.shape == (6, 17) and (inside[::2] != inside[1::2]).all()
    assert (inside[:, classes == 1].sum(axis=1) == 5).all() and set(inside[:, classes == 0].sum(axis=1)) == {3, 4}
    assert (inside[0] != inside[2]).any() and (make_halves(classes, 1, 0) == inside[:2]).all() and (make_halves(classes, 3, 1) != inside).any()
