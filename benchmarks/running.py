"""Contestants in processes of their own: how they are started and asked, and how far apart the gradients are that they give."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import LARGE

ROOT = Path(__file__).resolve().parents[1]
OURS, LIMIT = "ours", "limit"


@dataclass
class Contestant:
    """A running contestant and what it has said.

    Attributes:
        framework, method, products: as in contestants.py.
        process: its own.
        gradients: file that it writes its gradient to.
        compile_seconds: before its first step.
        predicted_bytes: that it expects a step to need; None where it expects nothing.
        loss: of its first step.
    """

    framework: str
    method: str
    products: str
    process: subprocess.Popen[str]
    gradients: Path
    compile_seconds: float = 0.0
    predicted_bytes: int | None = None
    loss: float = 0.0

    @classmethod
    def start(cls, folder: Path, workload: str, device: str, framework: str, method: str, products: str, shared: bool = False) -> "Contestant":
        """Start one; its compiled programs stay in the folder for a second start or, where they are shared, for others too."""
        name = f"{method}-{products}".replace("/", "-of-")
        gradients, programs = folder / f"{framework}-{name}.npz", folder / ("programs" if shared else name)
        line = [sys.executable, "-m", "benchmarks.worker", workload, framework, method, products, str(gradients), str(programs)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=surroundings(device))
        return cls(framework, method, products, process, gradients)

    def ask(self, command: str = "") -> dict[str, Any]:
        """Send a command and wait for the answer."""
        assert self.process.stdin and self.process.stdout
        if command:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.framework} {self.method} ended early (exit status {self.process.wait()}).")
        return json.loads(line)

    def await_first(self) -> None:
        """Wait for its first step."""
        answer = self.ask()
        self.compile_seconds, self.loss = answer["compile"], answer["loss"]
        self.predicted_bytes = answer["predicted_bytes"]

    def end(self) -> int:
        """Let its process end, and give the peak of its memory in bytes."""
        peak = self.ask("end")["peak_bytes"]
        self.process.wait()
        return peak


def launch(folder: Path, workload: str, device: str, contestants: list[tuple[str, str, str]]) -> list[Contestant]:
    """Start contestants and wait for their first steps: one after the other on CPUs, all at once where an accelerator does the work."""
    running = []
    for contestant in contestants:
        running.append(Contestant.start(folder, workload, device, *contestant))
        if device == "cpu":
            running[-1].await_first()
    for one in running if device != "cpu" else ():
        one.await_first()
    return running


def reference_of(workload: str) -> str:
    """Our method with whose gradient all others are compared: "direct", which leaves everything to JAX.

    Where it would keep more than most devices have (BERT base's twelve layers: 35 GB; B and D32: 5.3), it is "checkpointed", which leaves as much to JAX, but
    computes each step again in the backward pass.
    """
    return "checkpointed" if workload in LARGE else "direct"


def difference(found: Path, expected: Path) -> float:
    """Largest relative difference, over the learned parts, of two gradients."""
    a, b = np.load(found), np.load(expected)
    return max(float(np.linalg.norm(a[part] - b[part]) / np.linalg.norm(b[part])) for part in b.files)


@cache
def describe(device: str) -> str:
    """What the device is called, "" where there is none: asked in a process of its own, since this one must hold no accelerator."""
    asked = "from ddllm.runtime.devices import computed_on, describe_environment; e = describe_environment(); print(e['backend'], computed_on(e))"
    done = subprocess.run([sys.executable, "-c", asked], env=surroundings(device), cwd=ROOT, capture_output=True, text=True)
    backend, _, name = done.stdout.strip().partition(" ")
    return name if backend == device else ""


def surroundings(device: str) -> dict[str, str]:
    """The environment of a process that computes there."""
    platforms = {"JAX_PLATFORMS": "cuda,cpu" if device == "gpu" else device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {**os.environ, **platforms, "HF_HUB_OFFLINE": "1"}
