"""The stages of a run as plain functions of a `Run`: each finds what earlier ones wrote in the working directory and adds its own part.

    prepare ─► finetune ─► select ─► distill (or merge) ─► evaluate ─► (text, robustness, analyse, look, prompt, privacy, continual, verify) ─► report

A notebook calls them just as the command does: `run = open_run(config, "runs/mine"); distill(run)`.
"""

from collections.abc import Callable

from ddllm.artefact.export import export_distilled, scores_of
from ddllm.artefact.folder import add_scores
from ddllm.artefact.stage import verify
from ddllm.continual.stage import continual
from ddllm.data.splits import strata
from ddllm.distill.learn import distil_texts
from ddllm.distill.outer_loop import STAGE as DISTILL
from ddllm.distill.plan import picked_from, recipe_of
from ddllm.distill.teacher import BRIEF, OWN
from ddllm.evaluate.analyses import analyse_distilled
from ddllm.evaluate.finetune import finetune as finetune_once
from ddllm.evaluate.finetune import full_row, score_finetuned
from ddllm.evaluate.robustness import evaluate_robustness
from ddllm.evaluate.selection import evaluate_selection, selection_row
from ddllm.evaluate.short import finetune_shortly
from ddllm.evaluate.small import evaluate_distilled
from ddllm.evaluate.submission import check_submitted, evaluate_submission, read_sets
from ddllm.merge.stage import merge
from ddllm.privacy.stage import privacy
from ddllm.prompt.stage import prompt
from ddllm.report.analyses import markdown_analyses, print_analyses
from ddllm.report.curve import draw_curve
from ddllm.report.page import write_page
from ddllm.report.results import read_results
from ddllm.report.table import make_title, markdown_table, print_table
from ddllm.run import Run, load_scored, of_same_texts, open_run, record
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.metrics import read_metrics
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say
from ddllm.runtime.storage import write_atomically
from ddllm.runtime.workdir import TABLE
from ddllm.select.methods import rows_of_classes
from ddllm.text.stage import look, text
from ddllm.values import split_parts

# What a notebook finds here.
__all__ = [
    "Run",
    "STAGES",
    "analyse",
    "continual",
    "distill",
    "evaluate",
    "finetune",
    "load_scored",
    "look",
    "merge",
    "open_run",
    "prepare",
    "privacy",
    "prompt",
    "record",
    "report",
    "robustness",
    "run_stages",
    "select",
    "text",
    "verify",
]


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
    texts, products = len(prepared.tokens.train), prepared.learner.encoder.products
    record(run, [full_row(scores, seconds, texts, run.config.finetune, prepared.metric, products)])


def select(run: Run) -> None:
    """As many real examples as there will be distilled ones, chosen in several ways: the rows that the distilled data set has to beat."""
    config = run.config
    for name in config.evaluate.selections:
        draws = range(config.evaluate.selection_draws)
        selection = evaluate_selection(run.prepared, name, config.distill.examples_per_class, config.distill.batches, draws)
        record(run, [selection_row(run.prepared, selection)])


def distill(run: Run) -> None:
    """Learn the distilled data set and export what validations chose."""
    prepared, config = run.prepared, run.config.distill
    run.keep_sources()
    teacher = run.teacher if config.teacher else None
    data, figures = distil_texts(prepared, run.workdir.checkpoints, run.workdir.bodies, run.metrics, DISTILL, teacher)
    taught = run.taught()
    if is_first():
        export_distilled(run.workdir.distilled, prepared, data, recipe_of(config), **figures, **taught)


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
    same = of_same_texts(prepared, distilled)
    for row in rows:
        row["name"] = run.name + row["name"].removeprefix("distilled")
        row["note"] += "" if same else "; it or its teacher learned from another corpus or split, whose training texts may be among these test texts"
        row["distillation_seconds"] = distilled.card.get("distillation_seconds")
    record(run, rows)
    if run.distilled is None and is_first():  # another's folder is not ours to change
        add_scores(run.workdir.distilled, scores_of(prepared, rows))


def robustness(run: Run) -> None:
    """The distilled data set away from its recipe and on other encoders: the list "robustness" of the results."""
    prepared, distilled = load_scored(run)
    record(run, [], {"robustness": evaluate_robustness(prepared, distilled, run.workdir.tokens)})


def analyse(run: Run) -> None:
    """Hard-label accuracy, accuracy against stored bytes and against compute: the lists "labels", "storage" and "compute" of the results."""
    prepared, distilled = load_scored(run)
    rows = from_first(lambda: read_results(run.workdir.results)["rows"] if run.workdir.results.exists() else [])
    full, own = (next((row for row in rows if row["name"] == name), {}) for name in ("full", run.name))
    short = finetune_shortly(run.prepared, run.workdir.short, run.metrics)
    record(run, [], analyse_distilled(prepared, distilled, full, own, short))


def report(run: Run) -> None:
    """Show the table, write it as Markdown, draw the curve, and say where everything is."""
    if not is_first():
        return
    results = read_results(run.workdir.results)
    print_table(results)
    print_analyses(results)
    with write_atomically(run.workdir.path / TABLE) as temporary:
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
    "merge": merge,
    "evaluate": evaluate,
    "text": text,
    "robustness": robustness,
    "analyse": analyse,
    "look": look,
    "prompt": prompt,
    "privacy": privacy,
    "continual": continual,
    "verify": verify,
    "report": report,
}


def check_ahead(run: Run, names: list[str]) -> None:
    """Raise `UserError` for what a later stage would stumble over, so that it does not cost a fine-tuning first."""
    config, prepared = run.config, run.prepared
    if "select" in names and config.evaluate.selections:
        rows_of_classes(strata(prepared.tokens.train.labels), prepared.classes, config.distill.examples_per_class, prepared.tokens.label_names)
    if "distill" in names:
        picked_from(prepared)
    if "distill" in names and not from_first(run.workdir.distilled.exists):
        for teacher in split_parts(config.distill.teacher):
            if teacher != BRIEF and (teacher != OWN or "finetune" not in names):
                run.check_finetuned(prepared, teacher)


def run_stages(run: Run, names: list[str]) -> None:
    """Run stages in their order, whatever the order of the names."""
    if {"finetune", "select", "distill"} & set(names):
        check_ahead(run, names)
    for name, stage in STAGES.items():
        if name in names:
            stage(run)
