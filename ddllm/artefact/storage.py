"""In how many bits arrays are stored: `pack` makes the arrays of a file, `unpack` float32 arrays of them again.

| storage | a number of embeddings takes | what is lost |
|---|---|---|
| float32 | 4 bytes | nothing |
| float16 | 2 bytes | all but 11 significant bits; none may lie beyond 65,504 |
| bfloat16 | 2 bytes, kept as the upper half of a float32 | all but 8 significant bits |
| int8 | 1 byte, and 8 bytes for each position | 256 levels between the least and the greatest number of the position |

Where embeddings take fewer than 32 bits, auxiliary labels (`dataset.AUXILIARY`) are float16, and gains take a byte each: 256 levels between the least and
the greatest of `BLOCK` that follow one another, as optimizer states are kept by Dettmers et al. (arXiv 2110.02861); so do word scores. Of these only the
columns of words that have any are stored. Class labels, rates and everything else stay float32. How much
accuracy each keeps, a run's stage analyse measures (see evaluate/storage.py).
"""

from math import ceil
from typing import Any

import numpy as np

from ddllm.artefact.schema import BFLOAT16, FLOAT16, FLOAT32, INT8
from ddllm.distill.dataset import AUXILIARY
from ddllm.errors import UserError
from ddllm.models.words import SCORES, scored_words

NAME, GAINS = "embeddings", "gains"
WORDS, VOCABULARY = f"{SCORES}.words", f"{SCORES}.vocabulary"  # a bit for each column, whether it is there; and how many bits
LEVELS, BLOCK = 255, 64
MOST_SCORES = 2**30  # no vocabulary has more; a file that says so is damaged
Arrays = dict[str, np.ndarray]


def pack(arrays: dict[str, Any], storage: str) -> Arrays:
    """Arrays of a `DistilledData` by their names, as a file holds them: embeddings [..., T, D], gains [S, K] and auxiliary labels rounded, others float32.

    Raises:
        UserError: they hold numbers that this storage cannot.
    """
    packed: Arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    if SCORES in packed:
        there = scored_words(packed[SCORES])
        packed |= {WORDS: np.packbits(there), VOCABULARY: np.array([len(there)], np.int32)}
        packed[SCORES] = np.ascontiguousarray(packed[SCORES][:, there])
    if storage == FLOAT32:
        return packed
    for name in AUXILIARY:
        if name in packed:
            packed[name] = _halve(packed[name], "auxiliary labels hold", FLOAT32)
    for name in (GAINS, SCORES):
        if name in packed and packed[name].size:
            packed |= _pack_blocks(name, packed[name])
    embeddings = packed[NAME]
    if storage == FLOAT16:
        packed[NAME] = _halve(embeddings, "the embeddings hold", f"{BFLOAT16} or {FLOAT32}")
    if storage == BFLOAT16:
        bits = embeddings.view(np.uint32)
        # To the nearest, ties to even, as hardware rounds.
        packed[NAME] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if storage == INT8:
        packed[NAME], *bounds = _to_levels(embeddings)
        packed |= _bounds(NAME, *bounds)
    return packed


def unpack(arrays: Arrays, storage: str) -> Arrays:
    """What went into `pack`, in float32, out of the arrays of a file.

    Raises:
        KeyError: an array is missing.
        ValueError: arrays are not of this storage, or do not fit each other.
    """
    arrays = dict(arrays)
    stored = arrays[NAME]
    if stored.dtype != {FLOAT16: np.float16, BFLOAT16: np.uint16, INT8: np.uint8}.get(storage, np.float32):
        raise ValueError(f"embeddings of type {stored.dtype} are not stored as {storage}")
    if storage == BFLOAT16:
        arrays[NAME] = (stored.astype(np.uint32) << 16).view(np.float32)
    if storage == INT8:
        arrays[NAME] = _from_levels(stored, *_take_bounds(arrays, NAME, (*stored.shape[:-1], 1)))
    for name in (GAINS, SCORES):
        if name in arrays and arrays[name].dtype == np.uint8:  # by schema 5 gains were floats
            levels = np.atleast_1d(arrays[name])
            count = levels.shape[-1]
            bounds = _take_bounds(arrays, name, (*levels.shape[:-1], ceil(count / BLOCK)))
            arrays[name] = _from_levels(levels, *(np.repeat(bound, BLOCK, axis=-1)[..., :count] for bound in bounds))
    if SCORES in arrays:
        arrays[SCORES] = _spread_words(arrays[SCORES], arrays.pop(WORDS), arrays.pop(VOCABULARY))
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def restored(arrays: dict[str, Any], storage: str) -> Arrays:
    """Arrays as they come back from storage."""
    return unpack(pack(arrays, storage), storage)


