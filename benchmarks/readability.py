"""How readable the texts behind the cells of results/TEXT.json are (ddllm/text/judge.py), and the table of accuracy against fluency.

Texts are taken from where the runs left them, so that finished runs can be judged; a cell keeps its figures until its texts, or the judge, are others.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.entries import Entry
from benchmarks.jobs import Job
from ddllm.artefact.folder import load_distilled
from ddllm.artefact.rows import TEXT
from ddllm.evaluate.selection import pick_for_seeds
from ddllm.evaluate.submission import read_sets
from ddllm.prepare import Prepared, prepare
from ddllm.runtime.storage import read_json
from ddllm.runtime.workdir import Workdir
from ddllm.text.distilled_text import text_of
from ddllm.text.judge import judge_texts, selected_texts
from ddllm.text.likelihood import open_language_model
from ddllm.text.routes import project
from ddllm.text.stage import folder_name

SELECTED = ("random", "k_centers")
GIVEN = "--distilled="
ALL = "all"  # in the place of a seed, where a run has the texts of all of them
HEADINGS = ("training data", "per class", "accuracy, %", "perplexity", "× real", "per word, × real")
HEADINGS += ("distinct-2", "repeated 4-grams, %", "mistakes in 100 words")


class Reader:
    """Judges the texts of finished runs.

    Args:
        name: of the language model, as config.text.judge takes it.
    """

    def __init__(self, name: str):
        self.name, self.judge = name, open_language_model(name)

    def enter(self, cells: dict[str, Entry], job: Job, names: dict[str, str]) -> None:
        """Put the figures of a run's texts into its cells.

        Args:
            cells: that the run has entered, by name.
            job: the run.
            names: from names of its rows to names of cells.
        """
        cells = {name: cell for name, cell in cells.items() if name not in ("full", "distilled")}
        if not cells:
            return
        prepared = prepare(job.member.config, Workdir(job.member.folder, None).tokens)  # from the run's own cache
        for name, cell in cells.items():
            file = file_of(job, next((row for row, other in names.items() if other == name), name))
            if name == "projected" and file is None:  # of another run, which had a distilled set
                continue
            sets = sets_of(prepared, job, name, file)
            mark = hashlib.sha256(json.dumps([self.judge.name, sets]).encode()).hexdigest()[:16]
            seed = ALL if job.kind == "select" or name == "dilm" else str(job.seeds[0])
            known = cell.setdefault("fluency", {})
            if known.get(seed, {}).get("texts") == mark:
                continue
            found = judge_texts(prepared, sets, self.judge)
            known[seed] = found | {"texts": mark, "judge_took_part": file is not None and searched_with(file) == self.name}


def file_of(job: Job, row: str) -> Path | None:
    """The file of texts behind a row of a run: what it wrote, or was given (of a projection, the distilled folder); None where there is none."""
    if found := re.fullmatch(r"(?:(.+), )?text \((.+)\)", row):
        return job.member.folder / "text" / (folder_name(found[1]) if found[1] else "") / found[2] / TEXT
    return next((Path(part.removeprefix(GIVEN)) for part in job.member.line if part.startswith(GIVEN)), None)


def searched_with(file: Path) -> str:
    """The language model that a search asked for the texts of a file; empty where none did."""
    config = file.parents[2] / "config.json"
    if (file.parent.name, file.name) != ("search", TEXT) or not config.is_file():
        return ""
    return read_json(config)["text"].get("fluency_model", "")


def sets_of(prepared: Prepared, job: Job, name: str, file: Path | None) -> list[list[str]]:
    """The texts behind a cell, in sets that are trained on together.

    Args:
        prepared: data and model.
        job: the run.
        name: of the cell.
        file: of `file_of`; None for selections.
    """
    if name in SELECTED:
        assert job.per_class is not None
        picked = pick_for_seeds(prepared, name, job.per_class, range(len(job.seeds)))
        sets = [selected_texts(prepared, rows) for rows in picked.values()]
        return sets[:1] if sets == sets[:1] * len(sets) else sets
    assert file is not None
    if name == "projected":
        return [text_of(prepared, project(prepared, load_distilled(file)))]
    return [made.texts for made in read_sets(file, prepared.tokens.label_names)]


def mean_fluency(cell: Entry) -> dict[str, Any]:
    """A cell's figures, means over seeds; empty where it was not judged."""
    found = list(cell.get("fluency", {}).values())
    if not found:
        return {}
    figures = {name for name, value in found[0].items() if isinstance(value, float)}.intersection(*found)
    return {name: statistics.fmean(one[name] for one in found) for name in figures} | {"judge_took_part": any(one["judge_took_part"] for one in found)}


def told(cell: Entry) -> str:
    """A cell's perplexity as a multiple of that of real sentences; with a star where the judge took part in making the text."""
    found = mean_fluency(cell)
    return f"{found['perplexity'] / found['perplexity_real']:.1f}{'*' * found['judge_took_part']}" if found else "–"


def markdown_curve(here: list[Entry], title: Callable[[Entry], str]) -> list[str]:
    """The table of accuracy against fluency of a section's cells, the most fluent first, one line for each; nothing where none was judged."""
    judged = [(cell, found) for cell in here if (found := mean_fluency(cell))]
    if not judged:
        return []
    judges = sorted({one["judge"] for cell, _ in judged for one in cell["fluency"].values()})
    lines = ["", f"Accuracy against fluency, judged by {', '.join(judges)}"]
    lines[-1] += " (*: took part in making the text)." if any(found["judge_took_part"] for _, found in judged) else "."
    lines[-1] += " Perplexity is that of a token of the judge; per word its tokens do not matter."
    lines += ["", f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    for cell, found in sorted(judged, key=lambda pair: pair[1]["perplexity"] / pair[1]["perplexity_real"]):
        lines.append(_line(title(cell), cell["examples_per_class"], f"{100 * cell['accuracy_mean']:.1f}", found, told(cell)))
    for count in sorted({cell["examples_per_class"] for cell, _ in judged}):
        found = next(found for cell, found in judged if cell["examples_per_class"] == count)
        lines.append(_line("any real sentences", count, "–", {name: found.get(f"{name}_real", found[name]) for name in found}, "1.0"))
    return lines


def _line(title: str, count: int, accuracy: str, found: dict[str, Any], ratio: str) -> str:
    per_word = math.exp(found["nll_per_word"] - found["nll_per_word_real"])
    grammar = f"{found['grammar']:.1f}" if "grammar" in found else "–"
    repetition = f"{found['distinct_2']:.2f}", f"{100 * found['repeated_4']:.1f}"
    cells = (title, f"{count}", accuracy, f"{found['perplexity']:.0f}", ratio, f"{per_word:.1f}", *repetition, grammar)
    return f"| {' | '.join(cells)} |"
