"""Schedules and optimizers of the outer loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.config import default_config
from ddllm.distill.clipping import clip_by_usual_norm
from ddllm.distill.outer_loop import distil, explain_divergence, outer_optimizer, outer_schedule
from ddllm.distill.outer_step import OuterState
from ddllm.models.figures import compute_figure
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.loop import Diverged, Loop
from ddllm.runtime.metrics import Metrics, read_metrics


def make_config(**changes):
    config = default_config().distill
    config.outer_steps, config.warmup = 100, 0.1
    config.update(changes)
    return config


@pytest.mark.parametrize("decay, half", [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_schedule(decay, half):
    schedule = outer_schedule(make_config(decay=decay), 2.0)
    rates = np.array([float(schedule(step)) for step in range(100)])
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert (np.diff(rates[:10]) > 0).all()
    assert rates[55] == pytest.approx(2.0 * half, rel=0.03)
    assert rates[99] < 0.05 or decay == "constant"


def test_no_warmup():
    assert float(outer_schedule(make_config(warmup=0.0), 2.0)(0)) == 2.0


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_each_part_has_its_rate(optimizer):
    config = make_config(
        optimizer=optimizer, warmup=0.0, rate_embeddings=0.1, rate_labels=0.02, rate_rates=0.003, rate_head=0.0004, clip=0.0
    )
    learned = {"embeddings": jnp.ones(3), "labels": jnp.ones(3), "rates": jnp.ones(3), "head": {"out": jnp.ones(3)}}
    transform = outer_optimizer(config)
    updates, _ = transform.update(learned, transform.init(learned), learned)
    # Adam's first step has the size of its rate, but for its epsilon and rounding.
    sizes = [float(-x[0]) for x in (updates["embeddings"], updates["labels"], updates["rates"], updates["head"]["out"])]
    assert sizes == pytest.approx([0.1, 0.02, 0.003, 0.0004], rel=1e-3)


def test_optional_parts_have_rates_where_they_are_learned():
    config = make_config(inner_optimizer="learned_momentum", order="learned", rate_rates=0.003, rate_order=0.05, warmup=0.0, clip=0.0)
    config.update({"attention_labels": "cls", "rate_attention": 0.07, "feature_labels": True, "rate_features": 0.02})
    learned = {part: jnp.ones(3) for part in ("embeddings", "rates", "momentum", "order", "attention", "features")}
    transform = outer_optimizer(config)
    updates, _ = transform.update(learned, transform.init(learned), learned)
    found = [float(-updates[part][0]) for part in ("momentum", "order", "attention", "features")]
    assert found == pytest.approx([0.003, 0.05, 0.07, 0.02], rel=1e-3)
    # Without them the optimizer's state is what it was before there were any, so that older checkpoints can be gone on from.
    plain = {"embeddings": jnp.ones(3), "rates": jnp.ones(3)}
    assert len(str(outer_optimizer(make_config()).init(plain))) < len(str(outer_optimizer(config).init(plain)))


def test_explosions_are_clipped_to_the_usual_norm():
    transform = outer_optimizer(make_config(adaptive_clip=2.0, warmup=0.0))
    clip = clip_by_usual_norm(2.0, decay=0.5)
    state = clip.init(None)
    norms = []
    for size in (3.0, 3.0, 300.0, 3.0, 0.0):
        updates, state = clip.update({"a": jnp.array([size, 0.0])}, state)
        norms.append(float(updates["a"][0]))
    assert norms == pytest.approx([3.0, 3.0, 6.0, 3.0, 0.0])
    # The mean of clipped norms above 0, the later the heavier, and right from the first on.
    weights = 0.5 ** np.arange(4, 0, -1)
    assert float(state.norm) / (1 - 0.5**4) == pytest.approx(np.dot(weights, norms[:4]) / weights.sum())
    assert "AdaptiveClipState" in str(transform.init({"embeddings": jnp.ones(3), "rates": jnp.ones(3)}))


@pytest.mark.parametrize("before", [1, 2, 20])
def test_one_explosion_raises_the_limit_by_so_much(before):
    clip, limits = clip_by_usual_norm(2.0, decay=0.9), []
    state = clip.init(None)
    for size in [3.0] * before + [1e6] * 2:
        updates, state = clip.update({"a": jnp.array([size])}, state)
        limits.append(float(updates["a"][0]))
    assert limits[-2:] == pytest.approx([6.0, 6.0 * (1 + 0.1 / (1 - 0.9 ** (before + 1)))])


def test_gradients_of_zero_do_not_count_as_usual():
    clip = clip_by_usual_norm(2.0, decay=0.5)
    state, norms = clip.init(None), []
    for size in (0.0, 0.0, 3.0, 0.0, 300.0):
        updates, state = clip.update({"a": jnp.array([size, 0.0])}, state)
        norms.append(float(updates["a"][0]))
    assert norms == pytest.approx([0.0, 0.0, 3.0, 0.0, 6.0]) and int(state.count) == 2


def test_a_correlation_of_predictions_that_are_not_finite_counts_as_none():
    line = np.arange(4.0)
    for name in ("pearson", "spearman"):
        for broken in (np.full(4, np.nan), np.array([0.0, 1.0, np.nan, 3.0]), np.array([0.0, 1.0, 2.0, np.inf])):
            assert compute_figure(name, line, broken) == 0.0


class Halves:
    """A scorer to which everything is worth a half, as predictions of NaN would be where there are two classes."""

    def figure(self, params):
        return 0.5

    def standard_error(self, figure):
        return 0.1


@pytest.fixture
def distil_where(layerless, make_step, make_batch, tmp_path, monkeypatch):
    """distil_where(finite, late, keep_start) -> the last state; finite[n] says which of validation n's two trainings end with numbers, one of each step."""
    step, state = make_step(layerless)[:2]
    train = step.train

    def run(finite, late=False, keep_start=False):
        turns = iter([each for both in finite for each in both])
        monkeypatch.setattr(step, "train", lambda learned, key: optax.tree.scale(1.0 if next(turns) else float("nan"), train(learned, key)))
        checkpoints, metrics = Checkpoints(tmp_path / "states", keep=1), Metrics(tmp_path / "metrics.jsonl")
        stream = type("Stream", (), {"batch": staticmethod(make_batch)})
        try:
            loop = Loop("distill", len(finite) - keep_start, 1, 100, checkpoints, metrics)
            return distil(loop, step, state.learned, stream, Halves(), heads=2, late=late, keep_start=keep_start)[0]
        finally:
            checkpoints.close()
            metrics.close()

    return run


