"""Orders: which examples meet in a batch, when, and in which proportions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.distill.dataset import DistilledData, Recipe, raw_rate
from ddllm.distill.initialise import deal_labels
from ddllm.distill.inner_loop import inner_loss, same_every_time, unroll
from ddllm.distill.order import choose_feed, first_order, fixed_order, pick_batch, shuffled_order


def make_data(hidden: int, batches: int = 2, steps: int = 4) -> DistilledData:
    rng = np.random.default_rng(0)
    return DistilledData(
        embeddings=jnp.asarray(rng.standard_normal((batches, 3, 4, hidden)), jnp.float32),
        mask=jnp.ones((batches, 3, 4)),
        labels=jnp.asarray(np.eye(3, dtype=np.float32)[deal_labels(3, batches, batches)]),
        rates=jnp.full((steps, 1), raw_rate(0.3), jnp.float32),
    )


def arrays(data):
    return {"embeddings": data.embeddings, "mask": data.mask, "labels": data.labels}


def test_fixed_order_repeats():
    np.testing.assert_array_equal(fixed_order(2, 3), [0, 1, 0, 1, 0, 1])


def test_shuffling_deals_every_example_once_in_a_pass_and_in_its_classes_places():
    batches, classes, each, passes = 3, 2, 4, 20
    labels = deal_labels(classes, batches * each, batches)
    dealt = np.asarray(shuffled_order(jax.random.key(1), batches, classes * each, classes, passes))
    assert dealt.shape == (passes * batches, classes * each)
    for index in dealt.reshape(passes, -1):
        assert sorted(index) == list(range(labels.size))
    for index in dealt:
        np.testing.assert_array_equal(labels.reshape(-1)[index], labels[0])
    # Examples meet across the stored batches, and every pass deals anew.
    homes = dealt // (classes * each)
    assert all(len(np.unique(homes[:, place])) == batches for place in range(classes * each))
    assert len({tuple(index) for index in dealt.reshape(passes, -1)}) == passes
    other = shuffled_order(jax.random.key(2), batches, classes * each, classes, passes)
    assert (np.asarray(other) != dealt).any()
    with pytest.raises(ValueError, match="5 examples .* 2 classes"):
        shuffled_order(jax.random.key(1), 2, 5, 2, 1)


def test_shuffled_training_feeds_what_was_dealt(tiny):
    learner, params = tiny
    data, recipe, key = make_data(8), Recipe("hard", passes=2, order="shuffled"), jax.random.key(3)
    dealt = np.asarray(choose_feed(data, recipe, key))
    loss, expected = inner_loss(learner, "hard"), params
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), arrays(data))
    for index in dealt:
        gradient = jax.grad(loss)(expected, {name: x[index] for name, x in flat.items()})
        expected = jax.tree.map(lambda p, g: p - 0.3 * g, expected, gradient)
    train = jax.jit(lambda key: unroll(learner, recipe, params, data, key=key))
    found, other = train(key), train(jax.random.key(4))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)
    assert np.abs(found["head"]["out"]["kernel"] - other["head"]["out"]["kernel"]).max() > 1e-4
    with pytest.raises(ValueError, match="needs a key"):
        unroll(learner, recipe, params, data)


def test_learned_shares_weigh_the_losses_of_all_batches(tiny):
    learner, params = tiny
    data = make_data(8)
    data = data.replace(order=jnp.asarray(np.random.default_rng(1).standard_normal((4, 2)), jnp.float32))
    shares = choose_feed(data, Recipe("hard", passes=2, order="learned"))
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    loss, one = inner_loss(learner, "hard"), shares[1]
    losses = [loss(params, jax.tree.map(lambda x, m=m: x[m], arrays(data))) for m in range(2)]
    found = loss(params, pick_batch(arrays(data), one, "learned"))
    assert float(found) == pytest.approx(float(one[0] * losses[0] + one[1] * losses[1]), rel=1e-5)
    assert abs(float(losses[0] - losses[1])) > 1e-3


def test_a_learned_order_begins_near_the_fixed_one():
    shares = np.asarray(jax.nn.softmax(first_order(3, 2), axis=-1))
    np.testing.assert_array_equal(shares.argmax(1), fixed_order(3, 2))
    np.testing.assert_allclose(shares.max(1), 0.9, rtol=1e-5)
    np.testing.assert_allclose(np.sort(shares, axis=1)[:, :2], 0.05, rtol=1e-5)


def test_what_is_the_same_every_time(tiny):
    learner, _ = tiny
    fixed = type(learner)(learner.encoder, learner.head, "zero")
    assert same_every_time(fixed, Recipe("hard")) and same_every_time(fixed, Recipe("hard", order="learned"))
    assert not same_every_time(fixed, Recipe("hard", order="shuffled")) and not same_every_time(learner, Recipe("hard"))
