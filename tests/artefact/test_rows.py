"""Readable rows say what the examples were made of, and open in `datasets` with nothing else of the folder."""

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.artefact.folder import load_distilled
from ddllm.artefact.rows import TEXT, encode_rows, plain_rows, read_rows
from ddllm.data.splits import Split
from ddllm.data.tokens import load_tokenizer, tokenize_texts
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.models.pretrained import load_pretrained
from ddllm.prompt.examples import distilled_examples


def test_examples_of_real_texts_read_as_these(run, tiny_corpus):
    rows = [json.loads(line) for line in (run.workdir.distilled / TEXT).read_text().splitlines()]
    texts = {json.loads(line)["text"]: json.loads(line)["label"] for line in (tiny_corpus / "train.jsonl").read_text().splitlines()}
    assert [(row["batch"], row["example"], row["label"]) for row in rows] == [(0, 0, "negative"), (0, 1, "positive")]
    mask = load_distilled(run.workdir.distilled).data.mask
    for number, row in enumerate(rows):
        count = int(mask[0, number].sum())
        assert len(row["tokens"]) == len(row["scores"]) == count and row["label_values"][number] > 0.5
        words = [token for token in row["tokens"] if token not in ("[CLS]", "[SEP]")]
        assert row["tokens"][0] == "[CLS]" and count - 2 <= len(words) < count
        assert np.allclose(row["scores"], 1, atol=1e-3) and any(text.startswith(" ".join(words)) for text in texts)
        assert row["text"] == " ".join(words)


def test_sentences_are_read_as_themselves(embedded):
    """In rows and as examples of prompts, where nothing of them was changed; of pairs both texts, each by itself."""
    pretrained = load_pretrained("embedded")
    tokenizer, words = load_tokenizer(pretrained.folder), np.asarray(pretrained.words)
    for pairs in (None, ["is it?", "a plot twist, at last."]):
        split = Split(["a moving, funny film", "unwatchable."], np.arange(2, dtype=np.int32), pairs)
        tokens, _ = tokenize_texts(tokenizer, split, 20)
        mask = (np.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]).astype(np.float32)[None]
        types = None if tokens.types is None else tokens.types[None].astype(np.float32)
        data = DistilledData(words[tokens.ids][None], mask, np.eye(2, dtype=np.float32)[None], np.zeros((1, 1), np.float32), types=types)
        rows = read_rows(data, Recipe("hard"), ("bad", "good"), {}, words, tokenizer)
        assert [row["text"] for row in rows] == [" ⏐ ".join(texts) for texts in zip(split.texts, *([pairs] if pairs else []), strict=True)]
        assert [row["tokens"].count("[SEP]") for row in rows] == [2 if pairs else 1] * 2
        prepared = cast(Any, SimpleNamespace(pretrained=pretrained))
        examples = distilled_examples(prepared, Distilled(data, Recipe("hard"), {}))
        assert [(example.text, example.pair) for example in examples] == list(zip(split.texts, pairs or ["", ""], strict=True))


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
