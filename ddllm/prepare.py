"""The first stage: read the corpus and the pretrained encoder, and put both where every later stage takes them from.

`Prepared` is what is handed on: token arrays, constants on the device, the learner, and the mesh that real batches are split over.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddllm.data.batches import length_buckets
from ddllm.data.corpus import load_corpus
from ddllm.data.tokens import TokenCorpus, TokenSplit, tokenize_corpus
from ddllm.errors import UserError
from ddllm.models.heads import HeadConfig
from ddllm.models.learner import Learner, Start
from ddllm.models.pretrained import Pretrained, load_pretrained
from ddllm.models.scoring import Scorer
from ddllm.runtime.devices import free_memory
from ddllm.runtime.mesh import make_mesh, parameter_bytes, place_parameters
from ddllm.runtime.processes import check_same, count
from ddllm.select.features import compute_features, keep_features


@dataclass(frozen=True)
class Prepared:
    """What stages share.

    Attributes:
        config: the whole configuration.
        tokens: tokenised train, validation and test texts.
        pretrained: the checkpoint as it was read.
        start: its parameters on the devices.
        learner: encoder and head, the head starting as config.distill.head says.
        buckets: padded lengths of real texts.
        mesh: devices (see runtime/mesh.py).
        cache: folder of tokenised corpora, where features are kept too; None keeps them in memory alone.
    """

    config: ConfigDict
    tokens: TokenCorpus
    pretrained: Pretrained
    start: Start
    learner: Learner
    buckets: tuple[int, ...]
    mesh: Mesh
    cache: Path | None = None

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.tokens.label_names)

    def scorer(self, split: TokenSplit, limit: int = 0) -> Scorer:
        """Measures accuracy on a split, or on a fixed random part of `limit` texts."""
        config = self.config
        return Scorer(self.learner, self.start.words, split, config.evaluate.batch_size, self.buckets, limit, config.seed, self.mesh)

    @cached_property
    def features(self) -> np.ndarray:
        """Features [n, D] of the training texts (see select/features.py), computed at first use."""
        encoder, train = self.learner.encoder, self.tokens.train

        def compute() -> np.ndarray:
            return compute_features(encoder, self.start, train, self.config.evaluate.batch_size, self.buckets, self.mesh)

        # Processes compute together or not at all, and their caches may differ.
        if self.cache is None or count() > 1:
            return compute()
        name = f"features-{self.tokens.fingerprint[:24]}-{self.pretrained.fingerprint[:24]}-{encoder.products}.safetensors"
        return keep_features(self.cache / name, (len(train), encoder.hidden), compute)


def prepare(config: ConfigDict, cache: Path) -> Prepared:
    """Read data and model.

    Args:
        config: the whole configuration, validated.
        cache: folder of tokenised corpora.

    Raises:
        UserError: data or model cannot be read, or do not fit the configuration or the devices.
    """
    mesh = make_mesh(config)
    pretrained = load_pretrained(config.model.name)
    positions = pretrained.config.positions
    for key in ("data", "distill"):
        if config[key].length > positions:
            raise UserError(
                f"config.{key}.length is {config[key].length}, but {config.model.name} has {positions} positions; "
                f"set config.{key}.length to {positions} or less."
            )
    tokens = tokenize_corpus(load_corpus(config.data), pretrained.folder, config.data.length, cache)
    kind = pretrained.config.family if config.model.head == "auto" else config.model.head
    head = HeadConfig(kind, len(tokens.label_names), config.model.head_deviation)
    learner = Learner(replace(pretrained.config, products=config.model.products), head, config.distill.head, config.seed)
    buckets = length_buckets(tokens.train.lengths, config.data.length)
    # Each process has read data and model on its own disk.
    check_same("the corpus or its tokenizer", tokens.fingerprint)
    check_same("the pretrained model", pretrained.fingerprint)
    return Prepared(config, tokens, pretrained, place_start(pretrained, mesh), learner, buckets, mesh, cache)


def place_start(pretrained: Pretrained, mesh: Mesh) -> Start:
    """Pretrained parameters where they belong on the mesh.

    Raises:
        UserError: a device has no room for its share of them.
    """
    parts = (pretrained.body, pretrained.words, pretrained.pooler)
    share, free = parameter_bytes(parts, mesh), free_memory(mesh.local_devices[0])
    if share > free:
        raise UserError(
            f"the parameters of {pretrained.name} take {share / 1e9:.1f} GB of each device, but only {free / 1e9:.1f} GB are free; "
            "with a larger config.runtime.shard more devices share one copy."
        )
    return Start(*place_parameters(parts, mesh))