def stored_bytes(numbers: int, positions: int, labels: int, gains: tuple[int, int], storage: str, scores: tuple[int, int, int] = (0, 0, 0)) -> int:
    """Bytes of so many numbers of embeddings, at so many positions, of so many numbers of auxiliary labels, of gains [S, K], and of scores (R, words, V)."""
    words = ceil(scores[2] / 8)
    if storage == FLOAT32:
        return 4 * (numbers + labels + gains[0] * gains[1] + scores[0] * scores[1]) + words
    embeddings = numbers + 8 * positions if storage == INT8 else 2 * numbers
    return embeddings + 2 * labels + words + sum(rows * (count + 8 * ceil(count / BLOCK)) for rows, count in (gains, scores[:2]))


def _pack_blocks(name: str, rows: np.ndarray) -> Arrays:
    """Rows in 8 bits, with the bounds of every `BLOCK` numbers."""
    steps, count = rows.shape
    blocks = np.pad(rows, ((0, 0), (0, -count % BLOCK)), mode="edge").reshape(steps, -1, BLOCK)
    levels, lowest, width = _to_levels(blocks)
    return {name: levels.reshape(steps, -1)[:, :count].copy()} | _bounds(name, lowest[..., 0], width[..., 0])


def _spread_words(scores: np.ndarray, words: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Scores [R, V] of all words; ValueError where they are not of these."""
    fits = scores.ndim == 2 and words.dtype == np.uint8 and words.ndim == 1 and vocabulary.dtype == np.int32 and vocabulary.shape == (1,)
    fits = fits and 0 < len(scores) * int(vocabulary[0]) <= MOST_SCORES and len(words) == ceil(vocabulary[0] / 8)
    there = np.flatnonzero(np.unpackbits(words)) if fits else np.zeros(0, np.int64)
    if not fits or len(there) != scores.shape[1] or np.any(there >= vocabulary[0]):
        raise ValueError(f"scores of the shape {scores.shape} do not fit the words that they are of")
    spread = np.zeros((len(scores), int(vocabulary[0])), np.float32)
    spread[:, there] = scores
    return spread


def _halve(array: np.ndarray, what: str, instead: str) -> np.ndarray:
    if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(f"{what} numbers beyond 65,504, which float16 cannot; set config.distill.storage to {instead}.")
    return array.astype(np.float16)


def _to_levels(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, and the least number and the width of a level [..., 1], along the last axis."""
    lowest = numbers.min(axis=-1, keepdims=True)
    width = (numbers.max(axis=-1, keepdims=True) - lowest) / LEVELS
    width = np.where(width > 0, width, np.float32(1))
    return np.round((numbers - lowest) / width).astype(np.uint8), lowest, width


def _from_levels(levels: np.ndarray, lowest: np.ndarray, width: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) * width + lowest


def _bounds(name: str, lowest: np.ndarray, width: np.ndarray) -> Arrays:
    return {f"{name}.lowest": lowest, f"{name}.width": width}


def _take_bounds(arrays: Arrays, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of an array out of `arrays`; ValueError where they are not of this shape, in float32."""
    lowest, width = arrays.pop(f"{name}.lowest"), arrays.pop(f"{name}.width")
    if {lowest.shape, width.shape} != {shape} or {lowest.dtype, width.dtype} != {np.dtype(np.float32)}:
        raise ValueError(f"bounds of the shapes {lowest.shape} and {width.shape} do not fit {name} {arrays[name].shape}")
    return lowest, width
