"""Distilled text beside embeddings, real sentences and published texts: results/TEXT.md and results/TEXT.json.

    python -m benchmarks.text [--datasets sst2] [--per-class 5,10,20] [--routes straight_through] [--transfer MODEL,…] [--models embedded] [--seeds 0,1,2]
                              [--names full,distilled,text,random,k_centers,dilm] [--data FOLDER] [--work runs/text] [--minutes N] [--only-table]
                              [--untaught] [--judge embedded] [--transfer-options "model.head=mean;data.length=48"]

Cell by cell, as the table: every run is a command of its own in a folder below --work and resumes there. The texts of a route are scored twice: with the
labels, rates and head that were learned for them, and as plain texts with a label each, read from text.jsonl and tokenised again, with a rate and passes tuned
on validation texts. The latter is how published texts are scored, and how a text goes to the models of --transfer. With --judge a language model says how
readable the texts are (readability.py), those of earlier runs too, which are not run again. A route's name with +auxiliary keeps the labels of the body
that the recipe has (directions), which stand beside the texts as their labels and rates do, with +gains its gains as well; both are left out where the
text is scored as a plain one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.entries import Entry, find_entry, note_devices, read_entries, settings_of, write_entries
from benchmarks.jobs import DISTILLED, ROOT, UNTAUGHT, Base, Job
from benchmarks.options import listed, make_parser, number, numbers, read_options, work_through
from benchmarks.readability import Reader, markdown_curve, told
from benchmarks.table import REDRAWN, begin_section, figure, share_of_full, summarise
from ddllm.main import exit_status, name_of
from ddllm.report.results import read_results
from ddllm.runtime.storage import read_json
from ddllm.text.checks import NEEDS_DISTILLED, ROUTE_NAMES
from ddllm.text.stage import folder_name

JSON, MARKDOWN = ROOT / "results" / "TEXT.json", ROOT / "results" / "TEXT.md"
REAL = ("random", "k_centers")
NAMES = ("full", DISTILLED, "projected", "text", *REAL, "dilm")
PROJECTED = ("text.metric", "text.whole_words")
LEARNED, TUNED = "recipe", "tuned"
TITLES = {
    "full": "full: all texts",
    DISTILLED: "distilled embeddings",
    "projected": "their nearest tokens",
    "random": "random real sentences",
    "k_centers": "k-centers real sentences",
    "dilm": "texts published for DiLM",
}
AGAIN, PLAIN = ", read again", "plain_text"
BESIDE = {"+auxiliary": "directions", "+gains": "directions and gains"}  # after a route's name, and what is kept
GAINS = "--config.distill.gains="
SCORES = "--config.distill.word_scores=False"
ROUTES = (*ROUTE_NAMES[1:], *(f"{name}{mark}" for mark in BESIDE for name in ROUTE_NAMES[1:]))


@dataclass(frozen=True)
class Part:
    """A run and what its rows are in the table.

    Attributes:
        job: the run.
        names: from names of its rows to names of cells.
        protocol: `LEARNED` or `TUNED`, how it is trained.
        route: of a text.
        taught: whether a fully fine-tuned model was the teacher of what is trained on.
    """

    job: Job
    names: dict[str, str]
    protocol: str = LEARNED
    route: str = ""
    taught: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.text", "runs/text")
        parser.set_defaults(datasets="sst2")
        parser.add_argument("--per-class", default="5,10,20", help="examples per class")
        parser.add_argument("--routes", default="straight_through", help=f"of {', '.join(ROUTE_NAMES[1:])}, also with {' or '.join(BESIDE)}")
        parser.add_argument("--transfer", default="", help="other models that the texts are trained on")
        parser.add_argument("--names", default=",".join(NAMES), help=f"rows, of {', '.join(NAMES)}")
        parser.add_argument("--outer-steps", default="0", help="of distilled sets and texts; 0: as the data set's configuration says")
        parser.add_argument("--untaught", action="store_true", help="learn from labels, without the fully fine-tuned model as the teacher")
        parser.add_argument("--text-options", default="", help="of config.text for every route, such as whole_words=True;pull=0.2")
        parser.add_argument("--transfer-options", default="", help="of config for the models of --transfer, such as model.head=mean;data.length=48")
        parser.add_argument("--judge", default="", metavar="MODEL", help="language model that says how readable texts are: 'embedded', hub name, folder, GGUF")
        options = read_options(parser, arguments)
        reader = Reader(options.judge) if options.judge else None
        routes, per_class = listed(options.routes, "--routes", ROUTES), numbers(options.per_class, "--per-class", 1)
        names, steps = listed(options.names, "--names", NAMES), number(options.outer_steps, "--outer-steps", 0)
        changes = split_options(options.text_options, "--config.text.")
        changes += [f"--config.distill.outer_steps={steps}"] if steps else []
        others, parts = [model for model in options.transfer.split(",") if model], []
        elsewhere = tuple(split_options(options.transfer_options, "--config."))
        for dataset in options.datasets:
            for model in options.models:
                base = Base.below(options.work, dataset, model, options.data, options.alike)
                away = [Base.below(options.work, dataset, other, options.data, (*options.alike, *elsewhere)) for other in others]
                for seed in options.seeds:
                    parts += plan(base, away, names, per_class, routes, seed, options.seeds, changes, not options.untaught)
        by_folder = {part.job.member.folder: part for part in parts}

        def finished(job: Job) -> None:
            cells, part = read_entries(JSON, "cells"), by_folder[job.member.folder]
            enter(cells, part)
            if reader:
                reader.enter(cells_of(cells, part), job, part.names)
            write(cells)

        write(read_entries(JSON, "cells"))
        return work_through(options, [part.job for part in by_folder.values()], finished, MARKDOWN)

    return exit_status(work, "the same command does what is left")


def plan(
    base: Base,
    away: list[Base],
    names: list[str],
    per_class: list[int],
    routes: list[str],
    seed: int,
    seeds: list[int],
    changes: list[str],
    taught: bool = True,
) -> list[Part]:
    """The runs of one seed, each after those that it needs.

    Args:
        base: data set and model.
        away: the same data set with other models.
        names: of the cells that are wanted.
        per_class: numbers of examples.
        routes: to text.
        seed: of what is learned.
        seeds: of all; what needs them together is planned with the first.
        changes: of the configuration, for what is learned.
        taught: by the fully fine-tuned model, or by labels alone.
    """
    first = seed == seeds[0]
    learned, from_distilled = {DISTILLED, "projected", "text"} & set(names), {DISTILLED, "projected"} & set(names)
    parts = [Part(base.full(seed), {"full": "full"})] if "full" in names or (taught and learned) else []
    mark = "" if taught else "-untaught"
    teacher = f"{UNTAUGHT}{base.folder / f'full-seed{seed}' if taught else ''}"
    # Gains and word scores are no text, and more numbers than all else: embeddings are compared with what texts can do without.
    steps = (*(change for change in changes if change.startswith("--config.distill.")), f"{GAINS}False", SCORES, teacher)
    for count in per_class:
        wanted = tuple(name for name in REAL if name in names)
        for place in (base, *away):
            if wanted and first:
                parts.append(Part(place.selecting(wanted, count, tuple(seeds)), dict.fromkeys(wanted, ""), TUNED))
        if "dilm" in names and first and (file := base.published(count)):
            parts += [Part(scoring(place, "dilm", count, seed, file, "dilm"), {"dilm": "dilm"}, TUNED) for place in (base, *away)]
        distilled = base.distilling(DISTILLED, count, seed, steps, f"{DISTILLED}{mark}")
        if from_distilled or ("text" in names and "relearn" in map(bare, routes)):
            parts.append(Part(distilled, {DISTILLED: DISTILLED}, taught=taught))
        for route in routes if {"projected", "text"} & set(names) else ():
            goes = bare(route)
            line = ["--mode=text", f"--config.text.route={goes}", *changes, f"{GAINS}{route.endswith('+gains')}", SCORES, teacher]
            line += ["--config.text.auxiliary=True"] if route != goes else []
            given = distilled.member.folder / "distilled" if from_distilled or goes == "relearn" else None
            line += [f"--distilled={given}"] if given else []
            job = base.job(f"text-{route}{mark}", count, (seed,), line, f"recipe=ddllm,examples={count}")
            # Rows and texts of a set that is given begin with its name (see ddllm/text/stage.py).
            called = f"{name_of(given)}, " if given else ""
            below = folder_name(name_of(given)) if given and goes in NEEDS_DISTILLED else ""
            rows = {f"{called}projected": "projected", f"{called if below else ''}text ({goes})": "text"}
            parts.append(Part(job, rows, LEARNED, route, taught))
            file = job.member.folder / "text" / below / goes / "text.jsonl"
            for place in (base, *away):
                parts.append(Part(scoring(place, f"as-text-{route}{mark}", count, seed, file, PLAIN), {PLAIN: "text"}, TUNED, route, taught))
    return parts


def split_options(text: str, prefix: str) -> list[str]:
    """Options of a command from a list with semicolons."""
    return [f"{prefix}{option.strip()}" for option in text.split(";") if option.strip()]


def bare(route: str) -> str:
    """A route's own name, whatever is kept beside its texts."""
    return route.partition("+")[0]


