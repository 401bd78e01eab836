"""In how many bits arrays are stored: `pack` makes the arrays of a file, `unpack` float32 embeddings of them again.

| storage | a number of embeddings takes | what is lost |
|---|---|---|
| float32 | 4 bytes | nothing |
| float16 | 2 bytes | all but 11 significant bits; none may lie beyond 65,504 |
| bfloat16 | 2 bytes, kept as the upper half of a float32 | all but 8 significant bits |
| int8 | 1 byte, and 8 bytes for each position | 256 levels between the least and the greatest number of the position |

Where embeddings take fewer than 32 bits, gains and auxiliary labels (`dataset.BESIDE`) are float16; class labels, rates and everything else stay
float32. How much accuracy each keeps, a run's stage analyse measures (see evaluate/storage.py).
"""

from typing import Any

import numpy as np

from ddllm.artefact.schema import BFLOAT16, FLOAT16, FLOAT32, INT8
from ddllm.errors import UserError

NAME, LOWEST, WIDTH = "embeddings", "embeddings.lowest", "embeddings.width"
LEVELS = 255


def pack(embeddings: Any, storage: str) -> dict[str, np.ndarray]:
    """Embeddings [..., T, D] as named arrays for a file.

    Raises:
        UserError: they hold numbers that this storage cannot.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    if storage == FLOAT16:
        if np.abs(embeddings).max(initial=0) > np.finfo(np.float16).max:
            raise UserError("the embeddings hold numbers beyond 65,504, which float16 cannot; set config.distill.storage to bfloat16 or float32.")
        return {NAME: embeddings.astype(np.float16)}
    if storage == BFLOAT16:
        bits = embeddings.view(np.uint32)
        # To the nearest, ties to even, as hardware rounds.
        return {NAME: ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)}
    if storage == INT8:
        lowest = embeddings.min(axis=-1, keepdims=True)
        width = (embeddings.max(axis=-1, keepdims=True) - lowest) / LEVELS
        width = np.where(width > 0, width, np.float32(1))
        return {NAME: np.round((embeddings - lowest) / width).astype(np.uint8), LOWEST: lowest, WIDTH: width}
    return {NAME: embeddings}


def unpack(arrays: dict[str, np.ndarray], storage: str) -> np.ndarray:
    """Float32 embeddings [..., T, D] out of the arrays of a file; theirs are taken out of it.

    Raises:
        KeyError: an array is missing.
        ValueError: arrays are not of this storage, or do not fit each other.
    """
    stored = arrays.pop(NAME)
    if stored.dtype != {FLOAT16: np.float16, BFLOAT16: np.uint16, INT8: np.uint8}.get(storage, np.float32):
        raise ValueError(f"embeddings of type {stored.dtype} are not stored as {storage}")
    if storage == BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if storage == INT8:
        lowest, width = arrays.pop(LOWEST), arrays.pop(WIDTH)
        if {lowest.shape, width.shape} != {(*stored.shape[:-1], 1)} or {lowest.dtype, width.dtype} != {np.dtype(np.float32)}:
            raise ValueError(f"bounds of the shapes {lowest.shape} and {width.shape} do not fit embeddings {stored.shape}")
        return stored.astype(np.float32) * width + lowest
    return np.asarray(stored, np.float32)


def restored(embeddings: Any, storage: str) -> np.ndarray:
    """Embeddings [..., T, D] as they come back from storage."""
    return unpack(pack(embeddings, storage), storage)


def halve(array: Any, storage: str) -> np.ndarray:
    """One of `dataset.BESIDE` as it is stored beside embeddings of this storage.

    Raises:
        UserError: it holds numbers that float16 cannot.
    """
    if storage != FLOAT32 and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("gains or auxiliary labels hold numbers beyond 65,504, which float16 cannot; set config.distill.storage to float32.")
    return np.ascontiguousarray(array, np.float32 if storage == FLOAT32 else np.float16)


def stored_bytes(numbers: int, positions: int, halved: int, storage: str) -> int:
    """Bytes of so many numbers of embeddings, at so many positions, and of so many numbers of `dataset.BESIDE`."""
    each = {FLOAT32: 4, INT8: 1}.get(storage, 2)
    return each * numbers + (8 * positions if storage == INT8 else 0) + (4 if storage == FLOAT32 else 2) * halved
