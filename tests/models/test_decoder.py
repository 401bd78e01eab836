"""The decoder against transformers' own, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.models.decoder import decode, predict
from ddllm.models.decoder_files import load_decoder, translate_decoder

torch = pytest.importorskip("torch")


def make_llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.3, "rms_norm_eps": 1e-5, "attention_bias": True}
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **more, **rotary, **changes}))


def make_gpt2(**changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 40, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **changes}))


@pytest.mark.parametrize(
    "make, changes",
    [
        (make_llama, {}),
        (make_llama, {"tie_word_embeddings": True, "head_dim": 8, "attention_bias": False}),
        (make_gpt2, {"activation_function": "gelu"}),
        (make_gpt2, {"tie_word_embeddings": False}),
        (make_gpt2, {}),
    ],
)
def test_the_same_as_transformers(make, changes, tmp_path):
    torch.manual_seed(1)
    model = make(**changes).eval()
    with torch.no_grad():  # Biases and scales begin as zeros and ones, which would hide mistakes.
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    config, params = load_decoder(tmp_path)
    inputs = np.random.default_rng(0).standard_normal((2, 17, config.hidden)).astype(np.float32)
    with torch.no_grad():
        wanted = torch.log_softmax(model(inputs_embeds=torch.tensor(inputs)).logits, dim=-1).numpy()
    params = jax.tree.map(jnp.asarray, params)
    found = np.asarray(predict(params, decode(params, config, jnp.asarray(inputs))))
    assert wanted.std() > 0.5
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    ids = [3, 1, 4, 1, 5]
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits.numpy().argmax(-1)
    np.testing.assert_array_equal(np.asarray(predict(params, decode(params, config, params["words"][jnp.array([ids])]))).argmax(-1), wanted)


def test_what_is_refused(tmp_path):
    good = json.loads(make_llama().config.to_json_string())
    for changes, message in (
        ({"model_type": "bert"}, "learned for llama and gpt2 alone"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_parameters"),
        ({"hidden_act": "relu6"}, "activation"),
        ({"hidden_size": None}, "lacks a size"),
    ):
        with pytest.raises(UserError, match=message):
            translate_decoder({**good, **changes}, "config.json")
    with pytest.raises(UserError, match="scale_attn_weights"):
        translate_decoder(make_gpt2(scale_attn_weights=False).config.to_dict(), "config.json")
    make_llama().save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "num_hidden_layers": 4}))
    with pytest.raises(UserError, match="lacks the tensor layers.3"):
        load_decoder(tmp_path)
