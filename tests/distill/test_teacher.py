"""A fine-tuned model as the teacher of the outer loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ddllm.data.batches import BatchStream
from ddllm.data.tokens import TokenSplit
from ddllm.distill.teacher import Teacher, ask_ahead, texts_asked
from ddllm.models.scoring import batch_logits, real_loss
from ddllm.runtime.mesh import BATCH, arrange


@pytest.fixture
def make_teacher(layerless):
    """make(share, models=1) -> a teacher of so many models with random parameters."""

    def make(share: float, models: int = 1) -> Teacher:
        learner, params = layerless
        tables = np.random.default_rng(1).standard_normal((models, 50, learner.encoder.hidden))
        each = tuple((params, jnp.asarray(words, jnp.float32)) for words in tables)
        return Teacher(each, learner, share, NamedSharding(arrange(jax.devices()[:1], 1, 1, 1), BATCH))

    return make


@pytest.mark.parametrize("models", [1, 3])
def test_targets_mix_teacher_and_label(make_teacher, make_batch, models):
    batch = make_batch()
    teacher = make_teacher(1.0, models)
    logits = np.stack([batch_logits(params, words, batch, teacher.learner) for params, words in teacher.models])
    opinions = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert models == 1 or np.ptp(opinions, axis=0).max() > 0.01
    labels = np.eye(logits.shape[-1])[batch.labels]
    for share in (1.0, 0.25, 0.0):
        targets = np.asarray(make_teacher(share, models).teach(batch).targets)
        np.testing.assert_allclose(targets, share * opinions.mean(axis=0) + (1 - share) * labels, atol=1e-6)


@pytest.mark.parametrize(("share", "models"), [(1.0, 1), (0.25, 1), (1.0, 2)])
def test_asked_ahead_a_teacher_says_the_same(make_teacher, share, models):
    rng = np.random.default_rng(4)
    ids, lengths = rng.integers(0, 50, (30, 6)).astype(np.int32), rng.integers(2, 7, 30).astype(np.int32)
    stream = BatchStream(TokenSplit(ids, lengths, rng.integers(0, 3, 30).astype(np.int32)), 8, 5, (4, 6))
    teacher = make_teacher(share, models)
    taught = ask_ahead(teacher, stream, 9)
    for step in (8, 0, 3):
        ahead, asked = taught.batch(step), teacher.teach(stream.batch(step))
        np.testing.assert_allclose(ahead.targets, asked.targets, atol=1e-6)
        np.testing.assert_array_equal(ahead.ids, asked.ids)
        np.testing.assert_array_equal(ahead.labels, asked.labels)
    assert ask_ahead(teacher, stream, 4) is None, "32 texts are drawn of 30: nearly as many computations either way"
    for steps, asked in ((4, 32), (5, 30), (9, 30)):
        assert texts_asked(30, 8 * steps) == asked


def test_targets_take_the_labels_place_in_the_loss(make_teacher, make_batch):
    teacher, batch = make_teacher(0.0), make_batch()
    ((params, words),) = teacher.models
    batch = batch._replace(weight=batch.weight * (np.arange(len(batch.weight)) < 11))

    def gradient(batch):
        return jax.grad(lambda params: real_loss(params, teacher.learner, words, batch)[0])(params)

    plain, taught = gradient(batch), gradient(teacher.teach(batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, taught)
    # At its own opinion a model has nothing to learn.
    own = gradient(make_teacher(1.0).teach(batch))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(own["head"])) < 1e-6
