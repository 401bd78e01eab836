"""The command line of what is done with a folder alone, for main.py: `--mode=train`, `--mode=describe` and `--mode=push`, which need no configuration,
and `config_of_card` for `--mode=verify`, which takes it from the folder.

    python -m ddllm.main --mode=train --distilled FOLDER --out MODEL [--model NAME] [--seed N]
    python -m ddllm.main --mode=describe --distilled FOLDER
    python -m ddllm.main --mode=push --distilled FOLDER --repo OWNER/NAME [--private]
"""

from collections.abc import Callable
from os.path import expanduser
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ddllm.config import default_config, flatten
from ddllm.data.files import file_kind
from ddllm.errors import UserError

# What each one takes beside --mode and --distilled; the first is needed.
ALONE: dict[str, tuple[str, ...]] = {"train": ("out", "model", "seed"), "describe": (), "push": ("repo", "private")}


def asked(arguments: list[str], flag: str) -> str:
    """What a flag is in a command line, written with = or a blank; the last one counts."""
    found = ""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            found = value if equals else following
    return found


def parse_alone(arguments: list[str]) -> Callable[[], None] | None:
    """What a command line asks to be done with a folder alone, ready to be called; None where it asks for stages of a run.

    Raises:
        UserError: something in it is wrong.
    """
    mode = asked(arguments, "mode")
    if mode not in ALONE:
        return None
    values = flags.FlagValues()
    flags.DEFINE_string("mode", "", "what is done", flag_values=values)
    flags.DEFINE_string("distilled", "", "folder of the distilled data set", flag_values=values)
    flags.DEFINE_string("out", "", "folder of the checkpoint", flag_values=values)
    flags.DEFINE_string("model", "", "the base model, where it lies elsewhere than the recipe says", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of what the recipe leaves to chance", flag_values=values)
    flags.DEFINE_string("repo", "", "repository on the hub, owner/name", flag_values=values)
    flags.DEFINE_bool("private", False, "whether only its owner sees a new repository", flag_values=values)
    try:
        rest = values(["ddllm", *arguments])[1:]
    except (flags.Error, ValueError) as error:
        hint = "; it needs no configuration" if any(argument.startswith(("--config", "-config")) for argument in arguments) else ""
        raise UserError(f"{str(error).rstrip('.')}{hint}; correct it on the command line.") from None
    if rest:
        raise UserError(f"{rest[0]!r} is not understood; leave it out.")
    own = ALONE[mode]
    for name in ("out", "model", "seed", "repo", "private"):
        if name not in own and values[name].present:
            raise UserError(f"--{name} has no meaning with --mode={mode}; leave it out.")
    for name in ("distilled", *own[:1]):
        if not values[name].value:
            raise UserError(f"--mode={mode} needs --{name}: {values[name].help}.")
    return lambda: _do(mode, {name: values[name].value for name in ("distilled", *own)})


def _do(mode: str, given: dict[str, Any]) -> None:
    folder = given["distilled"]
    # Only now: all of these import jax.
    if mode == "describe":
        from ddllm.artefact.commands import describe

        describe(folder)
    elif mode == "train":
        from ddllm.artefact.commands import train_to
        from ddllm.runtime.devices import set_up

        set_up(default_config().runtime)
        train_to(folder, given["out"], given["model"] or None, given["seed"])
    else:
        from ddllm.artefact.push import push
        from ddllm.runtime.progress import say

        say(f"uploaded to {push(folder, given['repo'], given['private'])}")


def config_of_card(folder: str) -> ConfigDict:
    """The configuration that a folder was distilled with, as its recipe.json has it; how this machine computes (config.runtime) is its own.

    Raises:
        UserError: the folder is no distilled data set, or has no configuration that this version knows.
    """
    from ddllm.artefact.folder import read_recipe  # only now: it imports jax

    card, config = read_recipe(folder), default_config()
    kept, base = card.get("config"), card.get("base_model")
    if not isinstance(kept, dict) or not kept or not isinstance(base, dict):
        raise UserError(f"the card of {folder} has no configuration; give the one that it was distilled with as --config.")
    known = flatten(config)
    given = {key: value for key, value in flatten(kept).items() if not key.startswith("runtime.")} | {"model.name": base.get("name")}
    for key, value in given.items():
        try:
            if key not in known:
                raise KeyError("this version of ddllm has no such key")
            config.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
        except (KeyError, TypeError, ValueError) as error:
            said = " ".join(str(error.args[0] if error.args else error).split()).rstrip(".")
            raise UserError(f"{key} in the configuration of {folder} cannot be used ({said}); give a configuration as --config.") from None
    return config


def check_places(config: ConfigDict, folder: str) -> None:
    """Raise `UserError` where the texts or the model of a card's configuration are at a path that is not there."""
    for key, name in (("data.source", config.data.source), ("model.name", config.model.name)):
        local = name.startswith((".", "/", "~")) or (key == "data.source" and file_kind(Path(name)))
        if local and not Path(expanduser(name)).exists():
            what = "corpus" if key == "data.source" else "base model"
            raise UserError(f"the {what} of {folder} is not at {name}, where its card has it; give its place here as --config.{key}=PATH.")
