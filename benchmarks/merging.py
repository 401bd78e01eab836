"""Two halves of a corpus distilled apart and merged in each way, beside the whole distilled at the same total size: results/MERGING.md and MERGING.json.

    python -m benchmarks.merging [--datasets ag_news] [--models embedded] [--ways interleave,join,relearn] [--per-class 2] [--outer-steps 300]
                                 [--seeds 0] [--smoke] [--data FOLDER] [--work runs/merging] [--minutes N] [--only-table]

The training texts are divided at random into two halves, which the data set's validation and test texts stay beside. Each half is distilled with half of
the examples, by the data set's recipe without a teacher (a teacher would have to be one of each half's own). The rows that have learned again saw all
texts, but for `relearn_sets`, which saw the two sets alone. Runs are commands of their own and resume, as those of the table.
"""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.corpora import data_options, is_written, write_corpus
from benchmarks.entries import Entry, by_setting, find_entry, note_devices, over_seeds, settings_of, write_entries
from benchmarks.jobs import ROOT, Base, Job
from benchmarks.options import add_smoke, fill_or_try, listed, make_parser, number, read_options
from ddllm.artefact.folder import load_distilled
from ddllm.data.corpus import load_corpus
from ddllm.data.splits import draw_part
from ddllm.errors import UserError
from ddllm.main import exit_status
from ddllm.report.results import read_results

