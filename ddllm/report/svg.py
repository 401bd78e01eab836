"""Matplotlib figures as inline SVG that belongs to the page around it: its colours are the page's, light or dark, and its names clash with no other figure's.

Figures are drawn in stand-in colours (`INK`, `PALE`, …), each of which becomes a CSS variable of the page. Text stays text, in the page's font.
"""

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

# Stand-ins that no drawing would choose by itself, and what the page calls them.
INK, PALE, GRID, GROUND, ACCENT, GOOD, WARM = "#010203", "#010204", "#010205", "#010206", "#010207", "#010208", "#010209"
SERIES = ("#020301", "#020302", "#020303", "#020304", "#020305", "#020306", "#020307", "#020308")
VARIABLES = {INK: "ink", PALE: "pale", GRID: "line", GROUND: "ground", ACCENT: "accent", GOOD: "good", WARM: "warm"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
WIDTH = 4.8  # inches: wide enough for half a screen, and still readable across a phone
TEXT = 10  # points
UNSEEN = "\u200b"  # a space without width


@dataclass(frozen=True)
class Plot:
    """A figure of the page.

    Attributes:
        name: its anchor, unique on the page.
        title: what it shows.
        caption: how to read it.
        description: what a reader who cannot see it should know.
        svg: the drawing.
    """

    name: str
    title: str
    caption: str
    description: str
    svg: Markup


def verbatim(text: str) -> str:
    """A name for matplotlib to show as it is: its dollars begin no formula, and an underscore before it does not keep it from the legend."""
    return f"{UNSEEN * text.startswith('_')}{text}".replace("$", r"\$")


def new_figure(height: float = 3.0, width: float = WIDTH) -> Any:
    """An empty figure in the page's manner; without pyplot, so that no window system is asked for."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    return figure


def style_axes(axes: Any, grid: str = "both") -> None:
    """Thin lines behind, no frame, and the page's ink."""
    axes.patch.set_alpha(0)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", colors=INK, labelsize=TEXT, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(INK)
        label.set_fontsize(TEXT)


def style_legend(axes: Any, columns: int = 0, **options: Any) -> None:
    """A legend without a frame, where there is something to name: within the axes or, with a number of columns, below them."""
    if not axes.get_legend_handles_labels()[0]:
        return
    manner = {"frameon": False, "fontsize": TEXT - 1, "labelcolor": INK}
    if columns:
        axes.figure.legend(loc="outside lower left", ncols=columns, **manner, **options)
    else:
        axes.legend(loc="best", **manner, **options)


def finish(figure: Any, name: str, title: str, caption: str, description: str) -> Plot:
    """The figure as a `Plot`; it must not be drawn on afterwards."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Plot(name, title, caption, description, Markup(to_inline(buffer.getvalue(), name, title, description)))


def to_inline(svg: str, name: str, title: str, description: str) -> str:
    """An SVG file's text for the inside of an HTML page.

    Args:
        svg: as matplotlib writes it.
        name: goes before every name in it.
        title, description: read out in its place.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # would hold for the whole page
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'((?:xlink:)?href=")#(?!example-)', rf"\1#{name}-", svg).replace("url(#", f"url(#{name}-")
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{name}-title {name}-desc">'
    told = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return head + told + svg[svg.index(">") + 1 :]
