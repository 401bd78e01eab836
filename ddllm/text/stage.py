"""The stages `text` and `look`: text that trains, and distilled examples to look at."""

import re
from dataclasses import replace
from functools import partial
from hashlib import sha256
from os.path import expanduser
from pathlib import Path, PurePath
from typing import Any

from ddllm.artefact.export import kept_config
from ddllm.evaluate.texts import evaluate_text
from ddllm.prepare import Prepared
from ddllm.report.results import OWN_NAME
from ddllm.run import Run, load_scored, record
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say
from ddllm.runtime.storage import write_atomically, write_json
from ddllm.text.checks import NEEDS_DISTILLED, ROUTE_NAMES, TRAIN, route_names
from ddllm.text.distilled_text import DistilledText, text_of
from ddllm.text.judge import judge_texts, tell
from ddllm.text.learn import Desk
from ddllm.text.likelihood import LanguageModel, open_language_model
from ddllm.text.look import look_at, markdown_look, print_look
from ddllm.text.routes import project, write_text


def text(run: Run) -> None:
    """Text that trains, by each route of config.text.route: a folder below `text`, and rows "projected" and "text (route)" beside "distilled".

    Of a set with a name of its own (--distilled, --name) it lies in a folder of that name, which its rows begin with too.
    """
    names, config = route_names(run.config.text), run.config
    if config.text.words not in ("", TRAIN):
        run.keep_origin({"list of words for texts": sha256(Path(expanduser(config.text.words)).read_bytes()).hexdigest()})
    judge = open_language_model(config.text.judge) if config.text.judge else None
    own = load_scored(run) if run.distilled or from_first(run.workdir.distilled.exists) else None
    called = "" if run.name == OWN_NAME else f"{run.name}, "
    begun = load_scored(replace(run, distilled=Path(expanduser(config.text.start)), _prepared=run.prepared)) if config.text.start else None
    if own and "project" not in names:
        record(run, score(own[0], project(*own), f"{called}projected", judge))
    for name in names:
        prepared, start = begun or (own if name in NEEDS_DISTILLED else None) or (run.prepared, None)
        below, mark = (folder_name(run.name), called) if start is not None and not begun and called else ("", "")
        if start is not None:
            run.keep_origin({f"distilled data set for the text {PurePath(below, name)}": str(start.checksum)})
        teacher = partial(run.teacher, prepared) if config.distill.teacher else None
        desk = Desk(run.workdir.text_work / below, run.metrics, teacher, run.workdir.bodies, run.name if below else "")
        made = write_text(name, prepared, start, desk, run.workdir.text / below / name, kept_config(config))
        record(run, score(prepared, made, mark + ("projected" if name == "project" else f"text ({name})"), judge))


def folder_name(name: str) -> str:
    """Of the texts of a set with a name of its own, beside those of the run's own routes."""
    return slug(name) + "-set" * (slug(name) in ROUTE_NAMES)


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.-]+", "-", name)


def score(prepared: Prepared, made: DistilledText, name: str, judge: LanguageModel | None) -> list[dict[str, Any]]:
    """Rows of a text's test figures and, where there is a judge, of how readable it is (judge.py)."""
    rows = evaluate_text(prepared, made, name)
    if judge is None:
        return rows
    figures = judge_texts(prepared, [text_of(prepared, made)], judge)
    figures["judge_took_part"] = name == "text (search)" and prepared.config.text.fluency_model == prepared.config.text.judge
    return [row | figures | {"note": f"{row['note']}; {tell(figures)}"} for row in rows]


def look(run: Run) -> None:
    """Distilled examples beside the nearest real ones: shown, and written as look.md; of the run's own data set as look.json too, for the page."""
    prepared, distilled = load_scored(run)
    found = look_at(prepared, distilled)
    if not is_first():
        return
    print_look(found)
    path = run.workdir.look.with_suffix(".md")
    if run.distilled is None:
        write_json(run.workdir.look, found)
    else:
        path = path.with_stem("look-" + slug(run.name))
    title = ", ".join((run.name, prepared.tokens.name, PurePath(prepared.pretrained.name).name))
    with write_atomically(path) as temporary:
        temporary.write_text(markdown_look(found, title), encoding="utf-8")
    say(f"  every position's nearest tokens are in {path}")
