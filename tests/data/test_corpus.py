"""Whole corpora: three disjoint splits whatever the source gives, with counts that add up."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from ddllm.data.corpus import Corpus, load_corpus, read_examples
from ddllm.data.splits import fold
from ddllm.errors import UserError

Data = Callable[..., ConfigDict]
Write = Callable[..., Path]


def assert_disjoint(corpus: Corpus) -> None:
    train, validation, test = ({fold(text) for text in split.texts} for split in (corpus.train, corpus.validation, corpus.test))
    assert not (train & validation or train & test or validation & test)


def test_validation_is_held_out_although_a_file_is_there(films: Path, data: Data, write: Write) -> None:
    write(films / "validation.jsonl", [{"text": f"validation {n}", "label": n % 2} for n in range(6)])
    held, given = load_corpus(data(films)), load_corpus(data(films, validation="validation"))
    assert held.notes["rows"] == {"train": 81, "validation": 9, "test": 20} and held.notes["validation"] == "held out of train"
    assert np.bincount(held.validation.labels).tolist() == [6, 3]
    assert all(text.startswith("train") for text in held.validation.texts)
    assert given.notes["rows"] == {"train": 90, "validation": 6, "test": 20} and given.notes["validation"] == "given"
    assert_disjoint(held)
    assert load_corpus(data(films, seed=1)).validation.texts != held.validation.texts == load_corpus(data(films)).validation.texts
    json.dumps(held.notes)


def test_auto_takes_the_splits_that_are_there(films: Path, data: Data, write: Write) -> None:
    auto = {"validation": "auto", "test": "auto"}
    without = load_corpus(data(films, **auto))
    assert without.notes["rows"] == {"train": 81, "validation": 9, "test": 20}
    assert (without.notes["validation"], without.notes["test"], without.notes["unused"]) == ("held out of train", "given", {})
    write(films / "dev.jsonl", [{"text": f"validation {n}", "label": n % 2} for n in range(6)])
    found, named = load_corpus(data(films, **auto)), load_corpus(data(films, validation="validation", test="test"))
    assert found.notes == named.notes and found.notes["rows"] == {"train": 90, "validation": 6, "test": 20}
    assert all(getattr(found, part).texts == getattr(named, part).texts for part in ("train", "validation", "test"))
    alone = load_corpus(data(films / "train.jsonl", **auto))
    assert alone.notes["rows"] == {"train": 72, "validation": 9, "test": 9} and alone.notes["test"] == "held out of train"
    assert alone.test.texts == load_corpus(data(films / "train.jsonl", validation="", test="")).test.texts


def test_auto_leaves_a_split_that_another_key_names(films: Path, data: Data, write: Write) -> None:
    (films / "test.jsonl").rename(films / "dev.jsonl")
    for name in ("validation", "dev"):
        corpus = load_corpus(data(films, test=name, validation="auto"))
        assert corpus.notes["rows"] == {"train": 81, "validation": 9, "test": 20} and corpus.notes["validation"] == "held out of train"
        assert load_corpus(data(films, test=name)).notes["unused"] == {}


def test_the_notes_name_splits_that_are_not_used(films: Path, data: Data, write: Write) -> None:
    write(films / "valid.jsonl", [{"text": f"validation {n}", "label": n % 2} for n in range(6)])
    assert load_corpus(data(films)).notes["unused"] == {"validation": "validation"}
    both = load_corpus(data(films, test=""))
    assert both.notes["unused"] == {"validation": "validation", "test": "test"} and both.notes["test"] == "held out of train"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "test.jsonl has no column 'label'; .*; or make config.data.test empty, which holds rows out of train"),
        ({"text": "x", "label": -1}, "test.jsonl has no labels .*, or make it empty, which holds rows out of train"),
    ],
)
def test_auto_says_how_to_do_without_a_split_that_has_no_labels(
    films: Path, data: Data, write: Write, row: dict[str, object], said: str
) -> None:
    write(films / "test.jsonl", [row])
    with pytest.raises(UserError, match=said):
        load_corpus(data(films, test="auto"))
    assert load_corpus(data(films, test="")).notes["rows"]["test"] == 9


def test_test_is_held_out_too(films: Path, data: Data) -> None:
    corpus = load_corpus(data(films / "train.jsonl", test="", test_size=30, validation_size=0.2))
    assert corpus.notes["rows"] == {"train": 42, "validation": 18, "test": 30}
    assert corpus.notes["test"] == "held out of train"
    assert_disjoint(corpus)
    with pytest.raises(UserError, match="config.data.validation_size is 0.6"):
        load_corpus(data(films / "train.jsonl", test="", test_size=0.6, validation_size=0.6))


def test_duplicates_leave_the_less_important_split(tmp_path: Path, data: Data, write: Write) -> None:
    def rows(*texts: str) -> list[dict[str, object]]:
        return [{"text": text, "label": number % 2} for number, text in enumerate(texts)]

    write(tmp_path / "train.jsonl", rows("a", "b", "c", "d", "a  a", "v", "t", "a", " "))
    write(tmp_path / "dev.jsonl", rows("v", "w", "a a", "t", "v"))
    write(tmp_path / "test.jsonl", rows("t", "t", "u", ""))
    corpus = load_corpus(data(tmp_path, validation="validation"))
    assert corpus.train.texts == ["a", "b", "c", "d", "a"]
    assert corpus.validation.texts == ["v", "w", "a a", "v"]
    assert corpus.test.texts == ["t", "t", "u"]
    assert corpus.notes["duplicates_removed"] == {"train": 3, "validation": 1}
    assert corpus.notes["empty_removed"] == {"train": 1, "validation": 0, "test": 1}
    assert_disjoint(corpus)


def test_held_out_validation_shares_no_text_with_train(tmp_path: Path, data: Data, write: Write) -> None:
    write(tmp_path / "train.jsonl", [{"text": f"text {n // 4}", "label": n // 4 % 2} for n in range(200)])
    write(tmp_path / "test.jsonl", [{"text": f"text {n}", "label": n % 2} for n in range(10)])
    corpus = load_corpus(data(tmp_path, validation_size=40))
    assert corpus.notes["duplicates_removed"]["train"] == 40 and corpus.notes["rows"] == {"train": 120, "validation": 40, "test": 10}
    assert_disjoint(corpus)


def test_limits(films: Path, data: Data) -> None:
    corpus = load_corpus(data(films, limit_train=12, limit_validation=3, limit_test=6))
    assert corpus.notes["rows"] == {"train": 12, "validation": 3, "test": 6}
    assert corpus.notes["limited"] == {"train": 69, "validation": 6, "test": 14}
    assert np.bincount(corpus.train.labels).tolist() == [8, 4]
    assert set(corpus.train.texts) < set(load_corpus(data(films)).train.texts)


def test_string_labels_and_given_names(films: Path, data: Data, write: Write) -> None:
    write(films / "train.jsonl", [{"text": f"train {n}", "label": ["no", "yes"][n % 2]} for n in range(20)])
    write(films / "test.jsonl", [{"text": "x", "label": "yes"}, {"text": "y", "label": "no"}])
    assert load_corpus(data(films)).test.labels.tolist() == [1, 0]
    renamed = load_corpus(data(films, label_names=("yes", "no")))
    assert renamed.label_names == ("yes", "no") and renamed.test.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="train.jsonl, row 1: the label 'no' is not among config.data.label_names"):
        load_corpus(data(films, label_names=("yes", "nein")))


def test_given_names_that_are_numbers_are_meant_by_them(films: Path, data: Data, write: Write) -> None:
    write(films / "train.jsonl", [{"text": f"train {n}", "label": n % 4 + 1} for n in range(40)])
    write(films / "test.jsonl", [{"text": "x", "label": 4}, {"text": "y", "label": 1}])
    for names in (("1", "2", "3", "4", "5"), (1, 2, 3, 4, 5)):
        corpus = load_corpus(data(films, label_names=names))
        assert corpus.label_names == ("1", "2", "3", "4", "5") and corpus.test.labels.tolist() == [3, 0]
    with pytest.raises(UserError, match="train.jsonl, row 4: the label 4 is not among config.data.label_names: 0, 1, 2, 3"):
        load_corpus(data(films, label_names=("0", "1", "2", "3")))


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        ([{"text": f"x{n}", "label": 1} for n in range(9)], {}, "all 9 training texts of films are of the class '1', but at least two"),
        ([{"text": f"x{n}", "label": int(n > 3)} for n in range(9)], {"limit_train": 1}, "all 1 training texts"),
        ([{"text": " ", "label": n % 2} for n in range(9)], {}, "train.jsonl has 9 rows, but no text in any of them"),
        ([], {}, "train.jsonl has no column 'text'"),
        (
            [{"text": f"test text {n}", "label": n % 2} for n in range(20)],
            {},
            "films has no train texts left that do not occur in another split",
        ),
        ([{"text": f"x{n}", "label": n % 2} for n in range(9)], {"validation": "test"}, "are both 'test'"),
        ([{"text": f"x{n}", "label": n % 2} for n in range(9)], {"test": "train"}, "are both 'train'"),
        ([{"text": f"x{n}", "label": n % 2} for n in range(9)], {"train": ""}, "config.data.train is empty"),
        ([{"text": f"x{n}", "label": n % 2} for n in range(9)], {"validation": "test.jsonl"}, "has no validation texts left"),
        ([{"text": f"x{n}", "label": n % 2} for n in range(9)], {"text_column": "texts"}, r"\(did you mean text\?\)"),
        (
            [{"text": f"x{n}", "label": n} for n in range(1, 9)],
            {},
            "test.jsonl, row 2: the label 0 is not among the labels of train: 1, 2, 3, 4, 5, 6, 7, 8; correct it",
        ),
    ],
)
def test_corpora_that_cannot_be_used(
    films: Path, data: Data, write: Write, rows: list[dict[str, object]], changes: dict[str, object], said: str
) -> None:
    write(films / "train.jsonl", rows)
    with pytest.raises(UserError, match=said):
        load_corpus(data(films, **changes))


def test_hidden_labels(films: Path, data: Data, write: Write) -> None:
    write(films / "test.jsonl", [{"text": "x", "label": -1}])
    for names in ((), ("bad", "good")):
        with pytest.raises(UserError, match="test.jsonl has no labels .* set config.data.test to a labelled split"):
            load_corpus(data(films, label_names=names))


def test_chosen_examples(tmp_path: Path, data: Data, write: Write, tokenizer_folder: Path) -> None:
    path = write(tmp_path / "chosen.jsonl", [{"text": "a good film", "label": "good"}, {"text": "bad", "label": 0}])
    split = read_examples(path, data("embedded", text_column="sentence"), ("bad", "good"), tokenizer_folder, 4)
    assert split.labels.tolist() == [1, 0] and split.lengths.tolist() == [4, 3]
    numbered = write(tmp_path / "numbered.jsonl", [{"text": "a", "label": 4}, {"text": "bad", "label": "1"}])
    assert read_examples(numbered, data("embedded"), ("1", "4"), tokenizer_folder, 4).labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="there is no file"):
        read_examples(tmp_path / "gone.jsonl", data("embedded", text_column="sentence"), ("bad", "good"), tokenizer_folder, 4)


@pytest.mark.parametrize(
    ("name", "changes", "rows"),
    [
        ("rotten_tomatoes", {"validation": "validation"}, (8530, 1066, 1066)),
        ("sst2", {"test": "validation"}, (6920, None, 872)),
        ("ag_news", {"label_names": ("World", "Sports", "Business", "Sci/Tech")}, (29021, None, 7600)),
        ("imdb", {"validation_size": 2000, "limit_train": 500}, (None, 2000, 25000)),
    ],
)
def test_real_folders(
    shared_data: Path, data: Data, name: str, changes: dict[str, object], rows: tuple[int | None, int | None, int]
) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is not there")
    corpus = load_corpus(data(shared_data / name, **changes))
    found, removed = corpus.notes["rows"], corpus.notes["duplicates_removed"]["train"]
    assert found["test"] == rows[2] and (rows[1] is None or found["validation"] == rows[1])
    assert_disjoint(corpus)
    if rows[0] and corpus.notes["validation"] == "given":
        assert found["train"] + removed == rows[0]
    elif rows[0]:
        assert found["train"] + found["validation"] + removed == rows[0]
        assert found["validation"] == pytest.approx(rows[0] / 10, rel=0.01)
    shares = np.bincount(corpus.train.labels) / found["train"]
    assert shares == pytest.approx(np.full(len(shares), 1 / len(shares)), abs=0.03)
