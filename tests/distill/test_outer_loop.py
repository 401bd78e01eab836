"""Schedules and optimizers of the outer loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.distill.clipping import clip_by_usual_norm
from ddllm.distill.outer_loop import explain_divergence, outer_optimizer, outer_schedule
from ddllm.distill.outer_step import OuterState


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
    # The mean of clipped norms, the later the heavier, and right from the first on.
    weights = 0.5 ** np.arange(5, 0, -1)
    assert float(state.norm) / (1 - 0.5**5) == pytest.approx(np.dot(weights, norms) / weights.sum())
    assert "AdaptiveClipState" in str(transform.init({"embeddings": jnp.ones(3), "rates": jnp.ones(3)}))


def test_divergence_is_explained():
    learned = {"embeddings": jnp.ones((1, 1, 2, 2)), "rates": jnp.array([[0.0], [1.0]])}
    sentence = explain_divergence(OuterState(jnp.asarray(3), learned, learned, None, {}), {"loss": float("nan")})
    assert "between 0.693 and 1.31" in sentence and "embeddings 2" in sentence and "config.distill.initial_rate" in sentence
