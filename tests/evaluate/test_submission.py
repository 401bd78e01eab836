"""Another's texts under the protocol: reading, arranging, tuning and scoring; another's folder under a name of its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddllm.data.tokens import TokenSplit
from ddllm.errors import UserError
from ddllm.evaluate.submission import arrange_sets, count_known, read_sets
from ddllm.main import name_of, parse
from ddllm.report.results import read_results
from ddllm.stages import evaluate, robustness

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("negative", "positive")


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_reading(write):
    hard = read_sets(write({"text": "a", "label": 1}, {"text": " b ", "label": "negative"}), NAMES)
    assert len(hard) == 1 and hard[0].texts == ["a", "b"]
    np.testing.assert_array_equal(hard[0].labels, [[0, 1], [1, 0]])
    rows = [{"text": "a", "label_probabilities": [0.25, 0.75], "set": 7}, {"text": "b", "label_probabilities": [1, 0], "set": 3}]
    one, two = read_sets(write(*rows, rows[0]), NAMES)
    assert one.texts == ["a", "a"] and two.texts == ["b"]
    np.testing.assert_array_equal(one.labels, [[0.25, 0.75]] * 2)
    as_label = read_sets(write({"text": "a", "label": [0.25, 0.75]}), NAMES)
    np.testing.assert_array_equal(as_label[0].labels, [[0.25, 0.75]])
    # Names that are numbers are meant by numbers.
    np.testing.assert_array_equal(read_sets(write({"text": "a", "label": 1}), ("1", "2"))[0].labels, [[1, 0]])


CLASSES = "is none of the classes negative, positive; give a name, or its number from 0 to 1"
PROBABILITIES = "but must be 2 numbers that are not negative and sum to 1, in the order negative, positive."


@pytest.mark.parametrize(
    "row, pairs, message",
    [
        (
            {"text": "a"},
            False,
            " needs one of the columns 'label' (class names or numbers) and 'label_probabilities' (lists, in the order negative, positive).",
        ),
        ({"text": "a", "label": 2}, False, f", row 1: the label 2 {CLASSES}."),
        ({"text": "a", "label": -1}, False, f", row 1: the label -1 {CLASSES}."),
        ({"text": "a", "label": 1.0}, False, f", row 1: the label 1.0 {CLASSES}."),
        ({"text": "a", "label": "1"}, False, f", row 1: the label '1' {CLASSES}, without quotation marks."),
        ({"text": "a", "label": "positiv"}, False, f", row 1: the label 'positiv' (did you mean positive?) {CLASSES}."),
        ({"text": "a", "label": None}, False, ", row 1: there is no label; remove the row or give it one."),
        ({"text": "a", "label_probabilities": [0.5, 0.6]}, False, f", row 1: label_probabilities is [0.5, 0.6], {PROBABILITIES}"),
        ({"text": "a", "label_probabilities": [1.5, -0.5]}, False, f", row 1: label_probabilities is [1.5, -0.5], {PROBABILITIES}"),
        ({"text": "a", "label_probabilities": [1]}, False, f", row 1: label_probabilities is [1], {PROBABILITIES}"),
        ({"text": "a", "label_probabilities": "[0.5"}, False, f", row 1: label_probabilities is '[0.5', {PROBABILITIES}"),
        ({"text": " ", "label": 1}, False, " has no texts."),
        ({"text": 7, "label": 1}, False, ", row 1: the text 7 is not a string (int); put it in quotation marks."),
        ({"text": "a", "label": 1, "set": [1]}, False, ", row 1: the set [1] is neither a name nor a whole number."),
        ({"text": "a", "label": 1, "set": float("nan")}, False, ", row 1: the set nan is neither a name nor a whole number."),
        (
            {"texts": "a", "label": 1},
            False,
            " has no column 'text' (did you mean texts?); its columns are texts, label; a file of texts has its texts in 'text', so rename the column.",
        ),
        (
            {"text": "a", "label": 1},
            True,
            " has no column 'text_pair' (did you mean text?); its columns are text, label; a file of texts has its texts in 'text' and, since the "
            "corpus is one of pairs, 'text_pair', so rename the column.",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(write, row, pairs, message):
    path = write(row)
    with pytest.raises(UserError) as caught:
        read_sets(path, NAMES, pairs)
    assert str(caught.value) == f"{path}{message}"


def test_formats_without_lists_have_probabilities_as_text(tmp_path):
    for name, line in (("texts.csv", 'a,"[0.75, 0.25]"'), ("texts.tsv", "a\t[0.75, 0.25]")):
        for column in ("label_probabilities", "label"):
            (tmp_path / name).write_text(f"text{line[1]}{column}\n{line}\n")
            np.testing.assert_array_equal(read_sets(tmp_path / name, NAMES)[0].labels, [[0.75, 0.25]])
    (tmp_path / "texts.csv").write_text("text,label\na,[good]\nb,1\n")
    np.testing.assert_array_equal(read_sets(tmp_path / "texts.csv", ("bad", "[good]", "1"))[0].labels, [[0, 1, 0], [0, 0, 1]])


def test_of_both_columns_the_probabilities_are_taken(write, capsys):
    path = write({"text": "a", "label": 1, "label_probabilities": [0.75, 0.25]})
    np.testing.assert_array_equal(read_sets(path, NAMES)[0].labels, [[0.75, 0.25]])
    assert f"{path} has both 'label' and 'label_probabilities'; the latter are taken." in " ".join(capsys.readouterr().err.split())


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "texts.csv").write_text("text,label,label\na,1,1\n")
    with pytest.raises(UserError, match="has 2 columns 'label'; rename or remove all but one"):
        read_sets(tmp_path / "texts.csv", NAMES)


def test_a_file_with_a_header_alone(tmp_path):
    (tmp_path / "texts.csv").write_text("text,label_probabilities\n")
    with pytest.raises(UserError, match="texts.csv has no texts"):
        read_sets(tmp_path / "texts.csv", NAMES)


def test_sets_of_any_size_become_arrays_of_one_shape():
    words = np.arange(20, dtype=np.float32)[:, None]
    sizes = (5, 3)
    tokens = [
        TokenSplit(np.arange(2 * size, dtype=np.int32).reshape(size, 2), np.array([2] * (size - 1) + [1]), np.zeros(size)) for size in sizes
    ]
    labels = [np.eye(5, dtype=np.float32)[:size] for size in sizes]
    large, small = arrange_sets(words, tokens, labels, 3)
    assert large.embeddings.shape == small.embeddings.shape == (2, 3, 2, 1)
    # Every text is there, those that fill up are the first ones, and neighbours in the file are in different batches.
    np.testing.assert_array_equal(large.labels.argmax(-1), [[0, 2, 4], [1, 3, 0]])
    np.testing.assert_array_equal(small.labels.argmax(-1), [[0, 2, 1], [1, 0, 2]])
    np.testing.assert_array_equal(large.embeddings[..., 0, 0], [[0, 4, 8], [2, 6, 0]])
    assert large.mask[0, 2, 1] == 0 and large.mask.sum() == 11
    assert count_known(tokens, TokenSplit(np.array([[2, 3], [8, 9]], np.int32), np.array([2, 2]), np.zeros(2))) == 2


def test_texts_are_scored(distilled_run, tiny_corpus, tmp_path):
    lines = [json.loads(line) for line in (tiny_corpus / "train.jsonl").read_text().splitlines()]
    known = json.loads((tiny_corpus / "test.jsonl").read_text().splitlines()[0])
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({**line, "set": index // 12}) + "\n" for index, line in enumerate([known, *lines[:35]])))
    run = replace(distilled_run, distilled=path, name="theirs", config=distilled_run.config.copy_and_resolve_references())
    run.config.evaluate.update({"selection_rates": (1e-3, 0.3), "selection_passes": (3,), "submission_batch": 8})
    run._prepared = replace(distilled_run.prepared, config=run.config)
    evaluate(run)
    row = next(row for row in read_results(run.workdir.results)["rows"] if row["name"] == "theirs")
    assert row["runs"] == row["sets"] == 3 and row["examples"] == 12 and row["inner_steps"] == 6 and row["accuracy_std"] > 0
    assert row["rate"] == 0.3 and row["accuracy_mean"] > 0.6, "the better one of both was not chosen"
    assert row["texts_in_test"] == 1 and "1 of its texts occur in the test split" in row["note"] and "chosen on validation" in row["note"]
    with pytest.raises(UserError, match="holds texts, which have no recipe"):
        robustness(run)


def test_a_folder_is_scored_by_its_own_recipe(distilled_run, tmp_path):
    folder = shutil.copytree(distilled_run.workdir.distilled, tmp_path / "elsewhere")
    evaluate(replace(distilled_run, distilled=folder, name="mine"))
    rows = {row["name"]: row for row in read_results(distilled_run.workdir.results)["rows"]}
    assert rows["mine"]["runs"] == 1 and rows["mine, redrawn heads"]["runs"] == 2
    content = json.loads((folder / "recipe.json").read_text())
    assert "bfloat16" not in rows["mine"]["note"]
    (folder / "recipe.json").write_text(json.dumps({**content, "products": "bfloat16"}))
    evaluate(replace(distilled_run, distilled=folder, name="rounded"))
    rounded = [row for row in read_results(distilled_run.workdir.results)["rows"] if row["name"].startswith("rounded")]
    assert len(rounded) == 2 and all("matrix products in bfloat16" in row["note"] for row in rounded)
    (folder / "recipe.json").write_text(json.dumps({**content, "label_names": ["positive", "negative"]}))
    with pytest.raises(UserError, match="has the classes positive, negative, but .* has negative, positive"):
        evaluate(replace(distilled_run, distilled=folder, name="mine"))


def test_the_command_line(tmp_path):
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}"
    command = parse([config, "--distilled=a/b.jsonl.gz"])
    assert command.name == "b" and command.stages == ["prepare", "finetune", "select", "evaluate", "report"]
    assert parse([config, "--distilled=a/b", "--name=c"]).name == "c"
    assert name_of(tmp_path / "v1.5" / "distilled") == "v1.5"
    assert parse([config, "--config.evaluate.robustness=True"]).stages[-2:] == ["robustness", "report"]
    assert parse([config, "--mode=analyse"]).stages == ["analyse"]
    for line, message in (
        (["--mode=distill", "--distilled=a"], "leave one of them out"),
        (["--name=a"], "give its file with --distilled"),
        (["--distilled=a", "--name=full"], "choose another one"),
    ):
        with pytest.raises(UserError, match=message):
            parse([config, *line])
