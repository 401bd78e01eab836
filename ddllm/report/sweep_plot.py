"""The figure of a sweep: every row of its members' tables over the one number that varies, as sweep.png."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ddllm.report.curve import GRID, INK, REFERENCES
from ddllm.report.svg import verbatim
from ddllm.runtime.storage import write_atomically

Row = dict[str, Any]
SEED = "seed"  # members that differ by it alone are runs of one point
OWN = (INK, "#6d9bc9", "#b5b5b5", "#8c6d31")


def varied_number(rows: list[Row]) -> str | None:
    """The one key that varies beside the seed, where its values are different numbers; else None."""
    keys = [key for key in rows[0]["values"] if key != SEED]
    if len(keys) != 1:
        return None
    places = {_number(row["values"][keys[0]]) for row in rows}
    return keys[0] if None not in places and len(places) > 1 else None


def draw_sweep(rows: list[Row], key: str, path: Path) -> bool:
    """Draw a line for each row that members have, and write the figure; False where no member has any.

    Args:
        rows: of the sweep's table, each with "values" and "rows", the figures by what they are called.
        key: what varies, as `varied_number` gives it.
        path: the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    names = list(dict.fromkeys(name for row in rows for name in row["rows"]))
    if not names:
        return False
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    own = iter(OWN)
    for name in names:
        places, means, deviations = series_of(rows, key, name)
        kind = next(row["rows"][name]["name"] for row in rows if name in row["rows"])
        colour = REFERENCES.get(kind) or next(own, "#555555")
        manner = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.8 if kind not in REFERENCES else 1.2}
        axes.errorbar(places, means, deviations, capsize=2.5, elinewidth=1, label=verbatim(name), **manner)
    places = sorted({_number(row["values"][key]) for row in rows})
    if places[0] > 0 and places[-1] / places[0] >= 8:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(verbatim(key))
    axes.set_ylabel("on the test texts")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def series_of(rows: list[Row], key: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of the key in ascending order, and means and deviations there: over members that differ by their seeds, of a single one its own over runs."""
    found: dict[float, list[Row]] = {}
    for row in rows:
        if name in row["rows"]:
            found.setdefault(_number(row["values"][key]), []).append(row["rows"][name])
    places = sorted(found)
    means = [float(np.mean([one["mean"] for one in found[place]])) for place in places]
    deviations = [
        float(np.std([one["mean"] for one in found[place]], ddof=1)) if len(found[place]) > 1 else found[place][0]["std"] for place in places
    ]
    return np.array(places), np.array(means), np.array(deviations)


def _number(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
