"""What labels may be, and what is said of those that may not."""

import pytest

from ddllm.data.files import Table
from ddllm.data.labels import LabelNames, encode, find_names, find_task
from ddllm.errors import UserError


def make_table(labels: list[object], names: tuple[str, ...] = (), texts: list[object] | None = None) -> Table:
    return Table(texts or ["x"] * len(labels), labels, names, "films.csv")


@pytest.mark.parametrize(
    ("labels", "own", "given", "names", "encoded"),
    [
        (["pos", "neg", "pos"], (), (), ("neg", "pos"), [1, 0, 1]),
        (["pos", "neg", "pos"], (), ("pos", "neg"), ("pos", "neg"), [0, 1, 0]),
        ([0, 1, 0], (), (), ("0", "1"), [0, 1, 0]),
        ([4, 1, 10], (), (), ("1", "4", "10"), [1, 0, 2]),
        ([-1, 1], (), (), ("-1", "1"), [0, 1]),
        ([0, 1], (), ("bad", "good"), ("bad", "good"), [0, 1]),
        ([0, 1], ("bad", "good"), (), ("bad", "good"), [0, 1]),
        ([0, 1], ("bad", "good"), ("rotten", "fresh"), ("rotten", "fresh"), [0, 1]),
        ([2, 2], ("a", "b", "c"), (), ("a", "b", "c"), [2, 2]),
        ([1, 4], (), ("1", "2", "3", "4", "5"), ("1", "2", "3", "4", "5"), [0, 3]),
        ([0, 1], (), ("1", "0"), ("1", "0"), [1, 0]),
        ([False, True], (), ("0", "1"), ("0", "1"), [0, 1]),
        ([1, 2], (), ("1", "2", "many"), ("1", "2", "many"), [1, 2]),
        ([0, 1], ("1", "2"), (), ("1", "2"), [0, 1]),
        ([0, 1], ("one", "two"), ("1", "2"), ("1", "2"), [0, 1]),
        ([False, True], (), (), ("False", "True"), [0, 1]),
    ],
)
def test_names_and_positions(
    labels: list[object], own: tuple[str, ...], given: tuple[str, ...], names: tuple[str, ...], encoded: list[int]
) -> None:
    table = make_table(labels, own)
    found = find_names(table, given)
    assert found.names == names
    assert encode(table, found, "train")[0].labels.tolist() == encoded


def test_integers_of_one_file_meet_strings_of_another() -> None:
    names = find_names(make_table([1, 2]), ())
    assert encode(make_table(["2", "1"]), names, "test")[0].labels.tolist() == [1, 0]


def test_empty_texts_are_counted_with_whatever_label() -> None:
    table = make_table([0, None, "odd", 2.5, 1], texts=[" x\n", None, "", " \t", "y"])
    split, empty = encode(table, find_names(table, ()), "train")
    assert (split.texts, split.labels.tolist(), empty) == (["x", "y"], [0, 1], 3)


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        ([0, None], (), "films.csv, row 2: there is no label"),
        (["a", ""], (), "films.csv, row 2: there is no label"),
        ([0.0, 1.0], (), r"films.csv, row 1: the label 0.0 is neither an integer nor a string \(float\)"),
        ([0, float("nan")], (), "row 2: there is no label"),
        ([[0], [1]], (), "neither an integer nor a string"),
        ([0, "a"], (), "mixes strings and integers"),
        ([-1, -1], (), "has no labels"),
        ([0, 1], ("a", "a"), "repeats a name"),
        (["a", "b\ud83d"], (), r"films.csv, row 2: the label has half a character \('\\ud83d'\)"),
    ],
)
def test_labels_that_give_no_names(labels: list[object], given: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_names(make_table(labels), given)


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([1, 2], LabelNames(("bad", "good"), True), "films.csv, row 2: the label 2 is outside 0 to 1, the classes being bad, good"),
        ([0, -1], LabelNames(("bad", "good"), True), "films.csv has no labels .row 2 has -1.*set config.data.test to a labelled split"),
        ([-1], LabelNames(("0", "1"), False), "films.csv has no labels"),
        ([3], LabelNames(("0", "1"), False), "row 1: the label 3 is not among the labels of train: 0, 1"),
        (["goood"], LabelNames(("bad", "good"), True), r"'goood' \(did you mean good\?\) is not among config.data.label_names"),
        ([1.5], LabelNames(("bad", "good"), True), "the label 1.5 is neither"),
    ],
)
def test_labels_outside_the_names(labels: list[object], names: LabelNames, said: str) -> None:
    with pytest.raises(UserError, match=said):
        encode(make_table(labels), names, "test")


