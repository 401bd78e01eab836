"""The command: `python -m ddllm.main --config configs/quickstart.py [--workdir DIR] [--mode prepare,distill] [--config.KEY=VALUE …]`.

    … --mode=evaluate --distilled FILE [--name NAME]      score another's result: a folder, or JSONL of texts and labels (docs/PROTOCOL.md)
    … --mode=verify --distilled FOLDER                    train on a folder again and compare with its card; status 1 where it differs

    python -m ddllm.main --mode=train --distilled FOLDER --out MODEL [--model NAME] [--seed N]     a Hugging Face checkpoint
    python -m ddllm.main --mode=describe --distilled FOLDER                                        what a folder is
    python -m ddllm.main --mode=push --distilled FOLDER --repo OWNER/NAME [--private]              to a hub

Reads a configuration and calls its stages in order. A mistake of the user's is one sentence and exit status 2; results go to the working
directory, by default runs/<config's name>, and the same command there goes on where it was stopped.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddllm.artefact.command_line import ALONE, parse_alone
from ddllm.checks import SELECTIONS
from ddllm.config import default_config, flat_keys, suggest
from ddllm.data.files import SUFFIXES
from ddllm.errors import UserError
from ddllm.runtime.huge_pages import start_with_huge_pages

STAGE_NAMES = ("prepare", "finetune", "select", "distill", "evaluate", "robustness", "analyse", "verify", "report")
OWN = ("full", *SELECTIONS, "distilled")  # names of the run's own rows
ON_REQUEST = ("robustness", "analyse")  # not among all, unless the key of the same name in config.evaluate is set
NEVER_BY_ITSELF = ("verify",)  # runs where --mode names it


class Command(NamedTuple):
    """What a command line asks for.

    Attributes:
        config: the configuration.
        stages: names of the stages to run.
        folder: working directory.
        distilled: another's result to be scored in place of the run's own, or nothing.
        name: of that result's rows.
    """

    config: ConfigDict
    stages: list[str]
    folder: Path
    distilled: str
    name: str


def parse(arguments: list[str]) -> Command:
    """Read a command line, its program name left out.

    Raises:
        UserError: something in it is wrong.
    """
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "a file of configs/, perhaps with an argument after a colon",
        flag_values=values,
        lock_config=True,
        sys_argv=["ddllm", *arguments],
    )
    flags.DEFINE_string("workdir", "", "where results go; by default runs/<config's name>", flag_values=values)
    flags.DEFINE_string("mode", "all", f"stages to run, separated by commas: {', '.join(STAGE_NAMES)}", flag_values=values)
    flags.DEFINE_string("distilled", "", "another's result to score: a distilled folder, or JSONL of texts and labels", flag_values=values)
    flags.DEFINE_string("name", "", "names the rows of --distilled; by default the file's or folder's name", flag_values=values)
    flags.DEFINE_bool("help", False, "show this text", short_name="h", flag_values=values)
    if not any(argument.lstrip("-").split("=")[0] in ("config", "help", "h") for argument in arguments):
        raise UserError("which configuration? Give one, such as --config configs/quickstart.py (see the folder configs).")
    try:
        rest = values(["ddllm", *arguments])[1:]
        # A file that could not be read is only complained of at first use.
        config = holder.value
        folder = Path("runs") / (config.name if config else "")
    except OSError as error:
        raise UserError(_missing_config(arguments, error)) from None
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(arguments, error)) from None
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(f"{str(error).rstrip('.')}; correct it on the command line.") from None
    if values["help"].value:
        print(f"{__doc__}\n{values.main_module_help()}")
        raise SystemExit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is not understood; keys are set as --config.KEY=VALUE, with no blanks around =.")
    mode = str(values["mode"].value)
    if config is None:
        raise UserError("which configuration? Give one, such as --config configs/quickstart.py (see the folder configs).")
    distilled = str(values["distilled"].value)
    names: list[str] = [name.strip() for name in mode.split(",")]
    if mode == "all":
        names = [name for name in STAGE_NAMES if name not in NEVER_BY_ITSELF and (name not in ON_REQUEST or config.evaluate[name])]
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
    name = str(values["name"].value) or name_of(Path(distilled)) if distilled else ""
    if values["name"].value and not distilled:
        raise UserError("--name names the rows of another's result; give its file with --distilled.")
    if name.split(",")[0].strip() in OWN:
        raise UserError(f"--name is {name!r}, as rows of the run itself are called; choose another one.")
    return Command(config, names, Path(values["workdir"].value or folder), distilled, name)


def name_of(path: Path) -> str:
    """What rows of a file are called: its name without the ending; for a run's folder "distilled", what the run's is called."""
    path = path.absolute().parent if path.name == "distilled" else path
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

        with ending_together(), guard_storage(command.folder):
            typed = " ".join(["python -m ddllm.main", *arguments])
            run = open_run(command.config, command.folder, typed, command.distilled, command.name)
            with run.workdir:
                run_stages(run, command.stages)
        return 0

    return exit_status(work, "the same command goes on from the last checkpoint")


def exit_status(work: Callable[[], int], afterwards: str) -> int:
    """What `work` returns; after a user's mistake 2, a check that failed 1, an interrupt 130, each with one sentence. `afterwards` says how to go on."""
    try:
        return work()
    except UserError as error:
        print(f"ddllm: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(f"\nddllm: interrupted; {afterwards}.", file=sys.stderr)
        return 130


def _unknown_key(arguments: list[str], error: Exception) -> str:
    known = flat_keys(default_config())
    for argument in arguments:
        key = argument.lstrip("-").split("=")[0]
        if key.startswith("config."):
            name = key.removeprefix("config.")
            if name not in known:
                return f"config.{name} is not a key{suggest(name, known)}; all keys are listed in ddllm/config.py."
    return f"the configuration file uses a key that does not exist: {error}; all keys are listed in ddllm/config.py."


def _missing_config(arguments: list[str], error: OSError) -> str:
    for name, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if name.lstrip("-").split("=")[0] == "config":
            path = Path((name.split("=", 1)[1] if "=" in name else following).split(":")[0])
            if path.exists():
                break
            present = sorted(str(other) for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
            listed = f"; {path.parent} has {', '.join(Path(other).name for other in present)}" if present else ""
            return f"there is no configuration file {path}{suggest(str(path), present)}{listed}."
    return f"the configuration could not be read: {error}"


if __name__ == "__main__":
    start_with_huge_pages()
    sys.exit(main())
