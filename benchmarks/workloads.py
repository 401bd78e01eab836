"""What is measured: sizes of an outer step, and the arrays behind them, the same for every framework."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ddllm.distill.dataset import raw_rate
from ddllm.models.encoder import EncoderConfig, layer_name
from ddllm.models.pretrained import load_pretrained


@dataclass(frozen=True)
class Workload:
    """One outer step.

    Attributes:
        name: as in the table.
        steps: inner steps S, each with a batch of its own.
        examples: sequences N in each inner batch.
        length: their positions T; also those of the real texts.
        real: real texts B behind the outer loss.
        encoder: "minilm" (pretrained MiniLM-L6), or a random one: "bert-base-2" and "bert-base" (two layers of BERT base's shape and all twelve), "tiny".
    """

    name: str
    steps: int
    examples: int
    length: int
    real: int
    encoder: str = "minilm"


WORKLOADS = (
    Workload("A", 5, 2, 48, 32),
    Workload("B", 5, 10, 128, 16),
    Workload("C", 1, 2, 48, 32),
    *(Workload(f"D{steps}", steps, 2, 64, 2) for steps in (1, 2, 4, 8, 16, 32)),
    Workload("bert-base-2", 2, 2, 128, 8, "bert-base-2"),
    Workload("bert-base", 5, 2, 512, 8, "bert-base"),
)
TRIAL = Workload("trial", 2, 2, 8, 4, "tiny")  # no figure: does everything run?
LARGE = ("bert-base",)  # for accelerators
# Layers, width, heads and inner width.
RANDOM = {"bert-base-2": (2, 768, 12, 3072), "bert-base": (12, 768, 12, 3072), "tiny": (2, 16, 2, 32)}
CLASSES = 2


@dataclass(frozen=True)
class Problem:
    """A workload's arrays, in numpy.

    Attributes:
        encoder: constants of the encoder.
        body: its parameters.
        words: word table [V, D].
        embeddings: [S, N, T, D].
        labels: unrestricted [S, N, C].
        rates: raw, [S, L + 2]: embeddings, each layer, head.
        ids: real texts [B, T], without padding.
        targets: their classes [B].
    """

    encoder: EncoderConfig
    body: dict[str, Any]
    words: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray
    rates: np.ndarray
    ids: np.ndarray
    targets: np.ndarray

    def astype(self, kind: Any) -> "Problem":
        """The same with floats of another kind."""
        floats = {name: getattr(self, name).astype(kind) for name in ("words", "embeddings", "labels", "rates")}
        return replace(self, body=jax.tree.map(lambda x: np.asarray(x, kind), self.body), **floats)


def find_workload(name: str) -> Workload:
    """The workload of that name."""
    return next(known for known in (*WORKLOADS, TRIAL) if known.name == name)


def make_problem(workload: Workload, seed: int = 0) -> Problem:
    """The workload's arrays; the same seed gives the same ones in every process."""
    if workload.encoder == "minilm":
        pretrained = load_pretrained("embedded")
        encoder, body, words = pretrained.config, pretrained.body, np.asarray(pretrained.words, np.float32)
    else:
        layers, hidden, heads, feed_forward = RANDOM[workload.encoder]
        encoder = EncoderConfig("bert", 1000, hidden, layers, heads, feed_forward, 512, 0, 2, "gelu", 1e-12, 0)
        body, words = random_body(encoder, seed)
    rng = np.random.default_rng([seed, 1])
    shape = (workload.steps, workload.examples)
    picked = rng.integers(0, encoder.vocabulary, (*shape, workload.length))
    noise = words.std() * rng.standard_normal((*picked.shape, encoder.hidden))
    labels = np.eye(CLASSES)[np.arange(workload.examples) % CLASSES] + 0.1 * rng.standard_normal((*shape, CLASSES))
    return Problem(
        encoder=encoder,
        body=body,
        words=words,
        embeddings=(words[picked] + 0.1 * noise).astype(np.float32),
        labels=labels.astype(np.float32),
        rates=(raw_rate(0.02) + 0.1 * rng.standard_normal((workload.steps, encoder.layers + 2))).astype(np.float32),
        ids=rng.integers(0, encoder.vocabulary, (workload.real, workload.length)).astype(np.int32),
        targets=rng.integers(0, CLASSES, workload.real).astype(np.int32),
    )


def random_body(config: EncoderConfig, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Parameters and word table of a freshly initialised encoder."""
    rng = np.random.default_rng([seed, 2])

    def draw(*shape: int) -> np.ndarray:
        return (0.02 * rng.standard_normal(shape)).astype(np.float32)

    def dense(inputs: int, outputs: int) -> dict[str, np.ndarray]:
        return {"kernel": draw(inputs, outputs), "bias": np.zeros(outputs, np.float32)}

    def norm() -> dict[str, np.ndarray]:
        return {"scale": np.ones(config.hidden, np.float32), "bias": np.zeros(config.hidden, np.float32)}

    width, inner = config.hidden, config.feed_forward
    layers = {
        layer_name(index): {
            "attention": {"qkv": dense(width, 3 * width), "out": dense(width, width), "norm": norm()},
            "feed_forward": {"up": dense(width, inner), "down": dense(inner, width), "norm": norm()},
        }
        for index in range(config.layers)
    }
    tables = {"position": draw(config.positions, width), "token_type": draw(config.token_types, width), "norm": norm()}
    return {"embeddings": tables, "layers": layers}, draw(config.vocabulary, width)
