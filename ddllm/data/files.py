"""Texts and labels out of one local file: CSV, TSV, JSONL, JSON or Parquet, the text formats also gzipped.

`read_file` hands on a `Table` of raw values with the place they come from, so that every later complaint can name it. CSV has no types: a
label column that consists of integers is read as integers, unless one has leading zeros, as codes have.
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddllm.config import suggest
from ddllm.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class MissingColumn(UserError):
    """A column that is not there.

    Attributes:
        told: the sentence without what to do about it.
    """

    def __init__(self, told: str, key: str) -> None:
        super().__init__(f"{told}; set config.data.{key}.")
        self.told = told


class Columns(NamedTuple):
    """Names of the columns that are read.

    Attributes:
        text: of the text, or of the first one of a pair.
        label: of the label; or of several columns of 0 and 1, one for each label that a text may have.
        pair: of the second text of a pair; empty for single texts.
    """

    text: str
    label: str | tuple[str, ...]
    pair: str = ""

    @property
    def names(self) -> dict[str, str]:
        """The columns that must be there, each with the key of the section `data` that names it."""
        labels = {self.label: "label_column"} if isinstance(self.label, str) else dict.fromkeys(self.label, "label_columns")
        return {self.text: "text_column"} | ({self.pair: "pair_column"} if self.pair else {}) | labels


def named_columns(data: ConfigDict) -> Columns:
    """The columns that config.data names."""
    return Columns(data.text_column, tuple(data.label_columns) or data.label_column, data.pair_column)


@dataclass(frozen=True)
class Table:
    """Rows as they were found.

    Attributes:
        texts: values of the text column.
        labels: values of the label column; of several columns, lists of the names of those that have 1.
        label_names: class names that came with integer labels or are those of columns, or none.
        where: the file or split, as an error message calls it.
        pairs: values of the column of second texts, where there is one.
    """

    texts: list[Any]
    labels: list[Any]
    label_names: tuple[str, ...]
    where: str
    pairs: list[Any] | None = None


def make_table(get: Callable[[str], list[Any]], columns: Columns, where: str, label_names: tuple[str, ...] = ()) -> Table:
    """A table of the named columns, given what gives a column's values.

    Raises:
        UserError: a column for one of several labels holds something other than 0 and 1.
    """
    if isinstance(columns.label, str):
        labels = get(columns.label)
    else:
        labels, label_names = _join(get, columns.label, where), columns.label
    return Table(get(columns.text), labels, label_names, where, get(columns.pair) if columns.pair else None)


def _join(get: Callable[[str], list[Any]], columns: tuple[str, ...], where: str) -> list[list[str]]:
    """The names of the columns that have 1, row by row."""
    rows: list[list[str]] = []
    for column in columns:
        values = get(column)
        rows = rows or [[] for _ in values]
        for row, value in enumerate(values):
            if value not in (0, 1):
                raise UserError(f"{where}, row {row + 1}: the label column {column!r} has {value!r}, but must have 0 or 1.")
            if value:
                rows[row].append(column)
    return rows


def file_kind(path: Path) -> str:
    """The suffix that names the format, ".gz" left out; empty for a format that cannot be read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = suffixes[-2] if zipped and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    return kind if kind in SUFFIXES and not (zipped and kind == ".parquet") else ""


def check_columns(found: Iterable[str], columns: Columns, where: str) -> None:
    """Raise `MissingColumn` where one of the columns is not among those found, and `UserError` where it is there more than once."""
    found = [str(name) for name in found]
    for column, key in columns.names.items():
        if column not in found:
            raise MissingColumn(f"{where} has no column {column!r}{suggest(column, found)}; its columns are {', '.join(found) or 'none'}", key)
        if found.count(column) > 1:
            raise UserError(f"{where} has {found.count(column)} columns {column!r}; rename or remove all but one.")


def read_file(path: Path, text_column: str, label_column: str | tuple[str, ...], pair_column: str = "") -> Table:
    """Read one file.

    Raises:
        MissingColumn: it lacks a column.
        UserError: it does not exist, or cannot be read in the format its name says.
    """
    kind = file_kind(path)
    if not kind:
        raise UserError(f"{path} is not in a known format; give a file that ends in {', '.join(SUFFIXES)} (or .gz after a text format).")
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    reader = {".csv": _read_csv, ".tsv": _read_tsv, ".parquet": _read_parquet}.get(kind, _read_json)
    try:
        return reader(path, Columns(text_column, label_column, pair_column))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; convert it first.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path} is not a whole gzip file; fetch it again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode("utf-8-sig")


