"""Answers of language models on disk: a file of JSON lines, each a key and a value or what was spent, that a run which was stopped goes on from."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from ddllm.errors import UserError


class Answers:
    """Values by key, in memory and in a file that every new one is appended to; may be used by several threads.

    A last line that a killed process cut short is dropped. What was spent for answers is kept beside them.

    Args:
        path: the file, made if it is not there.

    Attributes:
        requests, tokens: what all answers together took, the failed requests included.

    Raises:
        UserError: the file holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.requests = self.tokens = 0
        self._known: dict[str, Any] = {}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read()
        self._file = open(path, "r+b" if path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        with self._lock:
            return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._append({"key": key, "value": value})

    def spend(self, requests: int, tokens: int) -> None:
        """Keep what was spent."""
        self._append({"requests": requests, "tokens": tokens})

    def close(self) -> None:
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self._take(entry)
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()

    def _take(self, entry: dict[str, Any]) -> None:
        if "key" in entry:
            self._known[entry["key"]] = entry["value"]
        else:
            self.requests += entry["requests"]
            self.tokens += entry["tokens"]

    def _read(self) -> int:
        """Take in what is there; returns the length of its whole lines in bytes."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        whole = 0
        for number, line in enumerate(lines, 1):
            try:
                if line.endswith(b"\n"):
                    self._take(json.loads(line))
                    whole += len(line)
                    continue
            except (ValueError, KeyError, TypeError):
                pass
            if number < len(lines):
                raise UserError(f"{self.path}, line {number}: this is no answer of a language model; remove the file, and all are asked for again.")
        return whole


def key_of(*parts: str) -> str:
    """A short key for what was asked, whatever it is."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
