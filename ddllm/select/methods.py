"""Which texts stand for their class: the selection methods that distilled data is compared with, and started from.

| method | picks for each class | random |
|---|---|---|
| `random` | any texts | yes |
| `k_centers` | texts that leave no other text far from all of them (Sener & Savarese, ICLR 2018) | no |
| `herding` | texts whose running mean stays at the class's (Welling, ICML 2009; as in iCaRL, Rebuffi et al., CVPR 2017) | no |
| `k_means` | the text nearest to each centre of k-means | by its starts |
| `gradient_norm` | the texts with the smallest expected gradient early in training (EL2N; Paul et al., NeurIPS 2021) | by its probes |

All take features [n, D] of the texts, their labels [n], the number of classes C, the number of texts for each class and a source of chance, and
give row numbers, an array [per_class] for each class without repeats. Distances are Euclidean and from all texts of a class to one point at a time:
nothing of the size n × n is ever made.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ddllm.errors import UserError

CHUNK = 4096  # texts whose differences to a point are held at once
STARTS = 10  # of k-means, the best of which counts
PROBES = 5  # linear probes whose scores are averaged
PROBE_STEPS, PROBE_RATE = 100, 1e-2  # of each; few steps, since the score is meant to be taken early
PROBE_BATCH = 200  # scikit-learn's own

Method = Callable[[Any, np.ndarray, int, int, np.random.Generator], list[np.ndarray]]


def random(features_nD: Any, labels_n: np.ndarray, classes: int, per_class: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Any texts of each class; needs no features."""
    return [rng.permutation(rows)[:per_class] for rows in rows_of_classes(labels_n, classes, per_class)]


