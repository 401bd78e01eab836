"""The stages of a run as plain functions of a `Run`: each finds what earlier ones wrote in the working directory and adds its own part.

    prepare ─► finetune ─► select ─► distill ─► evaluate ─► (robustness, analyse, look, privacy) ─► report

A notebook calls them just as the command does: `run = open_run(config, "runs/mine"); distill(run)`.
"""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddllm.checks import validate
from ddllm.config import resolve
from ddllm.data.batches import BatchStream
from ddllm.distill.artefact import Distilled, describe_base, load_distilled, save_distilled
from ddllm.distill.bodies import gather_bodies
from ddllm.distill.dataset import learned_parts
from ddllm.distill.optimizers import check_derivative
from ddllm.distill.outer_loop import STAGE as DISTILL
from ddllm.distill.outer_loop import distil
from ddllm.distill.plan import check_memory, first_data, make_outer_step, recipe_of
from ddllm.distill.teacher import OWN, load_teacher
from ddllm.errors import UserError
from ddllm.evaluate.analyses import analyse_distilled
from ddllm.evaluate.finetune import finetune as finetune_once
from ddllm.evaluate.finetune import full_row, score_finetuned
from ddllm.evaluate.robustness import evaluate_robustness
from ddllm.evaluate.selection import evaluate_selection, selection_row
from ddllm.evaluate.small import evaluate_distilled
from ddllm.evaluate.submission import check_submitted, evaluate_submission, read_sets
from ddllm.prepare import Prepared
from ddllm.prepare import prepare as prepare_parts
from ddllm.privacy.audit import audit
from ddllm.report.analyses import markdown_analyses, print_analyses
from ddllm.report.curve import draw_curve
from ddllm.report.page import write_page
from ddllm.report.results import add_lists, add_rows, read_results
from ddllm.report.table import make_title, markdown_table, print_table
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.devices import describe_environment, set_up, user_cache
from ddllm.runtime.loop import Loop
from ddllm.runtime.metrics import Metrics, read_metrics
from ddllm.runtime.processes import check_same, from_first, is_first, join
from ddllm.runtime.progress import say
from ddllm.runtime.storage import write_atomically, write_json
from ddllm.runtime.workdir import Workdir
from ddllm.text.look import look_at, markdown_look, print_look


@dataclass
class Run:
    """One configuration in one working directory.

    Attributes:
        config: the whole configuration.
        workdir: where everything is written, and locked for this run; of several processes, by the first one alone.
        distilled: another's result that is scored in place of the run's own (a folder, or a file of texts); None for the own one.
        name: of its rows.
    """

    config: ConfigDict
    workdir: Workdir
    distilled: Path | None = None
    name: str = "distilled"
    _prepared: Prepared | None = field(default=None, repr=False)

    @property
    def prepared(self) -> Prepared:
        """Data and model, read at first use."""
        if self._prepared is None:
            self._prepared = prepare_parts(self.config, self.workdir.tokens)
        return self._prepared

    def metrics(self) -> Metrics:
        """Where figures of long work go."""
        if not is_first():
            return Metrics(None)
        return Metrics(self.workdir.metrics, self.workdir.events if self.config.runtime.tensorboard else None)


def open_run(config: ConfigDict, folder: str | Path, command: str = "", distilled: str | Path = "", name: str = "") -> Run:
    """Check the configuration, set the devices up, join other processes of the run, and open the working directory.

    Raises:
        UserError: a value cannot be meant, other processes do not come, the folder holds a different run, or there is nothing at `distilled`.
    """
    validate(config)
    set_up(config.runtime)
    join(config.runtime)
    check_derivative(config.distill.inner_optimizer, "config.distill.inner_optimizer")
    resolved = resolve(config)
    if is_first():
        if distilled and not Path(distilled).exists():
            raise UserError(f"there is nothing at {distilled}; give --distilled a distilled folder, or a file of texts and labels.")
        workdir = Workdir.open(Path(folder), resolved, command)
    else:
        workdir = Workdir.elsewhere(user_cache("processes") or Path(tempfile.mkdtemp(prefix="ddllm-")))
    # Where a process stands among the others is its own, everything else is common.
    check_same("the configuration", {**resolved, "runtime": {}})
    return Run(config, workdir, Path(distilled), name or Path(distilled).name) if distilled else Run(config, workdir)


