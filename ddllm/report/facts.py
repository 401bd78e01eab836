"""Short facts for the page: the figures at its top, what the folder says of itself, and lists of results that no layout is known for."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from ddllm.config import flatten
from ddllm.report.analyses import Shown
from ddllm.report.results import FULL, metric_of
from ddllm.report.table import EMBEDDED, FIGURES, NOTHING

Row = dict[str, Any]
NOT_LISTS = ("rows", "config", "environment")
ELSEWHERE = ("config", "learning_rates", "scores", "updated")  # on the page: as a text of its own, as a figure, in words
LONG = 64  # characters of a fact that stand in a cell


def make_tiles(results: dict[str, Any], distilled: Any) -> list[tuple[str, str, str]]:
    """(figure, what it is, a remark) for the top of the page."""
    rows = results["rows"]
    own = next((row for row in rows if row["name"] == "distilled"), next((row for row in rows if row["name"] != FULL), None))
    tiles = []
    if own is not None:
        metric = metric_of(own)
        name = FIGURES.get(metric, metric).removesuffix(", %")
        remark = f"of full data’s {100 * full:.1f} %" if (full := _full(rows, metric)) is not None else "on test texts"
        tiles.append((f"{100 * own[f'{metric}_mean']:.1f} %", f"{name}, {own['name']}", remark))
        if own.get("percent_of_full") is not None:
            tiles.append((f"{own['percent_of_full']:.1f} %", "of full-data fine-tuning", ""))
        if own.get("seconds") is not None:
            tiles.append((tell_time(own["seconds"]), "to train on it", f"{own.get('inner_steps', NOTHING)} inner steps"))
    if distilled is not None:
        data = distilled.data
        tiles.append((f"{data.examples}", "synthetic examples", f"of {data.embeddings.shape[2]} positions"))
        tiles.append((f"{4 * data.floats / 1000:,.0f} kB", "in 32 bits", f"{data.floats:,} learned numbers"))
    return tiles


def tell_time(seconds: float) -> str:
    """A duration in a word."""
    if seconds < 1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _full(rows: list[Row], metric: str) -> float | None:
    return next((row.get(f"{metric}_mean") for row in rows if row["name"] == FULL), None)


def describe_size(distilled: Any) -> str:
    """One sentence about what was distilled; nothing without it."""
    if distilled is None:
        return ""
    data, names = distilled.data, distilled.label_names
    batches, examples, positions, hidden = data.embeddings.shape
    base = PurePath(str(distilled.card.get("base_model", {}).get("name", "an encoder"))).name
    base = EMBEDDED["model"] if base == "embedded" else base
    what = "predict numbers" if distilled.card.get("task", {}).get("name") == "regression" else "a classifier"
    return (
        f"{data.examples} synthetic examples in {batches} inner batch{'es' if batches > 1 else ''} of {examples}, each a sequence of {positions} input "
        f"embeddings of {hidden} numbers, with labels over {', '.join(names)}: learned so that "
        f"{data.steps} inner step{'s' if data.steps > 1 else ''} of training on them alone make {base} {what}."
    )


def describe_card(distilled: Any) -> list[tuple[str, str]]:
    """What recipe.json says, as (fact, value) with dots between its levels: figures first, checksums last; what stands elsewhere is left out."""
    if distilled is None:
        return []
    card = {key: value for key, value in distilled.card.items() if key not in ELSEWHERE}
    card["merged"] = {key: value for key, value in card.get("merged", {}).items() if key != "sets"}
    plain = [(name, tell(value)) for name, value in flatten(card).items()]
    sums = [fact for fact in plain if re.fullmatch(r"[0-9a-f]{64}", fact[1])]
    return [*_in_words(distilled.card), *(fact for fact in plain if fact not in sums), *sums]


def _in_words(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Test scores, and the sets that were merged into one or that it was made of."""
    from ddllm.artefact import card as words  # only here: it imports jax
    from ddllm.artefact.schema import parts_of

    for score in card["scores"]:
        figure = words.FIGURES.get(score["figure"], score["figure"])
        yield score["name"], f"{figure} {words.score_sentence(score)} on {score['texts']:,} test texts"
    for part in parts_of(card):
        what = "updated from" if part is card.get("updated") else "merged from"
        size = f", {tell(part['examples'])} examples in {tell(part.get('inner_steps'))} inner steps" if "examples" in part else ""
        yield what, f"{part.get('name', 'a set')}: {', '.join(map(str, part.get('label_names', ())))}{size}"


def tell(value: Any) -> str:
    """A value of JSON as a person reads it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(tell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {tell(item)}" for key, item in value.items())
    return str(value)


def other_lists(results: dict[str, Any], known: tuple[str, ...]) -> list[Shown]:
    """Lists of rows beside "rows" that have no layout of their own, such as another stage's: a table with a column for each short fact."""
    shown = []
    for key, rows in results.items():
        if key in NOT_LISTS or key in known or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
            continue
        columns = [name for name in dict.fromkeys(name for row in rows for name in row) if any(_short(row.get(name)) for row in rows)]
        columns = [name for name in columns if name != "note"]
        cells = [tuple(tell(row.get(name)) if _short(row.get(name)) else NOTHING for name in columns) for row in rows]
        notes = list(dict.fromkeys(str(row["note"]) for row in rows if row.get("note")))
        shown.append(Shown(key, key.replace("_", " ").capitalize(), tuple(name.replace("_", " ") for name in columns), cells, notes))
    return shown


def _short(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONG)
