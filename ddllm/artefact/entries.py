"""What recipe.json has to say, in the newest schema: `check_card` raises the sentence for the first entry that is missing or cannot be meant.

The file has no checksum, since scores are added to it: what is wrong in it is found here, and not where it is used.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ddllm.artefact.schema import Card, parts_of
from ddllm.checks import CHOICES
from ddllm.errors import UserError
from ddllm.models.families import HEADS
from ddllm.models.multi_head import MultiHead
from ddllm.models.products import PRECISIONS
from ddllm.models.tasks import Regression, read_task

Meant = tuple[Callable[[Any], bool], str]
SHOWN = 60  # characters of what cannot be meant


def _one_of(known: tuple[str, ...]) -> Meant:
    return lambda value: isinstance(value, str) and value in known, f"one of {', '.join(known)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    # Half of a pair of UTF-16's, which JSON can name alone, can be neither shown nor written.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _are(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_one, value))


OBJECT: Meant = lambda value: isinstance(value, dict), "an object"
TEXT: Meant = _is_text, "a text"
COUNT: Meant = lambda value: type(value) is int and value > 0, "a whole number above 0"
NUMBER: Meant = lambda value: _is_number(value) and -np.inf < value < np.inf, "a finite number"
POSITIVE: Meant = lambda value: _is_number(value) and 0 <= value < np.inf, "a finite number, not below 0"
NAMES: Meant = lambda value: _are(TEXT[0])(value) and len(value) > 0, "a list of names"
OBJECTS: Meant = _are(OBJECT[0]), "a list of objects"

# By their place, those inside others after these.
NEEDED: dict[str, Meant] = {
    "label_names": NAMES,
    "base_model": OBJECT,
    "base_model.name": TEXT,
    "base_model.fingerprint": TEXT,
    "head": OBJECT,
    "head.kind": _one_of(tuple(HEADS)),
    "head.classes": COUNT,
    "head.deviation": POSITIVE,
    "head.start": _one_of(CHOICES["distill.head"]),
    "head.seed": (lambda value: type(value) is int and 0 <= value < 2**32, "a whole number of at most 32 bits"),
    "preprocessing": OBJECT,
    "preprocessing.text_length": COUNT,
    "scores": OBJECTS,
}
OPTIONAL: dict[str, Meant] = {
    "base_model.revision": TEXT,
    "preprocessing.pairs": (lambda value: isinstance(value, bool), "true or false"),
    "preprocessing.tokenizer_fingerprint": TEXT,
    "products": _one_of(tuple(PRECISIONS)),
    "task": OBJECT,
    "recipe.labels": TEXT,
    "recipe.optimizer": TEXT,
    "recipe.passes": COUNT,
    "recipe.order": TEXT,
    "learning_rates": (_are(_are(_is_number)), "a list of lists of numbers"),
    "versions": (lambda value: isinstance(value, dict) and (not value or "ddllm" in value), "an object with a version of ddllm"),
    "config": OBJECT,
    "config.data": OBJECT,
    "config.data.source": TEXT,
    "merged": OBJECT,
    "merged.sets": OBJECTS,
    "updated": OBJECT,
    "corpus": TEXT,
    "teachers": OBJECTS,
    "distillation_seconds": NUMBER,
}
IN_PART: dict[str, Meant] = {"texts": OBJECTS, "sets": COUNT}
IN_TEXTS: dict[str, Meant] = {"corpus": TEXT, "label_names": NAMES}
IN_SCORE: dict[str, Meant] = {"name": TEXT, "figure": TEXT, "mean": NUMBER, "deviation": POSITIVE, "runs": COUNT, "texts": COUNT}


def check_card(card: Card, where: str | Path) -> None:
    """Raise `UserError` for the first entry of a recipe.json that is missing, cannot be meant, or does not fit the others.

    Args:
        card: its contents, in the newest schema.
        where: the file, for messages.
    """
    _check_entries(card, NEEDED, where, needed=True)
    _check_entries(card, OPTIONAL, where, needed=False)
    for number, score in enumerate(card["scores"], 1):
        _check_entries(score, IN_SCORE, f"score {number} of {where}", needed=True)
    for number, texts in enumerate(card.get("teachers", []), 1):
        _check_entries(texts, IN_TEXTS, f"the texts of teacher {number} of {where}", needed=True)
    for number, part in enumerate(parts_of(card), 1):
        _check_entries(part, IN_PART, f"set {number} of {where}", needed=False)
        for texts in part.get("texts", []):
            _check_entries(texts, IN_TEXTS, f"the texts of set {number} of {where}", needed=True)
    names, head = card["label_names"], card["head"]
    further = [key for key in head if f"head.{key}" not in NEEDED]
    if further:
        raise UserError(f"{where} says head.{further[0]}, which no head has; get the folder again.")
    if head["classes"] != len(names):
        raise UserError(f"{where} has {len(names)} label_names, but a head of {head['classes']} classes; get the folder again.")
    task, lists = read_task(card), [names]
    if isinstance(task, Regression) and not (_is_number(task.mean) and _is_number(task.deviation)):
        raise UserError(f"mean and deviation of the task in {where} must be numbers; get the folder again.")
    if isinstance(task, MultiHead):
        _check_heads(task, len(names), where)
        lists = [names[first:end] for first, end in pairwise(np.cumsum([0, *task.sizes]).tolist())]
    for listed in lists:
        if len(set(listed)) < len(listed):
            raise UserError(f"label_names in {where} repeats a name: {', '.join(listed)}; get the folder again.")


def _check_entries(card: Card, entries: dict[str, Meant], where: str | Path, needed: bool) -> None:
    """Raise `UserError` unless entries, by their place with dots, are what is meant; those that are not `needed` may be missing."""
    for place, (fits, meant) in entries.items():
        *outer, name = place.split(".")
        inside: Any = card
        for key in outer:
            inside = inside.get(key, {})
        if name in inside and not fits(inside[name]):
            raise UserError(f"{place} in {where} is {repr(inside[name])[:SHOWN]}, but must be {meant}; get the folder again.")
        if needed and name not in inside:
            raise UserError(f"{where} says no {place}; get the folder again.")


def _check_heads(task: MultiHead, outputs: int, where: str | Path) -> None:
    """Raise `UserError` unless a task's heads have different names and share out so many outputs."""
    named = all(isinstance(head, str) for head in task.heads) and len(set(task.heads)) == len(task.heads) == len(task.sizes)
    if not named or not all(COUNT[0](size) for size in task.sizes) or sum(task.sizes) != outputs:
        raise UserError(f"the heads of the task in {where} do not share out its {outputs} label_names; get the folder again.")