def prepare(run: Run) -> None:
    """Read corpus and model, tokenise once, and say what was found."""
    tokens, notes = run.prepared.tokens, run.prepared.tokens.notes
    sizes = ", ".join(f"{len(getattr(tokens, part)):,} {part}" for part in ("train", "validation", "test"))
    say(f"{tokens.name}: {sizes} texts; {run.prepared.learner.task.describe(tokens.train.labels, tokens.label_names)}")
    for name, counts in (
        ("duplicates removed", notes.get("duplicates_removed", {})),
        ("empty texts removed", notes.get("empty_removed", {})),
    ):
        if any(counts.values()):
            say(f"  {name}: " + ", ".join(f"{count} from {part}" for part, count in counts.items() if count))
    if any(notes["cut"].values()):
        cut = ", ".join(f"{count} of {part}" for part, count in notes["cut"].items() if count)
        say(f"  cut to {run.config.data.length} tokens: {cut}")


def finetune(run: Run) -> None:
    """Fine-tune on all training texts: the row "full"."""
    prepared, scores, seconds = run.prepared, [], 0.0
    for seed in range(run.config.seed, run.config.seed + run.config.finetune.seeds):
        checkpoints = Checkpoints(run.workdir.finetune / f"seed-{seed}", keep=1)
        metrics = run.metrics()
        try:
            state, took = finetune_once(prepared, seed, checkpoints, metrics)
        finally:
            checkpoints.close()
            metrics.close()
        scores.append(score_finetuned(prepared, state))
        seconds += took / run.config.finetune.seeds
    record(run, [full_row(scores, seconds, len(prepared.tokens.train), run.config.finetune, prepared.metric)])


def select(run: Run) -> None:
    """As many real examples as there will be distilled ones, chosen in several ways: the rows that the distilled data set has to beat."""
    config = run.config
    for name in config.evaluate.selections:
        draws = range(config.evaluate.selection_draws)
        selection = evaluate_selection(run.prepared, name, config.distill.examples_per_class, config.distill.batches, draws)
        record(run, [selection_row(run.prepared, selection)])


def distill(run: Run) -> None:
    """Learn the distilled data set and export what the best validation had."""
    prepared, config = run.prepared, run.config.distill
    data, recipe = first_data(prepared), recipe_of(config)
    stream = BatchStream(prepared.tokens.train, config.batch_size, run.config.seed, prepared.buckets, config.balanced)
    scorer = prepared.scorer(prepared.tokens.validation, config.validation_texts)
    checkpoints = Checkpoints(run.workdir.checkpoints, config.checkpoints_kept)
    unfinished = (checkpoints.latest() or 0) < config.outer_steps
    others = gather_bodies(prepared, run.workdir.bodies, run.metrics) if unfinished else ()
    teacher = load_teacher(prepared, teacher_folder(run), config.teacher_share) if config.teacher and unfinished else None
    metrics = run.metrics()
    loop = Loop(DISTILL, config.outer_steps, config.validate_every, config.checkpoint_every, checkpoints, metrics, prepared.metric)
    try:
        step = make_outer_step(prepared, data, config.gradient, config.segments, others=others)
        if unfinished:  # a finished run compiles nothing
            check_memory(prepared, step, data)
        state, seconds = distil(loop, step, learned_parts(data, recipe), stream, scorer, config.validation_heads, run.config.seed, teacher)
    finally:
        checkpoints.close()
        metrics.close()
    if not is_first():
        return
    best = jax.tree.map(np.asarray, state.best)
    save_distilled(
        run.workdir.distilled,
        data.replace(**best["learned"]),
        recipe,
        prepared.tokens.label_names,
        **describe_base(prepared.pretrained, prepared.learner, run.config.data.length, bool(run.config.data.pair_column)),
        **{f"validation_{prepared.metric}": float(best["accuracy"])},
        outer_step=int(best["step"]),
        distillation_seconds=seconds,
        config=resolve(run.config),
    )


def teacher_folder(run: Run) -> Path:
    """Where config.distill.teacher has its model."""
    name = run.config.distill.teacher
    return run.workdir.finetune if name == OWN else Workdir(Path(name), None).finetune


def evaluate(run: Run) -> None:
    """The distilled data set on test texts: its rows beside "full". Or another's result alone (docs/PROTOCOL.md)."""
    path, config = run.distilled, run.config.evaluate
    if path is not None and not from_first(path.is_dir):
        check_submitted(run.prepared)
        sets = from_first(lambda: read_sets(path, run.prepared.tokens.label_names, bool(run.config.data.pair_column)))
        tried = tuple(config.selection_rates), tuple(config.selection_passes)
        record(run, [evaluate_submission(run.prepared, sets, run.name, *tried, config.submission_batch)])
        return
    prepared, distilled = load_scored(run)
    rows = evaluate_distilled(prepared, distilled.data, distilled.recipe)
    for row in rows:
        row["name"] = run.name + row["name"].removeprefix("distilled")
        row["distillation_seconds"] = distilled.card.get("distillation_seconds")
    record(run, rows)


