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
from ddllm.data.tokens import TokenCorpus, TokenSplit, check_words, tokenize_corpus
from ddllm.errors import UserError
from ddllm.models.heads import HeadConfig
from ddllm.models.learner import Learner, Start
from ddllm.models.parts import choose_tokens
from ddllm.models.pretrained import Pretrained, load_pretrained
from ddllm.models.scoring import Scorer
from ddllm.models.task import Task
from ddllm.models.tasks import make_task
from ddllm.runtime.devices import free_memory
from ddllm.runtime.mesh import make_mesh, parameter_bytes, place_parameters
from ddllm.runtime.processes import check_same, count
from ddllm.select.features import compute_features, keep_features
from ddllm.select.methods import SUPERVISED


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
        """Number of classes that examples are dealt out over: C, or 1 where labels are no classes."""
        return self.learner.task.groups(len(self.tokens.label_names))

    @property
    def metric(self) -> str:
        """The figure that validation chooses by, which is also what a percentage of full-data fine-tuning is of."""
        return choose_metric(self.config, self.learner.task)

    @property
    def tokens_at_once(self) -> int:
        """Tokens of real texts that go through the model at once on each device; 0: all."""
        return choose_tokens(self.config.runtime.tokens_at_once, self.mesh.local_devices[0].platform)

    def scorer(self, split: TokenSplit, limit: int = 0) -> Scorer:
        """Measures the task's figures on a split, or on a fixed random part of `limit` texts."""
        size, seed = self.config.evaluate.batch_size, self.config.seed
        return Scorer(self.learner, self.start.words, split, size, self.buckets, limit, seed, self.mesh, self.metric, self.tokens_at_once)

    def features_of(self, split: TokenSplit, name: str) -> np.ndarray:
        """Features [n, D] of texts (see select/features.py) that are called so."""
        size, encoder = self.config.evaluate.batch_size, self.learner.encoder
        return compute_features(encoder, self.start, split, size, self.buckets, self.mesh, f"features of {name} texts", self.tokens_at_once)

    @cached_property
    def features(self) -> np.ndarray:
        """Features [n, D] of the training texts, computed at first use."""
        encoder, train = self.learner.encoder, self.tokens.train

        def compute() -> np.ndarray:
            return self.features_of(train, "the training")

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
    check_words(pretrained, tokens.name, tokens.train, tokens.validation, tokens.test)
    kind = pretrained.config.family if config.model.head == "auto" else config.model.head
    if kind not in (pretrained.config.family, "mean"):
        raise UserError(
            f"config.model.head is {kind!r}, but {config.model.name} is of the family {pretrained.config.family}; "
            f"set config.model.head to {pretrained.config.family}, mean or auto."
        )
    head = HeadConfig(kind, len(tokens.label_names), config.model.head_deviation)
    task = make_task(tokens.task, tokens.train.labels)
    check_task(config, task)
    learner = Learner(replace(pretrained.config, products=config.model.products), head, config.distill.head, config.seed, task)
    buckets = length_buckets(tokens.train.lengths, config.data.length)
    # Each process has read data and model on its own disk.
    check_same("the corpus or its tokenizer", tokens.fingerprint)
    check_same("the pretrained model", pretrained.fingerprint)
    return Prepared(config, tokens, pretrained, place_start(pretrained, mesh), learner, buckets, mesh, cache)


def choose_metric(config: ConfigDict, task: Task) -> str:
    """What config.evaluate.metric says, or the task's own."""
    return task.figures[0] if config.evaluate.metric == "auto" else config.evaluate.metric


def check_task(config: ConfigDict, task: Task) -> None:
    """Raise `UserError` where the configuration asks for something that the task does not have."""
    for key, asked, known in (
        ("evaluate.metric", choose_metric(config, task), task.figures),
        ("distill.labels", config.distill.labels, task.label_kinds),
    ):
        if asked not in known:
            raise UserError(f"config.{key} is {asked!r}, which {task.name} does not have; make it one of {', '.join(known)}.")
    if task.one_class:
        return
    for asked, what, instead in (
        (config.distill.probe_texts > 0, "distill.probe_texts asks for a logistic regression", "set it to 0"),
        (config.distill.balanced, "distill.balanced asks for as many texts of every class", "set it to False"),
        (config.distill.initial in SUPERVISED, f"distill.initial is {config.distill.initial!r}", "choose examples in another way"),
        (set(SUPERVISED) & set(config.evaluate.selections), f"evaluate.selections has {', '.join(SUPERVISED)}", "leave it out"),
    ):
        if asked:
            raise UserError(f"config.{what}, which needs one class for each text, but the task is {task.name}; {instead}.")


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
