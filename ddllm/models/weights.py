"""Reads the weight files of a checkpoint folder, in whichever of the Hugging Face formats they are: hands on
named float32 NumPy arrays.

In order of preference: model.safetensors, its sharded form (model.safetensors.index.json), pytorch_model.bin,
its sharded form. A .bin is a pickle: it is only ever read through torch's weights-only loader, which runs no
code, and so needs PyTorch.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors asks it for by name
import numpy as np

from ddllm.errors import UserError

SINGLE = ("model.safetensors", "pytorch_model.bin")
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Weights:
    """An opened checkpoint.

    Attributes:
        folder: where it lies.
        files: its weight files, sorted.
        tensors: name of a tensor to the opened file that holds it.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: dict[str, Any] = field(repr=False)

    def read(self, name: str) -> np.ndarray:
        """The tensor as float32.

        Raises:
            UserError: it is not of a floating-point type, does not fit into float32 or holds NaN or infinity.
        """
        try:
            tensor = self.tensors[name].get_tensor(name)
        except Exception as error:  # the readers raise a great many types for damaged data
            raise UserError(f"tensor {name} in {self.folder} cannot be read ({_first_line(error)}): fetch the checkpoint again") from error
        if str(tensor.dtype) not in FLOATS:
            raise UserError(f"tensor {name} in {self.folder} is of type {tensor.dtype}: use a checkpoint of floating-point weights")
        with np.errstate(over="ignore"):
            tensor = np.asarray(tensor, np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(f"tensor {name} in {self.folder} holds NaN or infinity: the checkpoint is broken, use another")
        return tensor


def open_weights(folder: Path) -> Weights:
    """Open the weight files of a folder, without reading the tensors.

    Raises:
        UserError: there are none, or they are damaged or incomplete.
    """
    for single in SINGLE:
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            files = [folder / single]
        elif index.is_file():
            files = _read_index(index)
        else:
            continue
        return open_files(files)
    raise UserError(f"{folder} holds no weights: expected {SINGLE[0]}, {SINGLE[0]}.index.json with its shards, or {SINGLE[1]}")


def open_files(files: list[Path]) -> Weights:
    """Open the given weight files of one folder.

    Raises:
        UserError: one is damaged or incomplete.
    """
    tensors = {name: opened for opened, names in map(_open_file, files) for name in names}
    return Weights(files[0].parent, tuple(files), tensors)


def _read_index(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / name for name in names if Path(name).name == name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not a valid shard index: fetch the checkpoint again") from error
    if len(files) < len(names) or not files:
        raise UserError(f"{index} does not name shards in its own folder: fetch the checkpoint again")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{index.parent} lacks {len(missing)} of {len(files)} shards ({', '.join(missing[:3])}): fetch them again")
    return files


def _open_file(file: Path) -> tuple[Any, list[str]]:
    if file.suffix == ".bin":
        tensors = _load_bin(file)
        return tensors, list(tensors.state)
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(file, framework="numpy")
        return opened, list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or incomplete ({_first_line(error)}): fetch the checkpoint again") from error


@dataclass(frozen=True)
class _TorchFile:
    """Gives a torch state dict the reading method of an opened safetensors file."""

    state: dict[str, Any]

    def get_tensor(self, name: str) -> np.ndarray:
        tensor = self.state[name].detach()
        # NumPy knows no bfloat16 that torch could hand over; other types are left for the caller to judge.
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _load_bin(file: Path) -> _TorchFile:
    try:
        import torch
    except ImportError:
        raise UserError(f"{file} can only be read with PyTorch: run `pip install torch`, or use a safetensors checkpoint") from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives and refused pickles come as many types
        raise UserError(f"{file} is damaged, or holds more than weights, which is never loaded: use a safetensors checkpoint") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{file} is not a dictionary of tensors: use a checkpoint in the Hugging Face format")
    return _TorchFile(state)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
