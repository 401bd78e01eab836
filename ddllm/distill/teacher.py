"""A teacher for the outer loop: one or several models fine-tuned on all texts, whose opinion of a real text replaces or mends its label.

A label is one bit of noisy evidence; the probabilities (or numbers) of a model that has seen every label are evidence already averaged (Hinton et al.,
2015, arXiv 1503.02531). The gradient of the outer loss varies less with the batch, and labels that are wrong do less harm. The mean opinion of several models,
fine-tuned from other seeds, is nearer to the truth than that of each of them.

What a teacher is worth depends on how near its probabilities are to the true ones, more than on how often it is right (Menon et al., 2021, arXiv 2005.10419). A
model of the highest accuracy has mostly come to know the texts that it learned from by heart, says of these little more than their labels, and is too sure
of others. So `BRIEF` fine-tunes several for an epoch each, which are asked and never scored.

Where outer steps come back to texts, a teacher is asked about each of them once, before the first step (`ask_ahead`); else batch by batch.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from ddllm.data.batches import Batch, BatchStream, compute_rows
from ddllm.errors import UserError
from ddllm.evaluate.finetune import finetune
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.models.scoring import batch_logits
from ddllm.models.task import AS_THEY_STAND, Task
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints, restore_for_analysis
from ddllm.runtime.devices import place
from ddllm.runtime.mesh import ALL, BATCH, place_parameters
from ddllm.runtime.metrics import Metrics
from ddllm.runtime.processes import from_first
from ddllm.runtime.progress import Progress
from ddllm.values import split_parts

OWN, BRIEF = "full", "brief"
RECURRENCE = 1.25  # times that a text comes, from which on it is worth asking ahead


@dataclass(frozen=True)
class Teacher:
    """Fine-tuned models that give batches their targets.

    Attributes:
        models: of each, {"body", "head"} and the word table [V, D], on the devices.
        learner: encoder and head.
        share: of the teacher in the targets, in [0, 1]; the rest is the label's.
        texts: sharding of batches.
        tokens: that a gradient would take at once on each device; 0: all (see models/parts.py).
        fingerprint: SHA-256 of the parameters, where they come from one run.
    """

    models: tuple[tuple[Tree, jax.Array], ...]
    learner: Learner
    share: float
    texts: NamedSharding
    tokens: int = 0
    fingerprint: str = ""

    def opinion(self, batch: Batch) -> jax.Array:
        """What the models make of a batch in the mean, [B, C], on every device: probabilities, or standardised numbers of a regression."""
        return self._opinion(place(batch, self.texts), NamedSharding(self.texts.mesh, ALL))

    def teach(self, batch: Batch) -> Batch:
        """The batch with `targets` [B, C] that mix the opinion with the label."""
        placed = place(batch, self.texts)
        return batch._replace(targets=_mix(self.learner.task, self._opinion(placed), placed.labels, self.share))

    def _opinion(self, placed: Batch, everywhere: NamedSharding | None = None) -> jax.Array:
        shares = self.texts.mesh.shape["data"]
        logits = [batch_logits(params, words, placed, self.learner, everywhere, self.tokens, shares) for params, words in self.models]
        return _mean_opinion(self.learner.task, logits)


@partial(jax.jit, static_argnums=0)
def _mean_opinion(task: Task, logits: list[jax.Array]) -> jax.Array:
    return jnp.mean(jnp.stack([task.opinion(logits_BC, AS_THEY_STAND) for logits_BC in logits]), axis=0)


@partial(jax.jit, static_argnums=0)
def _mix(task: Task, opinion_BC: jax.Array, labels_B: jax.Array, share: float) -> jax.Array:
    return share * opinion_BC + (1 - share) * task.targets(labels_B, opinion_BC.shape[-1])


class TaughtStream:
    """Batches of a stream with what is to be learned of their texts, `targets` [n, C] in the order of its split, NaN where no batch has a text."""

    def __init__(self, stream: BatchStream, targets_nC: np.ndarray) -> None:
        self._stream, self._targets = stream, targets_nC

    def batch(self, step: int) -> Batch:
        """Batch number `step`, counted from 0 through all epochs."""
        return self._stream.batch(step)._replace(targets=self._targets[self._stream.rows(step)])


def texts_asked(used: int, drawn: int) -> int:
    """How many texts a teacher computes for `drawn` ones, `used` of which are different."""
    return used if RECURRENCE * used <= drawn else drawn


def ask_ahead(teacher: Teacher, stream: BatchStream, steps: int) -> TaughtStream | None:
    """The stream with the teacher's targets for all texts of its first batches, each text computed once; None where they come hardly twice.

    The same whichever step a run goes on from, so that a run that was killed learns from the same numbers.

    Args:
        teacher: see `Teacher`.
        stream: of real texts.
        steps: how many batches will be taken.
    """
    used = np.unique(np.concatenate([stream.rows(step) for step in range(steps)]))
    drawn = steps * stream.batch_size
    if texts_asked(len(used), drawn) == drawn:
        return None
    texts, done = stream.split.take(used), 0
    with Progress(len(used), "teacher: targets") as progress:

        def compute(batch: Batch) -> np.ndarray:
            nonlocal done
            opinion_BC = np.asarray(teacher.opinion(batch))
            done += int(np.sum(batch.weight > 0))
            progress.update(done)
            return opinion_BC

        opinion_uC = compute_rows(texts, stream.batch_size, stream.buckets, teacher.learner.head.classes, compute)
    targets_uC = np.asarray(_mix(teacher.learner.task, jnp.asarray(opinion_uC), jnp.asarray(texts.labels), teacher.share))
    targets_nC = np.full((len(stream.split), targets_uC.shape[1]), np.nan, np.float32)
    targets_nC[used] = targets_uC
    return TaughtStream(stream, targets_nC)


def make_teacher(prepared: Prepared, folder: Path, open_metrics: Callable[[], Metrics], name: str) -> Teacher:
    """A teacher of texts of one's own: fine-tuned on what is prepared, or loaded where it is there.

    It is one model as config.finetune says, or several that are fine-tuned briefly where config.distill.teacher has `BRIEF`.

    Args:
        prepared: data and model; config.finetune and config.distill say how.
        folder: of its checkpoints: a start that was killed goes on there.
        open_metrics: opens where figures are written.
        name: of the work, on its progress bar and in metrics.jsonl; each of several models has its seed behind it, as `taught_in` knows.
    """
    brief = BRIEF in split_parts(prepared.config.distill.teacher)
    trained = replace(prepared, config=briefly(prepared.config)) if brief else prepared
    for seed in range(prepared.config.seed, prepared.config.seed + (prepared.config.distill.brief_teachers if brief else 1)):
        checkpoints, metrics = Checkpoints(folder / f"seed-{seed}", keep=1), open_metrics()
        try:
            finetune(trained, seed, checkpoints, metrics, f"{name}-{seed}" if brief else name)
        finally:
            checkpoints.close()
            metrics.close()
    return load_teacher(prepared, folder, prepared.config.distill.teacher_share)


def briefly(config: ConfigDict) -> ConfigDict:
    """The configuration with fine-tunings of config.distill.brief_epochs, one for each of config.distill.brief_teachers."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # The last parameters are the best ones of so short a run.
        config.finetune.update(
            {"epochs": config.distill.brief_epochs, "seeds": config.distill.brief_teachers, "validations": 1, "checkpoints": 2}
        )
    return config