def test_texts_that_are_none() -> None:
    with pytest.raises(UserError, match="films.csv has 2 rows, but no text in any of them"):
        encode(make_table([0, 1], texts=["", None]), LabelNames(("a", "b"), True), "train")
    with pytest.raises(UserError, match="films.csv, row 2: the text is not a string but int"):
        encode(make_table([0, 1], texts=["x", 5]), LabelNames(("a", "b"), True), "train")


def test_texts_that_were_cut_in_the_middle_of_a_character() -> None:
    names, said = LabelNames(("a", "b"), True), r"films.csv, row 2: the text has half a character \('\\ud83d'\); correct it or remove the row"
    with pytest.raises(UserError, match=said):
        encode(make_table([0, 1], texts=["whole \U0001f600", "half \ud83d"]), names, "train")
    with pytest.raises(UserError, match=said):
        encode(Table(["a", "b"], [0, 1], (), "films.csv", ["x", "\ud83dx"]), names, "train")


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([0, 1], "classification"),
        ([0.0, 3.0], "classification"),
        ([0.0, 3.5], "regression"),
        ([0, -0.5], "regression"),
        (["0.5", "1"], "classification"),
        ([None, 0.5], "classification"),
        ([["a"], []], "multilabel"),
        ([float("nan"), 1.0], "classification"),
    ],
)
def test_the_task_is_seen_from_the_labels(labels: list[object], task: str) -> None:
    assert find_task(make_table(labels), "auto") == task
    assert find_task(make_table(labels), "regression") == "regression"


def test_numbers() -> None:
    table = make_table([1, 2.5, "-3"])
    split, _ = encode(table, find_names(table, (), "regression"), "train")
    assert split.labels.tolist() == [1.0, 2.5, -3.0] and split.labels.dtype == "float32"
    for label, said in (
        ("much", "row 1: the label 'much' is not a number"),
        (None, "there is no label"),
        (float("nan"), "not a number"),
        (-1e39, "row 1: the label -1e.39 is too large; numbers may go up to 1e.15"),
        (10**400, "the label inf is too large"),
    ):
        with pytest.raises(UserError, match=said):
            encode(make_table([label]), LabelNames(("label",), False, "regression"), "train")


def test_sets() -> None:
    table = make_table([["b"], [], ["a", "b"]])
    names = find_names(table, (), "multilabel")
    assert names.names == ("a", "b")
    assert encode(table, names, "train")[0].labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    indexed = make_table([[1], [0, 1]], ("x", "y"))
    assert encode(indexed, find_names(indexed, (), "multilabel"), "train")[0].labels.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(UserError, match=r"films.csv, row 1: the label 'bb' \(did you mean b\?\) is not among the labels of train: a, b"):
        encode(make_table([["bb"]]), names, "test")
    with pytest.raises(UserError, match="row 1: the labels are no list but 'a'"):
        encode(make_table(["a"]), names, "test")
    with pytest.raises(UserError, match="all lists are empty"):
        find_names(make_table([[], []]), (), "multilabel")


def test_pairs_need_both_texts() -> None:
    table = Table(["a ", "b", " ", "c"], [0, 1, 0, None], (), "films.csv", ["x", " y", "z", ""])
    split, empty = encode(table, find_names(table, ()), "train")
    assert (split.texts, split.pairs, split.labels.tolist(), empty) == (["a", "b"], ["x", "y"], [0, 1], 2)
    with pytest.raises(UserError, match="row 1: the text is not a string but int; see config.data.pair_column"):
        encode(Table(["a"], [0], (), "films.csv", [5]), LabelNames(("0",), True), "train")
