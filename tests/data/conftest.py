"""A small corpus on disk, a tokenizer that needs no network, and configurations that point to both."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from ddllm.config import default_config

WORDS = "a film is good bad dull fine long the of and story plot cast ##s !".split()


@pytest.fixture
def data() -> Callable[..., ConfigDict]:
    """Makes the section `data` of a configuration with some keys changed."""

    def make(source: Path | str, **changes: object) -> ConfigDict:
        section = default_config().data
        section.source = str(source)
        for key, value in changes.items():
            section[key] = value
        return section

    return make


@pytest.fixture
def write() -> Callable[..., Path]:
    """Writes rows as JSON Lines."""

    def make(path: Path, rows: list[dict[str, object]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return make


@pytest.fixture
def films(tmp_path: Path, write: Callable[..., Path]) -> Path:
    """A folder with 90 texts in train and 20 in test, of two classes, 2 to 1."""
    folder = tmp_path / "films"
    for split, count in (("train", 90), ("test", 20)):
        write(folder / f"{split}.jsonl", [{"text": f"{split} text {row}", "label": int(row % 3 == 0)} for row in range(count)])
    return folder


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A BERT word-piece tokenizer with a few words; [PAD] is number 3."""
    folder = tmp_path / "model"
    folder.mkdir()
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    return folder
