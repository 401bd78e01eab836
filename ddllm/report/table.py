"""The results as a table, in the terminal or as Markdown: hands on nothing, it is what a person reads at the end."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
BEFORE, AFTER = ("training data", "per\nclass", "inner\nsteps", "floats"), ("% of\nfull", "seconds")
FIGURES = {
    "accuracy": "accuracy, %",
    "f1_macro": "macro F1, %",
    "f1_micro": "micro F1, %",
    "pearson": "Pearson’s r, %",
    "spearman": "Spearman’s ρ, %",
}
NOTHING = "–"
LEAST = 13  # columns of the terminal for what a row is called, however many figures there are
# What rows are called in the table, where not by their own names.
LABELS = {
    "random": "random real examples",
    "k_centers": "k-centers real examples",
    "herding": "herding real examples",
    "k_means": "k-means real examples",
    "gradient_norm": "gradient-norm real examples",
    "projected": "nearest tokens of distilled",
}
EMBEDDED = {"data": "Rotten Tomatoes (embedded)", "model": "MiniLM-L6 (embedded)"}


def print_table(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the table of what results.json holds, with its notes below; fits 80 columns."""
    console = console or Console(highlight=False)
    room = 1 if len(shown_figures(results)) == 1 else 0
    table = Table(title=Text(make_title(results), "bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, room), pad_edge=False)
    for place, heading in enumerate(make_headings(results)):
        if place == 0:
            table.add_column(heading, min_width=LEAST)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row, cells in zip(results["rows"], make_cells(results), strict=True):
        table.add_row(*map(Text, cells), style="bold" if row["name"].startswith("distilled") else None)
    console.print(table)
    for line in make_notes(results):
        console.print(Text(line))


def markdown_table(results: dict[str, Any]) -> str:
    """The same table as Markdown."""
    headings = make_headings(results)
    lines = [
        f"### {one_line(make_title(results))}",
        "",
        markdown_row(headings),
        "|---|" + "---:|" * (len(headings) - 1),
    ]
    lines += [markdown_row(cells) for cells in make_cells(results)]
    lines += ["", *(f"- {one_line(note)}" for note in make_notes(results))]
    return "\n".join(lines).rstrip() + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a Markdown table: whatever is in a cell stays in it."""
    return f"| {' | '.join(one_line(cell).replace(chr(92), chr(92) * 2).replace('|', chr(92) + '|') for cell in cells)} |"


def one_line(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.splitlines())


def count_cell(value: int | None) -> str:
    """A number with thousands apart, or the sign for none."""
    return NOTHING if value is None else f"{value:,}"


def make_title(results: dict[str, Any]) -> str:
    """Data set and model."""
    config, environment = results["config"], results.get("environment", {})
    data = environment.get("data") or config["data"]["source"]
    model = environment.get("model") or config["model"]["name"]
    return f"{_short(data, EMBEDDED['data'])} with {_short(model, EMBEDDED['model'])}"


def make_label(row: Row) -> str:
    """What a row is called."""
    return str(LABELS.get(row["name"], row["name"]))


def shown_figures(results: dict[str, Any]) -> list[str]:
    """Which figures have a column: those that the run has named."""
    return results.get("environment", {}).get("figures") or ["accuracy"]


def make_headings(results: dict[str, Any]) -> tuple[str, ...]:
    """The headings, with one for each figure shown."""
    return *BEFORE, *(FIGURES[name] for name in shown_figures(results)), *AFTER


def make_cells(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of each row as text, in the order of the headings."""
    rows = results["rows"]
    heads: dict[str, set[str | None]] = {}
    for row in rows:
        heads.setdefault(row["name"], set()).add(row.get("head"))
    return [
        (
            make_label(row) + (f", {row['head']} head" if row.get("head") and len(heads[row["name"]]) > 1 else ""),
            count_cell(row.get("examples_per_class")),
            count_cell(row.get("inner_steps")),
            count_cell(row.get("floats")),
            *(_figure(row, name, told=place == 0) for place, name in enumerate(shown_figures(results))),
            NOTHING if row.get("percent_of_full") is None else f"{row['percent_of_full']:.1f}",
            _seconds(row.get("seconds")),
        )
        for row in rows
    ]


def make_notes(results: dict[str, Any]) -> list[str]:
    """Sentences below the table: what the deviation is, and each row's own note."""
    rows = results["rows"]
    notes = []
    if any(row["runs"] > 1 for row in rows):
        what = "Accuracy" if shown_figures(results) == ["accuracy"] else "Figures"
        notes.append(f"{what} on the test texts: mean ± standard deviation (number of runs).")
    seen = set()
    for row in rows:
        note = row.get("note")
        if note and (row["name"], note) not in seen:
            seen.add((row["name"], note))
            notes.append(f"{make_label(row)}: {note}")
    return notes


def _figure(row: Row, name: str, told: bool) -> str:
    """Mean ± deviation, and the number of runs where it is to be told, being the same for all figures."""
    if row.get(f"{name}_mean") is None:  # of a run before there were others than accuracy
        return NOTHING
    mean, deviation, runs = 100 * row[f"{name}_mean"], 100 * row[f"{name}_std"], row["runs"]
    # Runs that all start from the same head on the same data have no spread to speak of.
    same = runs == 1 or (deviation == 0 and row.get("head") not in (None, "redrawn"))
    return f"{mean:.1f} ± {NOTHING}" if same else f"{mean:.1f} ± {deviation:.1f}{f' ({runs})' * told}"


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _short(name: str, embedded: str) -> str:
    return embedded if name == "embedded" else PurePath(name).name if name.startswith(("/", ".", "~")) else name
