"""The command: `python -m ddllm.main --config configs/quickstart.py [--workdir DIR] [--mode prepare,distill] [--config.KEY=VALUE …]`.

    … --mode=merge,evaluate --sets A,B                    make one distilled data set of several (ddllm/merge/stage.py)
    … --mode=evaluate --distilled FILE [--name NAME]      score another's result: a folder, or JSONL of texts and labels (docs/PROTOCOL.md)
    … --mode=verify --distilled FOLDER                    train on a folder again and compare with its card; status 1 where it differs. Without
                                                          --config, that of the card counts

    python -m ddllm.main --mode=train --distilled FOLDER --out MODEL [--model NAME] [--seed N]     a Hugging Face checkpoint
    python -m ddllm.main --mode=describe --distilled FOLDER                                        what a folder is
    python -m ddllm.main --mode=push --distilled FOLDER --repo OWNER/NAME [--private]              to a hub

Reads a configuration and calls its stages in order. A mistake of the user's is one sentence and exit status 2; results go to the working
directory, by default runs/<config's name>, and the same command there goes on where it was stopped.
"""

import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddllm.artefact.command_line import ALONE, asked, check_places, config_of_card, parse_alone
from ddllm.artefact.schema import named_by
from ddllm.checks import SELECTIONS
from ddllm.config import default_config, flatten, suggest
from ddllm.data.files import SUFFIXES
from ddllm.errors import UserError, was_interrupted
from ddllm.recipes import ARGUMENTS
from ddllm.runtime.huge_pages import start_with_huge_pages

STAGE_NAMES = (
    "prepare",
    "finetune",
    "select",
    "distill",
    "merge",
    "evaluate",
    "text",
    "robustness",
    "analyse",
    "look",
    "prompt",
    "privacy",
    "continual",
    "verify",
    "report",
)
OWN = ("full", *SELECTIONS, "distilled")  # names of the run's own rows
ON_REQUEST = ("text", "robustness", "analyse", "look", "prompt", "privacy")  # not among all, unless the key of the same name in config.evaluate is set
ASKED_FOR = ("merge", "continual", "verify")  # only where --mode names them


class Command(NamedTuple):
    """What a command line asks for.

    Attributes:
        config: the configuration.
        stages: names of the stages to run.
        folder: working directory.
        distilled: another's result to be scored in place of the run's own, or nothing.
        name: of that result's rows.
        scratch: whether the working directory is for this command alone and removed in the end.
    """

    config: ConfigDict
    stages: list[str]
    folder: Path
    distilled: str
    name: str
    scratch: bool = False


