"""Tasks in turn with a memory of at most 100 KB: results/CONTINUAL.md and results/CONTINUAL.json.

    python -m benchmarks.continual [--datasets ag_news] [--models embedded] [--methods finetune,random,recipe,joint] [--seeds 0] [--smoke]
                                   [--outer-steps 300] [--texts N] [--storage tokens] [--per-class 5] [--sequence rotten_tomatoes,sst2,ag_news]
                                   [--data FOLDER] [--work runs/continual] [--minutes N] [--only-table]

The classes of a data set come in two tasks (AG News: World and Sports, then Business and Sci/Tech), or with --sequence several data sets come one after
another; accuracy is that on the test texts of all tasks so far, among their classes. Real texts are stored in as many bytes as the distilled sets take:
embeddings of 8 bits, or with --storage tokens real texts of which labels and rates are learned. Each seed is a command of its own and resumes, as those of
the table.
"""

import statistics
import sys
from dataclasses import dataclass, replace

from benchmarks.corpora import data_options, write_alike
from benchmarks.entries import Entry, by_setting, find_entry, note_devices, percent, settings_of, write_entries
from benchmarks.jobs import DATASETS, DISTILLED, ROOT, Base, Job
from benchmarks.options import add_smoke, fill_or_try, listed, make_parser, number, read_options
from ddllm.continual.checks import METHODS, STORAGE, TOKENS
from ddllm.errors import UserError
from ddllm.main import exit_status
from ddllm.report.results import read_results

JSON, MARKDOWN = ROOT / "results" / "CONTINUAL.json", ROOT / "results" / "CONTINUAL.md"
MEMORY = 100_000  # bytes
SHORT = 28  # positions of each example, where eight of them share the memory
TEXTS = {"train": 1.0, "validation": 0.1, "test": 0.25}  # of each split, as shares of --texts
SETTING = ("dataset", "model", "storage", "examples_per_class", "after")
LEARNED = ("distilled", "recipe", "update")
MEASURES = ("accuracy", "average", "forgetting", "transfer")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.continual", "runs/continual")
        parser.set_defaults(datasets="ag_news", seeds="0")
        parser.add_argument("--methods", default=",".join(METHODS), help=f"rows, of {', '.join(METHODS)}")
        parser.add_argument("--outer-steps", default="300", help="of the distillation of each task")
        parser.add_argument("--storage", default="int8", help=f"of distilled sets: {', '.join(STORAGE)}")
        parser.add_argument("--per-class", default="1", help="examples per class of distilled sets")
        parser.add_argument("--texts", default="0", help="training texts in all, or of each of a sequence; 0: as many as the configuration has")
        parser.add_argument("--sequence", default="", help="data sets that come one after another, instead of the classes of each of --datasets")
        add_smoke(parser)
        options = read_options(parser, arguments)
        sequence = listed(options.sequence, "--sequence", DATASETS) if options.sequence else []
        if len(sequence) == 1:
            raise UserError(f"--sequence has {sequence[0]} alone; name the data sets that come after it too.")
        methods = listed(options.methods, "--methods", METHODS)
        outer_steps = number(options.outer_steps, "--outer-steps", 1)
        texts, count = number(options.texts, "--texts", 0), number(options.per_class, "--per-class", 1)
        storage, *others = listed(options.storage, "--storage", STORAGE)
        if others:
            raise UserError(f"--storage is {options.storage}, but must be one of {', '.join(STORAGE)}.")
        firsts = sequence[:1] or options.datasets
        bases = [Base.below(options.work, dataset, model, options.data, options.alike) for dataset in firsts for model in options.models]
        planned = [(base, put_in_sequence(base, sequence, build=not options.only_table) if sequence else None) for base in bases]
        settings = (outer_steps, storage, count, texts, options.smoke)
        jobs = [plan(base, tuple(methods), seed, *settings, several) for seed in options.seeds for base, several in planned]
        return fill_or_try(options, jobs, JSON, MARKDOWN, enter, write, markdown)

    return exit_status(work, "the same command does what is left")


@dataclass(frozen=True)
class Sequence:
    """Data sets that come one after another.

    Attributes:
        datasets: their names.
        options: with which a run reads them.
    """

    datasets: tuple[str, ...]
    options: tuple[str, ...]


