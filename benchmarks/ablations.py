"""What each part of our recipe is worth, and how many inner steps: results/ABLATIONS.md and results/ABLATIONS.json.

    python -m benchmarks.ablations [--datasets sst2] [--changes no_directions,passes_1] [--per-class 1] [--outer-steps 300] [--seeds 0]
                                   [--models embedded] [--products bfloat16] [--data FOLDER] [--work runs/ablations] [--minutes N] [--only-table]

Every row is the recipe with one thing changed, distilled anew, and the recipe itself is the first; all have the same number of outer steps, by default half of
the table's. Runs are commands of their own and resume, as those of the table. A choice may follow the accuracy on validation texts alone;
that on test texts stands beside it.
"""

import statistics
import sys
from dataclasses import replace

from benchmarks.entries import Entry, by_setting, find_entry, note_devices, over_seeds, percent, read_entries, settings_of, write_entries
from benchmarks.jobs import DISTILLED, ROOT, UNTAUGHT, Base, Job
from benchmarks.options import listed, make_parser, number, numbers, read_options, work_through
from ddllm.artefact.folder import RECIPE as CARD
from ddllm.main import exit_status
from ddllm.report.results import read_results
from ddllm.runtime.storage import read_json

JSON, MARKDOWN = ROOT / "results" / "ABLATIONS.json", ROOT / "results" / "ABLATIONS.md"
AS_IT_IS = "recipe"
LOSS = "validation_loss"
SETTING = ("dataset", "model", "examples_per_class", "outer_steps", "batch_size", "products")
FULL = "teacher=full"  # of the table's run, which has a folder of its own
# Name of each change: what it means, and its keys of config.distill.
CHANGES: dict[str, tuple[str, tuple[str, ...]]] = {
    AS_IT_IS: ("the recipe as it is", ()),
    "no_teacher": ("the outer loss follows labels instead of fine-tuned teachers", ("teacher=",)),
    "full_teacher": ("the fully fine-tuned model teaches, instead of three that are fine-tuned for one epoch", (FULL,)),
    "not_crossed": ("whole real texts alone, none crossed", ("crossed=0.0",)),
    "no_word_scores": ("no word scores", ("word_scores=False",)),
    "no_gains": ("no gains", ("gains=False",)),
    "no_directions": ("no direction labels", ("direction_labels=False",)),
    "no_directions_3": ("no direction labels, three passes", ("direction_labels=False", "passes=3")),
    "attention": (
        "labels for the attention of the first position instead of direction labels",
        ("direction_labels=False", "attention_labels=cls", "attention_weight=10"),
    ),
    "soft_labels": ("soft labels", ("labels=soft",)),
    "hard_labels": ("hard labels", ("labels=hard",)),
    "rates_layer": ("a rate for each inner step and layer", ("rates=layer",)),
    "rates_step": ("a rate for each inner step", ("rates=step",)),
    "head_redrawn": ("a head redrawn at every outer step", ("head=redrawn",)),
    "head_fixed": ("the same head of random numbers at every outer step", ("head=fixed",)),
    "initial_noise": ("noise instead of real texts at the start", ("initial=noise",)),
    "initial_herding": ("texts chosen by herding at the start", ("initial=herding",)),
    "no_average": ("no running average", ("average=0.0",)),
    "plain_clip": ("the outer gradient clipped at norm 1", ("adaptive_clip=0.0", "clip=1.0")),
    "passes_1": ("one pass", ("passes=1",)),
    "passes_3": ("three passes", ("passes=3",)),
    "passes_4": ("four passes", ("passes=4",)),
    "robust": ("perturbed rates and positions", ("robust=('rates','positions')",)),
    "attention_all": (
        "labels for the attention of all positions instead of direction labels",
        ("direction_labels=False", "attention_labels=all", "attention_weight=10"),
    ),
    "features": ("labels of what the head takes instead of direction labels", ("direction_labels=False", "feature_labels=True")),
    "head_learned": ("a learned head", ("head=learned",)),
    "heads_2": ("two heads redrawn at every outer step", ("head=redrawn", "heads=2")),
    "pool_4": ("outer steps that start from the model or one of four, partly fine-tuned", ("pool=4",)),
    "window_random": ("a gradient that reaches one inner step, at a random place", ("truncate=1", "window=random")),
    "balanced": ("as many texts of every class in each outer batch", ("balanced=True",)),
    "initial_k_centers": ("texts chosen by k-centers at the start", ("initial=k_centers",)),
    "initial_k_means": ("texts chosen by k-means at the start", ("initial=k_means",)),
    "momentum": ("inner steps with momentum", ("inner_optimizer=momentum",)),
    "adam": ("inner steps of Adam, at a rate of 1e-3 at first", ("inner_optimizer=adam", "initial_rate=1e-3")),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.ablations", "runs/ablations")
        parser.set_defaults(datasets="sst2", seeds="0")
        parser.add_argument("--changes", default=",".join(CHANGES), help=f"rows, of {', '.join(CHANGES)}")
        parser.add_argument("--per-class", default="1", help="examples per class")
        parser.add_argument("--outer-steps", default="300", help="of every run")
        options = read_options(parser, arguments)
        changes, per_class = listed(options.changes, "--changes", tuple(CHANGES)), numbers(options.per_class, "--per-class", 1)
        outer_steps = number(options.outer_steps, "--outer-steps", 1)
        jobs = []
        for seed in options.seeds:
            for dataset in options.datasets:
                for model in options.models:
                    base = Base.below(options.work, dataset, model, options.data, options.alike)
                    jobs.append(base.teachers(seed))
                    jobs += [base.full(seed)] if "full_teacher" in changes else []
                    jobs += [changed(base, change, count, seed, outer_steps) for count in per_class for change in changes]

        def finished(job: Job) -> None:
            if job.change:
                rows = read_entries(JSON, "rows")
                enter(rows, job)
                write(rows)

        return work_through(options, jobs, finished, MARKDOWN)

    return exit_status(work, "the same command does what is left")


def changed(base: Base, change: str, count: int, seed: int, outer_steps: int) -> Job:
    """A distillation by our recipe with one thing changed."""
    keys = [f"outer_steps={outer_steps}", *CHANGES[change][1]]
    line = tuple(f"{UNTAUGHT}{base.full(seed).member.folder}" if key == FULL else f"--config.distill.{key}" for key in keys)
    return replace(base.distilling(DISTILLED, count, seed, line, f"ablation-{change}-{outer_steps}"), change=change)


def enter(rows: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the rows, in the place of those that another recipe gave."""
    results, config = read_results(job.member.folder / "results.json"), job.member.config
    own = next(row for row in results["rows"] if row["name"] == DISTILLED)
    card = read_json(job.member.folder / "distilled" / CARD)
    amounts = {"outer_steps": config.distill.outer_steps, "batch_size": config.distill.batch_size, "products": config.model.products}
    key = {"dataset": job.dataset, "model": job.model, "change": job.change, "examples_per_class": job.per_class, **amounts}
    row = find_entry(rows, key, settings_of(results["config"], DISTILLED), ("validation", "test", LOSS))
    seed = str(job.seeds[0])
    row["validation"][seed], row["test"][seed] = card["validation_accuracy"], own["accuracy_mean"]
    row[LOSS] = row.get(LOSS, {}) | ({seed: card[LOSS]} if LOSS in card else {})
    row |= {part: own[part] for part in ("inner_steps", "floats", "distillation_seconds", "texts")}
    row |= {"best_step": card["outer_step"], "command": job.command}
    note_devices(row, job.seeds, results["environment"])


def write(rows: list[Entry]) -> None:
    """Write both files, in a fixed order."""
    order = {change: place for place, change in enumerate(CHANGES)}
    rows.sort(key=lambda row: (*(row[part] for part in SETTING), order[row["change"]]))
    write_entries(JSON, "rows", rows, MARKDOWN, markdown(rows))


def markdown(rows: list[Entry]) -> str:
    """A table for each data set, model and amount of work, with the difference to the recipe as it is."""
    lines = [
        "# The recipe with one thing changed",
        "",
        "Accuracy in %, mean ± standard deviation over seeds (their number); the difference is to the recipe as it is, on validation texts. Written by",
        "`python -m benchmarks.ablations`; commands and single figures are in ABLATIONS.json. The standard error of 85 % on 872 texts is 1.2 points, though",
        "all rows are measured on the same texts; cross-entropy (on validation texts, in nats; of rows distilled since it is measured) differs less by chance.",
    ]
    for (dataset, model, count, outer_steps, batch, products), here in by_setting(rows, SETTING):
        base = next((mean(row["validation"]) for row in here if row["change"] == AS_IT_IS), None)
        exact = "" if products == "float32" else f", in {products}"
        lines += ["", f"## {dataset}, {model}, {count} per class, {outer_steps} outer steps of {batch} texts{exact}", ""]
        lines += ["| | validation | difference | cross-entropy | test | inner steps | numbers stored | minutes |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for row in here:
            difference = "" if base is None or row["change"] == AS_IT_IS else f"{100 * (mean(row['validation']) - base):+.1f}"
            loss = f"{mean(row[LOSS]):.3f}" if row.get(LOSS) else ""
            figures = f"{over_seeds(row['validation'].values())} | {difference} | {loss} | {percent(row['test'].values())} | {row['inner_steps']}"
            lines.append(f"| {CHANGES[row['change']][0]} | {figures} | {row['floats']:,} | {row['distillation_seconds'] / 60:.0f} |")
    return "\n".join(lines) + "\n"


def mean(values: dict[str, float]) -> float:
    """The mean over seeds."""
    return statistics.fmean(values.values())


if __name__ == "__main__":
    sys.exit(main())