def k_centers(features_nD: np.ndarray, labels_n: np.ndarray, classes: int, per_class: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Greedy k-center (Sener & Savarese, ICLR 2018, algorithm 1): again and again the text that is farthest from all chosen ones.

    The first is the text nearest to the class's mean. The published algorithm starts from any text, which for one text per class would be a random
    choice by another name.
    """

    def choose(features_kD: np.ndarray) -> np.ndarray:
        chosen = [int(np.argmin(squared_distances(features_kD, features_kD.mean(axis=0, dtype=np.float64))))]
        nearest_k = np.full(len(features_kD), np.inf)
        while len(chosen) < per_class:
            nearest_k = np.minimum(nearest_k, squared_distances(features_kD, features_kD[chosen[-1]]))
            nearest_k[chosen[-1]] = -1  # below the distance 0 of a text's duplicates
            chosen.append(int(np.argmax(nearest_k)))
        return np.array(chosen)

    return [rows[choose(features_nD[rows])] for rows in rows_of_classes(labels_n, classes, per_class)]


def herding(features_nD: np.ndarray, labels_n: np.ndarray, classes: int, per_class: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Again and again the text that brings the mean of the chosen ones nearest to the class's mean (Rebuffi et al., CVPR 2017, algorithm 4)."""

    def choose(features_kD: np.ndarray) -> np.ndarray:
        mean_D, chosen = features_kD.mean(axis=0, dtype=np.float64), []
        sum_D = np.zeros_like(mean_D)
        for count in range(1, per_class + 1):
            distances_k = squared_distances(features_kD, count * mean_D - sum_D)
            distances_k[chosen] = np.inf
            chosen.append(int(np.argmin(distances_k)))
            sum_D += features_kD[chosen[-1]]
        return np.array(chosen)

    return [rows[choose(features_nD[rows])] for rows in rows_of_classes(labels_n, classes, per_class)]


def k_means(features_nD: np.ndarray, labels_n: np.ndarray, classes: int, per_class: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The text nearest to each of `per_class` centres of k-means, no text twice; clusters in the order of their size, the largest first."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    def choose(features_kD: np.ndarray) -> np.ndarray:
        options: dict[str, Any] = {"n_init": STARTS, "random_state": int(rng.integers(2**31))}
        clusters: Any = KMeans(per_class, **options).fit(features_kD)
        sizes = np.bincount(clusters.labels_, minlength=per_class)
        chosen: list[int] = []
        for cluster in np.argsort(-sizes, kind="stable"):
            distances_k = squared_distances(features_kD, clusters.cluster_centers_[cluster])
            distances_k[chosen] = np.inf
            chosen.append(int(np.argmin(distances_k)))
        return np.array(chosen)

    # Several threads would add their parts of a centre up in the order in which they end.
    with threadpool_limits(1):
        return [rows[choose(features_nD[rows])] for rows in rows_of_classes(labels_n, classes, per_class)]


def gradient_norm(
    features_nD: np.ndarray, labels_n: np.ndarray, classes: int, per_class: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The texts of each class with the smallest EL2N score (Paul et al., NeurIPS 2021, equation 2).

    The score is ‖p(x) − y‖₂, the distance of the predicted probabilities from the one-hot label, which is the size of the gradient by the logits; a mean
    over `PROBES` models. The models are linear probes on the standardised features, freshly drawn and trained for `PROBE_STEPS` steps of Adam, or for one
    epoch where that is longer.

    The small end is kept. Paul et al. prune the easy texts of large data sets; where only a few remain, easy ones teach more (Sorscher et al.,
    NeurIPS 2022), and the largest scores are those of wrong labels and of texts that belong to no class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    groups = rows_of_classes(labels_n, classes, per_class)
    scores_n = np.zeros(len(labels_n))
    epochs = max(PROBE_STEPS * min(PROBE_BATCH, len(labels_n)) // len(labels_n), 1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # to stop before that is meant
        standard_nD = StandardScaler().fit_transform(features_nD)
        for _ in range(PROBES):
            seed = int(rng.integers(2**31))
            probe = MLPClassifier((), learning_rate_init=PROBE_RATE, max_iter=epochs, n_iter_no_change=epochs, random_state=seed)
            errors_nC = np.asarray(probe.fit(standard_nD, labels_n).predict_proba(standard_nD)) - np.eye(classes)[labels_n]
            scores_n += np.linalg.norm(errors_nC, axis=1) / PROBES
    return [rows[np.argsort(scores_n[rows], kind="stable")[:per_class]] for rows in groups]


SELECTIONS: dict[str, Method] = {
    "random": random,
    "k_centers": k_centers,
    "herding": herding,
    "k_means": k_means,
    "gradient_norm": gradient_norm,
}
DETERMINISTIC = ("k_centers", "herding")  # give the same texts whatever the source of chance
SUPERVISED = ("gradient_norm",)  # learn from the classes, so that one class for all texts will not do


def rows_of_classes(labels_n: np.ndarray, classes: int, per_class: int, names: tuple[str, ...] = (), file: str = "") -> list[np.ndarray]:
    """Row numbers of each class's texts; for messages, `names` are of the classes, and `file` is where texts come from that are not the training texts.

    Raises:
        UserError: a class has fewer texts than are asked for.
    """
    groups = [np.flatnonzero(labels_n == label) for label in range(classes)]
    for label, rows in enumerate(groups):
        if len(rows) < per_class:
            whose = f"the class {names[label] if names else label!r} has" if classes > 1 else "there are"
            found, more = (f"texts in {file}", "add some to the file") if file else ("training texts", "use more data")
            remedy = f"ask for fewer or {more}" if len(rows) or file else "correct config.data.label_names or the labels"
            raise UserError(f"{whose} {len(rows)} {found}, but config.distill.examples_per_class asks for {per_class} of them; {remedy}.")
    return groups


def squared_distances(features_nD: np.ndarray, point_D: np.ndarray, chunk: int = CHUNK) -> np.ndarray:
    """Squared Euclidean distance [n] of each row from a point, the differences of `chunk` rows at a time."""
    distances_n = np.empty(len(features_nD))
    for first in range(0, len(features_nD), chunk):
        rows = slice(first, first + chunk)
        distances_n[rows] = np.square(features_nD[rows] - point_D[None]).sum(axis=1)
    return distances_n