def plan(
    base: Base,
    methods: tuple[str, ...],
    seed: int,
    outer_steps: int,
    storage: str,
    count: int,
    texts: int,
    smoke: bool,
    sequence: Sequence | None = None,
) -> Job:
    """All methods for one seed.

    Args:
        base: data set and model.
        methods: of config.continual.
        seed: of everything.
        outer_steps: of the distillation of each task.
        storage, count: of distilled sets, and their examples per class. None has gains or word scores, those stored as tokens or of several data sets no
            direction labels either, and embeddings of several data sets fewer positions: they would take more bytes than are allowed, or than the texts do.
            Texts are chosen by herding.
        texts: for training in all, or of each data set of a sequence; 0: as many as the data set's configuration has.
        smoke: few steps on few texts.
        sequence: what is learned in turn; None: the classes of the data set.
    """
    changes = {
        "distill.teacher": "",
        **({f"data.limit_{part}": int(texts * share) for part, share in TEXTS.items()} if texts else {}),
        "continual.memory": MEMORY,
        "continual.storage": storage,
        "distill.gains": False,
        "distill.word_scores": False,
        **({"distill.direction_labels": False} if storage == TOKENS or sequence else {}),
        **({"distill.initial": "herding"} if storage == TOKENS else {"distill.length": SHORT} if sequence else {}),
        "continual.way": "join",
        "continual.methods": repr(methods),
        **({"finetune.epochs": 0.5} if smoke else {"distill.outer_steps": outer_steps, "distill.validate_every": max(outer_steps // 2, 1)}),
    }
    line = ["--mode=continual", *(f"--config.{key}={value}" for key, value in changes.items())]
    some = () if len(methods) == len(METHODS) else methods
    name = "-".join([storage, *some, "smoke" if smoke else str(outer_steps), *((str(texts),) if texts else ())])
    if sequence:
        name, line = "-".join(["+".join(sequence.datasets), name]), [*line, *sequence.options]
    made = base.job(name, count, (seed,), line, f"recipe=ddllm,examples={count}{',smoke' * smoke}")
    return replace(made, dataset=", ".join(sequence.datasets)) if sequence else made


def put_in_sequence(base: Base, datasets: list[str], build: bool = True) -> Sequence:
    """Several data sets as folders with the same columns.

    Args:
        base: of the first of them, whose configuration says how is distilled; the folders go below its own.
        datasets: their names, in their order.
        build: write the folders that are not there.
    """
    folders, length = write_alike(base, datasets, build)
    options = [*data_options(folders[0]), f"--config.data.length={length}", f"--config.continual.tasks={'|'.join(map(str, folders))}"]
    return Sequence(tuple(datasets), tuple(options))


def enter(rows: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the rows, in the place of those that other settings gave."""
    results = read_results(job.member.folder / "results.json")
    apart = ("continual.methods", "continual.tasks")
    settings = {key: value for key, value in settings_of(results["config"], "full", "continual").items() if key not in apart}
    # How is distilled matters to what is distilled; to all else only how much is stored.
    how = {key: value for key, value in settings_of(results["config"], DISTILLED).items() if key.startswith("distill.")}
    sizes = {f"distill.{key}": results["config"]["distill"][key] for key in ("outer_steps", "length", "examples_per_class")}
    for found in results["continual"]:
        key = {"dataset": job.dataset, "model": job.model, "method": found["method"], "after": found["after"]}
        key |= {"storage": results["config"]["continual"]["storage"], "examples_per_class": job.per_class}
        row = find_entry(rows, key, settings | sizes | (how if found["method"] in LEARNED else {}), ("values",))
        row["values"][str(job.seeds[0])] = {name: found[f"{name}_mean"] for name in MEASURES}
        row |= {part: found[part] for part in ("tasks", "bytes", "seconds", "texts", "note")}
        note_devices(row, job.seeds, results["environment"])


def write(rows: list[Entry]) -> None:
    """Write both files, in a fixed order."""
    rows.sort(key=lambda row: (row["dataset"], *(str(row[part]) for part in SETTING[1:]), METHODS.index(row["method"])))
    write_entries(JSON, "rows", rows, MARKDOWN, markdown(rows))


def markdown(rows: list[Entry]) -> str:
    """A table for each data set, model and number of tasks, with the share of joint training."""
    lines = [
        "# Tasks in turn, with memories of as many bytes",
        "",
        "In %, mean ± standard deviation over seeds (their number). Written by `python -m benchmarks.continual`; more is in CONTINUAL.json.",
    ]
    for (dataset, model, storage, count, after), here in by_setting(rows, SETTING):
        if after == 1:
            continue  # the same for all that fine-tune
        joint = next((mean(row, "accuracy") for row in here if row["method"] == "joint"), None)
        lines += ["", f"## {dataset}, {model}, {count} per class stored as {storage}, after task {after} of {here[0]['tasks']}", ""]
        lines += ["| memory | accuracy | % of joint | mean over tasks | forgetting | backward transfer | bytes |", "|---|---:|---:|---:|---:|---:|---:|"]
        for row in here:
            share = "–" if not joint else f"{100 * mean(row, 'accuracy') / joint:.1f}"
            cells = [figure(row, "accuracy") + f" ({len(row['values'])})", share, *(figure(row, name) for name in MEASURES[1:])]
            lines.append(f"| {row['method']} | {' | '.join(cells)} | {row['bytes']:,} |")
        lines += ["", *(f"- {row['method']}: {row['note']}" for row in here)]
    return "\n".join(lines) + "\n"


def mean(row: Entry, name: str) -> float:
    """Over seeds."""
    return statistics.fmean(values[name] for values in row["values"].values())


def figure(row: Entry, name: str) -> str:
    """A measure in %, with its deviation where there are several seeds."""
    return percent([each[name] for each in row["values"].values()])


if __name__ == "__main__":
    sys.exit(main())
