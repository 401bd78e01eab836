"""The tasks there are, each a `Task` (see task.py): what becomes of texts, labels and predictions.

| task | labels of texts | outputs C | losses, outer and inner | figures |
|---|---|---|---|---|
| `Classification` | classes, int [n] | the classes | softmax cross-entropy | accuracy, macro F1 |
| `Regression` | numbers, float [n] | 1 | squared error of standardised labels | Pearson's and Spearman's correlation |
| `MultiLabel` | sets, 0 or 1, [n, C] | the labels | sigmoid cross-entropy, mean over labels | micro F1, macro F1 |

Figures are computed by scikit-learn and SciPy from predictions; the first one of a task is what validation chooses by unless
config.evaluate.metric names another.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddllm.errors import UserError
from ddllm.models.task import Task

SHOWN_IMBALANCE = 1.5  # macro F1 is shown where the largest class is larger than so many times the smallest


def cross_entropy(logits_NC: jax.Array, targets_NC: jax.Array) -> jax.Array:
    """Cross-entropy [N] against targets that need not be a distribution (Maekawa et al., ACL 2023, unrestricted labels)."""
    return -jnp.sum(targets_NC * jax.nn.log_softmax(logits_NC, axis=-1), axis=-1)


def sigmoid_cross_entropy(logits_NC: jax.Array, targets_NC: jax.Array) -> jax.Array:
    """Mean binary cross-entropy [N] over labels, against targets that need not lie between 0 and 1."""
    return -jnp.mean(targets_NC * jax.nn.log_sigmoid(logits_NC) + (1 - targets_NC) * jax.nn.log_sigmoid(-logits_NC), axis=-1)


@dataclass(frozen=True)
class Classification(Task):
    """One class for each text; stored labels are one-hot rows, logits of a distribution ("soft") or any numbers ("unrestricted")."""

    name: ClassVar[str] = "classification"
    problem: ClassVar[str] = "single_label_classification"
    figures: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")
    one_class: ClassVar[bool] = True

    def groups(self, outputs: int) -> int:
        return outputs

    def label_kind(self, texts: int, outputs: int) -> tuple[tuple[int, ...], Any]:
        return (texts,), jnp.int32

    def outer_losses(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B)

    def targets(self, labels_B: jax.Array, outputs: int) -> jax.Array:
        return jax.nn.one_hot(labels_B, outputs)

    def opinion(self, logits_NC: jax.Array, kind: str) -> jax.Array:
        """Probabilities, or their logarithms for soft labels."""
        return jax.nn.log_softmax(logits_NC) if kind == "soft" else jax.nn.softmax(logits_NC)

    def agreement(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BC, axis=-1) == labels_B

    def inner_losses(self, logits_NC: jax.Array, labels_NC: jax.Array, kind: str) -> jax.Array:
        return cross_entropy(logits_NC, self.stored_targets(labels_NC, kind))

    def stored_targets(self, labels_NC: jax.Array, kind: str) -> jax.Array:
        return jax.nn.softmax(labels_NC, axis=-1) if kind == "soft" else labels_NC

    def store(self, labels: np.ndarray, outputs: int, kind: str) -> np.ndarray:
        """Soft labels give the class 0.95."""
        one_hot = np.eye(outputs, dtype=np.float32)[labels]
        return one_hot * np.float32(np.log(0.95 * (outputs - 1) / 0.05)) if kind == "soft" else one_hot

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(axis=-1)

    def tell(self, logits: np.ndarray, names: tuple[str, ...]) -> list[Any]:
        return [names[index] for index in self.decide(logits).tolist()]

    def shown(self, labels: np.ndarray, outputs: int) -> tuple[str, ...]:
        """Macro F1 beside accuracy where there are more than two classes or one is much larger than the other."""
        counts = np.bincount(labels, minlength=outputs)
        return self.figures if outputs > 2 or counts.max() > SHOWN_IMBALANCE * counts.min() else self.figures[:1]

    def describe(self, labels: np.ndarray, names: tuple[str, ...]) -> str:
        return f"classes {', '.join(names)}"

    def card(self) -> dict[str, Any]:
        """Nothing, as folders have always had it."""
        return {}


@dataclass(frozen=True)
class Regression(Task):
    """A number for each text.

    Head and stored labels are in standard deviations from the training texts' mean; predictions are given in the labels' units.

    Attributes:
        mean, deviation: of the training labels.
    """

    mean: float = 0.0
    deviation: float = 1.0

    name: ClassVar[str] = "regression"
    problem: ClassVar[str] = "regression"
    figures: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    progress: ClassVar[str] = "absolute_error"
    label_kinds: ClassVar[tuple[str, ...]] = ("hard", "unrestricted")

    def targets(self, labels_B: jax.Array, outputs: int) -> jax.Array:
        return ((labels_B - self.mean) / self.deviation)[:, None]

    def opinion(self, logits_NC: jax.Array, kind: str) -> jax.Array:
        return logits_NC

    def agreement(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        return jnp.abs(logits_BC[:, 0] * self.deviation + self.mean - labels_B)

    def inner_losses(self, logits_NC: jax.Array, labels_NC: jax.Array, kind: str) -> jax.Array:
        return jnp.mean(jnp.square(logits_NC - labels_NC), axis=-1)

    def store(self, labels: np.ndarray, outputs: int, kind: str) -> np.ndarray:
        return ((labels - self.mean) / self.deviation).astype(np.float32)[..., None]

    def spread(self, labels: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
        """Quantiles of the training labels, each inner batch with low and high ones."""
        batches, examples = shape
        shares = (np.arange(batches * examples) + 0.5) / (batches * examples)
        return np.quantile(labels, shares).reshape(examples, batches).T

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0] * self.deviation + self.mean

    def tell(self, logits: np.ndarray, names: tuple[str, ...]) -> list[Any]:
        return self.decide(logits).tolist()

    def describe(self, labels: np.ndarray, names: tuple[str, ...]) -> str:
        return f"labels from {labels.min():g} to {labels.max():g}, {self.mean:.3g} on average"

    def card(self) -> dict[str, Any]:
        return {"task": {"name": self.name, **asdict(self)}}

    def export_head(self, head: dict[str, Any]) -> dict[str, Any]:
        out = head["out"]
        return head | {"out": {"kernel": out["kernel"] * self.deviation, "bias": out["bias"] * self.deviation + self.mean}}


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of labels for each text, each of them predicted where its logit is positive; "soft" labels are stored as logits."""

    name: ClassVar[str] = "multilabel"
    problem: ClassVar[str] = "multi_label_classification"
    figures: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro")

    def label_kind(self, texts: int, outputs: int) -> tuple[tuple[int, ...], Any]:
        return (texts, outputs), jnp.float32

    def targets(self, labels_B: jax.Array, outputs: int) -> jax.Array:
        return labels_B

    def opinion(self, logits_NC: jax.Array, kind: str) -> jax.Array:
        """Probabilities, or logits for soft labels."""
        return logits_NC if kind == "soft" else jax.nn.sigmoid(logits_NC)

    def agreement(self, logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        """The share of labels that are decided rightly."""
        return jnp.mean((logits_BC > 0) == (labels_B > 0), axis=-1)

    def inner_losses(self, logits_NC: jax.Array, labels_NC: jax.Array, kind: str) -> jax.Array:
        return sigmoid_cross_entropy(logits_NC, self.stored_targets(labels_NC, kind))

    def stored_targets(self, labels_NC: jax.Array, kind: str) -> jax.Array:
        return jax.nn.sigmoid(labels_NC) if kind == "soft" else labels_NC

    def store(self, labels: np.ndarray, outputs: int, kind: str) -> np.ndarray:
        labels = labels.astype(np.float32)
        return (2 * labels - 1) * np.float32(np.log(0.95 / 0.05)) if kind == "soft" else labels

    def spread(self, labels: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
        """Those of random training texts."""
        return labels[rng.choice(len(labels), shape)]

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return (logits > 0).astype(np.int32)

    def tell(self, logits: np.ndarray, names: tuple[str, ...]) -> list[Any]:
        return [[name for name, there in zip(names, row, strict=True) if there] for row in self.decide(logits)]

    def tell_stored(self, labels: np.ndarray, names: tuple[str, ...], kind: str) -> list[Any]:
        # They are probabilities unless they are soft, where predictions are told from logits.
        return self.tell(labels if kind == "soft" else labels - 0.5, names)

    def describe(self, labels: np.ndarray, names: tuple[str, ...]) -> str:
        return f"labels {', '.join(names)}, {labels.sum(axis=1).mean():.2g} to a text"


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Regression, MultiLabel)}


def make_task(name: str, labels: np.ndarray) -> Task:
    """The task of a corpus, given the labels of its training texts."""
    if name == Regression.name:
        return Regression(float(np.mean(labels)), float(np.std(labels)))
    return TASKS[name]()


def read_task(card: dict[str, Any]) -> Task:
    """The task that recipe.json speaks of.

    Raises:
        UserError: there is no such task.
    """
    from ddllm.models.multi_head import MultiHead  # made of the tasks here

    known = {**TASKS, MultiHead.name: MultiHead}
    given = dict(card.get("task", {"name": Classification.name}))
    try:
        return known[given.pop("name")](**given)
    except (KeyError, TypeError):
        raise UserError(f"the task {card['task']!r} in recipe.json is not one of {', '.join(known)}; get the folder again.") from None
