"""The page's figures of what accuracy costs: in operations of a training, and in stored bytes; each a function from rows of results.json to a `Plot`."""

import re
from typing import Any

from ddllm.report.results import OWN_NAME, metric_of
from ddllm.report.svg import SERIES, Plot, finish, new_figure, style_axes, style_legend, verbatim
from ddllm.report.table import FIGURES

Row = dict[str, Any]


def draw_compute(rows: list[Row], name: str = OWN_NAME) -> Plot | None:
    """Accuracy over the operations of one training: on the distilled data of that name, and on all texts for longer and shorter; the list "compute"."""
    caption = "One training each, by the operations of its matrix products. What distilling itself has cost is in the table."
    points = [(row["cost"], row["flops"], row) for row in rows if row.get("flops")]
    return _draw(points, "compute", "Accuracy against compute", "floating-point operations of one training", caption, name, log=True)


def draw_storage(rows: list[Row], name: str = OWN_NAME) -> Plot | None:
    """Accuracy over the bytes of a data set of that name, with embeddings in fewer and fewer bits; the list "storage"."""
    caption = "The same data set with its embeddings in fewer bits, on the same test texts."
    points = [(row["variation"], row["bytes"] / 1000, row) for row in rows if row.get("bytes")]
    return _draw(points, "bytes", "Accuracy against stored bytes", "kB stored", caption, name)


def _draw(points: list[tuple[str, float, Row]], anchor: str, title: str, axis: str, caption: str, name: str, log: bool = False) -> Plot | None:
    """Points of the rows that have a figure; None where there are fewer than two, between which nothing could be compared."""
    found = [(label, place, row) for label, place, row in points if row.get(f"{metric_of(row)}_mean") is not None]
    if len(found) < 2:
        return None
    figure = new_figure(2.6 + 0.2 * (len(found) if log else -(-len(found) // 3)))
    axes = figure.subplots()
    style_axes(axes)
    if log:
        axes.set_xscale("log")
    told = []
    for number, (label, place, row) in enumerate(found):
        metric = metric_of(row)
        mean, deviation, colour = 100 * row[f"{metric}_mean"], 100 * row.get(f"{metric}_std", 0.0), SERIES[number % len(SERIES)]
        if row.get("runs", 1) > 1 and deviation:
            axes.plot([place, place], [mean - deviation, mean + deviation], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axes.plot(place, mean, "o", color=colour, markersize=6.5, label=verbatim(label))
        told.append(f"{label} {mean:.1f} % for {place:.3g}")
    axes.margins(0.12)
    style_legend(axes, columns=1 if log else 3)
    metrics = list(dict.fromkeys(metric_of(row) for _, _, row in found))
    axes.set_xlabel(axis)
    axes.set_ylabel(FIGURES.get(metrics[0], metrics[0]))
    mark = "" if name == OWN_NAME else "-" + re.sub(r"\W+", "-", name)
    return finish(figure, f"{anchor}{mark}", title + (f": {name}" if name != OWN_NAME else ""), caption, "; ".join(told) + f" ({axis}).")
