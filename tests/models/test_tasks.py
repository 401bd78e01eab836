"""Losses and figures of each task against PyTorch's, scikit-learn's and what can be said by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.models.figures import compute_figure, standard_error
from ddllm.models.task import AS_THEY_STAND
from ddllm.models.tasks import TASKS, Classification, MultiLabel, Regression, make_task, read_task

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 3)).astype(np.float32)
SETS = (RNG.random((6, 3)) < 0.5).astype(np.float32)
CLASSES = np.array([0, 1, 2, 0, 1, 1], np.int32)


def test_losses_are_those_of_torch():
    torch = pytest.importorskip("torch")
    functional, logits = torch.nn.functional, torch.tensor(LOGITS)
    expected = functional.binary_cross_entropy_with_logits(logits, torch.tensor(SETS), reduction="none").mean(1)
    sets = MultiLabel()
    np.testing.assert_allclose(sets.outer_losses(jnp.asarray(LOGITS), jnp.asarray(SETS)), expected, rtol=1e-5)
    np.testing.assert_allclose(sets.inner_losses(jnp.asarray(LOGITS), jnp.asarray(SETS), "hard"), expected, rtol=1e-5)
    expected = functional.cross_entropy(logits, torch.tensor(CLASSES, dtype=torch.long), reduction="none")
    np.testing.assert_allclose(Classification().outer_losses(jnp.asarray(LOGITS), jnp.asarray(CLASSES)), expected, rtol=1e-5)


@pytest.mark.parametrize("task, labels", [(Classification(), CLASSES), (MultiLabel(), SETS), (Regression(2.0, 4.0), 2 + 4 * LOGITS[:, 1])])
def test_stored_labels_mean_what_real_ones_do(task, labels):
    """The inner loss of labels as they are stored first is the outer loss of the texts' labels; soft ones come close to it."""
    logits = jnp.asarray(LOGITS if task.name != "regression" else LOGITS[:, :1])
    outer = task.outer_losses(logits, jnp.asarray(labels))
    for kind in ("hard", "unrestricted"):
        stored = jnp.asarray(task.store(labels, 3, kind))
        assert stored.shape == logits.shape
        np.testing.assert_allclose(task.inner_losses(logits, stored, kind), outer, rtol=1e-4, atol=1e-6)
    if "soft" in task.label_kinds:
        stored = task.store(labels, 3, "soft")
        shares = np.exp(stored) / np.exp(stored).sum(1, keepdims=True) if task.name == "classification" else 1 / (1 + np.exp(-stored))
        np.testing.assert_allclose(shares[labels == 1 if task.name == "multilabel" else np.eye(3)[labels] == 1], 0.95, rtol=1e-5)
        assert sorted(set(np.round(shares, 4).ravel().tolist())) == pytest.approx([0.025 if task.name == "classification" else 0.05, 0.95])


def test_regression_is_told_in_the_labels_units():
    task = make_task("regression", np.array([10.0, 20.0, 30.0]))
    labels = np.array([10.0, 25.0], np.float32)
    stored = task.store(labels, 1, "hard")
    np.testing.assert_allclose(stored.mean(), -0.306, atol=1e-3)
    np.testing.assert_allclose(task.decide(stored), labels, rtol=1e-6)
    assert not np.asarray(task.agreement(jnp.asarray(stored), jnp.asarray(labels))).any()
    head = {"dense": 1, "out": {"kernel": stored.T, "bias": np.zeros(2, np.float32)}}
    np.testing.assert_allclose(task.export_head(head)["out"]["kernel"] + task.export_head(head)["out"]["bias"], labels[None], rtol=1e-6)
    spread = task.spread(np.arange(101.0), (2, 2), np.random.default_rng(0))
    np.testing.assert_allclose(spread, [[12.5, 62.5], [37.5, 87.5]])


def test_sets_for_noise_are_those_of_texts():
    spread = MultiLabel().spread(SETS, (2, 5), np.random.default_rng(0))
    assert spread.shape == (2, 5, 3) and {tuple(row) for row in spread.reshape(-1, 3)} <= {tuple(row) for row in SETS}
    assert Classification().spread(CLASSES, (2, 3), np.random.default_rng(0)) is None


