"""Distilled sets of different tasks, made one with a head for each, beside each task's own: results/HEADS.md and HEADS.json.

    python -m benchmarks.heads [--datasets sst2,ag_news] [--models embedded] [--ways interleave,join,relearn] [--per-class 1] [--outer-steps 300] [--seeds 0]
                               [--smoke] [--data FOLDER] [--work runs/heads] [--minutes N] [--only-table]

Each task's set is distilled by our recipe without a teacher. One model is trained on the merged set and scored on the test texts of every task, with that
task's head. What learns again does so on the texts of all tasks, half of each real batch from each where there are two, for as many outer steps as the
sets took. Runs are commands of their own and resume, as those of the table.
"""

import statistics
import sys
from dataclasses import replace

from benchmarks.corpora import data_options, write_alike
from benchmarks.entries import Entry, by_setting, find_entry, note_devices, over_seeds, settings_of, write_entries
from benchmarks.jobs import ROOT, Base, Job
from benchmarks.options import add_smoke, fill_or_try, listed, make_parser, number, read_options
from ddllm.errors import UserError
from ddllm.main import exit_status
from ddllm.report.results import read_results

JSON, MARKDOWN = ROOT / "results" / "HEADS.json", ROOT / "results" / "HEADS.md"
OWN, BETWEEN = "own", ", scored on "
# Name of each way: what it means, and its keys of config.merge.
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "interleave": ("in turn", ("order=interleave",)),
    "join": ("side by side in the same inner batches", ("order=join",)),
    "relearn": ("side by side, everything learned again on the texts of all tasks", ("learn=('rates','labels','embeddings','directions')",)),
}
ROWS = {OWN: "each task's own set"} | {way: told for way, (told, _) in WAYS.items()}
SETTING = ("tasks", "model", "examples_per_class", "outer_steps")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.heads", "runs/heads")
        parser.set_defaults(datasets="sst2,ag_news", seeds="0")
        parser.add_argument("--ways", default=",".join(WAYS), help=f"rows, of {', '.join(WAYS)}")
        parser.add_argument("--per-class", default="1", help="examples per class of each task")
        parser.add_argument("--outer-steps", default="300", help="of every distillation, and of learning again")
        add_smoke(parser)
        options = read_options(parser, arguments)
        tasks, ways = options.datasets, listed(options.ways, "--ways", tuple(WAYS))
        if len(tasks) == 1:
            raise UserError(f"--datasets has {tasks[0]} alone; name two or more, which share one model.")
        count, outer_steps = (number(text, option, 1) for text, option in ((options.per_class, "--per-class"), (options.outer_steps, "--outer-steps")))
        jobs = []
        for seed in options.seeds:
            for model in options.models:
                base = Base.below(options.work, tasks[0], model, options.data, options.alike)
                jobs += plan(base, tasks, ways, count, seed, outer_steps, options.smoke, build=not options.only_table)
        return fill_or_try(options, jobs, JSON, MARKDOWN, enter, write, markdown)

    return exit_status(work, "the same command does what is left")


def plan(base: Base, tasks: list[str], ways: list[str], count: int, seed: int, outer_steps: int, smoke: bool, build: bool = True) -> list[Job]:
    """The runs of one seed: each task's own set, the merged ones, and how these do on every task.

    Args:
        base: of the first task, below whose folder the others' texts go.
        tasks: names of data sets.
        ways: of merging.
        count: examples per class.
        seed: of everything.
        outer_steps: of distillations, and of learning again.
        smoke: few steps on few texts.
        build: write the folders of texts that are not there.
    """
    together, amount = "+".join(tasks), "smoke" if smoke else str(outer_steps)
    steps = () if smoke else (f"--config.distill.outer_steps={outer_steps}", f"--config.distill.validate_every={max(outer_steps // 6, 1)}")
    folders, length = write_alike(base, tasks, build)
    texts = dict(zip(tasks, folders, strict=True))

    def job(task: str, kind: str, line: list[str]) -> Job:
        # All lie below the first task's folder, and read texts of the same form.
        here, common = replace(base, dataset=task), [*data_options(texts[task]), f"--config.data.length={length}", "--config.distill.teacher=", *steps]
        return here.job(f"heads-{kind}-{amount}", count, (seed,), [*line, *common], f"recipe=ddllm,examples={count}{',smoke' * smoke}")

    own = [replace(job(task, f"{OWN}-{task}", ["--mode=distill,evaluate"]), change=f"{OWN}{BETWEEN}{task}") for task in tasks]
    sets = ",".join(str(made.member.folder / "distilled") for made in own)
    jobs = list(own)
    for way in ways:
        changes = [f"--config.merge.{key}" for key in ("how=heads", *WAYS[way][1])]
        if way == "relearn":
            changes.append(f"--config.merge.tasks={'|'.join(map(str, folders))}")
        merged = job(tasks[0], f"{together}-{way}", ["--mode=merge", f"--sets={sets}", *changes])
        jobs.append(replace(merged, change=way))
        for task in tasks:
            scored = job(task, f"{together}-{way}-on-{task}", ["--mode=evaluate", f"--distilled={merged.member.folder / 'distilled'}"])
            jobs.append(replace(scored, change=f"{way}{BETWEEN}{task}"))
    return [replace(made, dataset=", ".join(tasks)) for made in jobs]