def _read_csv(path: Path, columns: Columns) -> Table:
    return _table_of_rows(_parse(_read_text(path), path, ","), columns, path)


def _read_tsv(path: Path, columns: Columns) -> Table:
    text = _read_text(path)
    # Many TSV files, GLUE's among them, hold quotation marks that are just characters; taken for quoting they swallow line breaks. So marks
    # are characters wherever each line then has the header's number of fields and quoting would give fewer rows.
    plain = list(_reader(text, "\t", quoting=csv.QUOTE_NONE))
    if plain and all(len(row) in (0, len(plain[0])) for row in plain):
        plain = [row for row in plain if row]
        try:
            quoted = _parse(text, path, "\t")
        except UserError:
            quoted = []
        rows = plain if len(quoted) < len(plain) else quoted
    else:
        rows = _parse(text, path, "\t")
    return _table_of_rows(rows, columns, path)


def _reader(text: str, delimiter: str, **how: Any) -> Any:
    """The module's reader, for texts of any length."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **how)


def _parse(text: str, path: Path, delimiter: str) -> list[list[str]]:
    reader = _reader(text, delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the header has {len(rows[0])}; "
                    f"put quotation marks around texts with {delimiter!r}."
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; correct the quotation marks there.") from None
    return rows


def _table_of_rows(rows: list[list[str]], columns: Columns, path: Path) -> Table:
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    check_columns(header, columns, str(path))

    def get(column: str) -> list[Any]:
        values = [row[header.index(column)] for row in body]
        return values if column in (columns.text, columns.pair) else _typed([value.strip() for value in values], path)

    return make_table(get, columns, str(path))


def _typed(labels: list[str], path: Path) -> list[Any]:
    """Labels of a format without types: all integers, or else all numbers, or else strings (which codes such as 007 are); None where there is nothing."""
    if any(re.fullmatch(r"-?0\d+", label) for label in labels):
        return [label or None for label in labels]
    if all(re.fullmatch(r"(-?\d+)?", label) for label in labels):
        return [_integer(label, row, path) if label else None for row, label in enumerate(labels, 1)]
    if all(re.fullmatch(r"(-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?", label) for label in labels):
        return [float(label) if label else None for label in labels]
    return [label or None for label in labels]


def _integer(label: str, row: int, path: Path) -> int:
    try:
        return int(label)
    except ValueError:  # Python reads a few thousand digits and no more.
        raise UserError(f"{path}, row {row}: the label is a number of {len(label)} digits; correct it or config.data.label_column.") from None


def _read_json(path: Path, columns: Columns) -> Table:
    text = _read_text(path)
    if file_kind(path) == ".json":
        try:
            return _table_of_json(_parse_json(text, str(path)), columns, path)
        except json.JSONDecodeError:
            pass  # Files named .json often hold one object a line.
    # Not splitlines(): texts may hold other characters that it takes for line ends.
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(_parse_json(line, f"{path}, line {number}"))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: this is not JSON ({error.msg}).") from None
    return _table_of_json(rows, columns, path)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise UserError(f"{where}: lists or objects stand too deep in one another; correct it, rows being objects with texts and labels.") from None
    except ValueError:
        raise UserError(f"{where}: there is a number of thousands of digits; correct it.") from None


def _table_of_json(value: Any, columns: Columns, path: Path) -> Table:
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        check_columns(value, columns, str(path))
        for column in columns.names:
            if len(value[columns.text]) != len(value[column]):
                raise UserError(f"{path}: its columns {columns.text!r} and {column!r} are not of the same length.")
        return make_table(value.__getitem__, columns, str(path))
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: not an object with named fields, but {type(row).__name__}.")
    # A field may be absent here and there; one that is nowhere is a wrong name.
    check_columns(dict.fromkeys(name for row in rows for name in row), columns, str(path))
    return make_table(lambda column: [row.get(column) for row in rows], columns, str(path))


def _read_parquet(path: Path, columns: Columns) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        check_columns(schema.names, columns, str(path))
        table = file.read(columns=list(columns.names))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from None
    return make_table(lambda column: table[column].to_pylist(), columns, str(path), _names_in_schema(schema, columns.label))


def _names_in_schema(schema: Any, label_column: str | tuple[str, ...]) -> tuple[str, ...]:
    """Class names that the library `datasets` left in a Parquet file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[label_column]
        return tuple(feature.get("feature", feature)["names"])
    except (KeyError, TypeError, ValueError):
        return ()
