"""What the tables of results are made of: entries with a figure for each seed, each for one way to train under one set of settings."""

import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from ddllm.config import default_config, resolve
from ddllm.distill.teacher import BRIEF
from ddllm.runtime.devices import computed_on
from ddllm.runtime.storage import read_json, write_atomically, write_json

Entry = dict[str, Any]
TEACHER, TEACHERS = "distill.teacher", "teachers"  # the second is the kind of the runs that fine-tune briefly, once for all sets of a seed
APART = ("name", "seed", "runtime", "data.source", TEACHER, "distill.checkpoint_every", "distill.checkpoints_kept", "text.judge")
UNTAUGHT = ("distill.crossed", "distill.teacher_share")  # have no effect without a teacher
# Sections that a kind of run does not depend on, and what selections take of one of them.
WITHOUT_EFFECT = {
    "full": ("distill", "evaluate", "text"),
    "select": ("distill", "finetune", "text"),
    "submitted": ("distill", "finetune", "text"),
}
ASIDE = ("merge", "continual", "prompt", "privacy")  # sections of stages that a run does not have unless it is said
DEVICES = "devices"
SIZES = ("distill.examples_per_class", "distill.batches")


def called(model: str) -> str:
    """A model's name, of a local folder or file its own without those above."""
    return Path(model).name if Path(model).exists() else model


def settings_of(config: dict[str, Any], kind: str, also: str = "") -> dict[str, Any]:
    """What a run's configuration changes in the defaults, but for what differs between the runs of an entry or has no effect on them.

    Args:
        config: of the run.
        kind: of the run, which says what has no effect.
        also: a section of `ASIDE` that has one.
    """
    there, defaults = (flatten_dict(tree, sep=".") for tree in (config, resolve(default_config())))
    there = {**there, "model.name": called(str(there["model.name"]))}
    apart = APART + tuple(section for section in ASIDE if section != also) + WITHOUT_EFFECT.get(kind, ("finetune",))
    apart += () if there[TEACHER] else UNTAUGHT
    # Of all that may teach, the folders of fully fine-tuned models are not told apart.
    if there[TEACHER] == BRIEF or Path(there[TEACHER]).name.startswith(f"{TEACHERS}-"):
        there[TEACHER], apart = BRIEF, tuple(part for part in apart if part != TEACHER)

    def counts(key: str) -> bool:
        return key in SIZES and kind == "select" or not any(key == part or key.startswith(f"{part}.") for part in apart)

    return {key: value for key, value in sorted(there.items()) if value != defaults.get(key) and counts(key)}


def find_entry(entries: list[Entry], key: Entry, settings: dict[str, Any], figures: tuple[str, ...]) -> Entry:
    """The entry of this key, added where there is none; its figures, and "devices", are empty dicts if it is new or has those of other settings."""
    figures = (*figures, DEVICES)
    entry = next((entry for entry in entries if all(entry[part] == value for part, value in key.items())), None)
    if entry is None:
        entry = key | {name: {} for name in figures}
        entries.append(entry)
    if entry.get("settings") != settings:
        entry |= {name: {} for name in figures} | {"settings": settings}
    return entry


def note_devices(entry: Entry, seeds: tuple[int, ...], environment: dict[str, Any]) -> None:
    """Say in an entry what the figures of these seeds were computed on."""
    entry[DEVICES] |= dict.fromkeys(map(str, seeds), computed_on(environment))


def by_setting(entries: list[Entry], parts: tuple[str, ...]) -> list[tuple[tuple[Any, ...], list[Entry]]]:
    """What entries have in those parts, in ascending order, each with the entries that have it."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry[part] for part in parts), []).append(entry)
    return sorted(groups.items(), key=lambda group: group[0])


def over_seeds(values: Collection[float]) -> str:
    """Shares as percentages: their mean, their standard deviation where there are several, and how many they are."""
    return f"{percent(values)} ({len(values)})"


def percent(values: Collection[float]) -> str:
    """The same without their number."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def read_entries(path: Path, name: str) -> list[Entry]:
    """The entries so far."""
    return read_json(path)[name] if path.exists() else []


def write_entries(path: Path, name: str, entries: list[Entry], markdown: Path, text: str) -> None:
    """Write the entries as JSON, and what a person reads of them."""
    path.parent.mkdir(exist_ok=True)
    write_json(path, {name: entries})
    with write_atomically(markdown) as temporary:
        temporary.write_text(text, encoding="utf-8")
