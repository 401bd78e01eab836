"""The curve of a distillation as a PNG: outer loss above, validation accuracy below, with the rows of the table it is to be held against."""

from pathlib import Path
from typing import Any

import numpy as np

from ddllm.report.figures import series, smooth
from ddllm.report.results import metric_of
from ddllm.report.svg import verbatim
from ddllm.report.table import make_label
from ddllm.runtime.storage import write_atomically

LOSS = "loss"
VALIDATION = "validation_"
# Rows drawn as horizontal lines.
REFERENCES = {
    "full": "#3a7d44",
    "random": "#b5533c",
    "k_centers": "#8a4fa3",
    "herding": "#b07a14",
    "k_means": "#c2557f",
    "gradient_norm": "#6b6b6b",
}
COLUMNS = 2  # that their labels stand in
INK, PALE, GRID = "#1f4e79", "#a9c4de", "#e3e3e3"


def draw_curve(metrics: list[dict[str, Any]], rows: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Draw the two panels and write them atomically.

    Args:
        metrics: lines as `read_metrics` gives them; those of stage "distill" with "loss" or "validation_…", as a rule accuracy, are drawn.
        rows: rows of results.json; "full" and selections of real examples become lines, the first of each name. May be empty.
        path: the PNG.
        title: a line above, e.g. data set and model.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # Without pyplot: no window system is asked for, and no global state is left behind.
    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)

    steps, losses = series(metrics, LOSS).T
    if len(steps):
        width = max(1, len(steps) // 20)
        if width > 1:
            upper.plot(steps, losses, color=PALE, linewidth=0.8, label="each outer step")
        upper.plot(steps, smooth(losses, width), color=INK, linewidth=1.8, label=f"mean of {width}" if width > 1 else "each outer step")
        # A few outliers must not flatten the rest.
        low, high = np.min(losses), np.percentile(losses, 99.5)
        if high > low:
            upper.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
        upper.legend(frameon=False, loc="upper right")
    upper.set_ylabel("outer loss")

    name = next((name for line in metrics for name in line if name.startswith(VALIDATION)), f"{VALIDATION}accuracy")
    steps, accuracies = series(metrics, VALIDATION).T
    if len(steps):
        # Above the labels of the lines that it is held against.
        lower.plot(steps, accuracies, color=INK, linewidth=1.8, marker="o", markersize=3.5, zorder=4)
        # Of equals the later one, as distillation itself keeps it.
        best = len(accuracies) - 1 - int(np.argmax(accuracies[::-1]))
        label = f"best: {accuracies[best]:.1%} at step {steps[best]:.0f}"
        lower.plot(steps[best], accuracies[best], "*", markersize=15, color="#e0a100", markeredgecolor="white", zorder=4, label=label)
        lower.legend(loc="best", edgecolor="none", framealpha=0.9)
    firsts = [next((row for row in rows if row["name"] == name), None) for name in REFERENCES]
    means = [(row[f"{metric_of(row)}_mean"], row) for row in firsts if row is not None]
    # By accuracy, or what stands in its place, so that labels of neighbouring lines stand in different columns.
    for place, (mean, row) in enumerate(sorted(means, key=lambda pair: -pair[0])):
        colour = REFERENCES[row["name"]]
        lower.axhline(mean, color=colour, linewidth=1.2, linestyle="--")
        lower.annotate(
            f"{make_label(row)}, test: {mean:.1%}",
            (1 - place % COLUMNS / COLUMNS, mean),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
    lower.set_ylabel(name.replace("_", " "))
    lower.set_xlabel("outer step")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.margins(y=0.15)

    for axes in (upper, lower):
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(verbatim(title), x=0.01, ha="left", fontweight="bold")
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
