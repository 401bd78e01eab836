"""From the labels found in the data, integers or strings, to positions in one list of class names.

`find_names` settles that list once, on train; `encode` applies it to every split and names the row of the first label that does not fit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddllm.config import suggest
from ddllm.data.files import Table
from ddllm.data.splits import Split
from ddllm.errors import UserError


@dataclass(frozen=True)
class LabelNames:
    """Class names, and what an integer label means.

    Attributes:
        names: in the order of the labels.
        indexed: integers are positions in `names`; otherwise they are names themselves, written as numbers.
    """

    names: tuple[str, ...]
    indexed: bool


def find_names(table: Table, given: tuple[str, ...]) -> LabelNames:
    """Names given in the configuration, or those that came with the data, or else the sorted labels of train.

    Raises:
        UserError: there is a label that cannot be one, labels are of two kinds, or names repeat.
    """
    names = given or table.label_names
    if names:
        if len(set(names)) < len(names):
            raise UserError(f"config.data.label_names repeats a name: {', '.join(names)}.")
        return LabelNames(names, indexed=True)
    found = set()
    for row, _, _, label in filled_rows(table):
        found.add(check_label(label, row, table.where))
    if len({isinstance(label, str) for label in found}) > 1:
        raise UserError(f"{table.where} mixes strings and integers as labels; write them all in the same way.")
    if found == {-1}:
        raise UserError(f"{table.where} has no labels (they are all -1); choose a labelled split.")
    return LabelNames(tuple(str(label) for label in sorted(found)), indexed=False)


def is_empty(text: Any) -> bool:
    """Whether there is nothing to read."""
    return text is None or (isinstance(text, str) and not text.strip()) or (isinstance(text, float) and math.isnan(text))


def filled_rows(table: Table) -> Iterator[tuple[int, Any, Any, Any]]:
    """(number from 1, text, second text or None, label) of each row that has something to read; of a pair, both texts must."""
    seconds = [None] * len(table.texts) if table.pairs is None else table.pairs
    for row, (text, second, label) in enumerate(zip(table.texts, seconds, table.labels, strict=True), 1):
        if not is_empty(text) and (table.pairs is None or not is_empty(second)):
            yield row, text, second, label


def check_label(label: Any, row: int, where: str) -> str | int:
    """The label itself, if it is an integer or a string.

    Raises:
        UserError: it is missing or of another type.
    """
    if label is None or label == "" or (isinstance(label, float) and math.isnan(label)):
        raise UserError(f"{where}, row {row}: there is no label; remove the row or give it one.")
    if not isinstance(label, (int, str)):
        raise UserError(f"{where}, row {row}: the label {label!r} is neither an integer nor a string ({type(label).__name__}).")
    return label


def encode(table: Table, names: LabelNames, key: str) -> tuple[Split, int]:
    """Labels as positions, texts stripped, empty ones (and pairs with an empty one) left out.

    Args:
        table: raw rows.
        names: class names.
        key: "train", "validation" or "test", for messages.

    Returns:
        The split and the number of empty texts left out.

    Raises:
        UserError: no text is left, one is not a string, or a label is not among the names.
    """
    positions = {name: position for position, name in enumerate(names.names)}
    texts, pairs, labels = [], [], []
    for row, text, second, value in filled_rows(table):
        for found, column in ((text, "text_column"), (second, "pair_column")):
            if found is not None and not isinstance(found, str):
                raise UserError(f"{table.where}, row {row}: the text is not a string but {type(found).__name__}; see config.data.{column}.")
        label = check_label(value, row, table.where)
        if names.indexed and not isinstance(label, str):
            position = int(label) if 0 <= label < len(positions) else None
        else:
            position = positions.get(str(label))
        if position is None:
            raise UserError(_unknown_label(label, row, table, names, key))
        texts.append(text.strip())
        pairs.append(second and second.strip())
        labels.append(position)
    if not texts:
        raise UserError(f"{table.where} has {len(table.texts)} rows, but no text in any of them; see config.data.text_column.")
    split = Split(texts, np.array(labels, np.int32), None if table.pairs is None else pairs)
    return split, len(table.texts) - len(texts)


def _unknown_label(label: str | int, row: int, table: Table, names: LabelNames, key: str) -> str:
    if label == -1:
        return f"{table.where} has no labels (row {row} has -1, which stands for a hidden one); set config.data.{key} to a labelled split."
    if names.indexed and not isinstance(label, str):
        return (
            f"{table.where}, row {row}: the label {label} is outside 0 to {len(names.names) - 1}, the classes being "
            f"{', '.join(names.names)}; correct it or config.data.label_names."
        )
    known = "config.data.label_names" if names.indexed else "the labels of train"
    return (
        f"{table.where}, row {row}: the label {label!r}{suggest(str(label), names.names)} is not among {known}: {', '.join(names.names)}; "
        "correct it or config.data.label_names."
    )