def parse(arguments: list[str]) -> Command:
    """Read a command line, its program name left out.

    Raises:
        UserError: something in it is wrong.
    """
    values = flags.FlagValues()
    names_config = any(argument.lstrip("-").split("=")[0] in ("config", "help", "h") for argument in arguments)
    card = asked(arguments, "distilled") if asked(arguments, "mode") == "verify" and not names_config else ""
    common: dict[str, Any] = {"flag_values": values, "lock_config": True, "sys_argv": ["ddllm", *arguments]}
    flags.DEFINE_string("workdir", "", "where results go; by default runs/<config's name>", flag_values=values)
    flags.DEFINE_string("mode", "all", f"stages to run, separated by commas: {', '.join(STAGE_NAMES)}", flag_values=values)
    flags.DEFINE_string("distilled", "", "another's result to score: a distilled folder, or JSONL of texts and labels", flag_values=values)
    flags.DEFINE_string("name", "", "names the rows of --distilled; by default the file's or folder's name", flag_values=values)
    flags.DEFINE_list("sets", [], "distilled folders to be merged by --mode=merge (see config.merge)", flag_values=values)
    flags.DEFINE_bool("help", False, "show this text", short_name="h", flag_values=values)
    if not names_config and not card:
        raise UserError("which configuration? Give one, such as --config configs/quickstart.py (see the folder configs).")
    try:
        holder: Any
        if card:
            holder = config_flags.DEFINE_config_dict("config", config_of_card(card), "the configuration of the card", **common)
        else:
            holder = config_flags.DEFINE_config_file("config", None, "a file of configs/, perhaps with an argument after a colon", **common)
        rest = values(["ddllm", *arguments])[1:]
        # A file that could not be read is only complained of at first use.
        config = holder.value
        keys = {} if config is None else flatten(config)
    except UserError:
        raise
    except OSError as error:
        raise UserError(_missing_config(arguments, error)) from None
    except Exception as error:  # A configuration file is a program, in which anything may go wrong.
        raise UserError(_explain(arguments, error)) from None
    if values["help"].value:
        print(f"{__doc__}\n{values.main_module_help()}")
        raise SystemExit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is not understood; keys are set as --config.KEY=VALUE, with no blanks around =.")
    mode = str(values["mode"].value)
    if config is None:
        raise UserError("which configuration? Give one, such as --config configs/quickstart.py (see the folder configs).")
    if keys.keys() != flatten(default_config()).keys():
        raise UserError(f"get_config in {_config_path(arguments)} must return what ddllm.config.default_config() gives, with values of its own.")
    distilled = expanduser(str(values["distilled"].value))
    names: list[str] = [name.strip() for name in mode.split(",")]
    if mode == "all":
        names = [name for name in STAGE_NAMES if name not in (*ON_REQUEST, *ASKED_FOR) or (name in ON_REQUEST and config.evaluate[name])]
        # Texts have no recipe to vary, and another's result need not be distilled.
        left_out = (("distill",) if distilled else ()) + (ON_REQUEST if Path(distilled).is_file() else ())
        names = [name for name in names if name not in left_out]
    for name in names:
        if name in ALONE:
            raise UserError(f"--mode={name} stands alone, without stages of a run; give it by itself.")
        if name not in STAGE_NAMES:
            raise UserError(f"--mode has no stage {name!r}{suggest(name, STAGE_NAMES)}; the stages are {', '.join(STAGE_NAMES)}.")
    if distilled and "distill" in names:
        raise UserError("--distilled gives a result that is there already, and --mode=distill makes one; leave one of them out.")
    _take_sets(config, [expanduser(name) for name in values["sets"].value or ()], names, distilled)
    if card:
        check_places(config, card)
    name = str(values["name"].value) or name_of(Path(distilled)) if distilled else ""
    if values["name"].value and not distilled:
        raise UserError("--name names the rows of another's result; give its file with --distilled.")
    if name.split(",")[0].strip() in OWN:
        raise UserError(f"--name is {name!r}, as rows of the run itself are called; choose another one.")
    folder = Path("runs") / config.name
    # A merged set is no run of the configuration's own.
    folder = folder.with_name(f"{folder.name}-merged") if "merge" in names else folder
    scratch = bool(card) and not values["workdir"].value
    folder = Path(tempfile.gettempdir()) / f"ddllm-verify-{os.getpid()}" if scratch else Path(expanduser(values["workdir"].value or folder))
    return Command(config, names, folder, distilled, name, scratch)


def _take_sets(config: ConfigDict, sets: list[str], names: list[str], distilled: str) -> None:
    """Put the folders of --sets into the configuration, where the stages that are asked for merge them."""
    if sets and "merge" not in names:
        raise UserError("--sets are folders to be merged; give --mode=merge (or merge,evaluate,report) with them.")
    if "merge" not in names:
        return
    if sets:
        config.merge.sets = tuple(sets)
    if not config.merge.sets:
        raise UserError("--mode=merge needs the distilled folders to be merged; give them as --sets A,B.")
    if "distill" in names or distilled:
        raise UserError(f"--mode=merge makes the run's distilled data set, and so does {'--distilled' if distilled else '--mode=distill'}; leave one out.")