@pytest.mark.parametrize("late", [False, True])
def test_what_trains_to_nan_is_not_kept(distil_where, tmp_path, late):
    best = distil_where([(True, True), (True, False), (False, False)], late).best
    assert (int(best["step"]), float(best["accuracy"])) == (1, 0.5)
    assert [line["validation_accuracy"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0.5, 0.25, 0.0]


def test_where_every_validation_has_diverged_nothing_is_kept(distil_where):
    for _ in range(2):  # the second start finds the loop at its end
        with pytest.raises(Diverged, match="at every validation.*nothing to keep.*config.distill.initial_rate"):
            distil_where([(False, False)] * 2)


@pytest.mark.parametrize("late", [False, True])
def test_first_values_are_kept_where_no_later_ones_are_preferred(distil_where, tmp_path, layerless, make_step, late):
    first = make_step(layerless)[1].learned
    best = distil_where([(True, True), (True, False), (False, False)], late, keep_start=True).best
    assert (int(best["step"]), float(best["accuracy"])) == (0, 0.5)
    jax.tree.map(np.testing.assert_array_equal, best["learned"], first)
    # A second start, which goes on at the end, does not ask for them again.
    again = distil_where([(False, False)] * 3, late, keep_start=True).best
    assert int(again["step"]) == 0 and len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_later_values_as_good_as_the_first_are_preferred(distil_where):
    assert int(distil_where([(True, True), (True, True), (True, False)], keep_start=True).best["step"]) == 1


def test_divergence_is_explained():
    learned = {"embeddings": jnp.ones((1, 1, 2, 2)), "rates": jnp.array([[0.0], [1.0]])}
    sentence = explain_divergence(OuterState(jnp.asarray(3), learned, learned, None, {}), {"loss": float("nan")})
    assert "between 0.693 and 1.31" in sentence and "embeddings 2" in sentence and "config.distill.initial_rate" in sentence
    # Parts of a merged set may be learned without its rates.
    labels = {"labels": jnp.ones(4)}
    assert "labels 2" in explain_divergence(OuterState(jnp.asarray(3), labels, labels, None, {}), {})
