"""Figures of a run as they come: one JSON line each in metrics.jsonl, and TensorBoard event files; hands on `read_metrics` for the curve.

Each stage's events lie in a folder of their own, because TensorBoard purges a whole folder when a run goes back to an earlier step.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

from ddllm.runtime.storage import write_atomically


class Metrics:
    """Writes figures; open it once per process, after which lines of earlier processes are continued.

    Args:
        path: the JSON-lines file, made if it is not there; a last line that a killed process cut short is dropped.
        events: folder for TensorBoard event files; None: none are written.
    """

    def __init__(self, path: Path, events: Path | None = None):
        self.path = path
        self._events = events
        self._writers: dict[str, Any] = {}
        self._purge: dict[str, int] = {}
        _keep_lines(path, lambda entry: True)
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, values: dict[str, float], stage: str) -> None:
        """Append one line `{"stage", "step", "time" (seconds since 1970), **values}`; figures that are not finite are written as null."""
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
        self._file.close()
        _keep_lines(self.path, lambda entry: entry.get("stage") != stage or entry.get("step", 0) <= step)
        self._file = open(self.path, "a", encoding="utf-8")
        writer = self._writers.pop(stage, None)
        if writer is not None:
            writer.close()
        self._purge[stage] = step + 1

    def close(self) -> None:
        self._file.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, stage: str) -> Any:
        if stage not in self._writers:
            from tensorboardX import SummaryWriter

            assert self._events is not None
            self._writers[stage] = SummaryWriter(str(self._events / stage), purge_step=self._purge.pop(stage, None))
        return self._writers[stage]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file, oldest first; none if there is no file."""
    if not path.exists():
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


def _keep_lines(path: Path, keep: Any) -> None:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (entry := _parse(line)) is not None and keep(entry)]
    if len(kept) < len(lines):
        with write_atomically(path) as temporary:
            temporary.write_bytes(b"".join(kept))
