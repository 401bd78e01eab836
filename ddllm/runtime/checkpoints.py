"""Checkpoints of a stage's whole state, written in the background by Orbax; hands back the state in the shape of a template.

A state is any pytree of arrays (NamedTuples of optimizers too). It is saved from host memory as nested dicts of NumPy arrays under the
pytree's own names, without a word about devices, so that a run can go on with another number of them, and a notebook can read it without
this library's types. Random keys are not part of it: all randomness derives from (seed, step).
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from ddllm.errors import UserError
from ddllm.runtime.devices import whole
from ddllm.runtime.processes import count, from_first, is_first
from ddllm.runtime.storage import describe_refusal

State = TypeVar("State")


class Checkpoints:
    """The checkpoints in one folder, the newest few of which are kept.

    Of several processes the first one alone writes and reads; the others get what it finds, and all have to call each method together.

    Args:
        folder: where they lie; made if it is not there. What a killed process left half-written there is removed.
        keep: how many to keep.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = Path(folder).absolute()
        self._manager = None
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = _manager(self.folder, keep)

    def save(self, step: int, state: Any, wait: bool = False) -> None:
        """Save a copy of `state`, in the background unless `wait`; a step that is already there stays as it is.

        Raises:
            OSError, ValueError: the disk refused this save or, in the background, the one before (`guard_storage` turns them into a
            `UserError`).
        """
        import orbax.checkpoint as ocp

        if self._manager is None or step in self._manager.all_steps():
            return
        # Arrays on the CPU may share memory with buffers that the next step donates.
        tree = _name(jax.tree.map(whole, state))
        self._probe(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        self._manager.save(step, args=ocp.args.StandardSave(tree), force=True)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until everything is on disk; raises what went wrong there."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return from_first(lambda: self._manager.latest_step() if self._manager else None)

    def restore(self, template: State, step: int | None = None) -> State:
        """The state at `step` (None: the latest) as NumPy arrays in the structure of `template`.

        Args:
            template: a state of the same structure, shapes and dtypes: arrays or `jax.ShapeDtypeStruct`.

        Raises:
            UserError: there is no such checkpoint, it does not fit the template, or it cannot be read.
        """
        paths, structure = jax.tree_util.tree_flatten_with_path(template)
        wanted = {_keys(path): (tuple(np.shape(leaf)), _dtype(leaf)) for path, leaf in paths}
        found = from_first(lambda: self._read(wanted, step))
        return jax.tree.unflatten(structure, [found[keys] for keys in wanted])

    def _read(self, wanted: dict[tuple[str, ...], Any], step: int | None) -> dict[tuple[str, ...], np.ndarray]:
        """Arrays by the names of their places, checked against the shapes and dtypes that are wanted."""
        assert self._manager is not None
        step = self._manager.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise UserError(
                f"There is no checkpoint{'' if step is None else f' of step {step}'} in {self.folder}: run the stage that writes it first."
            )
        tree = _read(self._manager, self.folder, step)
        found = {_keys(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
        for keys in [*wanted, *(keys for keys in found if keys not in wanted)]:
            if keys not in found or keys not in wanted or wanted[keys] != (found[keys].shape, found[keys].dtype):
                here = _words(*wanted[keys]) if keys in wanted else "nothing"
                there = _words(found[keys].shape, found[keys].dtype) if keys in found else "nothing"
                raise UserError(
                    f"The checkpoint in {self.folder / str(step)} does not fit this run: {'/'.join(keys)} is {there} there and {here} here; "
                    "use another --workdir or remove the folder."
                )
        return found

    def close(self) -> None:
        """Wait for the last save and end the background threads."""
        if self._manager is not None:
            self._manager.close()

    def _probe(self, size: int) -> None:
        # A save whose folder cannot be made leaves Orbax threads behind that hold up the exit for minutes, so refusals are met here first.
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(b"\0")
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(28, os.strerror(28), str(self.folder))


def restore_for_analysis(folder: Path | str, step: int | None = None) -> dict[str, Any]:
    """The state in a folder of checkpoints (None: the latest) as nested dicts of NumPy arrays, without a template; changes nothing there.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise UserError(f"There is no folder of checkpoints at {folder}.")
    manager = _manager(folder, keep=None)
    step = manager.latest_step() if step is None else step
    if step is None or step not in manager.all_steps():
        raise UserError(f"There is no checkpoint{'' if step is None else f' of step {step}'} in {folder}.")
    tree = _read(manager, folder, step)
    manager.close()
    return tree


def _manager(folder: Path, keep: int | None) -> Any:
    """Orbax's manager; without `keep` one that only reads."""
    import orbax.checkpoint as ocp

    log = logging.getLogger("absl")
    if not any(isinstance(known, _QuietOrbax) for known in log.filters):
        log.addFilter(_QuietOrbax())
    policy = None if keep is None else ocp.checkpoint_managers.LatestN(keep)
    # Left to itself, Orbax waits for all processes at every turn.
    alone = (
        ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}) if count() > 1 else ocp.options.MultiprocessingOptions()
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=False,
        multiprocessing_options=alone,
        cleanup_tmp_directories=keep is not None,
        enable_async_checkpointing=keep is not None,
        read_only=keep is None,
    )
    return ocp.CheckpointManager(folder, options=options, item_handlers=ocp.StandardCheckpointHandler(multiprocessing_options=alone))


class _QuietOrbax(logging.Filter):
    """Drops what Orbax logs: its errors are raised as well, and its notes are no concern of a user's."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts


def _read(manager: Any, folder: Path, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    try:
        metadata = manager.item_metadata(step)
        # An array without memory of its own says that host memory of this shape is wanted.
        template = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), dict(metadata.tree))
        return manager.restore(step, args=ocp.args.StandardRestore(template))
    except Exception as error:
        if describe_refusal(error):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The checkpoint in {folder / str(step)} cannot be read ({first[:200]}): remove that folder to go on from an earlier one."
        ) from error


def _name(tree: Any) -> dict[str, Any]:
    """The same leaves in nested dicts under the names of their places."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *folders, last = _keys(path)
        place = named
        for key in folders:
            place = place.setdefault(key, {})
        place[last] = leaf
    return named


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _dtype(leaf: Any) -> np.dtype:
    return np.dtype(leaf.dtype) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _words(shape: tuple[int, ...], dtype: np.dtype) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"