JSON, MARKDOWN = ROOT / "results" / "MERGING.json", ROOT / "results" / "MERGING.md"
WHOLE, HALF = "whole", ("half 1", "half 2")
# Name of each way: what it means, and its keys of config.merge.
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "concatenate": ("one after the other", ("how=concatenate",)),
    "interleave": ("in turn", ("how=interleave",)),
    "join": ("side by side in the same inner batches", ("how=join",)),
    "relearn_sets": ("side by side, rates and labels learned again on the sets alone", ("how=relearn", "order=join", "learn_on=sets")),
    "relearn": ("side by side, rates and labels learned again on texts", ("how=relearn", "order=join")),
    "relearn_all": (
        "side by side, everything learned again on texts",
        ("how=relearn", "order=join", "learn=('rates','labels','embeddings','directions')"),
    ),
    "fewer": ("re-distilled to half as many examples, on texts", ("how=fewer", "order=interleave")),
}
ROWS = {WHOLE: "all texts distilled at once", HALF[0]: "half of the texts, half of the examples", HALF[1]: "the other half"}
ROWS |= {way: told for way, (told, _) in WAYS.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.merging", "runs/merging")
        parser.set_defaults(datasets="ag_news", seeds="0")
        parser.add_argument("--ways", default=",".join(WAYS), help=f"rows, of {', '.join(WAYS)}")
        parser.add_argument("--per-class", default="2", help="examples per class in all, an even number")
        parser.add_argument("--outer-steps", default="300", help="of every distillation; learning again has a third of them")
        add_smoke(parser)
        options = read_options(parser, arguments)
        ways, count = listed(options.ways, "--ways", tuple(WAYS)), number(options.per_class, "--per-class", 2)
        outer_steps = number(options.outer_steps, "--outer-steps", 1)
        if count % 2:
            raise UserError(f"--per-class is {count}, which cannot be divided between two halves; make it even.")
        jobs = []
        for seed in options.seeds:
            for dataset in options.datasets:
                for model in options.models:
                    base = Base.below(options.work, dataset, model, options.data, options.alike)
                    jobs += plan(base, ways, count, seed, outer_steps, options.smoke, build=not options.only_table)
        return fill_or_try(options, jobs, JSON, MARKDOWN, enter, write, markdown)

    return exit_status(work, "the same command does what is left")


def plan(base: Base, ways: list[str], count: int, seed: int, outer_steps: int, smoke: bool, build: bool = True) -> list[Job]:
    """The runs of one seed: the whole, the halves, and the ways of merging these.

    Args:
        base: data set and model.
        ways: of merging.
        count: examples per class in all.
        seed: of everything.
        outer_steps: of distillations; a third of them for learning again.
        smoke: few steps on few texts.
        build: write the halves' files where they are not there.
    """
    smoked, kept = ",smoke" if smoke else "", () if smoke else (f"outer_steps={outer_steps}",)
    alone = tuple(f"--config.distill.{key}" for key in ("teacher=", *kept))

    def job(name: str, examples: int, line: list[str]) -> Job:
        kind = f"{name.replace(' ', '-').replace('_', '-')}-{'smoke' if smoke else outer_steps}"
        made = base.job(kind, count, (seed,), line, f"recipe=ddllm,examples={examples}{smoked}")
        return replace(made, change=name)

    whole = job(WHOLE, count, ["--mode=distill,evaluate", *alone])
    jobs, folders = [whole], []
    for part, name in enumerate(HALF):
        folder = base.folder / f"halves-seed{seed}{'-smoke' if smoke else ''}" / str(part + 1)
        if build and not is_written(folder):
            write_half(whole, folder, part)
        half = job(name, count // 2, ["--mode=distill,evaluate", *data_options(folder), *alone])
        jobs.append(half)
        folders.append(half.member.folder / "distilled")
    for way in ways:
        steps = () if smoke else (f"--config.merge.outer_steps={max(outer_steps // 3, 1)}",)
        changes = [f"--config.merge.{key}" for key in WAYS[way][1]]
        if way == "fewer":
            changes.append(f"--config.merge.examples_per_class={count // 2}")
        line = ["--mode=merge,evaluate", f"--sets={','.join(map(str, folders))}", *alone, *changes, *steps]
        jobs.append(job(way, count, line))
    return jobs


def write_half(whole: Job, folder: Path, part: int) -> None:
    """Write one half of a data set's training texts as a folder of files, with its other splits as they are."""
    corpus = load_corpus(whole.member.config.data)
    first = draw_part(corpus.train, len(corpus.train) // 2, [whole.seeds[0], 61])
    there = set(first.keys())
    rows = np.flatnonzero([(key in there) == (part == 0) for key in corpus.train.keys()])
    write_corpus(folder, replace(corpus, train=corpus.train.take(rows)))


def enter(rows: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the rows, in the place of those that other settings gave."""
    results, config = read_results(job.member.folder / "results.json"), job.member.config
    own = next(row for row in results["rows"] if row["name"] == "distilled")
    distilled = load_distilled(job.member.folder / "distilled")
    key = {"dataset": job.dataset, "model": job.model, "way": job.change, "examples_per_class": job.per_class}
    key |= {"outer_steps": config.distill.outer_steps}
    settings = {name: value for name, value in settings_of(results["config"], "distilled", "merge").items() if name != "merge.sets"}
    row = find_entry(rows, key, settings, ("test",))
    row["test"][str(job.seeds[0])] = own["accuracy_mean"]
    row |= {part: own[part] for part in ("inner_steps", "floats", "texts", "examples", "distillation_seconds")}
    row["order"] = distilled.recipe.order
    note_devices(row, job.seeds, results["environment"])


def write(rows: list[Entry]) -> None:
    """Write both files, in a fixed order."""
    order = {name: place for place, name in enumerate(ROWS)}
    rows.sort(key=lambda row: (row["dataset"], row["model"], row["examples_per_class"], row["outer_steps"], order[row["way"]]))
    write_entries(JSON, "rows", rows, MARKDOWN, markdown(rows))


def markdown(rows: list[Entry]) -> str:
    """A table for each data set, model and size, with the share of what the whole reaches."""
    lines = [
        "# Two halves distilled apart, and merged",
        "",
        "Test accuracy in %, mean ± standard deviation over seeds (their number). Written by `python -m benchmarks.merging`; single figures and settings are",
        "in MERGING.json.",
    ]
    for (dataset, model, count, steps), here in by_setting(rows, ("dataset", "model", "examples_per_class", "outer_steps")):
        whole = next((statistics.fmean(row["test"].values()) for row in here if row["way"] == WHOLE), None)
        lines += ["", f"## {dataset}, {model}, {count} per class in all, {steps} outer steps", ""]
        lines += ["| | accuracy | % of the whole | examples | inner steps | numbers stored |", "|---|---:|---:|---:|---:|---:|"]
        for row in here:
            mean = statistics.fmean(row["test"].values())
            share = "–" if not whole else f"{100 * mean / whole:.1f}"
            figures = f"{over_seeds(row['test'].values())} | {share} | {row['examples']} | {row['inner_steps']} | {row['floats']:,}"
            lines.append(f"| {ROWS[row['way']]} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
