"""Time and memory of one outer step, for every gradient method here and for PyTorch, side by side in one run.

    python -m benchmarks.meta_gradient [--workloads A,B] [--methods mixed,double-backward] [--repetitions 5] [--device gpu] [--products tensorfloat32]

    python -m benchmarks.meta_gradient --check [--workloads A,B] [--methods mixed,mixed-5] [--products float64]

Each contestant runs in a process of its own, on the same arrays and device, with products as exact and as many threads; steps are taken in turns, and
medians reported. Before anything is timed, all contestants must give the same loss and gradients; how far these are from those of a reference, our `direct`
in float32 (see `reference_of`), which is computed once without being timed where it is not measured, is reported. Results go to
benchmarks/results/meta_gradient.json, in the place of those of the same workload, device and products. With --check nothing is timed: see gradients.py.
"""

import argparse
import json
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import gradients
from benchmarks.options import listed, number, parse
from benchmarks.running import LIMIT, OURS, ROOT, describe, difference, launch, reference_of
from benchmarks.workloads import LARGE, WORKLOADS, find_workload
from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.main import exit_status
from ddllm.runtime.huge_pages import start_with_huge_pages

RESULTS = ROOT / "benchmarks" / "results" / "meta_gradient.json"
METHODS = {"cpu": ("direct", "checkpointed", "mixed", "mixed/0"), "gpu": ("direct", "checkpointed", "mixed", "mixed+offload")}
GROWTH, GREAT = ("mixed", "mixed-4"), ("mixed", "mixed+offload")
PEERS = ("double-backward", "torchopt")
# Relative difference to the reference.
TOLERANCE = {
    "float32": {"ours": 1e-5, "pytorch": 1e-3},
    "tensorfloat32": {"ours": 0.05, "pytorch": 0.05},
    "bfloat16": {"ours": 0.2, "pytorch": 0.2},
}


def measure(
    workload: str, contestants: list[tuple[str, str]], repetitions: int, device: str, products: str, console: Console
) -> list[dict[str, Any]]:
    """Rows of one workload."""
    default = default_config().distill.gradient
    with tempfile.TemporaryDirectory() as name:
        folder, asked = Path(name), [(*contestant, products) for contestant in contestants]
        exact = (OURS, reference_of(workload), "float32")
        apart = [] if exact in asked else [exact]
        started = launch(folder, workload, device, [*apart, *asked])
        running = started[len(apart) :]
        reference = next(one for one in started if (one.framework, one.method, one.products) == exact)
        if apart:
            reference.end()
        errors = {}
        for one in running:
            if one.framework != LIMIT:
                errors[one.method] = difference(one.gradients, reference.gradients)
                allowed = TOLERANCE[products][one.framework]
                if not errors[one.method] <= allowed or not abs(one.loss - reference.loss) <= max(1e-3, allowed) * abs(reference.loss):
                    raise SystemExit(f"{workload}: {one.framework} {one.method} gives another gradient (off by {errors[one.method]:.1e}).")
        seconds: dict[str, list[float]] = {one.method: [] for one in running}
        for _ in range(repetitions):
            for one in running:
                seconds[one.method].append(one.ask("run")["seconds"])
        peaks = {one.method: one.end() for one in running}
        warm = {one.method: one for one in launch(folder, workload, device, [one for one in asked if one[0] == OURS])}
        for one in warm.values():
            peak = one.end()
            if device != "cpu":  # see memory.py
                peaks[one.method] = peak
        rows = []
        medians = {method: statistics.median(values) for method, values in seconds.items()}
        torch = next((one.method for one in running if one.framework == "pytorch"), None)
        for one in running:
            if one.framework == LIMIT:
                continue
            rows.append(
                {
                    "workload": workload,
                    "framework": one.framework,
                    "method": one.method,
                    "is_default": one.framework == OURS and one.method == default,
                    "seconds": medians[one.method],
                    "time_ratio_to_torch": medians[one.method] / medians[torch] if torch else None,
                    "time_ratio_to_limit": medians[one.method] / medians["products"],
                    "peak_bytes": peaks[one.method],
                    "predicted_bytes": one.predicted_bytes,
                    "memory_ratio_to_torch": peaks[one.method] / peaks[torch] if torch else None,
                    "compile_seconds": one.compile_seconds if one.framework == OURS else None,
                    "compile_seconds_warm": warm[one.method].compile_seconds if one.framework == OURS else None,
                    "gradient_error": errors[one.method],
                    "reference": reference.method,
                    "products": products,
                    "device": describe(device),
                }
            )
            show(rows[-1:], console)
    return rows


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
        "predicted",
        "of PyTorch",
        "compile, s",
        "warm, s",
        "error",
    ):
        table.add_column(heading, justify="right", min_width=8)

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
            cell(row["predicted_bytes"] and row["predicted_bytes"] / 1e6, ",.0f"),
            cell(row["memory_ratio_to_torch"], ".2f"),
            cell(row["compile_seconds"], ".1f"),
            cell(row["compile_seconds_warm"], ".1f"),
            cell(row["gradient_error"], ".0e"),
        )
    console.print(table)


