"""The first stage: read the corpus and the pretrained encoder, and put both where every later stage takes them from.

`Prepared` is what is handed on: token arrays, constants on the device, the learner, and the mesh that real batches are split over.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ddllm.data.batches import length_buckets
from ddllm.data.corpus import load_corpus
from ddllm.data.tokens import TokenCorpus, TokenSplit, tokenize_corpus
from ddllm.errors import UserError
from ddllm.models.heads import HeadConfig
from ddllm.models.learner import Learner, Start
from ddllm.models.pretrained import Pretrained, load_pretrained
from ddllm.models.scoring import Scorer
from ddllm.runtime.devices import choose_devices, place
from ddllm.runtime.processes import check_same


@dataclass(frozen=True)
class Prepared:
    """What stages share.

    Attributes:
        config: the whole configuration.
        tokens: tokenised train, validation and test texts.
        pretrained: the checkpoint as it was read.
        start: its parameters on the device.
        learner: encoder and head, the head starting as config.distill.head says.
        buckets: padded lengths of real texts.
        mesh: devices, one axis called "data".
    """

    config: ConfigDict
    tokens: TokenCorpus
    pretrained: Pretrained
    start: Start
    learner: Learner
    buckets: tuple[int, ...]
    mesh: Mesh

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.tokens.label_names)

    def scorer(self, split: TokenSplit, limit: int = 0) -> Scorer:
        """Measures accuracy on a split, or on a fixed random part of `limit` texts."""
        config = self.config
        return Scorer(self.learner, self.start.words, split, config.evaluate.batch_size, self.buckets, limit, config.seed, self.mesh)


def prepare(config: ConfigDict, cache: Path) -> Prepared:
    """Read data and model.

    Args:
        config: the whole configuration, validated.
        cache: folder of tokenised corpora.

    Raises:
        UserError: data or model cannot be read, or do not fit the configuration.
    """
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
    learner = Learner(pretrained.config, head, config.distill.head, config.seed)
    start = Start(*jax.tree.map(jnp.asarray, (pretrained.body, pretrained.words, pretrained.pooler)))
    buckets = length_buckets(tokens.train.lengths, config.data.length)
    mesh = make_mesh(config)
    if mesh.is_multi_process:
        # Each process has read data and model on its own disk.
        check_same("the corpus or its tokenizer", tokens.fingerprint)
        check_same("the pretrained model", pretrained.fingerprint)
        start = place(start, NamedSharding(mesh, PartitionSpec()))
    return Prepared(config, tokens, pretrained, start, learner, buckets, mesh)


def make_mesh(config: ConfigDict) -> Mesh:
    """One axis "data" over the devices that config.runtime.devices asks for.

    Raises:
        UserError: there are fewer devices, or a batch does not divide over them.
    """
    devices = choose_devices(config.runtime)
    count = len(devices)
    for section in ("distill", "finetune"):
        if config[section].batch_size % count:
            raise UserError(
                f"config.{section}.batch_size is {config[section].batch_size}, which does not divide over {count} devices; "
                "make it a multiple or set config.runtime.devices."
            )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
