"""Full data, selections and distilled sets, beside each other on four data sets: results/TABLE.md and results/TABLE.json.

    python -m benchmarks.table [--datasets rotten_tomatoes,sst2] [--models embedded] [--names full,random,distilled] [--per-class 1,5,10]
                               [--seeds 0,1,2] [--products bfloat16] [--data FOLDER] [--work runs/table] [--minutes N] [--processes N]
                               [--outer-steps N] [--submissions NAME=FILE,NAME=FILE] [--only-table]

Entry by cell: every run is a command of its own in a folder below --work, resumes there, and enters the table as soon as it has ended. The same
command does what is left; --minutes starts nothing new after so long. A cell holds the accuracy of each seed, and with the recipe's head
redrawn where that is measured too. --submissions scores others' texts or folders, made of the one data set that --datasets names, as docs/PROTOCOL.md
says; add --names= to run these alone. Runs that are not below --work any more keep the figures that the table has of them, unless their settings differ.
"""

import argparse
import re
import statistics
import sys
from typing import Any

from benchmarks.entries import TEACHERS, Entry, find_entry, note_devices, read_entries, settings_of, write_entries
from benchmarks.jobs import DEFAULT_NAMES, NAMES, ROOT, SUBMITTED, Base, Job, plan_jobs
from benchmarks.options import listed, make_parser, number, numbers, read_options, work_through
from ddllm.errors import UserError
from ddllm.main import exit_status
from ddllm.report.results import read_results
from ddllm.runtime.storage import read_json

