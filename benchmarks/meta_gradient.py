"""Time and memory of one outer step, for every gradient method here and for PyTorch, side by side in one run.

    python -m benchmarks.meta_gradient [--workloads A,B] [--methods mixed,double-backward] [--repetitions 5] [--device gpu] [--products tensorfloat32]

Each contestant runs in a process of its own, on the same arrays and device, with products as exact and as many threads; steps are taken in turns, and
medians reported. Before anything is timed, all contestants must give the same loss and gradients; how far these are from exact ones, those of our first
method in float32, is reported. Results go to benchmarks/results/meta_gradient.json, in the place of those of the same workload, device and products.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.workloads import LARGE, WORKLOADS
from ddllm.config import default_config
from ddllm.runtime.huge_pages import start_with_huge_pages

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "meta_gradient.json"
OURS = {"cpu": ("direct", "checkpointed", "mixed", "mixed/0"), "gpu": ("direct", "checkpointed", "mixed", "mixed+offload")}
GROWTH, GREAT = ("mixed", "mixed-4"), ("mixed", "mixed+offload")
# Relative difference to the first method in float32.
TOLERANCE = {
    "float32": {"ours": 1e-5, "pytorch": 1e-3},
    "tensorfloat32": {"ours": 0.05, "pytorch": 0.05},
    "bfloat16": {"ours": 0.2, "pytorch": 0.2},
}


@dataclass
class Contestant:
    """A running contestant and what it has said."""

    framework: str
    method: str
    products: str
    process: subprocess.Popen[str]
    gradients: Path
    compile_seconds: float = 0.0
    loss: float = 0.0

    @classmethod
    def start(cls, folder: Path, workload: str, device: str, framework: str, method: str, products: str) -> "Contestant":
        """Start one; its compiled programs stay in the folder for a second start."""
        name = f"{method}-{products}".replace("/", "-of-")
        gradients = folder / f"{framework}-{name}.npz"
        line = [sys.executable, "-m", "benchmarks.worker", workload, framework, method, products, str(gradients), str(folder / name)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=surroundings(device))
        return cls(framework, method, products, process, gradients)

    def ask(self, command: str = "") -> dict[str, float]:
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


def difference(found: Path, expected: Path) -> float:
    """Largest relative difference, over the learned parts, of two gradients."""
    a, b = np.load(found), np.load(expected)
    return max(float(np.linalg.norm(a[part] - b[part]) / np.linalg.norm(b[part])) for part in b.files)


def measure(
    workload: str, contestants: list[tuple[str, str]], repetitions: int, device: str, products: str, console: Console
) -> list[dict[str, Any]]:
    """Rows of one workload."""
    default = default_config().distill.gradient
    with tempfile.TemporaryDirectory() as name:
        folder, asked = Path(name), [(*contestant, products) for contestant in contestants]
        exact = [] if products == "float32" else [(*contestants[0], "float32")]
        running = launch(folder, workload, device, [*exact, *asked])
        reference = running[0]
        if exact:
            reference.ask("end")
            running = running[1:]
        errors = {}
        for one in running:
            if one.framework != "limit":
                errors[one.method] = difference(one.gradients, reference.gradients)
                allowed = TOLERANCE[products][one.framework]
                if not errors[one.method] <= allowed or not abs(one.loss - reference.loss) <= max(1e-3, allowed) * abs(reference.loss):
                    raise SystemExit(f"{workload}: {one.framework} {one.method} gives another gradient (off by {errors[one.method]:.1e}).")
        seconds: dict[str, list[float]] = {one.method: [] for one in running}
        for _ in range(repetitions):
            for one in running:
                seconds[one.method].append(one.ask("run")["seconds"])
        peaks = {one.method: int(one.ask("end")["peak_bytes"]) for one in running}
        warm = {one.method: one for one in launch(folder, workload, device, [one for one in asked if one[0] == "ours"])}
        for one in warm.values():
            peak = int(one.ask("end")["peak_bytes"])
            if device != "cpu":  # see memory.py
                peaks[one.method] = peak
        rows = []
        medians = {method: statistics.median(values) for method, values in seconds.items()}
        torch = next((one.method for one in running if one.framework == "pytorch"), None)
        for one in running:
            if one.framework == "limit":
                continue
            rows.append(
                {
                    "workload": workload,
                    "framework": one.framework,
                    "method": one.method,
                    "is_default": one.framework == "ours" and one.method == default,
                    "seconds": medians[one.method],
                    "time_ratio_to_torch": medians[one.method] / medians[torch] if torch else None,
                    "time_ratio_to_limit": medians[one.method] / medians["products"],
                    "peak_bytes": peaks[one.method],
                    "memory_ratio_to_torch": peaks[one.method] / peaks[torch] if torch else None,
                    "compile_seconds": one.compile_seconds if one.framework == "ours" else None,
                    "compile_seconds_warm": warm[one.method].compile_seconds if one.framework == "ours" else None,
                    "gradient_error": errors[one.method],
                    "products": products,
                    "device": describe(device),
                }
            )
            show(rows[-1:], console)
    return rows


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


def identify(row: dict[str, Any]) -> tuple[str, ...]:
    """Which rows a newer run takes the place of: all of them, since ratios are those of one run."""
    return tuple(row[part] for part in ("workload", "device", "products"))


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print rows as a table, without headings where it is a single one."""
    table = Table(box=None, show_header=len(rows) > 1)
    for heading in (
        "workload",
        "framework",
        "method",
        "seconds",
        "of PyTorch",
        "of limit",
        "peak MB",
        "of PyTorch",
        "compile, s",
        "warm, s",
        "error",
    ):
        table.add_column(heading, justify="right", min_width=9)

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    for row in rows:
        table.add_row(
            row["workload"],
            row["framework"],
            row["method"] + ("*" if row["is_default"] else ""),
            cell(row["seconds"], ".3f"),
            cell(row["time_ratio_to_torch"], ".2f"),
            cell(row["time_ratio_to_limit"], ".2f"),
            cell(row["peak_bytes"] / 1e6, ",.0f"),
            cell(row["memory_ratio_to_torch"], ".2f"),
            cell(row["compile_seconds"], ".1f"),
            cell(row["compile_seconds_warm"], ".1f"),
            cell(row["gradient_error"], ".0e"),
        )
    console.print(table)


