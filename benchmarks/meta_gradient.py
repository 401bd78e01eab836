"""Time and memory of one outer step, for every gradient method here and for PyTorch, side by side in one run.

    python -m benchmarks.meta_gradient [--workloads A,B] [--repetitions 5]

Each contestant runs in a process of its own, on the same arrays, in float32 and with as many threads; steps are taken in turns, and medians
reported. Before anything is timed, all contestants must give the same loss and gradients. Results go to benchmarks/results/meta_gradient.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.workloads import WORKLOADS
from ddllm.config import default_config
from ddllm.runtime.devices import describe_environment
from ddllm.runtime.huge_pages import start_with_huge_pages

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "meta_gradient.json"
OURS = ("direct", "checkpointed", "mixed", "mixed/0")
GROWTH = ("mixed", "mixed-4")
TOLERANCE = {"ours": 1e-5, "pytorch": 1e-3}  # relative difference to `direct`


@dataclass
class Contestant:
    """A running contestant and what it has said."""

    framework: str
    method: str
    process: subprocess.Popen[str]
    gradients: Path
    first: float = 0.0
    loss: float = 0.0

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


def launch(folder: Path, workload: str, framework: str, method: str) -> Contestant:
    """Start a contestant and wait for its first step; its compiled programs stay in the folder for a second start."""
    name = method.replace("/", "-of-")
    gradients = folder / f"{workload}-{framework}-{name}.npz"
    line = [sys.executable, "-m", "benchmarks.worker", workload, framework, method, str(gradients), str(folder / name)]
    environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    contestant = Contestant(framework, method, process, gradients)
    answer = contestant.ask()
    contestant.first, contestant.loss = answer["ready"], answer["loss"]
    return contestant


def difference(found: Path, expected: Path) -> float:
    """Largest relative difference, over the learned parts, of two gradients."""
    a, b = np.load(found), np.load(expected)
    return max(float(np.linalg.norm(a[part] - b[part]) / np.linalg.norm(b[part])) for part in b.files)


def measure(workload: str, contestants: list[tuple[str, str]], repetitions: int, console: Console) -> list[dict[str, Any]]:
    """Rows of one workload."""
    default, cpu = default_config().distill.gradient, describe_environment()["cpu"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = [launch(folder, workload, framework, method) for framework, method in contestants]
        reference = next(one for one in running if one.framework == "ours")
        errors = {}
        for one in running:
            if one.framework != "limit":
                errors[one.method] = difference(one.gradients, reference.gradients)
                if errors[one.method] > TOLERANCE[one.framework] or abs(one.loss - reference.loss) > 1e-3 * abs(reference.loss):
                    raise SystemExit(f"{workload}: {one.framework} {one.method} gives another gradient (off by {errors[one.method]:.1e}).")
        seconds: dict[str, list[float]] = {one.method: [] for one in running}
        for _ in range(repetitions):
            for one in running:
                seconds[one.method].append(one.ask("run")["seconds"])
        peaks = {one.method: int(one.ask("end")["peak_bytes"]) for one in running}
        warm = {
            one.method: launch(folder, workload, "ours", one.method) for one in running if one.framework == "ours"
        }
        for one in warm.values():
            one.ask("end")
        rows = []
        medians = {method: statistics.median(values) for method, values in seconds.items()}
        for one in running:
            if one.framework == "limit":
                continue
            torch = next((other.method for other in running if other.framework == "pytorch"), None)
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
                    "compile_seconds": one.first - medians[one.method] if one.framework == "ours" else None,
                    "compile_seconds_warm": warm[one.method].first - medians[one.method] if one.framework == "ours" else None,
                    "gradient_error": errors[one.method],
                    "cpu": cpu,
                }
            )
            show(rows[-1:], console)
    return rows


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
    parser.add_argument("--workloads", default=",".join(known.name for known in WORKLOADS))
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    names = arguments.workloads.split(",")
    for name in names:
        if name not in {known.name for known in WORKLOADS}:
            parser.error(f"there is no workload {name}; the workloads are {', '.join(known.name for known in WORKLOADS)}")
    console, rows = Console(width=130, highlight=False), []
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in names:
        growth = name.startswith("D")
        methods = [("ours", method) for method in (GROWTH if growth and int(name[1:]) % 4 == 0 else GROWTH[:1] if growth else OURS)]
        peers = [] if growth else [("pytorch", "double-backward"), ("pytorch", "torchopt")]
        rows += measure(name, [*methods, *peers, ("limit", "products")], arguments.repetitions, console)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps([row for row in kept if row["workload"] not in names] + rows, indent=1) + "\n")
    show(rows, console)
    console.print(f"* the default method, on {rows[-1]['cpu']}. Rows are in {RESULTS.relative_to(ROOT)}.")


if __name__ == "__main__":
    start_with_huge_pages()  # for all contestants alike
    main()
