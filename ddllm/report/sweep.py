"""The tables of a sweep, printed and written as sweep.md and sweep.json: what became of each member, and every row that members have in their own tables.

Where one number varies, these rows become a figure too (sweep_plot.py).
"""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddllm.members import FAILED, FINISHED, Member, describe_values
from ddllm.report.figures import row_names
from ddllm.report.results import metric_of, read_results
from ddllm.report.sweep_plot import draw_sweep, varied_number
from ddllm.report.table import NOTHING, markdown_row
from ddllm.runtime.storage import write_atomically, write_json

Row = dict[str, Any]
HEADINGS = ("accuracy, %", "% of full", "seconds", "status")
DISTILLED = "distilled"


def report_sweep(folder: Path, members: list[Member], ended: bool, console: Console | None = None) -> int:
    """Show and write the table; returns 1 where a member has failed or, of a sweep that has ended, not finished; else 0."""
    rows = [make_row(member) for member in members]
    keys = list(members[0].values)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "sweep.json", {"varied": keys, "members": rows})
    headings = (*keys, *HEADINGS)
    cells = [(*row["values"].values(), *_figures(row)) for row in rows]
    lines = [markdown_row(headings), "|" + "---|" * len(headings)]
    lines += [markdown_row(row) for row in cells]
    every = list(dict.fromkeys(name for row in rows for name in row["rows"]))
    ways = [(name, *(_cell(row["rows"].get(name)) for row in rows)) for name in every]
    beside = ("training data", *(describe_values(row["values"]) for row in rows))
    if len(every) > 1:
        lines += ["", markdown_row(beside), "|---|" + "---:|" * len(rows), *map(markdown_row, ways)]
    with write_atomically(folder / "sweep.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in headings:
        # Long keys break after their section.
        table.add_column(heading.replace(".", ".\n"), justify="left" if heading == "status" else "right", overflow="fold")
    for row, line in zip(rows, cells, strict=True):
        table.add_row(*map(Text, (*line[:-1], row["status"])))  # sentences would fold into a column of words
    console = console or Console(highlight=False)
    console.print(table)
    if len(every) > 1:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for place, heading in enumerate(beside):
            table.add_column(heading.replace(" ", "\n") if place else heading, justify="right" if place else "left", overflow="fold")
        for line in ways:
            table.add_row(*map(Text, line))
        console.print(table)
    for row in rows:
        if row["error"]:
            console.print(Text(f"{describe_values(row['values'])}: {row['error']}"))
    key = varied_number(rows)
    drawn = key is not None and draw_sweep(rows, key, folder / "sweep.png")
    files = ("sweep.json", "sweep.png") if drawn else ("sweep.json",)
    told = "On the test texts: mean ± standard deviation (number of runs), above of the distilled data."
    told += f" Written to {folder / 'sweep.md'}, {' and '.join(files)}."
    console.print(Text(told))
    return int(any(row["status"] == FAILED or (ended and row["status"] != FINISHED) for row in rows))


def make_row(member: Member) -> Row:
    """What became of a member: its values, status, the figures of its row "distilled" where it has one, and in "rows" those of all by what they are called.

    "accuracy", and in "rows" "mean" and "std", are what a row is judged by, whatever figure that is.
    """
    path = member.folder / "results.json"
    found = read_results(path)["rows"] if path.exists() else []
    row = next((row for row in found if row["name"] == DISTILLED), {})
    figures = {name: row.get(name) for name in ("runs", "percent_of_full")}
    figures |= {f"accuracy_{part}": row.get(f"{metric_of(row)}_{part}") for part in ("mean", "std")}
    return {"values": member.values, "folder": str(member.folder), **member.record(), **figures, "rows": _every_row(found)}


def _every_row(found: list[Row]) -> dict[str, Row]:
    """Mean, deviation and runs of each row, by what it is called, with its "name" in results.json."""
    every = {}
    for name, row in zip(row_names(found), found, strict=True):
        metric = metric_of(row)
        if row.get(f"{metric}_mean") is not None:
            every[name] = {"name": row["name"], "mean": row[f"{metric}_mean"], "std": row[f"{metric}_std"], "runs": row["runs"]}
    return every


def _cell(row: Row | None) -> str:
    """A figure in %, with its deviation where there are several runs."""
    if row is None:
        return NOTHING
    return f"{100 * row['mean']:.1f}" + (f" ± {100 * row['std']:.1f} ({row['runs']})" if row["runs"] > 1 else "")


def _figures(row: Row) -> tuple[str, ...]:
    mean, deviation, runs, percent = (row[name] for name in ("accuracy_mean", "accuracy_std", "runs", "percent_of_full"))
    spread = "" if mean is None else f" ± {100 * deviation:.1f} ({runs})" if runs > 1 else f" ± {NOTHING}"
    return (
        NOTHING if mean is None else f"{100 * mean:.1f}{spread}",
        NOTHING if percent is None else f"{percent:.1f}",
        f"{row['seconds']:,.0f}",
        f"{row['status']}: {row['error']}" if row["error"] else row["status"],
    )
