"""The page's figures: results with intervals, learning curves, learned rates, what variations change, and the map; each a function from rows to a `Plot`."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ddllm.report.results import FULL, OWN_NAME, metric_of
from ddllm.report.svg import (
    ACCENT,
    GOOD,
    GRID,
    GROUND,
    INK,
    PALE,
    SERIES,
    TEXT,
    WARM,
    Plot,
    finish,
    new_figure,
    style_axes,
    style_legend,
    verbatim,
)
from ddllm.report.table import FIGURES, make_label

Row = dict[str, Any]
LEVEL = 1.96  # normal quantile of a 95 % interval
MOST_BARS = 40  # inner steps with a mark of their own


def wilson(share: float, texts: int) -> tuple[float, float]:
    """The 95 % interval of a share counted on so many texts (Wilson, JASA 1927)."""
    centre, square = share + LEVEL**2 / (2 * texts), LEVEL**2 / texts
    half = LEVEL * np.sqrt(share * (1 - share) / texts + LEVEL**2 / (4 * texts**2))
    return float((centre - half) / (1 + square)), float((centre + half) / (1 + square))


def draw_results(rows: list[Row], texts: int, name: str = "results") -> Plot | None:
    """Each row's figure with its deviation over runs and, for accuracy, the 95 % interval that so many test texts leave.

    Args:
        rows: of results.json.
        texts: in the test split; rows that were scored on fewer say so themselves.
        name: anchor of the plot.
    """
    found = [row for row in rows if row.get(f"{metric_of(row)}_mean") is not None]
    if not found:
        return None
    figure = new_figure(0.8 + 0.34 * len(found))
    axes = figure.subplots()
    style_axes(axes, "x")
    names = row_names(found)
    for place, row in enumerate(found):
        metric = metric_of(row)
        mean, deviation = 100 * row[f"{metric}_mean"], 100 * row[f"{metric}_std"]
        colour = ACCENT if row["name"].startswith("distilled") else GOOD if row["name"] == FULL else PALE
        counted = row.get("texts") or texts
        if metric == "accuracy" and counted:
            low, high = wilson(mean / 100, counted)
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
        if row["runs"] > 1 and deviation:
            axes.plot([mean - deviation, mean + deviation], [place, place], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axes.plot(mean, place, "o", color=colour, markersize=6.5)
        axes.annotate(f"{mean:.1f}", (mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=TEXT - 1, color=INK)
    axes.set_yticks(range(len(found)), [verbatim(name) for name in names])
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.margins(x=0.08)
    metrics = list(dict.fromkeys(metric_of(row) for row in found))
    axes.set_xlabel(FIGURES.get(metrics[0], metrics[0]) if len(metrics) == 1 else "figure that validation chose by, %")
    told = "; ".join(
        f"{label} {100 * row[f'{metric_of(row)}_mean']:.1f} %" for label, row in zip(names, found, strict=True)
    )
    caption = (
        "Thick: one standard deviation over runs, where heads or texts were drawn anew. Thin: the 95 % interval that the number of test texts leaves (Wilson)."
    )
    return finish(figure, name, "Distilled data beside its baselines", caption, f"{told}.")


def row_names(rows: Sequence[Row]) -> list[str]:
    """What rows are called beside each other: with their heads, where two would have the same name."""
    names = [make_label(row) for row in rows]
    full = [f"{name}, {row['head']} head" if names.count(name) > 1 and row.get("head") else name for name, row in zip(names, rows, strict=True)]
    return [f"{name}, {row['examples_per_class']} per class" if full.count(name) > 1 and row.get("examples_per_class") else name
            for name, row in zip(full, rows, strict=True)]


def draw_curves(runs: dict[str, list[Row]], rows: list[Row], key: str, name: str, title: str, caption: str) -> Plot | None:
    """One figure over the outer steps of one run or several.

    Args:
        runs: lines of metrics.jsonl by what the run is called; a single one needs no name.
        rows: rows of results.json, of which "full" becomes a horizontal line beside validation; may be empty.
        key: the figure: "loss", or how those of validation begin.
        name: anchor of the plot.
        title, caption: of the plot.
    """
    from matplotlib.ticker import MaxNLocator

    found = {run: series(lines, key) for run, lines in runs.items()}
    found = {run: points for run, points in found.items() if len(points)}
    if not found:
        return None
    figure = new_figure(2.9)
    axes = figure.subplots()
    style_axes(axes)
    ends, loss = [], key == "loss"
    for number, (run, points) in enumerate(found.items()):
        colour = ACCENT if len(found) == 1 else SERIES[number % len(SERIES)]
        steps, values = points[:, 0], points[:, 1] * (1 if loss else 100)
        width = max(1, len(steps) // 20)
        if loss and width > 1:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
            values = smooth(values, width)
        axes.plot(steps, values, color=colour, linewidth=1.8, label=verbatim(run) or None, marker=None if loss else "o", markersize=3.5)
        ends.append(f"{run + ': ' if run else ''}from {values[0]:.3g} at step {steps[0]:.0f} to {values[-1]:.3g} at step {steps[-1]:.0f}")
    if loss:
        every = np.concatenate([points[:, 1] for points in found.values()])
        low, high = float(every.min()), float(np.percentile(every, 99.5))  # a few outliers must not flatten the rest
        if high > low:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    else:
        full = next((row for row in rows if row["name"] == FULL), None)
        if full is not None:
            mean = 100 * full[f"{metric_of(full)}_mean"]
            axes.axhline(mean, color=GOOD, linewidth=1.2, linestyle="--", label=f"full data, test: {mean:.1f}")
        axes.margins(y=0.15)
    axes.set_xlabel("outer step")
    axes.set_ylabel("outer loss" if loss else "on validation texts, %")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style_legend(axes)
    return finish(figure, name, title, caption, "; ".join(ends) + ".")


def series(lines: list[Row], key: str) -> np.ndarray:
    """Steps and finite values [n, 2] of the stage distill's figure whose name begins like `key`."""
    points = []
    for line in lines:
        value = next((value for name, value in line.items() if name.startswith(key)), None)
        if line.get("stage") == "distill" and value is not None and np.isfinite(value):
            points.append((line["step"], value))
    return np.array(points, np.float64).reshape(-1, 2)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean [n] over a centred window, shorter at both ends."""
    sums, places = np.concatenate([[0.0], np.cumsum(values)]), np.arange(len(values))
    first, last = np.maximum(places - width // 2, 0), np.minimum(places + width - width // 2, len(values))
    return (sums[last] - sums[first]) / (last - first)


def draw_rates(rates_SG: np.ndarray, groups: Sequence[str]) -> Plot:
    """Learned rates over the inner steps, on a logarithmic scale.

    Args:
        rates_SG: positive rates [S, G].
        groups: names of the parameter groups, as `group_names` gives them.
    """
    from matplotlib.ticker import MaxNLocator

    kinds: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        kinds.setdefault(kind_of(group), []).append(index)
    figure = new_figure(3.0)
    axes = figure.subplots()
    style_axes(axes)
    steps = np.arange(1, len(rates_SG) + 1)
    told = []
    for number, (kind, indices) in enumerate(kinds.items()):
        chosen_SG = rates_SG[:, indices]
        middle_S = np.exp(np.log(chosen_SG).mean(axis=1))
        colour = ACCENT if len(kinds) == 1 else SERIES[number % len(SERIES)]
        marker = "o" if len(steps) <= MOST_BARS else None
        axes.plot(steps, middle_S, color=colour, linewidth=1.6, marker=marker, markersize=4.5, label=kind if len(kinds) > 1 else None)
        if len(indices) > 1:
            axes.fill_between(steps, chosen_SG.min(axis=1), chosen_SG.max(axis=1), color=colour, alpha=0.12, linewidth=0)
        told.append(f"{kind}: {chosen_SG.min():.2g} to {chosen_SG.max():.2g}, {np.exp(np.log(chosen_SG).mean()):.2g} in the middle")
    axes.set_yscale("log")
    axes.set_xlabel("inner step")
    axes.set_ylabel("learning rate")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlim(0.6, len(steps) + 0.4)
    style_legend(axes, columns=3)
    caption = "One rate for all parameters in each inner step."
    if len(groups) > 1:
        caption = (
            f"{len(groups)} groups of parameters, each with a rate of its own. Lines: geometric means of a kind of group; areas: from its least to its "
            "greatest."
        )
    return finish(figure, "rates", "Learned rates", caption, "; ".join(told) + ".")


def kind_of(group: str) -> str:
    """What sort of parameters a group of `group_names` holds."""
    last = group.rsplit(".", 1)[-1]
    if "." not in group:
        known = {"all": "all parameters", "embeddings": "embeddings", "head": "head", "moves": "moves of words"}
        return known.get(group, "arrays" if group.startswith("array ") else "layers")
    if group.startswith("head"):
        return "head"
    return {"kernel": "kernels", "bias": "biases", "scale": "scales"}.get(last, "tables")


def draw_changes(rows: list[Row], name: str = OWN_NAME) -> Plot | None:
    """What variations of training on a data set of that name change, in points against the recipe, which is the first row."""
    found = [row for row in rows if row.get("change") is not None][1:]
    if not found:
        return None
    figure = new_figure(0.7 + 0.25 * len(found))
    axes = figure.subplots()
    style_axes(axes, "x")
    changes = [row["change"] for row in found]
    axes.barh(range(len(found)), changes, color=[WARM if change < 0 else GOOD for change in changes], height=0.62)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(found)), [verbatim(row["variation"]) for row in found])
    axes.tick_params(axis="y", labelsize=TEXT - 1)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel("points gained or lost against the recipe")
    told = "; ".join(f"{row['variation']} {row['change']:+.1f}" for row in found)
    title = "Trained otherwise than the recipe says" + (f": {name}" if name != OWN_NAME else "")
    mark = "" if name == OWN_NAME else "-" + re.sub(r"\W+", "-", name)
    return finish(figure, f"changes{mark}", title, "On the same test texts as the recipe's row.", f"{told}.")


def draw_map(chart: dict[str, Any]) -> Plot:
    """Distilled examples among real ones, in the plane where the real ones' features differ most.

    Args:
        chart: {"real": [[x, y, group]], "distilled": [[x, y, group, number]], "groups": names, "explained": shares of variance}.
    """
    figure = new_figure(3.9)
    axes = figure.subplots()
    style_axes(axes)
    real, distilled = (np.array(chart[name], np.float64).reshape(-1, width) for name, width in (("real", 3), ("distilled", 4)))
    for number, group in enumerate(chart["groups"]):
        colour = SERIES[number % len(SERIES)]
        points = real[real[:, 2] == number]
        axes.scatter(points[:, 0], points[:, 1], s=7, color=colour, alpha=0.5, linewidths=0, label=verbatim(group))
    for number in range(len(chart["groups"])):
        points = distilled[distilled[:, 2] == number]
        colour = SERIES[number % len(SERIES)]
        marks = axes.scatter(points[:, 0], points[:, 1], s=95, color=colour, marker="D", edgecolors=GROUND, linewidths=1.4, zorder=4)
        marks.set_urls([f"#example-{int(point[3])}" for point in points])
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    shares = chart["explained"]
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({shares[1]:.0%})")
    style_legend(axes, columns=3, markerscale=2.5)
    radius = np.linalg.norm(real[:, :2] - real[:, :2].mean(axis=0), axis=1)
    away = np.linalg.norm(distilled[:, :2] - real[:, :2].mean(axis=0), axis=1)
    caption = (
        "Points: real training texts; diamonds: distilled examples (each leads to its card). Features are the pretrained encoder's mean hidden states; the "
        "plane is found by principal components of the real ones alone."
    )
    told = (
        f"{len(real)} real texts and {len(distilled)} distilled examples. Half of the real texts lie within {np.median(radius):.2g} of their middle, half of "
        f"the distilled examples within {np.median(away):.2g}."
    )
    return finish(figure, "map", "A map of features", caption, told)


def draw_comparison(cells: list[tuple[str, str, float, float, int]], metric: str) -> Plot:
    """The same rows of several runs beside each other.

    Args:
        cells: (row, run, mean, deviation, runs) with figures in percent.
        metric: heading of the axis.
    """
    rows, runs = (list(dict.fromkeys(cell[index] for cell in cells)) for index in (0, 1))
    figure = new_figure(0.8 + 0.16 * len(rows) * len(runs) + 0.22 * len(rows))
    axes = figure.subplots()
    style_axes(axes, "x")
    for row, run, mean, deviation, count in cells:
        number = runs.index(run)
        place = rows.index(row) + (number - (len(runs) - 1) / 2) * 0.7 / len(runs)
        colour = SERIES[number % len(SERIES)]
        if count > 1:
            axes.plot([mean - deviation, mean + deviation], [place, place], color=colour, linewidth=4, alpha=0.4, solid_capstyle="butt")
        axes.plot(mean, place, "o", color=colour, markersize=5.5)
    for number, run in enumerate(runs):
        axes.plot([], [], "o", color=SERIES[number % len(SERIES)], label=verbatim(str(run)))
    for above, below in pairwise(range(len(rows))):
        axes.axhline((above + below) / 2, color=GRID, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [verbatim(str(row)) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set_xlabel(metric)
    style_legend(axes, columns=2)
    told = "; ".join(f"{row} in {run} {mean:.1f}" for row, run, mean, _, _ in cells)
    return finish(figure, "comparison", "Results beside each other", "Thick: one standard deviation over runs.", f"{told}.")
