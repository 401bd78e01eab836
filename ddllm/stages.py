"""The stages of a run as plain functions of a `Run`: each finds what earlier ones wrote in the working directory and adds its own part.

    prepare ─► finetune ─► distill ─► evaluate ─► report

A notebook calls them just as the command does: `run = open_run(config, "runs/mine"); distill(run)`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddllm.config import resolve, validate
from ddllm.data.batches import BatchStream
from ddllm.distill.artefact import Distilled, describe_base, load_distilled, save_distilled
from ddllm.distill.dataset import learned_parts
from ddllm.distill.optimizers import check_derivative
from ddllm.distill.outer_loop import STAGE as DISTILL
from ddllm.distill.outer_loop import distil
from ddllm.distill.plan import check_memory, first_data, make_outer_step, recipe_of
from ddllm.errors import UserError
from ddllm.evaluate.finetune import finetune as finetune_once
from ddllm.evaluate.finetune import full_row, score_finetuned
from ddllm.evaluate.small import evaluate_distilled, evaluate_random
from ddllm.prepare import Prepared
from ddllm.prepare import prepare as prepare_parts
from ddllm.report.curve import draw_curve
from ddllm.report.results import add_rows, read_results
from ddllm.report.table import make_title, markdown_table, print_table
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.devices import describe_environment, set_up, user_cache
from ddllm.runtime.loop import Loop
from ddllm.runtime.metrics import Metrics, read_metrics
from ddllm.runtime.processes import check_same, from_first, is_first, join
from ddllm.runtime.progress import say
from ddllm.runtime.storage import write_atomically
from ddllm.runtime.workdir import Workdir


@dataclass
class Run:
    """One configuration in one working directory.

    Attributes:
        config: the whole configuration.
        workdir: where everything is written, and locked for this run; of several processes, by the first one alone.
    """

    config: ConfigDict
    workdir: Workdir
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


def open_run(config: ConfigDict, folder: str | Path, command: str = "") -> Run:
    """Check the configuration, set the devices up, join other processes of the run, and open the working directory.

    Raises:
        UserError: a value cannot be meant, other processes do not come, or the folder holds a different run.
    """
    validate(config)
    set_up(config.runtime)
    join(config.runtime)
    check_derivative(config.distill.inner_optimizer, "config.distill.inner_optimizer")
    resolved = resolve(config)
    if is_first():
        workdir = Workdir.open(Path(folder), resolved, command)
    else:
        workdir = Workdir.elsewhere(user_cache("processes") or Path(tempfile.mkdtemp(prefix="ddllm-")))
    # Where a process stands among the others is its own, everything else is common.
    check_same("the configuration", {**resolved, "runtime": {}})
    return Run(config, workdir)


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


def distill(run: Run) -> None:
    """Learn the distilled data set and export what the best validation had."""
    prepared, config = run.prepared, run.config.distill
    data, recipe = first_data(prepared), recipe_of(config)
    step = make_outer_step(prepared, data, config.gradient, config.segments)
    stream = BatchStream(prepared.tokens.train, config.batch_size, run.config.seed, prepared.buckets)
    scorer = prepared.scorer(prepared.tokens.validation, config.validation_texts)
    checkpoints, metrics = Checkpoints(run.workdir.checkpoints, config.checkpoints_kept), run.metrics()
    loop = Loop(DISTILL, config.outer_steps, config.validate_every, config.checkpoint_every, checkpoints, metrics, prepared.metric)
    try:
        if (checkpoints.latest() or 0) < config.outer_steps:  # a finished run compiles nothing
            check_memory(prepared, step, data)
        state, seconds = distil(loop, step, learned_parts(data, recipe), stream, scorer, config.validation_heads, run.config.seed)
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


def evaluate(run: Run) -> None:
    """Random real examples and the distilled data set on test texts: the rows beside "full"."""
    distilled = load_own(run)
    random = evaluate_random(run.prepared, distilled.data, distilled.recipe)
    rows = evaluate_distilled(run.prepared, distilled.data, distilled.recipe)
    for row in rows:
        row["distillation_seconds"] = distilled.card["distillation_seconds"]
    record(run, [random, *rows])


def load_own(run: Run) -> Distilled:
    """What the distill stage of this run exported.

    Raises:
        UserError: it has not run to its end, or its result belongs to other weights.
    """

    def load() -> Distilled:
        if not run.workdir.distilled.exists():
            raise UserError(f"there is no distilled data set in {run.workdir.distilled}; run --mode=distill first.")
        return load_distilled(run.workdir.distilled)

    distilled = from_first(load)
    distilled.check_base(run.prepared.pretrained)
    return distilled


def record(run: Run, rows: list[dict[str, Any]]) -> None:
    """Put rows into results.json, with the configuration and the surroundings."""
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
    add_rows(run.workdir.results, rows, resolve(run.config), describe_environment() | notes)


def report(run: Run) -> None:
    """Show the table, write it as Markdown, draw the curve, and say where everything is."""
    if not is_first():
        return
    results = read_results(run.workdir.results)
    print_table(results)
    with write_atomically(run.workdir.path / "results.md") as temporary:
        temporary.write_text(markdown_table(results), encoding="utf-8")
    metrics = [line for line in read_metrics(run.workdir.metrics) if line["stage"] == DISTILL]
    if metrics:
        draw_curve(metrics, results["rows"], run.workdir.curve, make_title(results))
    for name, path in run.workdir.contents():
        say(f"  {name:<24}{path}")


STAGES: dict[str, Callable[[Run], None]] = {
    "prepare": prepare,
    "finetune": finetune,
    "distill": distill,
    "evaluate": evaluate,
    "report": report,
}


def run_stages(run: Run, names: list[str]) -> None:
    """Run stages in their order, whatever the order of the names."""
    for name, stage in STAGES.items():
        if name in names:
            stage(run)
