"""Word scores: words move along with the positions that stand for them, at every rate, and nothing moves where there are none."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.data.batches import Batch
from ddllm.distill.dataset import DistilledData, Recipe, group_names, learned_parts, raw_rate, spread_rates
from ddllm.distill.gradients import METHODS
from ddllm.distill.inner_loop import inner_loss, train
from ddllm.distill.word_scores import add_rate, first_scores, first_shares, with_moves
from ddllm.models.learner import Start
from ddllm.models.scoring import batch_logits, real_loss
from ddllm.models.words import look_up, moved_words, scored_words

VOCABULARY, MOVES = 20, 3
RECIPE = Recipe("unrestricted", passes=2)


@pytest.fixture
def made(tiny):
    """Learner, start, and data with random word scores, whose rates are one for each array, or as `groups` says."""
    learner, params = tiny
    rng = np.random.default_rng(2)
    start = Start(params["body"], jnp.asarray(rng.standard_normal((VOCABULARY, learner.encoder.hidden)), jnp.float32))
    data = DistilledData(
        embeddings=jnp.asarray(rng.standard_normal((1, 3, 4, learner.encoder.hidden)), jnp.float32),
        mask=jnp.ones((1, 3, 4)).at[0, 1, 3].set(0),
        labels=jnp.asarray(rng.standard_normal((1, 3, 3)), jnp.float32),
        rates=jnp.full((2, len(group_names(params, "tensor")) + 1), raw_rate(0.05)),
        word_scores=jnp.asarray(rng.standard_normal((MOVES, VOCABULARY)), jnp.float32).at[:, 5:9].set(0),
        word_shares=jnp.asarray(rng.standard_normal((1, 3, 4, MOVES)), jnp.float32),
    )
    return replace(learner, start="fixed"), start, data


def texts(seed=0):
    rng = np.random.default_rng(seed)
    ids, labels = rng.integers(0, VOCABULARY, (6, 5)).astype(np.int32), rng.integers(0, 3, 6).astype(np.int32)
    return Batch(ids, np.ones((6, 5), np.float32), labels, np.ones(6, np.float32))


def test_training_is_that_of_a_whole_word_table_along_the_scores(made):
    """By hand: SGD on the table itself, whose gradient at the positions is handed to the words by shares and scores."""
    learner, start, data = made
    trained = train(learner, RECIPE, start, data)
    params = {"body": start.body, "head": learner.init_head()}
    words, moved = start.words, jnp.zeros((MOVES, start.words.shape[1]))
    loss = inner_loss(learner, "unrestricted")
    fed = {name: x[0] for name, x in data.batches.items() if name != "word_shares"}
    for _ in range(2):
        at = data.embeddings[0] + jnp.einsum("ntr,rd->ntd", data.word_shares[0], moved)
        gradient, by_inputs = jax.grad(lambda p, e: loss(p, fed | {"embeddings": e}), argnums=(0, 1))(params, at)
        step = jnp.einsum("ntr,ntd->rd", data.word_shares[0], by_inputs)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
        moved -= 0.05 * step
        words -= 0.05 * jnp.einsum("rv,rd->vd", data.word_scores, step)
    np.testing.assert_allclose(moved_words(trained, start.words), words, atol=1e-5)
    assert float(jnp.abs(words - start.words).max()) > 1e-3
    np.testing.assert_array_equal(words[5:9], start.words[5:9])
    batch = texts()
    expected = learner.logits(params, words[batch.ids], batch.mask)
    np.testing.assert_allclose(batch_logits(trained, start.words, batch, learner), expected, atol=1e-5)
    np.testing.assert_allclose(look_up({"body": 0}, start.words, batch.ids), start.words[batch.ids])
    longer = jnp.concatenate([start.words, jnp.ones((4, start.words.shape[1]))])  # rows that are no words do not move
    np.testing.assert_array_equal(look_up(trained, longer, jnp.asarray([[VOCABULARY + 2]]))[0, 0], 1)


def test_scores_of_zero_change_nothing(made):
    learner, start, data = made
    data = data.replace(word_scores=first_scores(MOVES, VOCABULARY))
    plain = data.replace(word_scores=None, word_shares=None, rates=data.rates[:, :-1])
    batch = texts()
    shares = first_shares(np.asarray(data.mask), MOVES)
    np.testing.assert_allclose(shares[0, :, 0], np.eye(3))
    still = train(learner, RECIPE, start, data.replace(word_shares=0 * shares))
    expected = batch_logits(train(learner, RECIPE, start, plain), start.words, batch, learner)
    np.testing.assert_allclose(batch_logits(still, start.words, batch, learner), expected, atol=1e-6)
    assert data.floats - plain.floats == 2 + MOVES * 11 and data.replace(word_scores=np.ones((3, 20))).floats == data.floats + 60
    assert with_moves({}, plain) == {} and not scored_words(data.word_scores).any()


@pytest.mark.parametrize("examples, moves, expected", [(4, 2, [0, 0, 1, 1]), (6, 3, [0, 0, 1, 1, 2, 2]), (2, 4, [0, 1]), (5, 1, [0] * 5)])
def test_examples_begin_in_the_move_of_their_class(examples, moves, expected):
    shares = first_shares(np.ones((2, examples, 3)), moves)
    assert shares.shape == (2, examples, 3, moves)
    np.testing.assert_array_equal(shares.argmax(axis=-1), np.broadcast_to(np.array(expected)[None, :, None], (2, examples, 3)))
    np.testing.assert_array_equal(shares.sum(axis=-1), 1)


@pytest.mark.parametrize("kind", ["step", "layer", "tensor"])
def test_moves_have_a_rate_of_their_own(tiny, made, kind):
    _, params = tiny
    _, _, data = made
    plain, names = group_names(params, kind), group_names(with_moves(params, data), kind)
    assert names == (plain if kind == "step" else (*plain, "moves"))
    rates = add_rate(np.zeros((2, len(plain)), np.float32), 3.0)
    assert rates.shape == (2, len(names))
    spread = spread_rates(jnp.asarray(rates[0]), with_moves(params, data))
    assert spread["moves"] == (0.0 if kind == "step" else 3.0) and set(map(float, jax.tree.leaves(spread["head"]))) == {0.0}


@pytest.mark.parametrize("method", ["checkpointed", "mixed"])
@pytest.mark.parametrize("start_of_head", ["zero", "fixed"])
def test_the_gradient_is_the_same_by_every_method(made, method, start_of_head):
    learner, start, data = made
    learner = replace(learner, start=start_of_head)

    def loss(learned, method):
        return real_loss(train(learner, RECIPE, start, data.replace(**learned), method=method), learner, start.words, texts())[0]

    learned = learned_parts(data, RECIPE)
    expected, found = (jax.grad(loss)(learned, METHODS[name]()) for name in ("direct", method))
    for name in ("word_scores", "word_shares", "rates", "embeddings"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    seen = np.isin(np.arange(VOCABULARY), texts().ids)
    moves = np.abs(expected["word_scores"]).max(axis=0) > 0
    np.testing.assert_array_equal(moves, seen)
