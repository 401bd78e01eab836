"""Reads Llama and GPT-2 checkpoints in the Hugging Face format: hands on the constants and the parameter tree of `ddllm.models.decoder`."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddllm.errors import UserError
from ddllm.models.decoder import ACTIVATION, GPT2, LLAMA, DecoderConfig
from ddllm.models.encoder import Tree
from ddllm.models.families import ACTIVATION_NAMES
from ddllm.models.pretrained import read_config_file
from ddllm.models.weights import Weights, open_weights

OUT = "lm_head.weight"  # the table that predicts, where it is not that of the words


def load_decoder(folder: Path) -> tuple[DecoderConfig, Tree]:
    """Constants and parameters (float32, NumPy) of a model folder in the Hugging Face format.

    Raises:
        UserError: it is of another family or a variation that is not computed here, or its weights are damaged or incomplete.
    """
    raw = read_config_file(folder)
    config = translate_decoder(raw, str(folder / "config.json"))
    weights = open_weights(folder)
    names = {name.removeprefix("transformer.").removeprefix("model."): name for name in weights.tensors}
    read = _Reader(weights, names)
    params = read_llama(config, read) if config.family == LLAMA else read_gpt2(config, read)
    # What either family does where its config.json says nothing.
    if not raw.get("tie_word_embeddings", config.family == GPT2 or OUT not in read):
        params["out"] = read(OUT, config.vocabulary, config.hidden)
    return config, params


def translate_decoder(raw: dict[str, Any], where: str) -> DecoderConfig:
    """The constants in the contents of a config.json.

    Raises:
        UserError: another architecture, or one of its variations.
    """
    kind = raw.get("model_type")
    if kind not in (LLAMA, GPT2):
        raise UserError(f"{where} has model_type {kind!r}, but soft prompts are learned for {LLAMA} and {GPT2} alone; set config.prompt.soft_tokens=0.")
    rotary = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    usual = {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False, "scale_attn_weights": True}
    odd = [key for key, value in usual.items() if bool(raw.get(key, value)) != value]
    if rotary.get("rope_type", rotary.get("type", "default")) != "default":
        odd.append("rope_parameters")
    try:
        if kind == GPT2:
            hidden, heads, act = raw["n_embd"], raw["n_head"], ACTIVATION_NAMES.get(raw.get("activation_function", "gelu_new"))
            sizes = (raw["vocab_size"], hidden, raw["n_layer"], heads, heads, hidden // heads, raw["n_positions"])
            config = DecoderConfig(GPT2, *sizes, str(act), raw.get("layer_norm_epsilon", 1e-5))
        else:
            hidden, heads, act = raw["hidden_size"], raw["num_attention_heads"], raw.get("hidden_act", "silu")
            shared, size = raw.get("num_key_value_heads") or heads, raw.get("head_dim") or hidden // heads
            sizes = (raw["vocab_size"], hidden, raw["num_hidden_layers"], heads, shared, size, raw.get("max_position_embeddings", 2048))
            theta = rotary.get("rope_theta") or raw.get("rope_theta") or 10000.0
            config = DecoderConfig(LLAMA, *sizes, str(ACTIVATION_NAMES.get(act, act)), raw.get("rms_norm_eps", 1e-6), float(theta))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{where} lacks a size of a {kind} ({error}); fetch it again.") from None
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UserError(f"{where} lacks a size of a {kind}, or has one that is none; fetch it again.")
    if config.activation not in ACTIVATION:
        odd.append("activation")
    if odd:
        raise UserError(f"{where} asks for a variation that soft prompts are not learned with ({', '.join(odd)}); set config.prompt.soft_tokens=0.")
    return config


class _Reader:
    """Reads tensors by their names in the plain model."""

    def __init__(self, weights: Weights, names: dict[str, str]):
        self._weights, self._names = weights, names

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        if name not in self._names:
            raise UserError(f"{self._weights.folder} lacks the tensor {name}: the download is incomplete, or config.json is another's.")
        tensor = self._weights.read(self._names[name])
        if shape and tensor.shape != shape:
            raise UserError(f"the tensor {name} in {self._weights.folder} has the shape {tensor.shape}, but by config.json it must be {shape}.")
        return tensor


def read_llama(config: DecoderConfig, read: _Reader) -> Tree:
    """Parameters of a Llama; kernels are [in, out]."""
    inner, outer, shared = config.hidden, config.heads * config.head_size, config.shared_heads * config.head_size

    def dense(name: str, *shape: int) -> Tree:
        tree = {"kernel": np.ascontiguousarray(read(f"{name}.weight", *shape).T)}
        return tree | ({"bias": read(f"{name}.bias")} if f"{name}.bias" in read else {})

    def layer(index: int) -> Tree:
        name = f"layers.{index}"
        feed = read(f"{name}.mlp.up_proj.weight").shape[0]
        return {
            "attention_norm": {"scale": read(f"{name}.input_layernorm.weight", inner)},
            "query": dense(f"{name}.self_attn.q_proj", outer, inner),
            "key": dense(f"{name}.self_attn.k_proj", shared, inner),
            "value": dense(f"{name}.self_attn.v_proj", shared, inner),
            "output": dense(f"{name}.self_attn.o_proj", inner, outer),
            "feed_forward_norm": {"scale": read(f"{name}.post_attention_layernorm.weight", inner)},
            "gate": dense(f"{name}.mlp.gate_proj", feed, inner),
            "up": dense(f"{name}.mlp.up_proj", feed, inner),
            "down": dense(f"{name}.mlp.down_proj", inner, feed),
        }

    tree = {"words": read("embed_tokens.weight", config.vocabulary, inner), "norm": {"scale": read("norm.weight", inner)}}
    return tree | {"layers": _stack([layer(index) for index in range(config.layers)])}


def read_gpt2(config: DecoderConfig, read: _Reader) -> Tree:
    """Parameters of a GPT-2, whose kernels are [in, out] already."""
    width = config.hidden

    def norm(name: str) -> Tree:
        return {"scale": read(f"{name}.weight", width), "bias": read(f"{name}.bias", width)}

    def dense(name: str) -> Tree:
        return {"kernel": read(f"{name}.weight"), "bias": read(f"{name}.bias")}

    def layer(index: int) -> Tree:
        name = f"h.{index}"
        kernels = np.split(read(f"{name}.attn.c_attn.weight", width, 3 * width), 3, axis=1)
        biases = np.split(read(f"{name}.attn.c_attn.bias", 3 * width), 3)
        joint = zip(("query", "key", "value"), kernels, biases, strict=True)
        return {
            "attention_norm": norm(f"{name}.ln_1"),
            **{part: {"kernel": np.ascontiguousarray(kernel), "bias": bias} for part, kernel, bias in joint},
            "output": dense(f"{name}.attn.c_proj"),
            "feed_forward_norm": norm(f"{name}.ln_2"),
            "up": dense(f"{name}.mlp.c_fc"),
            "down": dense(f"{name}.mlp.c_proj"),
        }

    tree = {"words": read("wte.weight", config.vocabulary, width), "position": read("wpe.weight", config.positions, width), "norm": norm("ln_f")}
    return tree | {"layers": _stack([layer(index) for index in range(config.layers)])}


def _stack(layers: list[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
