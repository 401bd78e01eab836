"""Tiny encoders with random parameters, for tests of the mathematics."""

import jax
import numpy as np
import pytest

from ddllm.models.encoder import EncoderConfig, layer_name
from ddllm.models.heads import HeadConfig, init_head
from ddllm.models.learner import Learner


def make_body(config: EncoderConfig, seed: int = 0):
    """Random parameters of an encoder, large enough that nothing in it is close to linear."""
    rng = np.random.default_rng(seed)

    def dense(inputs, outputs):
        return {
            "kernel": (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32),
            "bias": (0.1 * rng.standard_normal(outputs)).astype(np.float32),
        }

    def norm():
        return {
            "scale": (1 + 0.1 * rng.standard_normal(config.hidden)).astype(np.float32),
            "bias": (0.1 * rng.standard_normal(config.hidden)).astype(np.float32),
        }

    width, inner = config.hidden, config.feed_forward
    layers = {
        layer_name(index): {
            "attention": {"qkv": dense(width, 3 * width), "out": dense(width, width), "norm": norm()},
            "feed_forward": {"up": dense(width, inner), "down": dense(inner, width), "norm": norm()},
        }
        for index in range(config.layers)
    }
    tables = {
        "position": (0.1 * rng.standard_normal((config.positions, width))).astype(np.float32),
        "token_type": (0.1 * rng.standard_normal((config.token_types, width))).astype(np.float32),
        "norm": norm(),
    }
    return {"embeddings": tables, "layers": layers}


def make_learner(hidden: int, length: int = 16, start: str = "redrawn", layers: int = 2, classes: int = 3):
    """A learner and its parameters."""
    config = EncoderConfig("bert", 50, hidden, layers, 2, 2 * hidden, length, 0, 2, "gelu", 1e-12, 0)
    learner = Learner(config, HeadConfig("mean", classes, 0.3), start)
    return learner, {"body": make_body(config), "head": init_head(jax.random.key(1), learner.head, hidden)}


@pytest.fixture
def tiny():
    return make_learner(8)


@pytest.fixture
def wider():
    return make_learner(64)