def enter(rows: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the rows, in the place of those that other settings gave; merging itself has none."""
    way, between, task = job.change.partition(BETWEEN)
    if not between:
        return
    results, config = read_results(job.member.folder / "results.json"), job.member.config
    scored = results["rows"][0]  # from the recipe's own heads; a folder that is given is called by its name
    key = {"tasks": job.dataset, "model": job.model, "way": way, "task": task}
    key |= {"examples_per_class": job.per_class, "outer_steps": config.distill.outer_steps}
    row = find_entry(rows, key, settings_of(results["config"], "distilled"), ("test",))
    row["test"][str(job.seeds[0])] = scored["accuracy_mean"]
    row |= {part: scored[part] for part in ("inner_steps", "floats", "texts", "examples")}
    note_devices(row, job.seeds, results["environment"])


def write(rows: list[Entry]) -> None:
    """Write both files, in a fixed order."""
    order = {name: place for place, name in enumerate(ROWS)}
    rows.sort(key=lambda row: (*(row[part] for part in SETTING), order[row["way"]], row["tasks"].split(", ").index(row["task"])))
    write_entries(JSON, "rows", rows, MARKDOWN, markdown(rows))


def markdown(rows: list[Entry]) -> str:
    """A table for each group of tasks, with a column for each of them."""
    lines = [
        "# Distilled sets of different tasks, merged with a head for each",
        "",
        "Test accuracy in %, mean ± standard deviation over seeds (their number), and in brackets what is between it and the task's own set, in points.",
        "Written by `python -m benchmarks.heads`; single figures and settings are in HEADS.json.",
    ]
    for (tasks, model, count, steps), group in by_setting(rows, SETTING):
        here, names = {(row["way"], row["task"]): row for row in group}, tasks.split(", ")
        lines += ["", f"## {tasks}, {model}, {count} per class, {steps} outer steps", ""]
        lines += [f"| | {' | '.join(names)} | inner steps | numbers stored |", f"|---|{'---:|' * (len(names) + 2)}"]
        for way, told in ROWS.items():
            found = [here.get((way, task)) for task in names]
            if not any(found):
                continue
            figures = [_figure(row, here.get((OWN, task)), way) for row, task in zip(found, names, strict=True)]
            stored = [row for row in found if row is not None]
            floats = sum(row["floats"] for row in stored) if way == OWN else stored[0]["floats"]
            lines.append(f"| {told} | {' | '.join(figures)} | {max(row['inner_steps'] for row in stored)} | {floats:,} |")
    return "\n".join(lines) + "\n"


def _figure(row: Entry | None, own: Entry | None, way: str) -> str:
    if row is None:
        return "–"
    shared = [] if own is None or way == OWN else sorted(set(row["test"]) & set(own["test"]))
    apart = f" [{100 * statistics.fmean(row['test'][seed] - own['test'][seed] for seed in shared):+.1f}]" if own is not None and shared else ""
    return f"{over_seeds(row['test'].values())}{apart}"


if __name__ == "__main__":
    sys.exit(main())