def contestants_of(workload: str, device: str) -> list[tuple[str, str]]:
    """(framework, method) of all that is measured in a workload on a device."""
    growth = workload.startswith("D")
    methods = (GROWTH if int(workload[1:]) % 4 == 0 else GROWTH[:1]) if growth else GREAT if workload in LARGE else METHODS[device]
    peers = () if growth else PEERS[:1] if workload in LARGE else PEERS
    return [*((OURS, method) for method in methods), *(("pytorch", peer) for peer in peers if peer != "torchopt" or find_spec(peer))]


def choose(given: str, offered: dict[str, list[str]]) -> dict[str, list[str]]:
    """The methods of each workload that --methods names, all where it names none.

    Raises:
        UserError: one of them is measured in no workload, or none of ours in one.
    """
    if not given:
        return offered
    wanted = listed(given, "--methods", tuple(dict.fromkeys(method for methods in offered.values() for method in methods)))
    chosen = {name: [method for method in methods if method in wanted] for name, methods in offered.items()}
    for name, methods in chosen.items():
        if all(method in PEERS for method in methods):
            ours = [method for method in offered[name] if method not in PEERS]
            raise UserError(f"--methods is {given}, of which none of ours is measured in {name}; add one of {', '.join(ours)}.")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where gradients differ."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(lambda: work(arguments), "workloads that were measured to their end are kept")


def work(arguments: list[str]) -> int:
    """Measure or check, print the table and write the rows.

    Raises:
        UserError: something on the command line is wrong; nothing has been compiled then.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.meta_gradient", description=__doc__, formatter_class=form, exit_on_error=False, allow_abbrev=False)
    known = tuple(workload.name for workload in WORKLOADS)
    parser.add_argument("--workloads", default="", help=f"of {', '.join(known)}; all, but on CPUs not {', '.join(LARGE)}")
    parser.add_argument("--repetitions", default="5", help="steps of each contestant that are timed")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--methods", default="", help="of ours and of the peers', such as mixed,double-backward; all")
    parser.add_argument("--products", default="", help=f"how exact they are: see model.products; float32, with --check {' and '.join(gradients.BARS)}")
    parser.add_argument("--check", action="store_true", help="compare the gradients of all methods of ours, without timing")
    options = parse(parser, arguments)
    device, repetitions = options.device, number(options.repetitions, "--repetitions", 1)
    everywhere = [name for name in known if device != "cpu" or name not in LARGE]
    names = listed(options.workloads, "--workloads", known) if options.workloads else everywhere
    precisions = tuple(gradients.BARS) if options.check else tuple(TOLERANCE)
    products = listed(options.products, "--products", precisions) if options.products else list(precisions if options.check else precisions[:1])
    if options.check:
        offered = {name: gradients.variants(find_workload(name), device) for name in names}
    else:
        offered = {name: [method for _, method in contestants_of(name, device)] for name in names}
    chosen = choose(options.methods, offered)
    if len(products) > 1 and not options.check:
        raise UserError(f"--products is {options.products}, but must be one of {', '.join(precisions)}.")
    if not describe(device):
        raise UserError(f"--device is {device}, but JAX finds none here; make bench ACCELERATOR=cuda13 installs what it needs for one.")
    console = Console(width=140, highlight=False)
    if options.check:
        return compare(names, chosen, products, device, console)
    if not find_spec("torchopt"):
        console.print("TorchOpt is not installed here and left out.")
    rows: list[dict[str, Any]] = []
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in names:
        contestants = [contestant for contestant in contestants_of(name, device) if contestant[1] in chosen[name]]
        rows += measure(name, [*contestants, (LIMIT, "products")], repetitions, device, products[0], console)
        RESULTS.parent.mkdir(exist_ok=True)
        done = {identify(row) for row in rows}
        others = [row for row in kept if identify(row) not in done]
        RESULTS.write_text(json.dumps(others + rows, indent=1) + "\n")
    show(rows, console)
    console.print(f"* the default method, on {rows[-1]['device']}, products in {products[0]}. Rows are in {RESULTS.relative_to(ROOT)}.")
    return 0


def compare(names: list[str], methods: dict[str, list[str]], products: list[str], device: str, console: Console) -> int:
    """Compare the gradients of our methods; the exit status, 1 where one is too far from the reference's."""
    rows = gradients.check([find_workload(name) for name in names], methods, products, device, console)
    bars = ", ".join(f"{gradients.BARS[kind]:.0e} in {kind}" for kind in products)
    console.print(f"Relative differences on {describe(device)}; at most {bars}. Rows are in {gradients.RESULTS.relative_to(ROOT)}.")
    far = gradients.too_far(rows)
    for row in far:
        print(f"{row['workload']}, {row['products']}: {row['method']} gives another gradient (off by {row['gradient_error']:.1e}).", file=sys.stderr)
    return int(bool(far))


if __name__ == "__main__":
    start_with_huge_pages()  # for all contestants alike
    sys.exit(main())