def scoring(base: Base, kind: str, count: int, seed: int, file: Path, name: str) -> Job:
    """Texts of a file, trained on with a tuned rate."""
    return base.job(kind, count, (seed,), ["--mode=evaluate", f"--distilled={file}", f"--name={name}"], f"examples={count}")


def key_of(part: Part, name: str) -> Entry:
    """What tells a cell of a run's from all others."""
    job = part.job
    key = {"dataset": job.dataset, "model": job.model, "name": name, "examples_per_class": job.per_class, "protocol": part.protocol}
    return key | {"route": part.route if name == "text" else "", "taught": part.taught}


def cells_of(cells: list[Entry], part: Part) -> dict[str, Entry]:
    """The cells that a run has entered, by their names."""
    keys = {name or row: key_of(part, name or row) for row, name in part.names.items()}
    found = {name: next((cell for cell in cells if all(cell[field] == value for field, value in key.items())), None) for name, key in keys.items()}
    return {name: cell for name, cell in found.items() if cell is not None}


def made_by(part: Part) -> dict[str, Any]:
    """The sections of a configuration that say how a file of plain texts was made, where a run here made it."""
    given = next((option.partition("=")[2] for option in part.job.member.line if option.startswith("--distilled=")), "")
    run = next((above / "config.json" for above in Path(given).parents if (above / "config.json").is_file()), None)
    return {name: read_json(run)[name] for name in ("distill", "text")} if part.names.get(PLAIN) and run else {}


