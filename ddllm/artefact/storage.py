"""In how many bits arrays are stored: `pack` makes the arrays of a file, `unpack` float32 arrays of them again.

| storage | a number of embeddings takes | what is lost |
|---|---|---|
| float32 | 4 bytes | nothing |
| float16 | 2 bytes | all but 11 significant bits; none may lie beyond 65,504 |
| bfloat16 | 2 bytes, kept as the upper half of a float32 | all but 8 significant bits |
| int8 | 1 byte, and 8 bytes for each position | 256 levels between the least and the greatest number of the position |

Where embeddings take fewer than 32 bits, auxiliary labels (`dataset.AUXILIARY`) are float16, and gains take a byte each: 256 levels between the least and
the greatest of `BLOCK` that follow one another, as optimizer states are kept by Dettmers et al. (arXiv 2110.02861). Class labels, rates and everything else
stay float32. How much accuracy each keeps, a run's stage analyse measures (see evaluate/storage.py).
"""

from math import ceil
from typing import Any

import numpy as np

from ddllm.artefact.schema import BFLOAT16, FLOAT16, FLOAT32, INT8
from ddllm.distill.dataset import AUXILIARY
from ddllm.errors import UserError

NAME, GAINS = "embeddings", "gains"
LEVELS, BLOCK = 255, 64
Arrays = dict[str, np.ndarray]


def pack(arrays: dict[str, Any], storage: str) -> Arrays:
    """Arrays of a `DistilledData` by their names, as a file holds them: embeddings [..., T, D], gains [S, K] and auxiliary labels rounded, others float32.

    Raises:
        UserError: they hold numbers that this storage cannot.
    """
    packed: Arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    if storage == FLOAT32:
        return packed
    for name in AUXILIARY:
        if name in packed:
            packed[name] = _halve(packed[name], "auxiliary labels hold", FLOAT32)
    if GAINS in packed:
        gains = packed[GAINS]
        steps, count = gains.shape
        blocks = np.pad(gains, ((0, 0), (0, -count % BLOCK)), mode="edge").reshape(steps, -1, BLOCK)
        levels, lowest, width = _to_levels(blocks)
        packed |= {GAINS: levels.reshape(steps, -1)[:, :count].copy()} | _bounds(GAINS, lowest[..., 0], width[..., 0])
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
    if GAINS in arrays and arrays[GAINS].dtype == np.uint8:  # by schema 5 they were floats
        gains = np.atleast_1d(arrays[GAINS])
        count = gains.shape[-1]
        bounds = _take_bounds(arrays, GAINS, (*gains.shape[:-1], ceil(count / BLOCK)))
        arrays[GAINS] = _from_levels(gains, *(np.repeat(bound, BLOCK, axis=-1)[..., :count] for bound in bounds))
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def restored(arrays: dict[str, Any], storage: str) -> Arrays:
    """Arrays as they come back from storage."""
    return unpack(pack(arrays, storage), storage)


def stored_bytes(numbers: int, positions: int, labels: int, gains: tuple[int, int], storage: str) -> int:
    """Bytes of so many numbers of embeddings, at so many positions, of so many numbers of auxiliary labels, and of gains [S, K]."""
    if storage == FLOAT32:
        return 4 * (numbers + labels + gains[0] * gains[1])
    embeddings = numbers + 8 * positions if storage == INT8 else 2 * numbers
    return embeddings + 2 * labels + gains[0] * (gains[1] + 8 * ceil(gains[1] / BLOCK))


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