JSON, MARKDOWN, PUBLISHED = ROOT / "results" / "TABLE.json", ROOT / "results" / "TABLE.md", ROOT / "benchmarks" / "published.json"
REDRAWN = "redrawn heads"
PROTOCOL = "test split scored once at the end; every choice made on validation texts taken out of train or given with the data"
# Parts of our recipe that were not always there, and how their cells say that they have them.
SAID = {"distill.crossed": "crossed", "distill.word_scores": "word scores", "distill.teacher": "brief teachers"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        options, jobs = plan(arguments)

        def finished(job: Job) -> None:
            cells = read_entries(JSON, "cells")
            enter(cells, job)
            write(cells)

        write(read_entries(JSON, "cells"))
        return work_through(options, jobs, finished, MARKDOWN)

    return exit_status(work, "the same command does what is left")


def plan(arguments: list[str]) -> tuple[argparse.Namespace, list[Job]]:
    """Options, and the runs that they ask for.

    Raises:
        UserError: something on the command line is wrong.
    """
    parser = make_parser("benchmarks.table", "runs/table")
    parser.add_argument("--names", default=",".join(DEFAULT_NAMES), help=f"rows, of {', '.join(NAMES)}")
    parser.add_argument("--per-class", default="1,5,10", help="examples per class")
    parser.add_argument("--outer-steps", default="0", help="of every distillation; 0: as the data set's configuration says")
    parser.add_argument("--submissions", default="", metavar="NAME=FILE", help="others' results to score, with commas between them")
    options = read_options(parser, arguments)
    names = listed(options.names, "--names", NAMES) if options.names else []
    per_class, steps = numbers(options.per_class, "--per-class", 1), number(options.outer_steps, "--outer-steps", 0)
    submissions = read_submissions(options.submissions, options.datasets)
    jobs = plan_jobs(options.datasets, options.models, names, per_class, options.seeds, options.data, options.work, options.alike, steps)
    for model in options.models:
        for dataset in options.datasets if submissions else ():
            base = Base.below(options.work, dataset, model, options.data, options.alike)
            jobs += [base.submitted(name, path, options.seeds[0]) for name, path in submissions.items()]
    return options, jobs


def read_submissions(text: str, datasets: list[str]) -> dict[str, str]:
    """The files and folders of --submissions by the names of their rows.

    Raises:
        UserError: it is not understood, a name is taken, or it is not clear which data set they are of.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, path = part.partition("=")
        if not equals or not path or not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(f"--submissions {part!r} is not understood; it has the form NAME=FILE, such as dilm=texts.jsonl.")
        if name in NAMES or name in found:
            raise UserError(f"--submissions has {name!r}, which another row is called; choose another name.")
        found[name] = path
    if found and len(datasets) > 1:
        raise UserError("--submissions are of one data set; name it with --datasets.")
    return found


def enter(cells: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the cells, in the place of those that other settings gave; those of teachers have none."""
    if job.kind == TEACHERS:
        return
    results = read_results(job.member.folder / "results.json")
    settings = settings_of(results["config"], job.kind)
    first, environment = str(job.seeds[0]), results["environment"]
    for row in results["rows"]:
        name = row["name"].removesuffix(f", {REDRAWN}")
        if name == "distilled":
            name = job.kind
        if (job.kind == "full") != (name == "full"):
            continue
        if job.kind == SUBMITTED and name != job.change:
            continue
        per_class = row["examples_per_class"] if job.kind == SUBMITTED else job.per_class
        key = {"dataset": job.dataset, "model": job.model, "name": name, "examples_per_class": per_class}
        cell = find_entry(cells, key, settings, ("values", "redrawn"))
        cell["protocol"] = PROTOCOL
        if job.kind == SUBMITTED:
            cell["submitted"] = True
        named_redrawn = row["name"].endswith(REDRAWN)
        # Submitted texts know no other heads; their trainings are this figure's spread.
        if named_redrawn or (job.kind == SUBMITTED and row.get("head") == "redrawn"):
            cell["redrawn"][first] = [row["accuracy_mean"], row["accuracy_std"], row["runs"], row["texts"]]
        if named_redrawn:
            summarise(cell)
            continue
        if "accuracies" in row and len(job.seeds) > 1:
            cell["values"] = dict(zip(map(str, job.seeds), row["accuracies"], strict=True))
        else:
            cell["values"][first] = row["accuracy_mean"]
        texts = environment["texts"]["rows"]
        cell |= {"texts": texts, "test_texts": row.get("texts", texts["test"]), "note": row.get("note", "")}
        cell |= {part: row[part] for part in ("inner_steps", "floats", "distillation_seconds", "seconds") if part in row}
        cell["command"] = job.command
        note_devices(cell, job.seeds, environment)
        summarise(cell)


def summarise(cell: Entry) -> None:
    """Mean and standard deviation over seeds."""
    values = list(cell["values"].values())
    cell["seeds"] = [int(seed) for seed in cell["values"]]
    cell["runs"] = len(values)
    cell["accuracy_mean"] = statistics.fmean(values) if values else None
    cell["accuracy_std"] = statistics.stdev(values) if len(values) > 1 else None
    if cell["redrawn"]:
        cell["redrawn_mean"], cell["redrawn_std"] = pool([(mean, deviation, runs) for mean, deviation, runs, *_ in cell["redrawn"].values()])


def pool(groups: list[tuple[float, float, int]]) -> tuple[float, float]:
    """Mean and standard deviation (with n - 1) of all values together, of those of groups and their sizes."""
    count = sum(size for *_, size in groups)
    mean = sum(size * own for own, _, size in groups) / count
    squares = sum((size - 1) * deviation**2 + size * (own - mean) ** 2 for own, deviation, size in groups)
    return mean, (squares / (count - 1)) ** 0.5 if count > 1 else 0.0


def share_of_full(cells: list[Entry]) -> None:
    """Bring each cell's means and deviations up to date, and its percentage of fine-tuning the same model on all texts."""
    for cell in cells:
        summarise(cell)
    for cell in cells:
        full = next((c for c in cells if c["name"] == "full" and (c["dataset"], c["model"]) == (cell["dataset"], cell["model"])), None)
        cell["percent_of_full"] = round(100 * cell["accuracy_mean"] / full["accuracy_mean"], 1) if full and cell["runs"] else None


def begin_section(here: list[Entry], beside: tuple[str, ...] = ()) -> tuple[list[int], list[str], list[str]]:
    """Numbers of examples per class in a section's cells, its columns (for each number one, and those beside it), and the lines with which it begins."""
    dataset, model, texts = (here[0][part] for part in ("dataset", "model", "texts"))
    counts = sorted({cell["examples_per_class"] for cell in here if cell["examples_per_class"]})
    columns = [column for count in counts for column in (f"{count} per class", *beside)] or ["accuracy"]
    lines = ["", f"## {dataset}, {model}", ""]
    lines += [f"{texts['train']:,} training, {texts['validation']:,} validation, {texts['test']:,} test texts.", ""]
    lines += [f"| training data | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return counts, columns, lines


def write(cells: list[Entry]) -> None:
    """Write both files, in a fixed order, with each cell's share of full data."""
    order = {name: place for place, name in enumerate(NAMES)}
    last = len(order)
    cells.sort(
        key=lambda cell: (cell["dataset"], cell["model"], cell["examples_per_class"] or 0, order.get(cell["name"], last), cell["name"])
    )
    share_of_full(cells)
    write_entries(JSON, "cells", cells, MARKDOWN, markdown(cells, read_json(PUBLISHED)))


def markdown(cells: list[Entry], published: dict[str, Any]) -> str:
    """The table for a person: a section for each data set and model, and the published figures apart from ours."""
    lines = [
        "# Fine-tuned on everything, on as many real examples, and on the distilled data set",
        "",
        "Test accuracy in %, mean ± standard deviation over seeds (their number). Written by `python -m benchmarks.table`; settings, commands, single",
        "figures and what each was computed on are in TABLE.json. Distilled rows start from their recipe's own head; behind the stroke, in brackets, the",
        "same data from redrawn heads, perhaps on fewer test texts, the deviation being that of all these trainings together, over seeds and heads.",
        "Where sets of one data set were distilled in different numbers of outer steps, each says in how many; `crossed`: half of the",
        "real texts that they learned from were crossed with others; `word scores`: words moved along; `brief teachers`: what they learned are the",
        "opinions of models that were fine-tuned for one epoch each, not those of the fully fine-tuned one.",
        "`no_gains` is our recipe, distilled, with `distill.gains=False`.",
    ]
    for dataset, model in sorted({(cell["dataset"], cell["model"]) for cell in cells}):
        here = [cell for cell in cells if (cell["dataset"], cell["model"]) == (dataset, model)]
        counts, columns, begin = begin_section(here)
        lines += begin
        several = len({steps_of(cell) for cell in here} - {None}) > 1
        for name in (*NAMES, *sorted({cell["name"] for cell in here} - set(NAMES))):
            mine = {cell["examples_per_class"]: cell for cell in here if cell["name"] == name}
            if None in mine:  # as many of each class as there are, or other numbers of each
                called = "full: all texts" if name == "full" else f"{name} (submitted)"
                lines.append(f"| {called} | {' | '.join([figure(mine[None])] * len(columns))} |")
            elif mine:
                shown = [figure(mine[count], several) if count in mine else "–" for count in counts]
                called = f"{name} (submitted)" if any(cell.get("submitted") for cell in mine.values()) else name
                lines.append(f"| {called} | {' | '.join(shown)} |")
    lines += ["", "## Published figures", "", published["note"], ""]
    lines += ["| data set | model | training data | accuracy, % | source |", "|---|---|---|---:|---|"]
    lines += [
        f"| {row['dataset']} | {row['model']} | {row['name']} | {row['accuracy']} | {row['source']} |" for row in published["figures"]
    ]
    return "\n".join(lines) + "\n"


def steps_of(cell: Entry) -> int | None:
    """Outer steps that a cell's sets were distilled in; None where nothing was distilled."""
    return cell["settings"].get("distill.outer_steps") if cell.get("distillation_seconds") else None


def figure(cell: Entry, with_steps: bool = False) -> str:
    """A cell as text, with the outer steps that it took or without."""
    if not cell["runs"]:
        return "–"
    spread = "" if cell["accuracy_std"] is None else f" ± {100 * cell['accuracy_std']:.1f}"
    share = "" if cell.get("percent_of_full") is None or cell["name"] == "full" else f", {cell['percent_of_full']:.1f} % of full"
    fewer = f", on {cell['test_texts']} test texts" if cell["test_texts"] < cell["texts"]["test"] else ""
    redrawn = ""
    if "redrawn_mean" in cell:
        texts = min(value[3] for value in cell["redrawn"].values())
        part = f", on {texts}" if texts < cell["texts"]["test"] else ""
        redrawn = f" / [{100 * cell['redrawn_mean']:.1f} ± {100 * cell['redrawn_std']:.1f}{part}]"
    steps = steps_of(cell) if with_steps else None
    taken = f", {steps:,} outer steps" if steps else ""
    taken += "".join(f", {said}" for key, said in SAID.items() if cell["settings"].get(key))
    products = cell["settings"].get("model.products")
    taken += f", in {products}" if products else ""
    return f"{100 * cell['accuracy_mean']:.1f}{spread} ({cell['runs']}){share}{fewer}{taken}{redrawn}"


if __name__ == "__main__":
    sys.exit(main())
