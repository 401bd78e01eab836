"""The page: everything that a run's folder knows, as one HTML file that needs nothing else and asks nothing of any network.

`write_page` reads results.json, metrics.jsonl, distilled/, look.json and commands.txt, each of which may be missing, and fills templates/report.html. Text of
the corpus is escaped; a content security policy allows the page's own script and nothing else.
"""

import base64
import hashlib
import json
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ddllm.artefact.command_line import asked
from ddllm.errors import UserError
from ddllm.report.analyses import LAYOUTS, make_tables
from ddllm.report.costs import draw_compute, draw_storage
from ddllm.report.facts import describe_card, describe_size, make_tiles, other_lists
from ddllm.report.figures import draw_changes, draw_curves, draw_map, draw_rates, draw_results
from ddllm.report.results import OWN_NAME, read_results
from ddllm.report.svg import Plot
from ddllm.report.table import make_cells, make_headings, make_notes, make_title
from ddllm.runtime.metrics import read_metrics
from ddllm.runtime.storage import read_json, write_atomically
from ddllm.runtime.workdir import PAGE

TEMPLATES = Path(__file__).parent / "templates"
LOSS = "Loss on real training texts after training on the distilled data; thick: a running mean."
VALIDATION = "The figure that chooses the exported data set, on validation texts."


def write_page(folder: Path, path: Path | None = None) -> Path:
    """Write a run's page, by default as report.html in its folder, and return where it is.

    Raises:
        UserError: the folder has no results.json, or a broken one.
    """
    path = path or folder / PAGE
    page = render("report.html", **gather(folder))
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def gather(folder: Path) -> dict[str, Any]:
    """What the template takes: plain values, figures, and tables of text."""
    results = read_results(folder / "results.json")
    metrics = read_metrics(folder / "metrics.jsonl")
    look = read_look(folder / "look.json")
    distilled, trouble = read_distilled(folder / "distilled")
    plots = make_plots(results, metrics, distilled, look.get("groups", []))
    commands = folder / "commands.txt"
    lines = commands.read_text(encoding="utf-8").splitlines() if commands.is_file() else []
    return {
        "title": make_title(results),
        "folder": folder.as_posix(),
        "tiles": make_tiles(results, distilled),
        "size": describe_size(distilled),
        "headings": make_headings(results),
        "rows": [(row["name"].startswith("distilled"), cells) for row, cells in zip(results["rows"], make_cells(results), strict=True)],
        "notes": make_notes(results),
        "plots": plots,
        "look": look,
        "map": draw_map(look["map"]) if look.get("map") else None,
        "tables": [*make_tables(results), *other_lists(results, tuple(LAYOUTS))],
        "card": describe_card(distilled),
        "trouble": trouble,
        "command": making_command([line.split(" ", 2)[-1] for line in lines]),
        "commands": lines,
        "environment": json.dumps(results.get("environment", {}), indent=2, ensure_ascii=False),
        "config": json.dumps(results["config"], indent=2, ensure_ascii=False),
    }


def making_command(commands: list[str]) -> str:
    """The last of the commands that distilled or merged, or else the last one."""
    for command in reversed(commands):
        try:
            arguments = shlex.split(command)
        except ValueError:
            continue
        stages = (asked(arguments, "mode") or "all").split(",")
        if arguments and ({"distill", "merge"} & set(stages) or ("all" in stages and not asked(arguments, "distilled"))):
            return command
    return commands[-1] if commands else ""


def read_look(path: Path) -> dict[str, Any]:
    """What the stage look has found; empty where it has not run."""
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def read_distilled(folder: Path) -> tuple[Any, str]:
    """The distilled data set, or None; and a sentence where there is a folder that cannot be opened."""
    if not folder.is_dir():
        return None, ""
    from ddllm.artefact.folder import load_distilled

    try:
        return load_distilled(folder), ""
    except UserError as error:
        return None, str(error)


def make_plots(results: dict[str, Any], metrics: list[dict[str, Any]], distilled: Any, groups: list[str]) -> list[Plot]:
    """The figures that there is something to draw for; `groups` names those of parameters, where that is known."""
    texts = results.get("environment", {}).get("texts", {}).get("rows", {}).get("test", 0)
    drawn = [
        draw_results(results["rows"], texts),
        draw_curves({"": metrics}, [], "loss", "loss", "Outer loss", LOSS),
        draw_curves({"": metrics}, results["rows"], "validation_", "validation", "While distilling", VALIDATION),
        draw_learned_rates(distilled, groups) if distilled is not None else None,
        *(draw_changes(rows, name) for name, rows in by_name(results.get("robustness", [])).items()),
        *(draw_compute(rows, name) for name, rows in by_name(results.get("compute", [])).items()),
        *(draw_storage(rows, name) for name, rows in by_name(results.get("storage", [])).items()),
    ]
    return [plot for plot in drawn if plot is not None]


def by_name(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of several data sets, apart."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.get("name", OWN_NAME), []).append(row)
    return found


def draw_learned_rates(distilled: Any, groups: list[str]) -> Plot:
    """The rates of a distilled data set."""
    from ddllm.distill.dataset import actual_rates

    rates_SG = np.asarray(actual_rates(distilled.data))
    kind = distilled.card.get("config", {}).get("distill", {}).get("rates", "")
    return draw_rates(rates_SG, groups if len(groups) == rates_SG.shape[1] else name_groups(rates_SG.shape[1], kind))


def name_groups(count: int, kind: str) -> list[str]:
    """Names of so many groups of parameters by config.distill.rates alone; those of single arrays take the encoder itself to tell."""
    if count == 1:
        return ["all"]
    if kind == "layer":
        return ["embeddings", *(f"layer {number}" for number in range(count - 2)), "head"]
    return [f"array {number}" for number in range(count)]


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(template: str, **values: Any) -> str:
    """A template of templates/ filled in, with the common style and script inside, and a policy that lets no other script run."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(style=Markup(style), script=Markup(script), policy=policy, **values)
