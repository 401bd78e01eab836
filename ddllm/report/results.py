"""results.json: one row for each way of training, with the configuration and the environment they come from.

    {"config": {…}, "rows": [{"name", "examples_per_class", "accuracy_mean", "accuracy_std", "runs", "seconds", "percent_of_full", …}], "environment": {…}}

Accuracies are fractions in [0, 1], `percent_of_full` is a percentage of the row "full", seconds are wall-clock. Rows may have further keys:
"head" (how the head begins), "inner_steps", "floats" (numbers stored), "examples" (in all), "texts" (test texts), "note" (a sentence).

The stages robustness and analyse add lists of their own beside "rows": "robustness", "labels", "storage" and "compute". Their rows have the
"name" of the distilled data set that they are about; for further keys see ddllm/evaluate.
"""

from pathlib import Path
from typing import Any

from ddllm.errors import UserError
from ddllm.runtime.storage import read_json, write_json

Row = dict[str, Any]
FULL = "full"
REQUIRED = ("name", "examples_per_class", "accuracy_mean", "accuracy_std", "runs", "seconds", "percent_of_full")


def merge_rows(existing: list[Row], new: list[Row]) -> list[Row]:
    """The existing rows with new ones in the place of those of the same (name, head, examples_per_class), or behind them; percentages recomputed.

    Raises:
        ValueError: a row lacks a key, or has an accuracy outside [0, 1].
    """
    merged = {_identity(row): row for row in existing}
    merged |= {_identity(row): row for row in new}
    rows = [{"percent_of_full": None, **row} for row in merged.values()]
    full = next((row["accuracy_mean"] for row in rows if row["name"] == FULL), None)
    for row in rows:
        missing = [key for key in REQUIRED if key not in row]
        if missing:
            raise ValueError(f"row {row.get('name')!r} lacks {', '.join(missing)}")
        if not 0 <= row["accuracy_mean"] <= 1:
            raise ValueError(f"row {row['name']!r} has the accuracy {row['accuracy_mean']}, which is not in [0, 1]")
        row["percent_of_full"] = round(100 * row["accuracy_mean"] / full, 2) if full else None
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
