"""Readable rows say what the examples were made of, and open in `datasets` with nothing else of the folder."""

import json

import numpy as np

from ddllm.artefact.folder import load_distilled
from ddllm.artefact.rows import TEXT, encode_rows, plain_rows
from ddllm.distill.dataset import DistilledData, Recipe


def test_examples_of_real_texts_read_as_these(run, tiny_corpus):
    rows = [json.loads(line) for line in (run.workdir.distilled / TEXT).read_text().splitlines()]
    texts = {json.loads(line)["text"]: json.loads(line)["label"] for line in (tiny_corpus / "train.jsonl").read_text().splitlines()}
    assert [(row["batch"], row["example"], row["label"]) for row in rows] == [(0, 0, "negative"), (0, 1, "positive")]
    mask = load_distilled(run.workdir.distilled).data.mask
    for number, row in enumerate(rows):
        count = int(mask[0, number].sum())
        assert len(row["tokens"]) == len(row["scores"]) == count and row["label_values"][number] > 0.5
        # The first and the last position are special tokens in the text, which no row shows.
        words = row["tokens"][1:-1]
        assert np.allclose(row["scores"][1:-1], 1, atol=1e-3) and any(" ".join(words) in text for text in texts)
        assert row["text"] == " ".join(row["tokens"])


def test_opens_in_datasets(run, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    opened = datasets.load_dataset(str(run.workdir.distilled), cache_dir=str(tmp_path))
    rows = [json.loads(line) for line in (run.workdir.distilled / TEXT).read_text().splitlines()]
    assert list(opened) == ["train"] and opened["train"].column_names == list(rows[0])
    assert opened["train"]["text"][:] == [row["text"] for row in rows] and opened["train"]["label"][:] == ["negative", "positive"]


def test_labels_of_other_tasks():
    data = DistilledData(np.zeros((1, 2, 1, 4)), np.ones((1, 2, 1)), np.float32([[[0.2, 0.9], [0.7, 0.6]]]), np.zeros((1, 1)))
    rows = plain_rows(data, Recipe("unrestricted"), ("a", "b"), {"task": {"name": "multilabel"}})
    assert [row["label"] for row in rows] == [["b"], ["a", "b"]] and set(encode_rows(rows)) == {"text.jsonl", "examples.parquet"}
    data = data.replace(labels=np.float32([[[1.0], [-2.0]]]))
    rows = plain_rows(data, Recipe("hard"), ("score",), {"task": {"name": "regression", "mean": 3.0, "deviation": 0.5}})
    assert [row["label"] for row in rows] == [3.5, 2.0] and encode_rows(rows)
