"""Tables of what the stages on request found, in the terminal or as Markdown: one for each list of results.json."""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddllm.report.results import ACCURACY, metric_of
from ddllm.report.table import FIGURES, LEAST, NOTHING, count_cell, markdown_row, one_line

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


def _measured(name: str) -> Callable[[Row], str]:
    """Cell of a mean over seeds, in %, with its deviation where there are several."""

    def cell(row: Row) -> str:
        spread = f" ± {100 * row[f'{name}_std']:.1f}" if row["runs"] > 1 else ""
        return f"{100 * row[f'{name}_mean']:.1f}{spread}".replace("-", "−")

    return cell


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


VARIED: tuple[Column, ...] = ((FIGURES[ACCURACY], _figure), ("change, points", _change))


@dataclass(frozen=True)
class Layout:
    """How one list is shown.

    Attributes:
        title: what it is about.
        first: key and heading of the first column.
        columns: heading and cell of the others.
        apart: those of their headings that tell rows of the same name apart.
    """

    title: str
    first: tuple[str, str]
    columns: tuple[Column, ...]
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A list as a table of text.

    Attributes:
        key: of the list in results.json.
        title: above it.
        headings: of the columns.
        cells: of every row.
        notes: sentences below it.
    """

    key: str
    title: str
    headings: tuple[str, ...]
    cells: list[tuple[str, ...]]
    notes: list[str]


LAYOUTS = {
    "robustness": Layout("Away from the recipe", ("variation", "training"), VARIED),
    "labels": Layout("Labels", ("variation", "labels"), VARIED),
    "storage": Layout("Storage", ("variation", "embeddings"), (("bytes", lambda row: count_cell(row["bytes"])), *VARIED)),
    "continual": Layout(
        "Tasks in turn",
        ("method", "memory"),
        (
            ("after task", lambda row: f"{row['after']} of {row['tasks']}"),
            ("accuracy, % of all texts so far", _measured("accuracy")),
            ("mean over tasks", _measured("average")),
            ("forgetting", _measured("forgetting")),
            ("backward transfer", _measured("transfer")),
            ("% of joint", lambda row: NOTHING if row["percent_of_joint"] is None else f"{row['percent_of_joint']:.1f}"),
            ("bytes", lambda row: count_cell(row["bytes"])),
            ("seconds", lambda row: _time(row["seconds"])),
        ),
        ("after task",),
    ),
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
            ("per class", lambda row: count_cell(row["examples_per_class"])),
            ("model", lambda row: row["model"]),
            (FIGURES[ACCURACY], _figure),
            ("uncalibrated, %", _uncalibrated),
        ),
        ("per class", "model"),
    ),
    "privacy": Layout(
        "Membership inference",
        ("attack", "attack by"),
        (
            ("AUC", lambda row: f"{row['auc']:.3f}"),
            ("95 % interval", lambda row: f"{row['auc_low']:.3f} to {row['auc_high']:.3f}"),
            ("TPR, 1 % FPR", lambda row: _percent(row["tpr_at_1_percent_fpr"])),
            ("TPR, 0.1 % FPR", lambda row: _percent(row.get("tpr_at_0.1_percent_fpr"))),
            ("members", lambda row: count_cell(row["members"])),
            ("others", lambda row: count_cell(row["others"])),
        ),
    ),
    "nearness": Layout(
        "Nearness to real texts",
        ("measure", "measure"),
        (
            ("any train", lambda row: _share(row["nearest"])),
            ("highest", lambda row: _share(row["highest"])),
            ("some train", lambda row: _share(row["train"])),
            ("as many test", lambda row: _share(row["test"])),
        ),
    ),
}


def print_analyses(results: dict[str, Any], console: Console | None = None) -> None:
    """Print a table for every list and every distilled data set, folded where it does not fit; nothing where there are none."""
    console = console or Console(highlight=False)
    for shown in make_tables(results):
        widths, padding = _fit(shown, console.width)
        table = Table(title=Text(shown.title, "bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, padding), pad_edge=False)
        for place, (heading, width) in enumerate(zip(shown.headings, widths, strict=True)):
            table.add_column("\n".join(textwrap.wrap(heading, width)), width=width, overflow="fold", justify="right" if place else "left")
        for cells in shown.cells:
            table.add_row(*map(Text, cells))
        console.print(table)
        for line in shown.notes:
            console.print(Text(line))


def _fit(shown: Shown, room: int) -> tuple[list[int], int]:
    """Width of each column, and blanks on both sides of it: headings break between words; where there is no room for whole cells, these do too."""
    columns = list(zip(shown.headings, *shown.cells, strict=True))
    for padding, whole in ((1, True), (0, True), (0, False)):
        parts = [[*heading.split(), *(cells if whole else [part for cell in cells for part in cell.split()])] for heading, *cells in columns[1:]]
        widths = [max(map(cell_len, part)) for part in parts]
        widths = widths if whole else [min(width, LEAST) for width in widths]
        left = room - sum(widths) - (len(columns) - 1) * (2 * padding + 1) - 2
        if left >= LEAST:
            break
    return [min(max(left, LEAST), max(map(cell_len, columns[0]))), *widths], padding


def markdown_analyses(results: dict[str, Any]) -> str:
    """The same tables as Markdown, each with a blank line before it."""
    lines = []
    for shown in make_tables(results):
        lines += ["", f"### {one_line(shown.title)}", "", markdown_row(shown.headings), "|---|" + "---:|" * (len(shown.headings) - 1)]
        lines += [markdown_row(cells) for cells in shown.cells]
        lines += ["", *(f"- {one_line(note)}" for note in shown.notes)]
    return "".join(f"{line}\n" for line in lines)


def make_tables(results: dict[str, Any]) -> Iterator[Shown]:
    """A table for every list of `LAYOUTS` and every distilled data set that results.json has one about."""
    for key, layout in LAYOUTS.items():
        found = results.get(key, [])
        for name in dict.fromkeys(row["name"] for row in found):
            rows = [row for row in found if row["name"] == name]
            cells = [_cells(layout, row) for row in rows]
            yield Shown(key, f"{layout.title}: {name}", (layout.first[1], *_headings(layout, rows)), cells, _notes(layout, rows))


def _headings(layout: Layout, rows: list[Row]) -> list[str]:
    """Of the columns but the first; where rows are judged by something other than accuracy, that figure's."""
    judged = FIGURES[next((row["metric"] for row in rows if "metric" in row), ACCURACY)]
    return [judged if cell is _figure else heading for heading, cell in layout.columns]


