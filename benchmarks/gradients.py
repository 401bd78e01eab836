"""Whether all of our gradient methods give one gradient: each compared with `direct`, in float32 and in float64, on the benchmark's workloads.

`python -m benchmarks.meta_gradient --check` prints the table and writes benchmarks/results/gradients.json, row by row. Nothing is timed; methods run one
after the other, each in a process of its own. Beside the three methods there are nested segments ("mixed-4"), all texts at once where they would go through
the model in parts ("mixed/0"), what is kept in the host's memory ("mixed+offload"), and parameters shared by two devices ("mixed@2").
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.running import OURS, ROOT, Contestant, describe, difference, reference_of
from benchmarks.workloads import Workload
from ddllm.models.parts import ON_CPU
from ddllm.runtime.mesh import divisors

RESULTS = ROOT / "benchmarks" / "results" / "gradients.json"
BARS = {"float32": 1e-5, "float64": 1e-10}  # relative difference to the reference


def variants(workload: Workload, device: str) -> list[str]:
    """Our ways to the gradient of a workload that are compared with its reference: those that differ from others there."""
    methods = [method for method in ("direct", "checkpointed", "mixed") if method != reference_of(workload.name)]
    segments = next(count for count in divisors(workload.steps) if count * count >= workload.steps)
    if segments > 1:
        methods += [f"checkpointed-{segments}", f"mixed-{segments}"]
    if workload.name.startswith("D"):  # about the number of steps alone
        return methods
    if device == "cpu" and max(workload.examples, workload.real) * workload.length > ON_CPU:
        methods.append("mixed/0")
    methods += ["checkpointed+offload", "mixed+offload"]
    # Of CPUs there are as many devices as are asked for.
    return [*methods, "mixed@2"] if device == "cpu" else methods


def check(workloads: list[Workload], methods: dict[str, list[str]], products: list[str], device: str, console: Console) -> list[dict[str, Any]]:
    """Compare methods with the reference, write each row when it is there and print the table.

    Args:
        workloads: that gradients are taken of.
        methods: of each, by its name.
        products: of `BARS`.
        device: "cpu" or "gpu".
        console: to print to.
    """
    rows = []
    for workload, kind in ((workload, kind) for workload in workloads for kind in products):
        with tempfile.TemporaryDirectory() as name:

            def run(method: str, folder: Path = Path(name), workload: Workload = workload, kind: str = kind) -> Contestant:
                one = Contestant.start(folder, workload.name, device, OURS, method, kind, shared=True)
                one.await_first()
                one.end()
                return one

            reference = run(reference_of(workload.name))
            for method in methods[workload.name]:
                one = run(method)
                row = {
                    "workload": workload.name,
                    "products": kind,
                    "method": method,
                    "reference": reference.method,
                    "gradient_error": difference(one.gradients, reference.gradients),
                    "loss_error": abs(one.loss - reference.loss) / abs(reference.loss),
                    "device": describe(device),
                }
                rows.append(row)
                enter(row)
                errors = f"gradient {row['gradient_error']:.1e}, loss {row['loss_error']:.1e}"
                console.print(f"{workload.name}, {kind}: {method} beside {reference.method}: {errors}")
    show(rows, console)
    return rows


def enter(row: dict[str, Any]) -> None:
    """Write a row, in the place of an earlier one of the same workload, numbers, method and device."""
    key = ("workload", "products", "method", "device")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [other for other in kept if any(other[part] != row[part] for part in key)]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n")


def too_far(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose gradient is another than the reference's."""
    return [row for row in rows if not row["gradient_error"] <= BARS[row["products"]]]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print rows as a table: a line for each workload and method, a column for each kind of numbers."""
    table, kinds = Table(box=None), [kind for kind in BARS if any(row["products"] == kind for row in rows)]
    for heading in ("workload", "method", "reference", *(f"{what}, {kind}" for kind in kinds for what in ("gradient", "loss"))):
        table.add_column(heading, justify="right")
    errors = {(row["workload"], row["method"], row["products"]): row for row in rows}
    for workload, method, reference in dict.fromkeys((row["workload"], row["method"], row["reference"]) for row in rows):
        found = [errors[workload, method, kind] for kind in kinds]
        table.add_row(workload, method, reference, *(f"{row[what]:.1e}" for row in found for what in ("gradient_error", "loss_error")))
    console.print(table)