def name_of(path: Path) -> str:
    """What rows of a file are called: its name without the ending; for a run's folder "distilled", what the run's is called."""
    path = named_by(path)
    name = Path(path.name.removesuffix(".gz"))
    return name.stem if name.suffix in SUFFIXES else path.name


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        alone = parse_alone(arguments)
        if alone is not None:
            alone()
            return 0
        command = parse(arguments)
        # Only now: the stages import jax, and a mistyped key should not have to wait for that.
        from ddllm.runtime.processes import ending_together
        from ddllm.runtime.workdir import guard_storage
        from ddllm.stages import open_run, run_stages

        try:
            with ending_together(), guard_storage(command.folder):
                typed = " ".join(["python -m ddllm.main", *map(shlex.quote, arguments)])
                run = open_run(command.config, command.folder, typed, command.distilled, command.name)
                with run.workdir:
                    run_stages(run, command.stages)
        finally:
            if command.scratch:
                shutil.rmtree(command.folder, ignore_errors=True)
        return 0

    return exit_status(work, "the same command goes on from the last checkpoint")


def exit_status(work: Callable[[], int], afterwards: str) -> int:
    """What `work` returns; 2 after a user's mistake, 1 after a failed check, 130 after an interrupt, each with a sentence. `afterwards`: how to go on."""
    try:
        return work()
    except UserError as error:
        print(f"ddllm: {' '.join(str(error).splitlines())}", file=sys.stderr)  # names in it may have line breaks
        return error.status
    except (Exception, KeyboardInterrupt) as error:
        if not was_interrupted(error):
            raise
        print(f"\nddllm: interrupted; {afterwards}.", file=sys.stderr)
        return 130


def _explain(arguments: list[str], error: Exception) -> str:
    """The sentence for what went wrong on the command line or, with its line, in the configuration file."""
    known, path = list(flatten(default_config())), _config_path(arguments)
    for argument in arguments:
        key, equals, value = argument.lstrip("-").partition("=")
        name = key.removeprefix("config.")
        if name != key and name in ARGUMENTS and name not in known:
            shown = f"--config={path}:{name}{equals}{value}"
            return f"config.{name} is not a key, but an argument of the configuration, which stands after its colon: {shown}."
    if "get_config() takes 0 positional arguments" in str(error):
        return f"the configuration {path} takes no arguments after a colon; leave them out, or let its get_config take them, as in configs/."
    if isinstance(error, (AttributeError, KeyError)):
        for argument in arguments:
            key = argument.lstrip("-").split("=")[0]
            name = key.removeprefix("config.")
            if name != key and name not in known:
                return f"config.{name} is not a key{suggest(name, known)}; all keys are listed in ddllm/config.py."
    cause: BaseException | None = error
    while cause is not None:  # What a file raises comes as it is or, of some kinds, in the words of the libraries that run it.
        lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if Path(frame.filename).absolute() == path.absolute()]
        if isinstance(cause, SyntaxError) and cause.filename and Path(cause.filename).absolute() == path.absolute():
            lines, cause = [cause.lineno], SyntaxError(cause.msg)
        if not lines:
            cause = cause.__context__
            continue
        what = f"{type(cause).__name__}: {str(cause).rstrip('.')}; correct it there"
        if unknown := re.search(r'Key "(\w+)" does not exist', str(cause)):
            what = f"{unknown[1]} is not a key{suggest(unknown[1], [key.rpartition('.')[2] for key in known])}; all keys are listed in ddllm/config.py"
        return f"{path}, line {lines[-1]}: {what}."
    if isinstance(error, flags.Error | ValueError | TypeError):
        return f"{str(error).rstrip('.')}; correct it on the command line."
    return f"the configuration file {path} cannot be used: {str(error).rstrip('.')}."


def _config_path(arguments: list[str]) -> Path:
    """The configuration file that a command line names."""
    for name, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if name.lstrip("-").split("=")[0] == "config":
            return Path((name.split("=", 1)[1] if "=" in name else following).split(":")[0])
    return Path()


def _missing_config(arguments: list[str], error: OSError) -> str:
    path = _config_path(arguments)
    if path.exists():
        return f"the configuration could not be read: {error}"
    present = sorted(str(other) for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    listed = f"; {path.parent} has {', '.join(Path(other).name for other in present)}" if present else ""
    return f"there is no configuration file {path}{suggest(str(path), present)}{listed}."


if __name__ == "__main__":
    start_with_huge_pages()
    sys.exit(main())
