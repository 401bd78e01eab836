"""Several runs beside each other on one page: results, curves, and which keys of their configurations differ."""

from pathlib import Path
from typing import Any

from ddllm.config import flatten
from ddllm.errors import UserError
from ddllm.report.analyses import Shown
from ddllm.report.facts import tell
from ddllm.report.figures import draw_comparison, draw_curves, row_names
from ddllm.report.page import LOSS, VALIDATION, render
from ddllm.report.results import metric_of, read_results
from ddllm.report.svg import SERIES
from ddllm.report.table import FIGURES, NOTHING, make_title
from ddllm.runtime.metrics import read_metrics
from ddllm.runtime.storage import write_atomically

Row = dict[str, Any]


def write_comparison(folders: list[Path], path: Path) -> Path:
    """Write the page, and return where it is.

    Raises:
        UserError: a folder is no run's, or is given twice; or there are more runs than colours.
    """
    page = render("compare.html", **gather(folders))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another file with --out.") from error
    return path


def gather(folders: list[Path]) -> dict[str, Any]:
    """What the template takes."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; give each folder once.")
    if not 1 < len(folders) <= len(SERIES):
        raise UserError(f"{len(folders)} runs are given, but 2 to {len(SERIES)} can be told apart on one page; give so many folders.")
    for folder in folders:
        if not (folder / "results.json").is_file():
            raise UserError(f"{folder} is not the folder of a run with results: it has no results.json; give runs that have been evaluated.")
    runs = dict(zip(name_runs(folders), folders, strict=True))
    results = {name: read_results(folder / "results.json") for name, folder in runs.items()}
    metrics = {name: read_metrics(folder / "metrics.jsonl") for name, folder in runs.items()}
    cells = collect(results)
    heading = FIGURES.get(cells[0][5], cells[0][5]) if len({cell[5] for cell in cells}) == 1 else "figure that validation chose by, %"
    plots = [
        draw_comparison([cell[:5] for cell in cells], heading) if cells else None,
        draw_curves(metrics, [], "loss", "loss", "Outer loss", LOSS),
        draw_curves(metrics, [], "validation_", "validation", "While distilling", VALIDATION),
    ]
    return {
        "runs": [(name, str(folder), make_title(results[name])) for name, folder in runs.items()],
        "results": tabulate(cells, list(runs), heading),
        "plots": [plot for plot in plots if plot is not None],
        "differences": compare_configs({name: found["config"] for name, found in results.items()}),
    }


def name_runs(folders: list[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def collect(results: dict[str, dict[str, Any]]) -> list[tuple[str, str, float, float, int, str]]:
    """(row, run, mean, deviation, runs, metric) with figures in percent, rows in the order in which they first occur."""
    cells = []
    for run, found in results.items():
        for name, row in zip(row_names(found["rows"]), found["rows"], strict=True):
            metric = metric_of(row)
            mean = row.get(f"{metric}_mean")
            if mean is not None:
                cells.append((name, run, 100 * mean, 100 * row[f"{metric}_std"], row["runs"], metric))
    return cells


def tabulate(cells: list[tuple[str, str, float, float, int, str]], runs: list[str], heading: str) -> Shown:
    """A row for each way of training, a column for each run."""
    found = {(row, run): (mean, deviation, count) for row, run, mean, deviation, count, _ in cells}

    def tell_cell(row: str, run: str) -> str:
        if (row, run) not in found:
            return NOTHING
        mean, deviation, count = found[row, run]
        return f"{mean:.1f} ± {deviation:.1f} ({count})" if count > 1 else f"{mean:.1f}"

    rows = list(dict.fromkeys(cell[0] for cell in cells))
    lines = [(row, *(tell_cell(row, run) for run in runs)) for row in rows]
    note = "Mean ± standard deviation (number of runs), on each run's own test texts."
    return Shown("rows", f"Results, {heading}", ("training data", *runs), lines, [note])


def compare_configs(configs: dict[str, dict[str, Any]]) -> Shown:
    """The keys whose values are not the same everywhere."""
    flat = {name: flatten(config) for name, config in configs.items()}
    keys = list(dict.fromkeys(key for config in flat.values() for key in config))
    lines = []
    for key in keys:
        values = [config.get(key) for config in flat.values()]
        if any(value != values[0] for value in values[1:]):
            told = [tell(value) for value in values]
            lines.append((key, *(told if len(set(told)) > 1 else map(str, values))))  # numbers that differ in their last digits alone
    return Shown("config", "What differs", ("key", *configs), lines, [] if lines else ["The configurations are the same."])
