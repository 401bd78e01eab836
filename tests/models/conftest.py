"""Tiny checkpoints of every family, with no parameter left at its default, and texts to feed them."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import pytest  # noqa: E402

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "num_labels": 3,
}
DISTILBERT_KEYS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


@pytest.fixture
def write_checkpoint():
    """write(folder, family) -> the folder, now holding a classifier's checkpoint; needs no PyTorch."""
    from safetensors.numpy import save_file

    from ddllm.models.families import CLASSES, WORDS, body_leaves, head_leaves, translate_config

    def write(folder: Path, family: str) -> Path:
        sizes = {key: value for key, value in SIZES.items() if key != "num_labels"}
        if family == "distilbert":
            sizes = {DISTILBERT_KEYS.get(key, key): value for key, value in sizes.items()}
        raw = {"model_type": family, "architectures": [f"{CLASSES[family]}ForSequenceClassification"]} | sizes
        config = translate_config(raw, "")
        rng = np.random.default_rng(0)

        def draw(leaves, prefix=""):
            pairs = [(name, leaf.tensor_shape) for leaf in leaves for name in leaf.names]
            return {prefix + name: rng.normal(size=shape).astype(np.float32) for name, shape in pairs}

        tensors = draw(body_leaves(config), f"{family}.") | draw(head_leaves(family, config.hidden, SIZES["num_labels"]))
        if family == "bert":
            tensors = {f"bert.{name}" if name.startswith("pooler") else name: value for name, value in tensors.items()}
        tensors[f"{family}.{WORDS}"] = rng.normal(size=(config.vocabulary, config.hidden)).astype(np.float32)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(raw))
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def make_torch_model():
    """make(family, auto class, **config) -> torch model with all parameters random, norms and biases too."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(family: str, auto="AutoModelForSequenceClassification", **changes):
        sizes = SIZES | ({"layer_norm_eps": 1e-3} if family != "distilbert" else {})
        if family in ("xlm-roberta", "camembert"):
            sizes |= {"type_vocab_size": 1}
        config = transformers.AutoConfig.for_model(family, **(sizes | changes))
        model = getattr(transformers, auto).from_config(config).eval()
        return randomise(model, torch)

    return make


def randomise(model, torch, seed: int = 0):
    """Redraw all parameters; scales stay near 1, so that the activations stay of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn)
    return model


@pytest.fixture
def make_texts():
    """make(config, batch, length) -> int64 ids, mask, token types; all rows but the first are padded."""

    def make(config, batch: int, length: int):
        rng = np.random.default_rng(0)
        lengths = np.concatenate([[length], rng.integers(2, length, batch - 1)])
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(config.pad_token + 1, config.vocabulary, (batch, length))
        types = rng.integers(0, max(config.token_types, 1), (batch, length))
        return np.where(mask == 1, ids, config.pad_token), mask, types

    return make


@pytest.fixture
def run_torch():
    """run(model, ids, mask, types) -> torch's last hidden states, and logits (a plain model: None)."""
    torch = pytest.importorskip("torch")

    def run(model, ids, mask, types=None):
        arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if types is not None:
            arguments["token_type_ids"] = torch.tensor(types)
        with torch.no_grad():
            output = model(**arguments, output_hidden_states=True)
        logits = output.logits.numpy() if "logits" in output else None
        return output.hidden_states[-1].numpy(), logits

    return run
