"""Auxiliary labels: their losses are what their formulas say, padding left out, and they reach the body when nothing else does."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.distill.auxiliary import attention_divergence, auxiliary_losses, noise_attention, pretrained_labels
from ddllm.distill.dataset import DistilledData, Recipe, raw_rate
from ddllm.distill.gradients import Mixed
from ddllm.distill.inner_loop import inner_loss, train, unroll
from ddllm.models.learner import Seen, Start

LENGTHS = np.array([[4, 2], [3, 4]])


def make_data(learner) -> DistilledData:
    rng = np.random.default_rng(0)
    return DistilledData(
        embeddings=rng.standard_normal((2, 2, 4, learner.encoder.hidden), np.float32),
        mask=(np.arange(4) < LENGTHS[..., None]).astype(np.float32),
        labels=np.eye(3, dtype=np.float32)[[[0, 1], [2, 0]]],
        rates=np.full((2, 1), raw_rate(0.2), np.float32),
    )


@pytest.mark.parametrize("rows", [1, 4])
def test_divergence_is_that_of_real_keys_and_rows(rows):
    rng = np.random.default_rng(1)
    lengths, mask = LENGTHS[0], (np.arange(4) < LENGTHS[0][:, None]).astype(np.float32)
    labels, scores = rng.standard_normal((2, 2, 3, 2, rows, 4), np.float32)
    scores = np.where(mask[:, None, None, None], scores, -1e38).astype(np.float32)
    found = attention_divergence(jnp.asarray(labels[:, :, :, 0] if rows == 1 else labels), jax.nn.log_softmax(scores), mask)
    for example, length in enumerate(lengths):
        terms = []
        for place in np.ndindex(3, 2, min(rows, length)):
            q, p = (np.exp(x[example][place][:length]) for x in (labels, scores))
            q, p = q / q.sum(), p / p.sum()
            terms.append(np.sum(q * np.log(q / p)))
        assert float(found[example]) == pytest.approx(np.mean(terms), rel=1e-5)


def test_labels_for_another_encoder_are_refused():
    with pytest.raises(ValueError, match="other layers, heads or positions"):
        attention_divergence(jnp.zeros((2, 6, 2, 4)), jnp.zeros((2, 5, 2, 1, 4)), np.ones((2, 4)))


def test_losses_are_weighted():
    seen = Seen(jnp.zeros((2, 3)), jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.log(jnp.full((2, 1, 1, 1, 2), 0.5)), jnp.ones((2, 3, 2)))
    batch = {
        "mask": jnp.ones((2, 2)),
        "features": jnp.array([[1.0, 0.0], [3.0, 4.0]]),
        "attention": jnp.array([[[[0.0, 0.0]]], [[[50.0, 0.0]]]]),
        "directions": jnp.zeros((2, 3, 2)).at[1, 2].set(jnp.array([3.0, -1.0])),
    }
    attention, features, directions = auxiliary_losses(seen, batch, {"attention": 10.0, "features": 0.1})
    np.testing.assert_allclose(features, [0.2, 1.25], rtol=1e-6)
    np.testing.assert_allclose(directions, [0, -2.0])
    np.testing.assert_allclose(attention, [0, 10 * np.log(2)], atol=1e-5)


@pytest.mark.parametrize("rows", ["cls", "all"])
def test_the_pretrained_encoders_own_have_no_effect_at_first_and_others_have(tiny, rows):
    learner, params = tiny
    data = make_data(learner)
    start = Start(params["body"], jnp.zeros((50, learner.encoder.hidden)))
    own = pretrained_labels(learner, start, data.embeddings, data.mask, rows)
    assert own["attention"].shape == (2, 2, 2, 2, *((4,) if rows == "cls" else (4, 4))) and own["features"].shape == (2, 2, 8)
    noise = noise_attention(data.mask.shape, learner.encoder, rows, np.random.default_rng(0))
    assert noise.shape == own["attention"].shape
    gradient = jax.jit(jax.grad(inner_loss(learner, "hard", {"attention": 100.0, "features": 100.0})))

    def slope(**labels):
        batch = {"embeddings": data.embeddings, "mask": data.mask, "labels": data.labels} | labels
        return gradient(params, {name: jnp.asarray(part[0]) for name, part in batch.items()})["body"]["layers"]["00"]["attention"]["qkv"][
            "kernel"
        ]

    plain = np.asarray(slope())
    np.testing.assert_allclose(slope(**own), plain, atol=2e-3 * np.abs(plain).max())
    assert np.abs(np.asarray(slope(attention=noise)) - plain).max() > np.abs(plain).max()
    # Nothing depends on what stands at padded keys.
    changed = np.where(data.mask[:, :, None, None, :] > 0, 0, 5).reshape(2, 2, 1, 1, *((1,) if rows == "all" else ()), 4) + noise
    np.testing.assert_array_equal(slope(attention=changed.astype(np.float32)), slope(attention=noise))


def test_they_reach_the_body_under_a_head_of_zeros(tiny):
    learner, params = replace(tiny[0], start="zero"), tiny[1]
    data = make_data(learner)
    start = Start(params["body"], jnp.zeros((50, learner.encoder.hidden)))
    noise = noise_attention(data.mask.shape, learner.encoder, "cls", np.random.default_rng(0))
    recipe = Recipe("hard", attention_weight=2.0)
    one = data.replace(attention=noise, embeddings=data.embeddings[:1], mask=data.mask[:1], labels=data.labels[:1], rates=data.rates[:1])
    one = one.replace(attention=noise[:1])

    @jax.jit
    def both(data):
        first = {"body": params["body"], "head": learner.init_head()}
        return train(learner, recipe, start, data, method=Mixed()), unroll(learner, recipe, first, data)

    found, expected = both(one)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)

    def moved(trained):
        kernel = trained["body"]["layers"]["00"]["attention"]["qkv"]["kernel"]
        return float(np.abs(np.asarray(kernel) - params["body"]["layers"]["00"]["attention"]["qkv"]["kernel"]).max())

    assert moved(found) > 1e-3
    assert moved(both(one.replace(attention=None))[0]) == 0
