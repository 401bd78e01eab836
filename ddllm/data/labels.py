"""From the labels found in the data to arrays: classes as positions in one list of names, numbers, or sets of names.

`find_task` and `find_names` settle the kind of labels and that list once, on train; `encode` applies them to every split and names the row of the first
label that does not fit.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddllm.config import suggest
from ddllm.data.files import Table
from ddllm.data.splits import Split
from ddllm.errors import UserError

LARGEST = 1e15  # of numbers to learn; beyond it the sum of their squares may leave float32


@dataclass(frozen=True)
class LabelNames:
    """Class names, and what an integer label means.

    Attributes:
        names: in the order of the labels.
        indexed: integers are positions in `names`; otherwise they are names themselves, written as numbers.
        task: "classification" (each label is one of the names), "regression" (a number, whose one name is but a name) or "multilabel" (a list).
        given: they are those of config.data.label_names.
    """

    names: tuple[str, ...]
    indexed: bool
    task: str = "classification"
    given: bool = False


def find_task(table: Table, wanted: str) -> str:
    """The task that is wanted, or for "auto" what train's labels look like: lists, numbers of which one at least is not whole, or else classes."""
    if wanted != "auto":
        return wanted
    labels = [label for _, _, _, label in filled_rows(table)]
    if any(isinstance(label, (list, tuple)) for label in labels):
        return "multilabel"
    numbers = all(isinstance(label, (int, float)) for label in labels)
    return "regression" if numbers and any(label % 1 > 0 for label in labels) else "classification"


def find_names(table: Table, given: tuple[str, ...], task: str = "classification") -> LabelNames:
    """Names given in the configuration, or those that came with the data, or else the sorted labels of train.

    Integers are positions in names that came with the data, whatever the configuration calls these. Without such, integers are positions in the
    configuration's names, or where all of those are numbers the names themselves: 1 of ("1", "2", "3") is "1", not "2".

    Raises:
        UserError: there is a label that cannot be one, labels are of two kinds, or names repeat.
    """
    if task == "regression":
        return LabelNames(given[:1] or ("label",), False, task)
    names = given or table.label_names
    if names:
        if len(set(names)) < len(names):
            raise UserError(f"config.data.label_names repeats a name: {', '.join(names)}.")
        return LabelNames(names, bool(table.label_names) or not are_numbers(names), task, bool(given))
    found = set()
    for row, _, _, label in filled_rows(table):
        found |= {
            check_label(each, row, table.where) for each in (check_list(label, row, table.where) if task == "multilabel" else [label])
        }
    if len({isinstance(label, str) for label in found}) > 1:
        raise UserError(f"{table.where} mixes strings and integers as labels; write them all in the same way.")
    if found == {-1}:
        raise UserError(f"{table.where} has no labels (they are all -1); choose a labelled split.")
    if task == "multilabel" and not found:
        raise UserError(f"{table.where} has no labels (all lists are empty); see config.data.label_column.")
    return LabelNames(tuple(str(label) for label in sorted(found)), False, task)


def are_numbers(names: tuple[str, ...]) -> bool:
    """Whether classes are called by whole numbers, which are then meant by them."""
    return all(re.fullmatch(r"-?\d+", name) for name in names)


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
        UserError: it is missing, of another type, or no text.
    """
    if label is None or label == "" or (isinstance(label, float) and math.isnan(label)):
        raise UserError(f"{where}, row {row}: there is no label; remove the row or give it one.")
    if not isinstance(label, (int, str)):
        remedy = "; write it as one, or set config.data.task=regression to learn numbers" if isinstance(label, float) else ""
        raise UserError(f"{where}, row {row}: the label {label!r} is neither an integer nor a string ({type(label).__name__}){remedy}.")
    if isinstance(label, str):
        check_unicode(label, "label", row, where)
    return label


def check_unicode(text: str, what: str, row: int, where: str) -> None:
    """Raise `UserError` for half a character, as JSON can hold it where one was cut in the middle: no tokenizer and no file takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}, row {row}: the {what} has half a character ({text[error.start]!a}); correct it or remove the row.") from None


