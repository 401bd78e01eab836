"""Tables of what the stages robustness, analyse and prompt found, in the terminal or as Markdown: one for each list of results.json."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ddllm.report.results import ACCURACY, metric_of
from ddllm.report.table import FIGURES, NOTHING

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def _figure(row: Row) -> str:
    """Accuracy, or what stands in its place."""
    name = metric_of(row)
    if row.get(f"{name}_mean") is None:
        return NOTHING
    spread = f" ± {100 * row[f'{name}_std']:.1f} ({row['runs']})" if row.get("runs", 1) > 1 else ""
    return f"{100 * row[f'{name}_mean']:.1f}{spread}"


def _change(row: Row) -> str:
    return f"{row['change']:+.1f}".replace("-", "−")


def _power(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2g}"


def _time(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _uncalibrated(row: Row) -> str:
    return _figure({"accuracy_mean": row["uncalibrated_mean"], "accuracy_std": row["uncalibrated_std"], "runs": row["runs"]})


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


VARIED: tuple[Column, ...] = ((FIGURES[ACCURACY], _figure), ("change, points", _change))


@dataclass(frozen=True)
class Layout:
    """How one list is shown.

    Attributes:
        title: what it is about.
        first: key and heading of the first column.
        columns: heading and cell of the others.
    """

    title: str
    first: tuple[str, str]
    columns: tuple[Column, ...]


LAYOUTS = {
    "robustness": Layout("Away from the recipe", ("variation", "training"), VARIED),
    "labels": Layout("Labels", ("variation", "labels"), VARIED),
    "storage": Layout("Storage", ("variation", "embeddings"), (("bytes", lambda row: _count(row["bytes"])), *VARIED)),
    "compute": Layout(
        "Compute",
        ("cost", "cost of"),
        (
            ("FLOPs", lambda row: _power(row["flops"])),
            ("by XLA", lambda row: _power(row.get("flops_by_xla"))),
            ("seconds", lambda row: _time(row["seconds"])),
            (FIGURES[ACCURACY], _figure),
        ),
    ),
    "prompt": Layout(
        "Prompts",
        ("variation", "examples"),
        (
            ("per class", lambda row: _count(row["examples_per_class"])),
            ("model", lambda row: row["model"]),
            (FIGURES[ACCURACY], _figure),
            ("uncalibrated, %", _uncalibrated),
        ),
    ),
}


def print_analyses(results: dict[str, Any], console: Console | None = None) -> None:
    """Print a table for every list and every distilled data set; nothing where there are none."""
    console = console or Console(highlight=False)
    for title, layout, rows in _tables(results):
        table = Table(title=title, title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column(layout.first[1], overflow="fold")
        for heading in _headings(layout, rows):
            table.add_column(heading.replace(", ", ",\n"), justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(layout, row))
        console.print(table)
        for line in _notes(layout, rows):
            console.print(line, markup=False)


def markdown_analyses(results: dict[str, Any]) -> str:
    """The same tables as Markdown, each with a blank line before it."""
    lines = []
    for title, layout, rows in _tables(results):
        headings = (layout.first[1], *_headings(layout, rows))
        lines += ["", f"### {title}", "", f"| {' | '.join(headings)} |", "|---|" + "---:|" * len(layout.columns)]
        lines += [f"| {' | '.join(_cells(layout, row))} |" for row in rows]
        lines += ["", *(f"- {note}" for note in _notes(layout, rows))]
    return "".join(f"{line}\n" for line in lines)


def _tables(results: dict[str, Any]) -> Iterator[tuple[str, Layout, list[Row]]]:
    for key, layout in LAYOUTS.items():
        found = results.get(key, [])
        for name in dict.fromkeys(row["name"] for row in found):
            yield f"{layout.title}: {name}", layout, [row for row in found if row["name"] == name]


def _headings(layout: Layout, rows: list[Row]) -> list[str]:
    """Of the columns but the first; where rows are judged by something other than accuracy, that figure's."""
    judged = FIGURES[next((row["metric"] for row in rows if "metric" in row), ACCURACY)]
    return [judged if cell is _figure else heading for heading, cell in layout.columns]


def _cells(layout: Layout, row: Row) -> tuple[str, ...]:
    return (row[layout.first[0]], *(cell(row) for _, cell in layout.columns))


def _notes(layout: Layout, rows: list[Row]) -> list[str]:
    notes = [f"{row[layout.first[0]]}: {row['note']}" for row in rows if row.get("note")]
    for row in rows:
        paid = {what: row.get(f"paid_after_{what}") for what in ("flops", "seconds")}
        if any(paid.values()):
            told = " and ".join(f"{count:,} trainings by {'FLOPs' if what == 'flops' else what}" for what, count in paid.items() if count)
            notes.append(f"{row['cost']} has paid for itself after {told}, against as many fine-tunings on all texts.")
    return notes
