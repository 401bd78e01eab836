"""The stages `text` and `look`: text that trains, and distilled examples to look at."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

from ddllm.config import resolve
from ddllm.distill.teacher import load_teacher
from ddllm.evaluate.texts import evaluate_text
from ddllm.run import Run, load_scored, record
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say
from ddllm.runtime.storage import write_atomically, write_json
from ddllm.text.checks import NEEDS_DISTILLED, route_names
from ddllm.text.learn import Desk
from ddllm.text.look import look_at, markdown_look, print_look
from ddllm.text.routes import project, write_text


def text(run: Run) -> None:
    """Text that trains, by each route of config.text.route: a folder below `text`, and rows "projected" and "text (route)" beside "distilled"."""
    names, config = route_names(run.config.text), run.config
    own = load_scored(run) if run.distilled or from_first(run.workdir.distilled.exists) else None
    begun = load_scored(replace(run, distilled=Path(config.text.start), _prepared=run.prepared)) if config.text.start else None
    if own and "project" not in names:
        record(run, evaluate_text(own[0], project(*own), "projected"))
    for name in names:
        prepared, start = begun or (own if name in NEEDS_DISTILLED else None) or (run.prepared, None)
        teacher = partial(load_teacher, prepared, run.teacher_folder, config.distill.teacher_share) if config.distill.teacher else None
        folder = run.workdir.text / name
        made = write_text(name, prepared, start, Desk(run.workdir.text_work, run.metrics, teacher), folder, resolve(config))
        record(run, evaluate_text(prepared, made, "projected" if name == "project" else f"text ({name})"))


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
        path = path.with_stem("look-" + re.sub(r"[^\w.-]+", "-", run.name))
    title = ", ".join((run.name, prepared.tokens.name, PurePath(prepared.pretrained.name).name))
    with write_atomically(path) as temporary:
        temporary.write_text(markdown_look(found, title), encoding="utf-8")
    say(f"  every position's nearest tokens are in {path}")
