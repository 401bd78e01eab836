"""What a task decides, in one object: outputs of the head, both losses, labels at the start, figures, and how predictions are told.

A `Learner` carries its task, and everything else asks it: nothing but the reading of labels (data/labels.py) knows which tasks there are (tasks.py).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

AS_THEY_STAND = "unrestricted"  # the kind of labels that losses take as they are: probabilities as well as one-hot rows


class Task(ABC):
    """What all tasks answer.

    Attributes:
        name: as config.data.task calls it.
        problem: what a Hugging Face config.json calls it.
        figures: names of its figures, the one that validation chooses by first.
        progress: what `agreement` is.
        label_kinds: kinds of distilled labels that make sense.
        one_class: whether each text has one class, which a linear probe, a selection by gradients and hard labels are about.
    """

    name: ClassVar[str]
    problem: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    progress: ClassVar[str] = "accuracy"
    label_kinds: ClassVar[tuple[str, ...]] = ("hard", "soft", "unrestricted")
    one_class: ClassVar[bool] = False

    def groups(self, outputs: int) -> int:
        """Into how many classes examples are dealt, "per class" being the number of them in each."""
        return 1

    def label_kind(self, texts: int, outputs: int) -> tuple[tuple[int, ...], Any]:
        """Shape and type of the labels of so many texts."""
        return (texts,), jnp.float32

    def outer_losses(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        """Loss of real texts [B]."""
        return self.inner_losses(logits_BC, self.targets(labels_B, logits_BC.shape[-1]), AS_THEY_STAND)

    @abstractmethod
    def targets(self, labels_B: jax.Array, outputs: int) -> jax.Array:
        """Labels of real texts as numbers that losses take as they stand, [B, C]."""

    @abstractmethod
    def opinion(self, logits_NC: jax.Array, kind: str) -> jax.Array:
        """Stored labels [N, C] of a kind that say what logits say, so that the inner loss has no slope there."""

    @abstractmethod
    def agreement(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        """How well each real text is predicted [B], shown while learning."""

    def stored_targets(self, labels_NC: jax.Array, kind: str) -> jax.Array:
        """What the inner loss compares predictions with, given stored labels [N, C] of a kind: probabilities, or standardised numbers of a regression."""
        return labels_NC

    @abstractmethod
    def inner_losses(self, logits_NC: jax.Array, labels_NC: jax.Array, kind: str) -> jax.Array:
        """Loss of examples [N] with stored labels of a kind."""

    @abstractmethod
    def store(self, labels: np.ndarray, outputs: int, kind: str) -> np.ndarray:
        """Labels of examples [M, N, …] as they are stored first, [M, N, C]."""

    def spread(self, labels: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
        """Labels [M, N, …] for examples that come from no text, given those of train; None: the classes that they are dealt out over."""
        return None

    @abstractmethod
    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Predictions in the form of the labels, from logits [n, C]."""

    @abstractmethod
    def tell(self, logits: np.ndarray, names: tuple[str, ...]) -> list[Any]:
        """Predictions as a person reads them, from logits [n, C]."""

    def tell_stored(self, labels: np.ndarray, names: tuple[str, ...], kind: str) -> list[Any]:
        """Stored labels [n, C] of a kind as a person reads them."""
        return self.tell(labels, names)

    def shown(self, labels: np.ndarray, outputs: int) -> tuple[str, ...]:
        """The figures that a table shows, given the labels of the test texts [n]."""
        return self.figures

    @abstractmethod
    def describe(self, labels: np.ndarray, names: tuple[str, ...]) -> str:
        """What the labels of train [n] are, as a phrase."""

    def card(self) -> dict[str, Any]:
        """What recipe.json says of the task."""
        return {"task": {"name": self.name}}

    def export_head(self, head: dict[str, Any]) -> dict[str, Any]:
        """The head for programs that know nothing of this one: its outputs are in the labels' units."""
        return head