def robustness(run: Run) -> None:
    """The distilled data set away from its recipe and on other encoders: the list "robustness" of the results."""
    prepared, distilled = load_scored(run)
    record(run, [], {"robustness": evaluate_robustness(prepared, distilled, run.workdir.tokens)})


def analyse(run: Run) -> None:
    """Hard-label accuracy, accuracy against stored bytes, and compute: the lists "labels", "storage" and "compute" of the results."""
    prepared, distilled = load_scored(run)
    rows = from_first(lambda: read_results(run.workdir.results)["rows"] if run.workdir.results.exists() else [])
    full, own = (next((row for row in rows if row["name"] == name), {}) for name in ("full", run.name))
    record(run, [], analyse_distilled(prepared, distilled, full, own))


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


def privacy(run: Run) -> None:
    """What the distilled data set gives away: the lists "privacy" and "nearness" of the results."""
    prepared, distilled = load_scored(run)
    rows = from_first(lambda: read_results(run.workdir.results)["rows"] if run.workdir.results.exists() else [])
    there = from_first(lambda: any(run.workdir.finetune.glob("seed-*")))

    def finetuned() -> tuple[Any, Any]:
        model = load_teacher(prepared, run.workdir.finetune, 1.0)
        return model.params, model.words

    record(run, [], audit(prepared, distilled, rows, finetuned if there else None, run.workdir.privacy if is_first() else None))


def load_scored(run: Run) -> tuple[Prepared, Distilled]:
    """What the distill stage of this run exported, or the folder given in its place; and what is prepared, with the learner that it was distilled for.

    Raises:
        UserError: distillation has not run to its end, or the result is no folder, or belongs to other weights or other classes.
    """
    folder, prepared = run.distilled or run.workdir.distilled, run.prepared

    def load() -> Distilled:
        if not folder.exists():
            raise UserError(f"there is no distilled data set in {folder}; run --mode=distill first.")
        if not folder.is_dir():
            raise UserError(f"{folder} holds texts, which have no recipe that could be varied; only --mode=evaluate scores them.")
        return load_distilled(folder)

    distilled = from_first(load)
    distilled.check_base(prepared.pretrained)
    learner = distilled.learner(prepared.pretrained)
    tokens, asked = prepared.tokens, (prepared.learner.task.name, bool(run.config.data.pair_column))
    distilled.check_data(str(folder), learner.task.name, tokens.name, tokens.label_names, *asked)
    return replace(prepared, learner=learner), distilled


def record(run: Run, rows: list[dict[str, Any]], lists: dict[str, list[dict[str, Any]]] | None = None) -> None:
    """Put rows, and lists of others about the distilled data set, into results.json, with the configuration and the surroundings."""
    if not is_first():
        return
    tokens = run.prepared.tokens
    shown = run.prepared.learner.task.shown(tokens.test.labels, len(tokens.label_names))
    notes = {
        "data": tokens.name,
        "model": run.prepared.pretrained.name,
        "texts": tokens.notes,
        "figures": list(dict.fromkeys([*shown, run.prepared.metric])),
    }
    surroundings = resolve(run.config), describe_environment() | notes
    add_rows(run.workdir.results, rows, *surroundings)
    if lists:
        add_lists(run.workdir.results, run.name, lists, *surroundings)


def report(run: Run) -> None:
    """Show the table, write it as Markdown, draw the curve, and say where everything is."""
    if not is_first():
        return
    results = read_results(run.workdir.results)
    print_table(results)
    print_analyses(results)
    with write_atomically(run.workdir.path / "results.md") as temporary:
        temporary.write_text(markdown_table(results) + markdown_analyses(results), encoding="utf-8")
    metrics = [line for line in read_metrics(run.workdir.metrics) if line["stage"] == DISTILL]
    if metrics:
        draw_curve(metrics, results["rows"], run.workdir.curve, make_title(results))
    write_page(run.workdir.path)
    for name, path in run.workdir.contents():
        say(f"  {name:<24}{path}")


STAGES: dict[str, Callable[[Run], None]] = {
    "prepare": prepare,
    "finetune": finetune,
    "select": select,
    "distill": distill,
    "evaluate": evaluate,
    "robustness": robustness,
    "analyse": analyse,
    "look": look,
    "privacy": privacy,
    "report": report,
}


def run_stages(run: Run, names: list[str]) -> None:
    """Run stages in their order, whatever the order of the names."""
    for name, stage in STAGES.items():
        if name in names:
            stage(run)
