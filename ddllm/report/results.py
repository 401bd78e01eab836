"""results.json: one row for each way of training, with the configuration and the environment they come from.

    {"config": {…}, "rows": [{"name", "examples_per_class", "accuracy_mean", "accuracy_std", "runs", "seconds", "percent_of_full", …}], "environment": {…}}

Accuracies are fractions in [0, 1], `percent_of_full` is a percentage of the row "full", seconds are wall-clock. Every figure of the task has such a
mean and deviation: "f1_macro_mean", "f1_macro_std" beside accuracy; where the task has no accuracy, or validation chose by another figure, "metric" names the
one that stands in accuracy's place: "f1_micro", or "pearson" and "spearman", which lie in [-1, 1]. Rows may have further keys:
"head" (how the head begins), "inner_steps", "floats" (numbers stored), "examples" (in all), "texts" (test texts), "rate" and
"passes" (a selection's recipe), "note" (a sentence).

The stages on request add lists of their own beside "rows": "robustness", "labels", "storage", "compute", "prompt", "continual", "privacy" and "nearness".
Their rows have the "name" of the distilled data set that they are about; for further keys see the rooms of these stages.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ddllm.errors import UserError
from ddllm.runtime.storage import read_json, write_json
from ddllm.runtime.workdir import FULL

Row = dict[str, Any]
OWN_NAME = "distilled"  # of a run's own data set
ACCURACY = "accuracy"
REQUIRED = ("name", "examples_per_class", "runs", "seconds", "percent_of_full")
CORRELATIONS = ("pearson", "spearman")


def summarise(scores: list[dict[str, float]], metric: str = ACCURACY) -> Row:
    """A row's keys for the figures of its runs: means, deviations (with n − 1; 0 for a single run), their number, and "metric" where that is not accuracy."""
    figures: Row = {}
    for name in scores[0]:
        values = [score[name] for score in scores]
        figures[f"{name}_mean"] = float(np.mean(values))
        figures[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return figures | {"runs": len(scores)} | ({"metric": metric} if metric != ACCURACY else {})


def mean_figure(scores: list[dict[str, float]], metric: str) -> float:
    """Mean of one figure over runs."""
    return float(np.mean([score[metric] for score in scores]))


def metric_of(row: Row) -> str:
    """The figure that a row is judged by."""
    return row.get("metric", ACCURACY)


def merge_rows(existing: list[Row], new: list[Row]) -> list[Row]:
    """The existing rows with new ones in the place of those of the same (name, head, examples_per_class), or behind them; percentages recomputed.

    Raises:
        ValueError: a row lacks a key, or has an accuracy (or what stands in its place) that cannot be.
    """
    merged = {_identity(row): row for row in existing}
    merged |= {_identity(row): row for row in new}
    rows = [{"percent_of_full": None, **row} for row in merged.values()]
    full = next((row.get(f"{metric_of(row)}_mean") for row in rows if row["name"] == FULL), None)
    for row in rows:
        metric = metric_of(row)
        missing = [key for key in (*REQUIRED, f"{metric}_mean", f"{metric}_std") if key not in row]
        if missing:
            raise ValueError(f"row {row.get('name')!r} lacks {', '.join(missing)}")
        mean, lowest = row[f"{metric}_mean"], -1 if metric in CORRELATIONS else 0
        if not lowest <= mean <= 1:
            raise ValueError(f"row {row['name']!r} has the {metric} {mean}, which is not in [{lowest}, 1]")
        row["percent_of_full"] = round(100 * mean / full, 2) if full else None
    return rows


def add_rows(path: Path, rows: list[Row], config: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """Merge `rows` into the file at `path` (or begin it), write it atomically, and return what it now holds."""
    existing = read_results(path) if path.exists() else {"rows": []}
    return _write(path, existing, merge_rows(existing["rows"], rows), config, environment)


def add_lists(path: Path, name: str, lists: dict[str, list[Row]], config: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """Put lists about the distilled data set `name` beside the rows, in the place of earlier ones about it; otherwise as `add_rows`."""
    existing = read_results(path) if path.exists() else {"rows": []}
    for key, rows in lists.items():
        others = [row for row in existing.get(key, []) if row["name"] != name]
        existing[key] = others + [{"name": name, **row} for row in rows]
    return _write(path, existing, existing["rows"], config, environment)


def _write(path: Path, existing: dict[str, Any], rows: list[Row], config: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    results = {"config": config, "rows": rows, "environment": environment}
    results |= {key: value for key, value in existing.items() if key not in results}
    write_json(path, results)
    return results


def read_results(path: Path) -> dict[str, Any]:
    """What `add_rows` wrote.

    Raises:
        UserError: the file is missing or broken.
    """
    results = read_json(path)
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
        raise UserError(f"{path} holds no results (no list of rows): remove it, so that it is written anew.")
    return results


def _identity(row: Row) -> tuple[Any, ...]:
    return row["name"], row.get("head"), row.get("examples_per_class")
