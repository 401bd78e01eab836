"""A teacher for the outer loop: the model fine-tuned on all texts, whose opinion of a real text replaces or mends its label.

A label is one bit of noisy evidence; the probabilities (or numbers) of a model that has seen every label are evidence already averaged (Hinton et al.,
2015, arXiv 1503.02531). The gradient of the outer loss varies less with the batch, and labels that are wrong do less harm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from ddllm.data.batches import Batch
from ddllm.errors import UserError
from ddllm.evaluate.finetune import finetune
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.models.scoring import batch_logits
from ddllm.models.task import AS_THEY_STAND, Task
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints, restore_for_analysis
from ddllm.runtime.devices import place
from ddllm.runtime.mesh import BATCH, place_parameters
from ddllm.runtime.metrics import Metrics
from ddllm.runtime.processes import from_first

OWN = "full"


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned model that gives batches their targets.

    Attributes:
        params: {"body", "head"}, on the devices.
        words: word table [V, D].
        learner: encoder and head.
        share: of the teacher in the targets, in [0, 1]; the rest is the label's.
        texts: sharding of batches.
    """

    params: Tree
    words: jax.Array
    learner: Learner
    share: float
    texts: NamedSharding

    def teach(self, batch: Batch) -> Batch:
        """The batch with `targets` [B, C] that mix the teacher's opinion with the label: probabilities, or standardised numbers of a regression."""
        placed = place(batch, self.texts)
        logits_BC = batch_logits(self.params, self.words, placed, self.learner)
        return batch._replace(targets=_mix(self.learner.task, logits_BC, placed.labels, self.share))


@partial(jax.jit, static_argnums=0)
def _mix(task: Task, logits_BC: jax.Array, labels_B: jax.Array, share: float) -> jax.Array:
    return share * task.opinion(logits_BC, AS_THEY_STAND) + (1 - share) * task.targets(labels_B, logits_BC.shape[-1])


def make_teacher(prepared: Prepared, folder: Path, open_metrics: Callable[[], Metrics], name: str) -> Teacher:
    """A teacher of texts of one's own: a model fine-tuned on what is prepared, or loaded where it is there.

    Args:
        prepared: data and model; config.finetune and config.distill.teacher_share say how.
        folder: of its checkpoints: a start that was killed goes on there.
        open_metrics: opens where figures are written.
        name: of the work, on its progress bar and in metrics.jsonl.
    """
    checkpoints, metrics = Checkpoints(folder / f"seed-{prepared.config.seed}", keep=1), open_metrics()
    try:
        finetune(prepared, prepared.config.seed, checkpoints, metrics, name)
    finally:
        checkpoints.close()
        metrics.close()
    return load_teacher(prepared, folder, prepared.config.distill.teacher_share)


def load_teacher(prepared: Prepared, folder: Path, share: float) -> Teacher:
    """The best parameters that the stage finetune has found.

    Args:
        prepared: data and model.
        folder: of fine-tuning in a working directory, this run's or another one's of the same model and classes.
        share: see `Teacher`.

    Raises:
        UserError: there is no fine-tuned model, or it is of another shape.
    """

    def load() -> dict[str, Any]:
        own = folder / f"seed-{prepared.config.seed}"
        found = own if own.is_dir() else next(iter(sorted(folder.glob("seed-*"))), None)
        if found is None:
            raise UserError(
                f"config.distill.teacher asks for a model fine-tuned on all texts, but there is none in {folder}; "
                "run the stage finetune first, or set config.distill.teacher to the working directory of a run that has, or to nothing."
            )
        return restore_for_analysis(found)["best"]["params"]

    best = from_first(load)
    head = jax.eval_shape(prepared.learner.init_head, jax.random.key(0), prepared.start.pooler)
    expected, there = ({"body": prepared.start.body, "head": head}, {part: best[part] for part in ("body", "head")})
    if jax.tree.map(jnp.shape, expected) != jax.tree.map(jnp.shape, there):
        raise UserError(
            f"the fine-tuned model in {folder} has other layers or classes than this run's; set config.distill.teacher to another run."
        )
    params, words = place_parameters((there, best.get("words", prepared.start.words)), prepared.mesh)
    return Teacher(params, words, prepared.learner, share, NamedSharding(prepared.mesh, BATCH))