def enter(cells: list[Entry], part: Part) -> None:
    """Put a finished run's figures into the cells, in the place of those that other settings gave."""
    job, results = part.job, read_results(part.job.member.folder / "results.json")
    kind = "select" if job.kind in ("select", "dilm") else job.kind
    settings, first = settings_of(results["config"] | made_by(part), kind), str(job.seeds[0])
    for row in results["rows"]:
        name = row["name"].removesuffix(f", {REDRAWN}")
        again = name.endswith(AGAIN)
        name = name.removesuffix(AGAIN)
        if name not in part.names:
            continue
        name = part.names[name] or name
        key = key_of(part, name)
        # What is projected depends on no route, whose name also says whether it has gains.
        counted = {key: value for key, value in settings.items() if name == "text" or key in PROJECTED or not key.startswith(("text.", "distill.gains"))}
        if name == "text" and bare(part.route) == "search":  # whose real texts are the same in every round, whole ones
            counted.pop("distill.crossed", None)
        cell = find_entry(cells, key, counted, ("values", "redrawn", "again", "fluency"))
        if again:
            if not row["name"].endswith(REDRAWN):
                cell["again"][first] = row["accuracy_mean"]
            continue
        if row["name"].endswith(REDRAWN):
            cell["redrawn"][first] = [row["accuracy_mean"], row["accuracy_std"], row["runs"], row["texts"]]
            summarise(cell)
            continue
        if name in REAL and len(job.seeds) > 1:
            cell["values"] = dict(zip(map(str, job.seeds), row["accuracies"], strict=True))
        elif name == "dilm":
            cell["values"] = {str(number): accuracy for number, accuracy in enumerate(row["accuracies"])}
        else:
            cell["values"][first] = row["accuracy_mean"]
        texts = results["environment"]["texts"]["rows"]
        cell |= {"texts": texts, "test_texts": row.get("texts", texts["test"]), "note": row.get("note", "")}
        cell |= {field: row[field] for field in ("inner_steps", "tokens", "read_again", "distillation_seconds", "sets") if row.get(field) is not None}
        cell["command"] = job.command
        note_devices(cell, job.seeds, results["environment"])
        summarise(cell)