def _cells(layout: Layout, row: Row) -> tuple[str, ...]:
    return (row[layout.first[0]], *(cell(row) for _, cell in layout.columns))


def _notes(layout: Layout, rows: list[Row]) -> list[str]:
    said: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("note"):
            said.setdefault(row["note"], []).append(row)
    notes = [": ".join(filter(None, (_who(layout, those, rows), note))) for note, those in said.items()]
    for row in rows:
        paid = {what: row.get(f"paid_after_{what}") for what in ("flops", "seconds")}
        if any(paid.values()):
            told = " and ".join(f"{count:,} trainings by {'FLOPs' if what == 'flops' else what}" for what, count in paid.items() if count)
            notes.append(f"{row['cost']} has paid for itself after {told}, against as many fine-tunings on all texts.")
    return notes


def _who(layout: Layout, those: list[Row], rows: list[Row]) -> str:
    """The names of some rows, or of the others where these are fewer; nothing for several that are all."""
    others = [row for row in rows if not any(row is one for one in those)]
    if not others and len(rows) > 2:
        return ""
    if len(those) > 2 and len(others) <= 2:
        return f"all but {' and '.join(_names(layout, others, those))}"
    return ", ".join(_names(layout, those, others))


def _names(layout: Layout, those: list[Row], others: list[Row]) -> list[str]:
    """Each row's name once; of those that share theirs with other rows, what tells them apart too."""
    shared, cells = {row[layout.first[0]] for row in others}, dict(layout.columns)
    names = []
    for row in those:
        name = row[layout.first[0]]
        apart = ", ".join(f"{heading} {cells[heading](row)}" for heading in layout.apart) if name in shared else ""
        names.append(f"{name} ({apart})" if apart else name)
    return list(dict.fromkeys(names))