def test_predictions():
    names = ("a", "b", "c")
    logits = np.array([[1.0, -1.0, 2.0], [-1.0, -2.0, -3.0]])
    assert Classification().tell(logits, names) == ["c", "a"]
    assert MultiLabel().tell(logits, names) == [["a", "c"], []]
    assert Regression(1.0, 2.0).tell(logits[:, :1], ("x",)) == [3.0, -1.0]


def test_figures():
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    assert compute_figure("accuracy", truth, predicted) == 0.75
    assert compute_figure("f1_macro", truth, predicted) == pytest.approx((6 / 7) / 2)
    sets = np.array([[1, 0], [1, 1]])
    assert compute_figure("f1_micro", sets, np.array([[1, 0], [0, 1]])) == pytest.approx(4 / 5)
    # Of a single label, texts that rightly do without it count for nothing, as with several.
    one = np.array([[1], [0], [0], [1]])
    for name in ("f1_micro", "f1_macro"):
        assert compute_figure(name, one, np.zeros_like(one)) == 0
        assert compute_figure(name, one, np.array([[1], [0], [1], [0]])) == pytest.approx(1 / 2)
    line = np.array([1.0, 2.0, 3.0, 4.0])
    assert compute_figure("pearson", line, 3 - 2 * line) == pytest.approx(-1)
    assert compute_figure("spearman", line, np.exp(line)) == pytest.approx(1)
    assert compute_figure("pearson", line, np.exp(line)) < 0.95
    assert compute_figure("pearson", line, np.ones(4)) == 0.0


def test_standard_errors_are_those_of_figures_drawn_again():
    rng = np.random.default_rng(0)
    shares = rng.binomial(200, 0.8, 4000) / 200
    assert standard_error("accuracy", 0.8, 200) == pytest.approx(shares.std(), rel=0.05)
    x, noise = rng.standard_normal((2, 2000, 100))
    y = 0.6 * x + 0.8 * noise
    correlations = [compute_figure("pearson", *pair) for pair in zip(x, y, strict=True)]
    assert standard_error("pearson", 0.6, 100) == pytest.approx(np.std(correlations), rel=0.1)
    assert standard_error("accuracy", 1.0, 5) == standard_error("spearman", -1.0, 1) == 0.0


def test_macro_f1_is_shown_where_accuracy_says_too_little():
    task = Classification()
    assert task.shown(np.array([0, 1, 1]), 2) == ("accuracy", "f1_macro")
    assert task.shown(np.array([0, 0, 1, 1, 1]), 2) == ("accuracy",)
    assert task.shown(np.array([0, 1, 2]), 3) == ("accuracy", "f1_macro")


def test_tasks_come_back_from_their_cards():
    for name in TASKS:
        task = make_task(name, np.array([1.0, 4.0]))
        assert read_task(task.card()) == task and hash(task) == hash(read_task(task.card()))
    assert Classification().card() == {}
    with pytest.raises(UserError, match="'cooking'.* is not one of classification, regression, multilabel"):
        read_task({"task": {"name": "cooking"}})


def test_targets_and_opinions_are_labels_of_their_losses():
    logits = jnp.asarray(LOGITS)
    for task, labels, width in ((Classification(), CLASSES, 3), (Regression(1.0, 2.0), LOGITS[:, 1], 1), (MultiLabel(), SETS, 3)):
        outputs, labels = logits[:, :width], jnp.asarray(labels)
        targets = task.targets(labels, width)
        assert targets.shape == outputs.shape
        np.testing.assert_allclose(task.inner_losses(outputs, targets, AS_THEY_STAND), task.outer_losses(outputs, labels), rtol=1e-5)
        for kind in task.label_kinds[1:]:
            own = task.opinion(outputs, kind)
            slope = jax.grad(lambda outputs: task.inner_losses(outputs, own, kind).sum())  # noqa: B023  called before the next turn
            np.testing.assert_allclose(slope(outputs), 0, atol=1e-6)
            assert np.abs(slope(outputs + jnp.arange(1.0, 1 + width)[None])).max() > 1e-2
