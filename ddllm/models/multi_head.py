"""Several classification tasks on one encoder, each with its own part of one last layer: a task whose softmax is taken head by head.

Stored labels have the columns of all heads side by side, zero for the heads that an example says nothing about: a label of zero has no loss and no
gradient. One head is active at a time: it decides, and real texts (whose labels are its own classes, counted from 0) are compared with it alone.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.errors import UserError
from ddllm.models.learner import Learner
from ddllm.models.task import Task
from ddllm.models.tasks import Classification, cross_entropy

OF_CLASSES = Classification()


@dataclass(frozen=True)
class MultiHead(Task):
    """One class for each text in the active head; stored labels are "hard" or "unrestricted", as of `Classification`.

    Attributes:
        heads: name of each head.
        sizes: number of classes of each.
        active: number of the head that decides.
    """

    heads: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    active: int = 0

    name: ClassVar[str] = "multihead"
    problem: ClassVar[str] = "multi_label_classification"
    figures: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")
    label_kinds: ClassVar[tuple[str, ...]] = ("hard", "unrestricted")

    def __post_init__(self) -> None:
        # As JSON gives them back they are lists, which cannot be constants of a compiled program.
        object.__setattr__(self, "heads", tuple(self.heads))
        object.__setattr__(self, "sizes", tuple(self.sizes))

    def columns(self, head: int) -> slice:
        """Outputs of one head."""
        before = sum(self.sizes[:head])
        return slice(before, before + self.sizes[head])

    def output_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The classes' names behind their heads', since heads may have classes of the same name."""
        return tuple(f"{head}: {name}" for number, head in enumerate(self.heads) for name in names[self.columns(number)])

    def groups(self, outputs: int) -> int:
        return outputs

    def label_kind(self, texts: int, outputs: int) -> tuple[tuple[int, ...], Any]:
        return (texts,), jnp.int32

    def inner_losses(self, logits_NC: jax.Array, labels_NC: jax.Array, kind: str) -> jax.Array:
        """Sum over heads of the cross-entropy within each."""
        heads = [self.columns(head) for head in range(len(self.sizes))]
        return sum((cross_entropy(logits_NC[:, head], labels_NC[:, head]) for head in heads), jnp.zeros(logits_NC.shape[0]))

    def targets(self, labels_B: jax.Array, outputs: int) -> jax.Array:
        return jax.nn.one_hot(labels_B + self.columns(self.active).start, outputs)

    def opinion(self, logits_NC: jax.Array, kind: str) -> jax.Array:
        """Probabilities within each head."""
        heads = [self.columns(head) for head in range(len(self.sizes))]
        return jnp.concatenate([jax.nn.softmax(logits_NC[:, head], axis=-1) for head in heads], axis=-1)

    def agreement(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BC[:, self.columns(self.active)], axis=-1) == labels_B

    def store(self, labels: np.ndarray, outputs: int, kind: str) -> np.ndarray:
        return np.eye(outputs, dtype=np.float32)[labels + self.columns(self.active).start]

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, self.columns(self.active)].argmax(axis=-1)

    def tell(self, logits: np.ndarray, names: tuple[str, ...]) -> list[Any]:
        """The class in each head, as a dict by the heads' names."""
        told = []
        for head, name in enumerate(self.heads):
            columns = self.columns(head)
            told.append([(name, text) for text in OF_CLASSES.tell(logits[:, columns], names[columns])])
        return [dict(row) for row in zip(*told, strict=True)]

    def tell_stored(self, labels: np.ndarray, names: tuple[str, ...], kind: str) -> list[Any]:
        """Of the heads that an example says something about."""
        present = [[bool(row[self.columns(head)].any()) for head in range(len(self.heads))] for row in labels]
        told = self.tell(labels, names)
        return [[f"{head}: {row[head]}" for head, there in zip(self.heads, heads, strict=True) if there] for row, heads in zip(told, present, strict=True)]

    def shown(self, labels: np.ndarray, outputs: int) -> tuple[str, ...]:
        return OF_CLASSES.shown(labels, outputs)

    def describe(self, labels: np.ndarray, names: tuple[str, ...]) -> str:
        return f"classes {', '.join(names)} of the head {self.heads[self.active]}"

    def card(self) -> dict[str, Any]:
        return {"task": {"name": self.name, **{key: value for key, value in asdict(self).items() if key != "active"}}}


def use_head(learner: Learner, head: int) -> Learner:
    """The learner of a `MultiHead` task with the head of this number active."""
    assert isinstance(learner.task, MultiHead)
    return replace(learner, task=replace(learner.task, active=head))


def activate_head(learner: Learner, folder: str, names: tuple[str, ...], wanted: tuple[str, ...], data: str) -> Learner:
    """The learner with that head active whose classes a corpus has; of several such heads, the one that is called as the corpus is.

    Args:
        learner: of a `MultiHead` task.
        folder: of the distilled data set, for the message.
        names: class names of all heads, side by side.
        wanted: class names of the corpus.
        data: the corpus's name.

    Raises:
        UserError: no head has them, or several have and none is called so.
    """
    task = learner.task
    assert isinstance(task, MultiHead)
    fitting = [head for head in range(len(task.heads)) if names[task.columns(head)] == wanted]
    called = [head for head in fitting if task.heads[head] == data]
    if len(fitting) == 1 or len(called) == 1:
        return use_head(learner, (called or fitting)[0])
    if fitting:
        raise UserError(
            f"{folder} has several heads with the classes {', '.join(wanted)} ({', '.join(task.heads[head] for head in fitting)}), and none is called "
            f"{data}, so that {data} could be of any; call the file or folder of the data as its head is."
        )
    listed = "; ".join(f"{name}: {', '.join(names[task.columns(head)])}" for head, name in enumerate(task.heads))
    raise UserError(f"{folder} has heads for {listed}, but {data} has the classes {', '.join(wanted)}; give data of one of these tasks.")
