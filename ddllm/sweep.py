"""Several runs at once: `python -m ddllm.sweep --config FILE --vary KEY=VALUE,VALUE [--vary …] [--processes N] [--workdir DIR] [--config.KEY=VALUE …]`.

KEY is a configuration key, or an argument that files in configs/ take after the colon: model, recipe, examples or length.
The members are all combinations of the varied values. Each is an ordinary run in a folder of its own, so that it resumes, with its output
in log.txt there; one that fails or is killed does not stop the others. The table of all is printed and written to sweep.md and sweep.json. A second
start of the same command does what is left: members that have finished or failed are not repeated, the latter unless --retry is given;
one that was killed goes on.
Fine-tuning on all texts is taken over from a member that has finished, where no key that it depends on differs.
"""

import argparse
import re
import sys
from itertools import product
from pathlib import Path

from ddllm.checks import validate
from ddllm.config import default_config, flatten, resolve
from ddllm.errors import UserError
from ddllm.main import exit_status, parse
from ddllm.members import Member, add_processes, describe_values, run_members, run_one
from ddllm.recipes import ARGUMENTS
from ddllm.runtime.storage import guard_storage
from ddllm.runtime.workdir import MEMBER

EXAMPLES = "examples"  # the argument of a configuration that sets examples per class
SEPARATOR = re.compile(r",(?![^(\[]*[)\]])")  # commas outside of brackets


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a member has failed, or was killed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        _parser().print_help()
        return 0

    def work() -> int:
        options, folder, members = plan(arguments)
        with guard_storage(folder):
            if options.member is not None:
                return run_one(members, options.member, options.retry)
            if not options.table:
                run_members(members, options.processes, options.retry)
            from ddllm.report.sweep import report_sweep  # only now: a mistyped key should not have to wait for it

            return report_sweep(folder, members, ended=not options.table)

    return exit_status(work, "the same command does what is left")


def plan(arguments: list[str]) -> tuple[argparse.Namespace, Path, list[Member]]:
    """Options, the sweep's folder, and its members with every configuration checked.

    Raises:
        UserError: something on the command line is wrong, or the folder holds another sweep's members.
    """
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; correct it on the command line.") from None
    varied = [_read_values(text) for text in options.vary]
    keys = [key for key, _ in varied]
    if not keys:
        raise UserError("what varies? Give at least one --vary KEY=VALUE,VALUE, such as --vary seed=0,1,2.")
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--vary {key} is given twice; put all its values into one.")
    base = parse(rest).config
    folder = Path(options.workdir or f"runs/sweep-{base.name}")
    members = []
    for values in product(*(values for _, values in varied)):
        chosen = dict(zip(keys, values, strict=True))
        place = folder / _folder_name(chosen, keys)
        line = _member_line(rest, chosen)
        config, stages, *_ = parse(line)
        try:
            validate(config)
        except UserError as error:
            hint = f" --vary {EXAMPLES}=… changes both." if "distill.examples_per_class" in chosen and "distill.batches" in str(error) else ""
            raise UserError(f"with {describe_values(chosen)}: {error}{hint}") from None
        for other in members if _arguments(chosen) else ():
            if resolve(other.config) == resolve(config):
                raise UserError(f"{other.title} and {describe_values(chosen)} are the same run: the configuration does not use what stands after its colon.")
        members.append(Member(chosen, place, [*line, f"--workdir={place}"], config, stages))
        if (place / MEMBER).exists():
            members[-1].check_folder()
    if len({member.folder for member in members}) < len(members):
        raise UserError("two members would share a folder, since their values differ in special characters alone; give other values.")
    if options.member is not None and not 0 <= options.member < len(members):
        raise UserError(f"--member is {options.member}, but the {len(members)} members are 0 to {len(members) - 1}.")
    return options, folder, members


def _read_values(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    key = key.removeprefix("--").removeprefix("config.")
    listed = [value.strip() for value in SEPARATOR.split(values)]
    if not equals or not all(listed):
        raise UserError(f"--vary {text!r} is not understood; it has the form KEY=VALUE,VALUE, such as --vary seed=0,1,2.")
    for value in listed:
        if listed.count(value) > 1:
            raise UserError(f"--vary {key} has the value {value} twice.")
    return key, listed


def _arguments(chosen: dict[str, str]) -> list[str]:
    """Those of the varied values that are arguments of the configuration, as after its colon; what is a key too is meant as a key."""
    keys = flatten(default_config())
    return [f"{name}={value}" for name, value in chosen.items() if name in ARGUMENTS and name not in keys]


def _member_line(rest: list[str], chosen: dict[str, str]) -> list[str]:
    """The command line of a member, without its folder."""
    arguments = _arguments(chosen)
    line = [*rest, *(f"--config.{key}={value}" for key, value in chosen.items() if f"{key}={value}" not in arguments)]
    if not arguments:
        return line
    place = next(number for number, part in enumerate(line) if part.lstrip("-").split("=")[0] == "config")
    place += "=" not in line[place]
    path, _, given = line[place].partition(":")
    for part in filter(None, given.split(",")):
        name = part.partition("=")[0]
        if name in chosen:
            raise UserError(f"{part} stands after the configuration's colon, and --vary {name} varies it; leave one of them out.")
    line[place] = f"{path}:{','.join(filter(None, (given, *arguments)))}"
    return line


def _folder_name(chosen: dict[str, str], keys: list[str]) -> str:
    """A name made of the values, so that a sweep that is extended finds its earlier members."""
    short = {key: key.rsplit(".", 1)[-1] for key in keys}
    ambiguous = len(set(short.values())) < len(keys)
    name = ",".join(f"{key if ambiguous else short[key]}={value}" for key, value in chosen.items())
    return re.sub(r"[^A-Za-z0-9_.,=+-]", "-", name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m ddllm.sweep", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=VALUE,VALUE", help="a key or argument of the configuration, and its values")
    add_processes(parser, "members")
    parser.add_argument("--workdir", default="", metavar="DIR", help="where the members' folders go; by default runs/sweep-<config's name>")
    parser.add_argument("--retry", action="store_true", help="start members again that have failed")
    parser.add_argument("--member", type=int, metavar="NUMBER", help="run this one alone, from 0: for the tasks of an array")
    parser.add_argument("--table", action="store_true", help="make the table of what is there, run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
