"""Files, folders and the hub: what is found, under which names, and what is said of the rest."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from ddllm.data.corpus import load_corpus
from ddllm.data.sources import open_source
from ddllm.errors import UserError

Data = Callable[..., ConfigDict]
Write = Callable[..., Path]


def rows(*texts: str) -> list[dict[str, object]]:
    return [{"text": text, "label": number % 2} for number, text in enumerate(texts)]


@pytest.mark.parametrize("name", ["validation", "valid", "dev", "val"])
def test_names_of_validation_files(tmp_path: Path, write: Write, data: Data, name: str) -> None:
    write(tmp_path / "train.jsonl", rows("a", "b"))
    write(tmp_path / f"{name}.jsonl", rows("c", "d"))
    (tmp_path / "README.md").write_text("not data")
    section = data(tmp_path)
    source = open_source(section)
    assert sorted(source.splits) == ["train", "validation"]
    for wanted in ("validation", name, f"{name}.jsonl"):
        assert source.read(wanted, "validation", section).texts == ["c", "d"]


def test_shards_are_joined_in_order_and_rivals_refused(tmp_path: Path, write: Write, data: Data) -> None:
    for number, text in enumerate("abc"):
        write(tmp_path / f"train-0000{number}-of-00003.jsonl", rows(text))
    write(tmp_path / "test.jsonl", rows("x"))
    write(tmp_path / "test.json", rows("x"))
    source = open_source(data(tmp_path))
    assert source.read("train", "train", data(tmp_path)).texts == ["a", "b", "c"]
    with pytest.raises(UserError, match="several files for the split test: test.json, test.jsonl"):
        source.read("test", "test", data(tmp_path))
    (tmp_path / "train-00001-of-00003.jsonl").unlink()
    with pytest.raises(UserError, match="has 2 of 3 files of the split train: train-00000-of-00003.jsonl, .*; add the others"):
        open_source(data(tmp_path)).read("train", "train", data(tmp_path))
    write(tmp_path / "train-00000-of-00003.csv", rows("a"))
    with pytest.raises(UserError, match="several files for the split train"):
        open_source(data(tmp_path)).read("train", "train", data(tmp_path))


def test_splits_are_known_by_names_in_capitals(tmp_path: Path, write: Write, data: Data) -> None:
    for name in ("Train", "VALID", "Testing"):
        write(tmp_path / f"{name}.jsonl", rows("a"))
    assert sorted(open_source(data(tmp_path)).splits) == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_columns": ("a", "b")}, "config.data.label_columns is .*, but config.data.source is the embedded corpus"),
        ({"pair_column": "b"}, "config.data.pair_column"),
        ({"train": "mine.jsonl"}, "config.data.train is 'mine.jsonl', .*; set config.data.source to the file"),
    ],
)
def test_files_are_not_mixed_with_the_embedded_corpus(data: Data, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(data("embedded", **changes))


def test_files_of_their_own(tmp_path: Path, write: Write, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    section = data(write(tmp_path / "folder/all.jsonl", rows("a", "b")))
    write(tmp_path / "folder/beside.jsonl", rows("c"))
    write(tmp_path / "here/current.jsonl", rows("d"))
    monkeypatch.chdir(tmp_path / "here")
    source = open_source(section)
    assert source.read("train", "train", section).texts == ["a", "b"]
    assert source.read("beside.jsonl", "test", section).texts == ["c"]
    assert source.read("current.jsonl", "test", section).texts == ["d"]
    assert source.read(str(tmp_path / "folder/beside.jsonl"), "test", section).texts == ["c"]
    with pytest.raises(UserError, match="config.data.test is 'gone.jsonl', but there is no such file in .*folder or the current folder"):
        source.read("gone.jsonl", "test", section)


def test_unknown_split_names_those_there_are(films: Path, data: Data) -> None:
    with pytest.raises(UserError, match=r"config.data.test is 'tests' \(did you mean test\?\), but films has only the splits test, train"):
        load_corpus(data(films, test="tests"))
    with pytest.raises(UserError, match="train has only the splits train.*leave it empty to hold rows out of train"):
        load_corpus(data(films / "train.jsonl"))


@pytest.mark.parametrize("name", ["nowhere/at/all", "nowhere.csv", "./nowhere", "~nobody-of-this-name/x", "two words"])
def test_missing_sources(data: Data, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no file or folder"):
        open_source(data(name))


def test_folder_without_data(tmp_path: Path, data: Data) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="has no data files"):
        open_source(data(tmp_path))


def test_saved_datasets(tmp_path: Path, data: Data) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    both = datasets.Dataset.from_dict({"sentence": [f"text {n}" for n in range(20)], "label": [0, 1] * 10}, features=features)
    part = both.select(range(12, 20))
    datasets.DatasetDict(train=both.select(range(12)), test=part).save_to_disk(tmp_path / "both")
    part.save_to_disk(tmp_path / "one")
    corpus = load_corpus(data(tmp_path / "both", text_column="sentence", validation_size=4))
    assert (corpus.name, corpus.label_names, corpus.notes["rows"]) == ("both", ("bad", "good"), {"train": 8, "validation": 4, "test": 8})
    assert corpus.test.texts == [f"text {n}" for n in range(12, 20)] and corpus.test.labels.tolist() == [0, 1] * 4
    assert load_corpus(data(tmp_path / "both", text_column="sentence", validation="auto", test="auto", validation_size=4)).notes == corpus.notes
    one = load_corpus(data(tmp_path / "one", text_column="sentence", validation_size=2, test="", test_size=2))
    assert one.notes["rows"] == {"train": 4, "validation": 2, "test": 2}
    assert load_corpus(data(tmp_path / "one", text_column="sentence", validation="auto", validation_size=2, test="auto", test_size=2)).notes == one.notes
    with pytest.raises(UserError, match=r"split 'train' of both has no column 'text'; its columns are sentence, label"):
        load_corpus(data(tmp_path / "both"))
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(UserError, match="looks like one that `datasets` saved, but cannot be loaded"):
        load_corpus(data(tmp_path / "one"))


def test_auto_on_the_hub(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    part = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(30)], "label": [0, 1] * 15})
    splits = {"train": part.select(range(16)), "dev": part.select(range(16, 22)), "test": part.select(range(22, 30))}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))
    auto = load_corpus(data("someone/reviews", validation="auto", test="auto"))
    assert auto.notes["rows"] == {"train": 16, "validation": 6, "test": 8}
    assert load_corpus(data("someone/reviews")).notes["unused"] == {"validation": "dev"}


@pytest.mark.parametrize("name", ["stanfordnlp/no-such-data-set", "nosuchdataset"])
def test_hub_out_of_reach(data: Data, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets = pytest.importorskip("datasets")
    if not datasets.config.HF_HUB_OFFLINE:
        pytest.skip("the test session is not offline")
    with pytest.raises(UserError, match=f"the data set {name} cannot be loaded from the hub: .*config.data.source"):
        open_source(data(name))
