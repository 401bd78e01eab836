"""What the commands here read from the command line alike, and how they work through their runs."""

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.entries import Entry, read_entries
from benchmarks.jobs import DATASETS, Job
from ddllm.config import suggest
from ddllm.errors import UserError
from ddllm.members import FAILED, FINISHED, add_processes, run_members
from ddllm.models.products import PRECISIONS


def make_parser(command: str, work: str) -> argparse.ArgumentParser:
    """The options that every table has; `work` is where its runs go by default."""
    parser = argparse.ArgumentParser(f"python -m {command}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--datasets", default=",".join(DATASETS), help=f"of {', '.join(DATASETS)}")
    parser.add_argument("--models", default="embedded", help="hub names, folders or 'embedded'")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the runs")
    parser.add_argument("--data", default="", metavar="FOLDER", help="has a folder of files for each data set, used instead of the hub")
    parser.add_argument("--work", default=work, metavar="DIR", help="where the runs' folders go")
    parser.add_argument("--minutes", type=float, default=0.0, help="start nothing new after so long; 0: go on to the end")
    add_processes(parser, "runs")
    parser.add_argument("--products", default="float32", choices=tuple(PRECISIONS), help="model.products of every run: how exact matrix products are")
    parser.add_argument("--retry", action="store_true", help="start runs again that have failed")
    parser.add_argument("--only-table", action="store_true", help="write the table of what is there, run nothing")
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Options, those of `make_parser` in the form that runs are planned from.

    Raises:
        UserError: something on the command line is wrong.
    """
    options = parse(parser, arguments)
    options.datasets = listed(options.datasets, "--datasets", DATASETS)
    options.models = [name.strip() for name in options.models.split(",")]
    if "" in options.models:
        raise UserError(f"--models is {','.join(options.models)!r}, where a name is empty; name each model.")
    refuse_twice(options.models, "--models")
    options.seeds = numbers(options.seeds, "--seeds", 0)
    options.data = Path(options.data) if options.data else None
    if options.data is not None and not options.data.is_dir():
        raise UserError(f"--data {options.data} is not a folder; give one that has a folder for each data set, or leave it out.")
    if not options.minutes >= 0:
        raise UserError(f"--minutes is {options.minutes:g}, but must be at least 0.")
    options.work = Path(options.work)
    options.alike = () if options.products == "float32" else (f"--config.model.products={options.products}",)
    return options


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Options as they stand on the command line.

    Args:
        parser: one that does not exit over errors.
        arguments: of the command.

    Raises:
        UserError: one of them is not known, or lacks its value.
    """
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; correct it on the command line.") from None
    if rest:
        known = [name for action in parser._actions for name in action.option_strings]
        raise UserError(f"{rest[0]!r} is not understood{suggest(rest[0].partition('=')[0], known)}; see --help.")
    return options


def listed(text: str, option: str, known: tuple[str, ...]) -> list[str]:
    """The names in a list with commas, all of them known, none twice."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"{option} has no {name!r}{suggest(name, known)}; it may have {', '.join(known)}.")
    refuse_twice(names, option)
    return names


def numbers(text: str, option: str, least: int) -> list[int]:
    """The whole numbers in a list with commas, none twice."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        raise UserError(f"{option} is {text!r}, but must be whole numbers from {least} on, such as 1,5,10.")
    refuse_twice(values, option)
    return values


def refuse_twice(values: list[Any], option: str) -> None:
    """Refuse what would be run twice in one folder, perhaps at once."""
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{option} has {value} {values.count(value)} times; leave it there once.")


def number(text: str, option: str, least: int) -> int:
    """The single whole number that an option takes."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"{option} is {text!r}, but must be a whole number from {least} on.")
    return value


def work_through(options: argparse.Namespace, jobs: list[Job], finished: Callable[[Job], None], table: Path) -> int:
    """Run what is left, hand over each run that has ended, and say what has not; the exit status, 1 where a run has failed or was killed.

    With several processes so many runs go at a time, in the rounds of `in_rounds`, each of which is handed over at its end. A run whose command names
    the folder of one that has not finished is not started: it would take half of it for the whole.

    Raises:
        UserError: a run's folder belongs to another configuration than is asked for now.
    """
    for job in jobs if not options.only_table else ():
        job.member.check_folder()
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    for together in [[job] for job in jobs] if options.processes == 1 else in_rounds(jobs):
        if not options.only_table:
            run_members([job.member for job in together if _ready(job, jobs)], options.processes, options.retry, until)
        for job in together:
            if job.member.record()["status"] == FINISHED:
                finished(job)
    records = [(job.member, job.member.record()) for job in jobs]
    failed = sum(record["status"] == FAILED for _, record in records)
    left = sum(record["status"] not in (FINISHED, FAILED) for _, record in records)
    troubled = [(member, record) for member, record in records if record["status"] == FAILED or record["error"]]
    for member, record in troubled:
        print(f"{member.title}: {record['error']}", file=sys.stderr)
    print(f"{table}: {left} runs left, {failed} failed{'; --retry starts those again' if failed else ''}", file=sys.stderr)
    return int(bool(troubled))


def _ready(job: Job, jobs: list[Job]) -> bool:
    """Whether all that a run needs has finished; says what has not."""
    missing = [needed for needed in needed_by(job, jobs) if needed.member.record()["status"] != FINISHED]
    for needed in missing:
        print(f"{job.member.title}: not started, it needs {needed.member.folder}, which has not finished", file=sys.stderr)
    return not missing


def needed_by(job: Job, jobs: list[Job]) -> list[Job]:
    """Those runs whose folders the command of one names: its teacher, the sets that it merges, the texts that it scores."""
    folder, line = job.member.folder, " ".join(job.member.line)
    return [
        other for other in jobs if other.member.folder != folder and re.search(rf"{re.escape(str(other.member.folder))}(?![\w+-])", line)
    ]


def in_rounds(jobs: list[Job]) -> list[list[Job]]:
    """The runs in rounds, each after those of `needed_by`.

    Args:
        jobs: each after those that it needs.
    """
    number: dict[Path, int] = {}
    for place, job in enumerate(jobs):
        needed = needed_by(job, jobs[:place])
        number[job.member.folder] = 1 + max((number[other.member.folder] for other in needed), default=-1)
    return [[job for job in jobs if number[job.member.folder] == each] for each in sorted(set(number.values()))]


def add_smoke(parser: argparse.ArgumentParser) -> None:
    """The option that `fill_or_try` looks at."""
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few short texts: does everything run? The figures are not kept")


def fill_or_try(
    options: argparse.Namespace,
    jobs: list[Job],
    json: Path,
    table: Path,
    enter: Callable[[list[Entry], Job], None],
    write: Callable[[list[Entry]], None],
    markdown: Callable[[list[Entry]], str],
) -> int:
    """`work_through`, with rows that are kept in `json` and written after each run; those of --smoke are only printed at the end."""
    if not options.smoke:

        def finished(job: Job) -> None:
            rows = read_entries(json, "rows")
            enter(rows, job)
            write(rows)

        if json.exists():  # as this version writes it
            write(read_entries(json, "rows"))
        return work_through(options, jobs, finished, table)
    tried: list[Entry] = []
    status = work_through(options, jobs, lambda job: enter(tried, job), table)
    print(markdown(tried))
    return status
