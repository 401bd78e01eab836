"""First values of a distilled data set: noise at the embeddings' scale, or real examples that a method or a person chose.

Real examples made into the same arrays, with hard labels and one constant rate, are also the baselines that distilled data is compared
with.
"""

import numpy as np

from ddllm.data.splits import strata
from ddllm.data.tokens import TokenSplit
from ddllm.distill.dataset import DistilledData, raw_rate
from ddllm.models.tasks import Classification
from ddllm.select.methods import SELECTIONS, rows_of_classes


def deal_labels(classes: int, examples_per_class: int, batches: int) -> np.ndarray:
    """Class of each example, [M, N]: every inner batch has the same number of every class, class after class."""
    in_batch = np.repeat(np.arange(classes, dtype=np.int32), examples_per_class // batches)
    return np.tile(in_batch, (batches, 1))


def pick_examples(
    split: TokenSplit,
    classes: int,
    per_class: int,
    rng: np.random.Generator,
    at_least: int = 0,
    at_most: int = 0,
    method: str = "random",
    features_nD: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Row numbers of real examples that a selection method chooses, an array for each class.

    Args:
        split: texts to pick from.
        classes: number of classes C.
        per_class: rows for each class.
        rng: source of chance.
        at_least: prefer texts of at least so many tokens; where a class has too few, its longest ones.
        at_most: prefer texts of at most so many tokens; where a class has too few, its shortest ones.
        method: one of `select.methods.SELECTIONS`.
        features_nD: of all texts of the split (see select/features.py); not needed for random ones.

    Raises:
        UserError: a class has fewer texts than are asked for.
    """
    labels, candidates = strata(split.labels), []
    for rows in rows_of_classes(labels, classes, per_class):
        if at_least:
            long_enough = rows[split.lengths[rows] >= at_least]
            rows = long_enough if len(long_enough) >= per_class else rows[np.argsort(-split.lengths[rows], kind="stable")[:per_class]]
        if at_most:
            fitting = rows[split.lengths[rows] <= at_most]
            rows = fitting if len(fitting) >= per_class else rows[np.argsort(split.lengths[rows], kind="stable")[:per_class]]
        candidates.append(rows)
    rows = np.concatenate(candidates)
    features_nD = None if features_nD is None else features_nD[rows]
    return [rows[chosen] for chosen in SELECTIONS[method](features_nD, labels[rows], classes, per_class, rng)]


def noise_data(
    words_VD: np.ndarray, shape: tuple[int, int, int], rng: np.random.Generator, standard: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [M, N, T, D] drawn from a normal distribution with the word table's mean and deviation, or N(0, 1), and a mask of ones."""
    hidden = words_VD.shape[1]
    mean, deviation = (0.0, 1.0) if standard else (words_VD.mean(axis=0), words_VD.std(axis=0))
    embeddings = mean + deviation * rng.standard_normal((*shape, hidden))
    return embeddings.astype(np.float32), np.ones(shape, np.float32)


def real_data(
    words_VD: np.ndarray, split: TokenSplit, picked: list[np.ndarray], batches: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [M, N, T, D] and mask [M, N, T] of real examples dealt into inner batches in the order of `deal_labels`."""
    return embed_rows(words_VD, split, deal_rows(picked, batches), length)


def embed_rows(words_VD: np.ndarray, split: TokenSplit, rows_MN: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [M, N, T, D] and mask [M, N, T] of the texts with these numbers."""
    ids = fit(split.ids[rows_MN], length)
    mask = (np.arange(length)[None, None] < split.lengths[rows_MN][:, :, None]).astype(np.float32)
    return words_VD[ids].astype(np.float32), mask


def real_types(split: TokenSplit, picked: list[np.ndarray], batches: int, length: int) -> np.ndarray | None:
    """Token types [M, N, T] of the same examples, where they are pairs."""
    return None if split.types is None else fit(split.types[deal_rows(picked, batches)], length).astype(np.float32)


def noise_types(shape: tuple[int, int, int]) -> np.ndarray:
    """Token types [M, N, T] of noise that stands for pairs: the second half of the positions is a second text."""
    return np.broadcast_to((np.arange(shape[2]) >= shape[2] // 2).astype(np.float32), shape)


def deal_rows(picked: list[np.ndarray], batches: int) -> np.ndarray:
    """Row numbers of the examples in each inner batch, [M, N], in the order of `deal_labels`."""
    rows = np.stack(picked)  # [C, k]
    classes, per_class = rows.shape
    return rows.reshape(classes, batches, per_class // batches).transpose(1, 0, 2).reshape(batches, -1)


def fit(array: np.ndarray, length: int) -> np.ndarray:
    """Rows [M, N, T] cut, or filled up with zeros, to a length."""
    array = array[:, :, :length]
    return np.pad(array, ((0, 0), (0, 0), (0, length - array.shape[2])))


def assemble(
    embeddings: np.ndarray,
    mask: np.ndarray,
    *,
    classes: int,
    per_class: int,
    passes: int,
    kind: str,
    groups: int,
    rate: float,
    types: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> DistilledData:
    """Put inputs, first labels and constant rates together; see `DistilledData` for the shapes.

    Labels are those of the classes that examples are dealt out over, unless others are given.
    """
    batches = embeddings.shape[0]
    if labels is None:
        labels = Classification().store(deal_labels(classes, per_class, batches), classes, kind)
    rates = np.full((batches * passes, groups), raw_rate(rate), np.float32)
    return DistilledData(embeddings, mask, labels, rates, types=types)
