"""Every format read back, and every kind of damage told apart."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from ddllm.data.files import file_kind, read_file
from ddllm.errors import UserError

TEXTS = ["plain", 'with "quotes", comma', "two\nlines", "NA", "12", "ünïcode\x85here", "tab\there"]
LABELS = [0, 1, 1, 0, 1, 0, 1]
# Whole at both ends, so that decompression fails in between.
_WHOLE = gzip.compress(bytes(range(256)) * 8 + b"".join(b'{"text": "%d"}\n' % (n * n) for n in range(200)), mtime=0)
DAMAGED = _WHOLE[:100] + bytes(byte ^ 0xFF for byte in _WHOLE[100:120]) + _WHOLE[120:]


def write_table(path: Path, delimiter: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("id", "text", "label"), *((n, text, label) for n, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)))])


def write_format(path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    kind = file_kind(path)
    if kind in (".csv", ".tsv"):
        write_table(path, "," if kind == ".csv" else "\t")
    elif kind == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": TEXTS, "label": LABELS}), path)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "a.b.json.gz"])
def test_formats_agree(tmp_path: Path, name: str) -> None:
    write_format(tmp_path / name)
    table = read_file(tmp_path / name, "text", "label")
    assert (table.texts, table.labels) == (TEXTS, LABELS)
    assert table.where == str(tmp_path / name)


def test_json_of_columns_and_of_lines(tmp_path: Path) -> None:
    (tmp_path / "columns.json").write_text('{"text": ["x", "y"], "label": ["p", "n"]}')
    (tmp_path / "lines.json").write_text('{"text": "x", "label": "p"}\n{"text": "y", "label": "n"}\n')
    columns, lines = (read_file(tmp_path / name, "text", "label") for name in ("columns.json", "lines.json"))
    assert columns.texts == lines.texts == ["x", "y"] and columns.labels == lines.labels == ["p", "n"]


def test_quotation_marks_in_tsv_are_characters_where_they_would_swallow_lines(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"never closed\t0\nplain\t1\nclosed " here\t1\n')
    assert read_file(tmp_path / "a.tsv", "text", "label").texts == ['"never closed', "plain", 'closed " here']


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_long_texts(tmp_path: Path, name: str) -> None:
    before = csv.field_size_limit(131_072)
    try:
        path, between = tmp_path / name, {"a.csv": ",", "a.tsv": "\t"}[name]
        path.write_text(f"text{between}label\nshort{between}0\n{'x ' * 70_000}{between}1\n")
        assert [len(text) for text in read_file(path, "text", "label").texts] == [5, 140_000]
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (["1", "-2"], [1, -2]),
        (["1", ""], [1, None]),
        (["1", "2.5"], [1.0, 2.5]),
        (["pos", "1"], ["pos", "1"]),
        (["pos", ""], ["pos", None]),
        (["1e3", "nan"], ["1e3", "nan"]),
        (["0101", "101", ""], ["0101", "101", None]),
        (["0", "10"], [0, 10]),
        (["0.5", "1"], [0.5, 1.0]),
    ],
)
def test_types_of_csv_labels(tmp_path: Path, column: list[str], labels: list[object]) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"x,{label}\n" for label in column))
    found = read_file(tmp_path / "a.csv", "text", "label").labels
    assert found == labels and [type(label) for label in found] == [type(label) for label in labels]


def test_class_names_in_parquet_are_found(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    datasets.Dataset.from_dict({"text": ["x"], "label": [1]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", "text", "label").label_names == ("bad", "good")


def test_a_column_twice_in_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = [pyarrow.array(values) for values in (["x"], ["y"], [1], [2], [0])]
    parquet.write_table(pyarrow.table(columns, names=["text", "text", "id", "id", "label"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet has 2 columns 'text'; rename or remove all but one"):
        read_file(tmp_path / "a.parquet", "text", "label")
    assert read_file(tmp_path / "a.parquet", "label", "label").labels == [0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"txt,label\nx,0\n", r"no column 'text' \(did you mean txt\?\); its columns are txt, label; set config.data.text_column"),
        ("a.csv", b"text,kind\nx,0\n", "no column 'label'.*set config.data.label_column"),
        ("a.csv", b"", "its columns are none"),
        ("a.csv", b"text,label\nx,y,0\n", "line 2: 3 fields, but the header has 2"),
        ("a.csv", b'text,label\n"x" y,0\n', "line 2: .*correct the quotation marks"),
        ("a.csv", b"text,label\n\xff\xfe,0\n", "not UTF-8"),
        ("a.csv.gz", b"text,label\nx,0\n", "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"text,label\nx,0\n", mtime=0)[:-9], "not a whole gzip file"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n{"text": \n', "line 2: this is not JSON"),
        ("a.csv", b"text,label,text\nx,0,y\n", "has 2 columns 'text'; rename or remove all but one"),
        ("a.csv", b"text,label\nx,0\ny," + b"9" * 5000, "row 2: the label is a number of 5000 digits; correct it"),
        ("a.jsonl.gz", DAMAGED, "not a whole gzip file"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n{"text": "x", "label": ' + b"9" * 5000 + b"}\n", "line 2: there is a number of thousands of digits"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n' + b"[" * 100_000, "line 2: lists or objects stand too deep in one another"),
        ("a.json", b"[" * 100_000, "lists or objects stand too deep in one another"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n[1]\n', "row 2: not an object with named fields, but list"),
        ("a.jsonl", b'{"sentence": "x", "label": 0}\n', "no column 'text'"),
        ("a.json", b'{"text": ["x"], "label": [0, 1]}', "not of the same length"),
        ("a.parquet", b"text,label\n", "not a Parquet file"),
        ("a.xlsx", b"", "not in a known format; give a file that ends in .csv"),
        ("a.parquet.gz", b"", "not in a known format"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        read_file(tmp_path / name, "text", "label")
    assert str(tmp_path / name) in str(raised.value)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "b.csv").mkdir()
    for name in ("a.csv", "b.csv"):
        with pytest.raises(UserError, match=f"there is no file .*{name}"):
            read_file(tmp_path / name, "text", "label")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet"])
def test_pairs_and_several_label_columns(tmp_path: Path, name: str) -> None:
    columns = {"first": ["a", "b"], "second": ["12", "d"], "sad": [0, 1], "glad": [1, 1]}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("\n".join(",".join(map(str, values)) for values in (columns, *(row.values() for row in rows))))
    elif name == "a.parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(columns), path)
    else:
        path.write_text(json.dumps(columns) if name == "a.json" else "\n".join(map(json.dumps, rows)))
    table = read_file(path, "first", ("sad", "glad"), "second")
    assert (table.texts, table.pairs) == (["a", "b"], ["12", "d"])
    assert table.labels == [["glad"], ["sad", "glad"]] and table.label_names == ("sad", "glad")
    assert read_file(path, "first", "sad").pairs is None
    with pytest.raises(UserError, match="has no column 'secnd' .did you mean second.*set config.data.pair_column"):
        read_file(path, "first", "sad", "secnd")
    with pytest.raises(UserError, match="has no column 'mad'.*set config.data.label_columns"):
        read_file(path, "first", ("sad", "mad"))
    with pytest.raises(UserError, match="row 1: the label column 'second' has '?12'?, but must have 0 or 1"):
        read_file(path, "first", ("sad", "second"))
