"""Corpora that benchmarks make of the data sets' own, as folders of files: all with the same columns, and classes by their names."""

import json
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.jobs import Base
from ddllm.data.corpus import load_corpus
from ddllm.data.splits import Corpus, Split
from ddllm.data.tokens import PARTS
from ddllm.runtime.storage import write_atomically

# What reviews are, however their data set says it.
SENTIMENT = {"0": "negative", "neg": "negative", "rotten": "negative", "1": "positive", "pos": "positive", "fresh": "positive"}
REVIEWS = ("rotten_tomatoes", "sst2", "imdb")


def data_options(folder: Path) -> list[str]:
    """The options with which a command reads a folder that `write_corpus` has written."""
    data = {"source": folder, "validation": "validation", "test": "test", "text_column": "text", "label_column": "label", "subset": ""}
    return [f"--config.data.{key}={value}" for key, value in data.items()]


def load_named(dataset: str, data: ConfigDict) -> Corpus:
    """The corpus that a run's config.data describes, its classes by the names that other data sets have too."""
    corpus = load_corpus(data)
    return replace(corpus, label_names=tuple(SENTIMENT.get(name, name) for name in corpus.label_names)) if dataset in REVIEWS else corpus


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl, the last one last."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        _write_split(folder / f"{part}.jsonl", getattr(corpus, part), corpus.label_names)


def write_alike(base: Base, datasets: list[str], build: bool = True) -> tuple[list[Path], int]:
    """Folders with the same columns for several data sets, below the folder of one of them.

    Args:
        base: of that one.
        datasets: their names, in their order.
        build: write the folders that are not there.

    Returns:
        The folders, and the positions that the longest texts of any configuration have.
    """
    folders = [base.folder / "corpora" / dataset for dataset in datasets]
    configs = [replace(base, dataset=dataset).job("corpus", None, (0,), []).member.config for dataset in datasets]
    for dataset, config, folder in zip(datasets, configs, folders, strict=True):
        if build and not is_written(folder):
            write_corpus(folder, load_named(dataset, config.data))
    return folders, max(config.data.length for config in configs)


def is_written(folder: Path) -> bool:
    """Whether `write_corpus` has come to its end there."""
    return (folder / f"{PARTS[-1]}.jsonl").is_file()


def _write_split(path: Path, split: Split, names: tuple[str, ...]) -> None:
    lines = [json.dumps({"text": text, "label": names[label]}) for text, label in zip(split.texts, split.labels.tolist(), strict=True)]
    with write_atomically(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
