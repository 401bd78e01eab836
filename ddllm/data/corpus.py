"""A configuration's corpus, read, cleaned and split: the first step of the data's way, handed on to `tokens`.

The order of the work: texts are stripped and empty ones removed; a test split that is neither given nor found is held out of train; rows whose text is in
test leave train and validation, rows whose text is in validation leave train; a validation split that is neither is held out of what is
left; limits are drawn last.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddllm.data.files import Columns, Table, named_columns, read_file
from ddllm.data.labels import LabelNames, are_numbers, encode, find_names, find_task
from ddllm.data.sources import Source, open_source
from ddllm.data.splits import Corpus, Split, count_rows, draw_part, hold_out, remove_texts
from ddllm.data.tokens import TokenSplit, load_tokenizer, tokenize_texts
from ddllm.errors import UserError

__all__ = ["Corpus", "Split", "load_corpus", "read_examples"]

AUTO = "auto"  # of data.validation and data.test
HELD_OUT, GIVEN = "held out of train", "given"
# Second entries of seeds, one for each thing that is drawn.
TEST, VALIDATION, LIMITS = 1, 2, {"train": 3, "validation": 4, "test": 5}


def load_corpus(data: ConfigDict) -> Corpus:
    """Read the corpus that config.data describes.

    With "auto" data.validation and data.test mean the split of the usual name, or rows held out of train where the source has none. Empty they always
    mean rows held out, and the notes say which split of the usual name is left alone so. Only the embedded corpus, split by film, keeps its own splits
    then: rows held out at random would share films with train.

    Args:
        data: the section `data` of the configuration.

    Raises:
        UserError: the source cannot be read, a column, split or label is wrong, a split ends up without texts, or train with one class.
    """
    source = open_source(data)
    wanted, unused = choose_splits(source, data)
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if wanted[first] and wanted[first] == wanted[second]:
            raise UserError(f"config.data.{first} and config.data.{second} are both {wanted[first]!r}; they must be different splits.")
    if not wanted["train"]:
        raise UserError("config.data.train is empty; name the split or the file to learn from.")
    tables = {key: _read(source, name, key, data) for key, name in wanted.items() if name}
    task = find_task(tables["train"], data.task)
    names = find_names(tables["train"], tuple(map(str, data.label_names)), task)
    splits: dict[str, Split] = {}
    empty: dict[str, int] = {}
    for key, table in tables.items():
        splits[key], empty[key] = encode(table, names, key)
        _check(splits, names, source.name)
    duplicates = {"train": 0, "validation": 0}
    rows = len(splits["train"])
    if "test" not in splits:
        count = count_rows(data.test_size, rows, len(splits["train"]), "test_size")
        splits["train"], splits["test"] = hold_out(splits["train"], count, [data.seed, TEST])
    splits["train"], duplicates["train"] = remove_texts(splits["train"], [splits["test"]])
    _check(splits, names, source.name)
    if "validation" in splits:
        splits["validation"], duplicates["validation"] = remove_texts(splits["validation"], [splits["test"]])
        splits["train"], removed = remove_texts(splits["train"], [splits["validation"]])
        duplicates["train"] += removed
    else:
        count = count_rows(data.validation_size, rows, len(splits["train"]), "validation_size")
        splits["train"], splits["validation"] = hold_out(splits["train"], count, [data.seed, VALIDATION])
    limited = _limit(splits, data)
    _check(splits, names, source.name)
    notes: dict[str, Any] = {
        "rows": {key: len(splits[key]) for key in wanted},
        "empty_removed": empty,
        "duplicates_removed": duplicates,
        "limited": limited,
        "unused": unused,
        "validation": GIVEN if "validation" in tables else HELD_OUT,
        "test": GIVEN if "test" in tables else HELD_OUT,
    }
    return Corpus(source.name, names.names, splits["train"], splits["validation"], splits["test"], notes, task)


def choose_splits(source: Source, data: ConfigDict) -> tuple[dict[str, str], dict[str, str]]:
    """The split or file for train, validation and test, empty for rows held out of train; and the splits of the usual names that are left alone for these."""
    wanted = {key: str(data[key]) or (key if source.complete else "") for key in ("train", "validation", "test")}
    unused: dict[str, str] = {}
    named = {source.find(name) for name in wanted.values()}
    for key in ("validation", "test"):
        usual = source.usual(key)
        if wanted[key] == AUTO:
            # A split that another key names is taken: SST-2's validation split serves as its test split, for instance.
            wanted[key] = "" if usual in named and not source.complete else usual
        elif not wanted[key] and usual and usual not in named:
            unused[key] = usual
    return wanted, unused


def _read(source: Source, name: str, key: str, data: ConfigDict) -> Table:
    """Read a split; of one that nobody asked for by name the error says how to do without it."""
    try:
        return source.read(name, key, data)
    except UserError as error:
        if key == "train" or data[key] != AUTO:
            raise
        raise UserError(f"{str(error).rstrip('.')}; or make config.data.{key} empty, which holds rows out of train.") from None


def read_examples(
    path: Path, data: ConfigDict, label_names: tuple[str, ...], tokenizer_folder: Path, length: int, task: str = "classification"
) -> TokenSplit:
    """Read chosen examples from a file of their own, with the corpus's columns or else `text`, `label` and, for pairs, `text_pair`.

    Args:
        path: CSV, TSV, JSONL, JSON or Parquet.
        data: the section `data` of the configuration.
        label_names: the corpus's class names.
        tokenizer_folder: folder of the pretrained model.
        length: longest text in tokens.
        task: the corpus's.

    Raises:
        UserError: the file cannot be read, or a label is not among the names.
    """
    columns, usual = named_columns(data), Columns("text", "label", "text_pair" if data.pair_column else "")
    try:
        table = read_file(path, *columns)
    except UserError:
        if columns == usual or not path.is_file():
            raise
        table = read_file(path, *usual)
    split, _ = encode(table, LabelNames(tuple(label_names), not are_numbers(label_names), task), "train")
    return tokenize_texts(load_tokenizer(tokenizer_folder), split, length)[0]


def _limit(splits: dict[str, Split], data: ConfigDict) -> dict[str, int]:
    """Draw the parts that the configuration limits splits to; returns how many rows were left out."""
    left_out = {}
    limits = {"train": data.limit_train, "validation": data.limit_validation, "test": data.limit_test}
    for key, split in list(splits.items()):
        splits[key] = draw_part(split, limits[key], [data.seed, LIMITS[key]])
        left_out[key] = len(split) - len(splits[key])
    return left_out


def _check(splits: dict[str, Split], names: LabelNames, name: str) -> None:
    """Raise `UserError` where a split has become empty, or all labels of train are the same."""
    for key, split in splits.items():
        if not len(split):
            raise UserError(f"{name} has no {key} texts left that do not occur in another split; see config.data.{key}.")
    labels = splits["train"].labels
    if (labels == labels[:1]).all():
        what = "have the same label, but there is something to learn only where labels differ"
        if names.task == "classification":
            what = f"are of the class {names.names[labels[0]]!r}, but at least two classes are needed"
        raise UserError(f"all {len(labels)} training texts of {name} {what}; see config.data.label_column and config.data.limit_train.")