def check_list(labels: Any, row: int, where: str) -> list[Any]:
    """The labels of one text, if they are a list.

    Raises:
        UserError: they are something else.
    """
    if not isinstance(labels, (list, tuple)):
        raise UserError(f"{where}, row {row}: the labels are no list but {labels!r}; write a list of names, or set config.data.task.")
    return list(labels)


def encode(table: Table, names: LabelNames, key: str) -> tuple[Split, int]:
    """Labels as the task has them, texts stripped, empty ones (and pairs with an empty one) left out.

    Args:
        table: raw rows.
        names: class names.
        key: "train", "validation" or "test", for messages.

    Returns:
        The split and the number of empty texts left out.

    Raises:
        UserError: no text is left, one is not a string, or a label is not among the names.
    """
    read, dtype = READERS[names.task]
    texts, pairs, labels = [], [], []
    for row, text, second, value in filled_rows(table):
        for found, column in ((text, "text_column"), (second, "pair_column")):
            if found is not None and not isinstance(found, str):
                raise UserError(f"{table.where}, row {row}: the text is not a string but {type(found).__name__}; see config.data.{column}.")
            check_unicode(found or "", "text", row, table.where)
        labels.append(read(value, row, table, names, key))
        texts.append(text.strip())
        pairs.append(second and second.strip())
    if not texts:
        raise UserError(f"{table.where} has {len(table.texts)} rows, but no text in any of them; see config.data.text_column.")
    split = Split(texts, np.array(labels, dtype), None if table.pairs is None else pairs)
    return split, len(table.texts) - len(texts)


def _read_class(value: Any, row: int, table: Table, names: LabelNames, key: str) -> int:
    label = check_label(value, row, table.where)
    if names.indexed and not isinstance(label, str):
        position = int(label) if 0 <= label < len(names.names) else None
    else:
        # Of names from the configuration, which are numbers here, false and true are 0 and 1.
        name = str(int(label) if names.given and not isinstance(label, str) else label)
        position = names.names.index(name) if name in names.names else None
    if position is None:
        raise UserError(_unknown_label(label, row, table, names, key))
    return position


def _read_number(value: Any, row: int, table: Table, names: LabelNames, key: str) -> float:
    if value is None or value == "":
        raise UserError(f"{table.where}, row {row}: there is no label; remove the row or give it one.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        number = math.nan
    if abs(number) > LARGEST:
        raise UserError(f"{table.where}, row {row}: the label {number:g} is too large; numbers may go up to {LARGEST:g}, so take another unit.")
    if math.isnan(number):
        raise UserError(
            f"{table.where}, row {row}: the label {value!r} is not a number, as regression needs; correct it or config.data.task."
        )
    return number


def _read_set(value: Any, row: int, table: Table, names: LabelNames, key: str) -> np.ndarray:
    positions = [_read_class(label, row, table, names, key) for label in check_list(value, row, table.where)]
    return np.isin(np.arange(len(names.names)), positions)


READERS: dict[str, tuple[Callable[[Any, int, Table, LabelNames, str], Any], type]] = {
    "classification": (_read_class, np.int32),
    "regression": (_read_number, np.float32),
    "multilabel": (_read_set, np.float32),
}


def _unknown_label(label: str | int, row: int, table: Table, names: LabelNames, key: str) -> str:
    if label == -1:
        remedy = "" if key == "train" else ", or make it empty, which holds rows out of train"
        return f"{table.where} has no labels (row {row} has -1, which stands for a hidden one); set config.data.{key} to a labelled split{remedy}."
    if names.indexed and not isinstance(label, str):
        return (
            f"{table.where}, row {row}: the label {label} is outside 0 to {len(names.names) - 1}, the classes being "
            f"{', '.join(names.names)}; correct it or config.data.label_names."
        )
    known = "config.data.label_names" if names.indexed or names.given else "the labels of train"
    return (
        f"{table.where}, row {row}: the label {label!r}{suggest(str(label), names.names)} is not among {known}: {', '.join(names.names)}; "
        "correct it or config.data.label_names."
    )
