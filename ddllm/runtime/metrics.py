"""Figures of a run as they come: one JSON line each in metrics.jsonl, and TensorBoard event files; hands on `read_metrics` for the curve.

Each stage's events lie in a folder of their own, because TensorBoard purges a whole folder when a run goes back to an earlier step.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from ddllm.runtime.storage import write_atomically


class Metrics:
    """Writes figures; open it once per process, after which lines of earlier processes are continued.

    Args:
        path: the JSON-lines file, made if it is not there; a last line that a killed process cut short is dropped. None: nothing is written.
        events: folder for TensorBoard event files; None: none are written.
    """

    def __init__(self, path: Path | None, events: Path | None = None):
        self.path = path
        self._events = events
        self._writers: dict[str, Any] = {}
        self._purge: dict[str, int] = {}
        self._file = self._open(lambda entry: True)

    def write(self, step: int, values: dict[str, float], stage: str) -> None:
        """Append one line `{"stage", "step", "time" (seconds since 1970), **values}`; figures that are not finite are written as null."""
        if self._file is None:
            return
        entry = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        entry |= {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self._events is not None:
            writer = self._writer(stage)
            for name, value in values.items():
                writer.add_scalar(f"{stage}/{name}", float(value), step)

    def rewind(self, stage: str, step: int) -> None:
        """Forget what `stage` wrote after `step`, as a run that resumes from its checkpoint of `step` writes it again."""
        if self._file is None:
            return
        self._file.close()
        self._file = self._open(lambda entry: entry.get("stage") != stage or entry.get("step", 0) <= step)
        writer = self._writers.pop(stage, None)
        if writer is not None:
            writer.close()
        self._purge[stage] = step + 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _open(self, keep: Callable[[dict[str, Any]], bool]) -> TextIO | None:
        """The file, to be appended to, with those of its lines that are to be kept."""
        if self.path is None:
            return None
        _keep_lines(self.path, keep)
        return open(self.path, "a", encoding="utf-8")

    def _writer(self, stage: str) -> Any:
        if stage not in self._writers:
            from tensorboardX import SummaryWriter

            assert self._events is not None
            self._writers[stage] = SummaryWriter(str(self._events / stage), purge_step=self._purge.pop(stage, None))
        return self._writers[stage]


def read_metrics(path: Path | None) -> list[dict[str, Any]]:
    """All complete lines of a metrics file, oldest first; none if there is no file."""
    if path is None or not path.exists():
        return []
    entries = (_parse(line) for line in path.read_bytes().splitlines(keepends=True))
    return [entry for entry in entries if entry is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (entry := _parse(line)) is not None and keep(entry)]
    if len(kept) < len(lines):
        with write_atomically(path) as temporary:
            temporary.write_bytes(b"".join(kept))
