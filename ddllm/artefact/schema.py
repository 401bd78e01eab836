"""Schemas of recipe.json, and how one becomes the next: `migrate` hands on a card in the newest form, whatever the folder was written in.

| schema | what it added |
|---|---|
| 1 | a fixed order, the optimizers by their short names |
| 2 | every order and every optimizer |
| 3 | auxiliary labels, pairs of texts, tasks other than classification |
| 4 | a checksum for every file, embeddings in fewer bits, scores with their protocol, versions, tokenizer, loss and labels in words |
| 5 | gains, which a reader that does not know them would leave out |
| 6 | gains in 8 bits |
| 7 | word scores, which a reader that does not know them would leave out |
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddllm.errors import UserError

Card = dict[str, Any]
SCHEMA = 7
# How embeddings are stored (see storage.py). The names are here since checks of the configuration want them without numpy.
FLOAT32, FLOAT16, BFLOAT16, INT8 = STORAGES = ("float32", "float16", "bfloat16", "int8")
ARRAYS, RECIPE = "distilled.safetensors", "recipe.json"


def named_by(path: Path) -> Path:
    """The folder or file that a data set is called by: its own or, of a run's folder "distilled", the run's."""
    path = path.resolve() if path.name in ("", "..") else path.absolute()
    return path.parent if path.name == "distilled" else path


def parts_of(card: Card) -> list[Card]:
    """What a card says of the sets behind a merged or updated one."""
    return [*card.get("merged", {}).get("sets", []), *([card["updated"]] if "updated" in card else [])]


def from_1(card: Card) -> Card:
    """The order, which was always fixed, is named."""
    return card | {"schema": 2, "recipe": {"order": "fixed", **card["recipe"]}}


def from_2(card: Card) -> Card:
    """The task, which was always classification, and single texts are named."""
    preprocessing = {"pairs": False, **card.get("preprocessing", {})}
    return card | {"schema": 3, "task": {"name": "classification"}, "preprocessing": preprocessing}


def from_3(card: Card) -> Card:
    """The one checksum becomes a list of them; embeddings had 32 bits; scores were not kept."""
    kept = {key: value for key, value in card.items() if key != "sha256"}
    return kept | {"schema": 4, "files": {ARRAYS: card.get("sha256")}, "storage": FLOAT32, "scores": []}


def from_4(card: Card) -> Card:
    """There were no gains."""
    return card | {"schema": 5}


def from_5(card: Card) -> Card:
    """Gains were floats, as their array says."""
    return card | {"schema": 6}


def from_6(card: Card) -> Card:
    """There were no word scores."""
    return card | {"schema": 7}


STEPS: dict[int, Callable[[Card], Card]] = {1: from_1, 2: from_2, 3: from_3, 4: from_4, 5: from_5, 6: from_6}


def migrate(card: Any, where: str) -> Card:
    """The contents of a recipe.json in the newest form.

    Args:
        card: as it was read.
        where: the folder, for messages.

    Raises:
        UserError: it is no recipe, or of a schema that this version does not know.
    """
    schema = card.get("schema") if isinstance(card, dict) else None
    if type(schema) is not int or schema < 1 or not isinstance(card.get("recipe"), dict) or not isinstance(card.get("preprocessing", {}), dict):
        raise UserError(f"{where}/{RECIPE} is not the recipe of a distilled data set: it says no schema, no recipe, or no preprocessing; get the folder again.")
    if schema > SCHEMA:
        raise UserError(f"{where} was written by a newer ddllm (schema {schema}, known up to {SCHEMA}); update ddllm.")
    while card["schema"] < SCHEMA:
        card = STEPS[card["schema"]](card)
    return card