def taught_in(stage: str, name: str) -> bool:
    """Whether a stage in metrics.jsonl is the fine-tuning of a teacher that `make_teacher` made under this name."""
    return re.fullmatch(rf"{re.escape(name)}(-\d+)?", stage) is not None


def none_there(folder: Path) -> UserError:
    """For a folder of fine-tuning that is not there or holds nothing."""
    return UserError(
        f"config.distill.teacher asks for a model fine-tuned on all texts, but there is none in {folder}; "
        "run the stage finetune first, or set config.distill.teacher to brief, to the working directory of a run that has, or to nothing."
    )


def load_teacher(prepared: Prepared, folder: Path, share: float) -> Teacher:
    """The best parameters of each seed that fine-tuning has found, in the order of seeds.

    Args:
        prepared: data and model.
        folder: of fine-tuning in a working directory, this run's or another one's of the same model and classes.
        share: see `Teacher`.

    Raises:
        UserError: there is no fine-tuned model, or it is of another shape.
    """

    def load() -> tuple[list[dict[str, Any]], str]:
        found = sorted(folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
        if not found:
            raise none_there(folder)
        models, digest = [restore_for_analysis(path)["best"]["params"] for path in found], hashlib.sha256()
        for leaf in jax.tree.leaves(models):
            digest.update(np.asarray(leaf).tobytes())
        return models, digest.hexdigest()

    found, fingerprint = from_first(load)
    head = jax.eval_shape(prepared.learner.init_head, jax.random.key(0), prepared.start.pooler)
    expected, models = {"body": prepared.start.body, "head": head}, []
    for best in found:
        there = {part: best[part] for part in ("body", "head")}
        if jax.tree.map(jnp.shape, expected) != jax.tree.map(jnp.shape, there):
            raise UserError(
                f"the fine-tuned model in {folder} has other layers or classes than this run's; set config.distill.teacher to another run."
            )
        models.append(place_parameters((there, best.get("words", prepared.start.words)), prepared.mesh))
    return Teacher(tuple(models), prepared.learner, share, NamedSharding(prepared.mesh, BATCH), prepared.tokens_at_once, fingerprint)