def write(cells: list[Entry]) -> None:
    """Write both files, in a fixed order, with each cell's share of full data."""
    cells.sort(key=lambda cell: (cell["dataset"], cell["model"], cell["examples_per_class"] or 0, *row_of(cell)))
    share_of_full(cells)
    write_entries(JSON, "cells", cells, MARKDOWN, markdown(cells))


def markdown(cells: list[Entry]) -> str:
    """The table for a person: a section for each data set and model."""
    lines = [
        "# Distilled text",
        "",
        "Test accuracy in %, mean ± standard deviation over seeds (their number; of published texts over trainings). Written by",
        "`python -m benchmarks.text`; settings, commands and single figures are in TEXT.json. Rows with a recipe start from their own head; behind the",
        "stroke, in brackets, the same from redrawn heads, with the deviation of all trainings together, over seeds and heads.",
        "Texts scored as plain ones are read from text.jsonl, tokenised anew, and trained on with their",
        "hard labels, a constant rate and a number of passes tuned on validation texts, from redrawn heads, as real sentences and published texts are.",
        "Perplexities are shares of that of random real sentences, by the language model that --judge names.",
    ]
    for dataset, model in sorted({(cell["dataset"], cell["model"]) for cell in cells}):
        here = [cell for cell in cells if (cell["dataset"], cell["model"]) == (dataset, model) and cell["runs"]]
        if not here:
            continue
        judged = any(cell.get("fluency") for cell in here)
        counts, _, begin = begin_section(here, ("perplexity, × real",) if judged else ())
        lines += begin
        rows: dict[tuple[Any, ...], dict[int | None, Entry]] = {}
        for cell in here:
            rows.setdefault(row_of(cell), {})[cell["examples_per_class"]] = cell
        for _, mine in sorted(rows.items()):
            found = [mine.get(None) or mine.get(count) for count in counts or [None]]
            shown = [part for cell in found for part in ((figure(cell), told(cell)) if cell else ("–", "–"))[: 1 + bool(judged and counts)]]
            lines.append(f"| {title_of(next(iter(mine.values())))} | {' | '.join(shown)} |")
        lines += markdown_curve(here, title_of)
    return "\n".join(lines) + "\n"


def row_of(cell: Entry) -> tuple[Any, ...]:
    """What tells a cell's row from the others of its section, by which rows are ordered."""
    return NAMES.index(cell["name"]), cell["route"], cell["taught"], cell["protocol"]


def title_of(cell: Entry) -> str:
    """What a cell's row is called."""
    learned = ", from a teacher" if cell["taught"] else ""
    if cell["name"] in TITLES:
        return TITLES[cell["name"]] + learned
    route = bare(cell["route"])
    beside = f" with {BESIDE[cell['route'].removeprefix(route)]}" if route != cell["route"] else ""
    return f"our text ({route}){beside}{learned}" + (", as plain text" if cell["protocol"] == TUNED else "")


if __name__ == "__main__":
    sys.exit(main())