def main() -> None:
    """Measure, print the table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workloads", default="", help=f"of {', '.join(known)}; all, but on CPUs not {', '.join(LARGE)}")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--methods", default="", help="of ours and of the peers', such as mixed,double-backward; all")
    parser.add_argument("--products", choices=tuple(TOLERANCE), default="float32", help="how exact they are: see model.products")
    arguments = parser.parse_args()
    device, products = arguments.device, arguments.products
    names = arguments.workloads.split(",") if arguments.workloads else [name for name in known if device != "cpu" or name not in LARGE]
    for name in names:
        if name not in known:
            parser.error(f"there is no workload {name}; the workloads are {', '.join(known)}")
    if not describe(device):
        parser.error(f"--device is {device}, but JAX finds none here; make bench ACCELERATOR=cuda13 installs what it needs for one")
    console, rows = Console(width=130, highlight=False), []
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    peers = [("pytorch", "double-backward"), *([("pytorch", "torchopt")] if find_spec("torchopt") else [])]
    if len(peers) == 1:
        console.print("TorchOpt is not installed here and left out.")
    for name in names:
        growth = name.startswith("D")
        methods = (GROWTH if int(name[1:]) % 4 == 0 else GROWTH[:1]) if growth else GREAT if name in LARGE else OURS[device]
        contestants = [*(("ours", method) for method in methods), *([] if growth else peers[:1] if name in LARGE else peers)]
        if arguments.methods:
            contestants = [contestant for contestant in contestants if contestant[1] in arguments.methods.split(",")]
        if not any(framework == "ours" for framework, _ in contestants):
            parser.error(f"--methods is {arguments.methods!r}, of which none of ours is measured in {name}; they are {', '.join(methods)}")
        rows += measure(name, [*contestants, ("limit", "products")], arguments.repetitions, device, products, console)
        RESULTS.parent.mkdir(exist_ok=True)
        done = {identify(row) for row in rows}
        others = [row for row in kept if identify(row) not in done]
        RESULTS.write_text(json.dumps(others + rows, indent=1) + "\n")
    show(rows, console)
    console.print(f"* the default method, on {rows[-1]['device']}, products in {products}. Rows are in {RESULTS.relative_to(ROOT)}.")


if __name__ == "__main__":
    start_with_huge_pages()  # for all contestants alike
    main()
