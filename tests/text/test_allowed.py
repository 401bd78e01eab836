"""What texts may be made of: marks and readable tokens in a byte-level vocabulary, what a text can begin with, and lists of words."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled
from ddllm.data.tokens import load_tokenizer
from ddllm.main import main
from ddllm.models.pretrained import load_pretrained
from ddllm.text.allowed import FIRST, REST, TextIndex, allowed_by, begins, nearest_tokens
from ddllm.text.distilled_text import FREE
from ddllm.text.projection import index_table
from ddllm.text.vocabulary import UNKNOWN, find_words, readable, starts_text, starts_word, token_names

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


@pytest.fixture(scope="module")
def marked_corpus(tiny_corpus, tmp_path_factory):
    """The tiny corpus with marks at the ends of its texts, one in the middle of some, and a character of two bytes in one."""
    folder = tmp_path_factory.mktemp("marked")
    for name in ("train", "test"):
        rows = [json.loads(line) for line in (tiny_corpus / f"{name}.jsonl").read_text().splitlines()]
        for number, row in enumerate(rows):
            row["text"] = row["text"].replace(" ", ", ", number % 2) + (".", "!")[number % 2]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def roberta(marked_corpus, tmp_path_factory):
    """A random RoBERTa of one layer with a byte-level tokenizer that was trained on these texts."""
    pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from torch import manual_seed
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    texts = [json.loads(line)["text"] for line in (marked_corpus / "train.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([*texts, *(["####"] * 9)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True)) | {"cls_token": "<s>", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizerFast", **named}))
    manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    special = {"type_vocab_size": 1, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    RobertaModel(RobertaConfig(vocab_size=tokenizer.get_vocab_size(), initializer_range=0.3, **shape, **special)).save_pretrained(folder)
    return folder


def test_a_byte_level_vocabulary_keeps_its_marks(roberta):
    tokenizer = load_tokenizer(roberta)
    names = token_names(tokenizer)
    words, begun, read = ({name for name, each in zip(names, kind(tokenizer), strict=True) if each} for kind in (starts_word, starts_text, readable))
    assert {"Ġgood", "Ġfilm", ".", ",", "!", "####"} <= words and not {"good", "ing", "Ġ", "Ċ", "Ã", "<s>"} & words
    assert {"good", "film", ".", "!"} <= begun and not {"Ġgood", "Ġfilm", "Ġ", "Ċ", "Ã"} & begun
    assert {"good", "Ġgood", "####"} <= read and not {"Ġ", "Ċ", "Ã"} & read
    for number, name in enumerate(names):
        text = tokenizer.decode([number])
        assert name not in read or (text.strip() and UNKNOWN not in text)
        # What a text can begin with is what a person's copy of it begins with.
        if name in begun:
            assert tokenizer.encode(text + " film", add_special_tokens=False)[0] == number


@pytest.mark.parametrize("route", ["project", "search", "mixture"])
def test_a_text_of_byte_level_tokens(roberta, marked_corpus, make_line, tmp_path, route):
    """Real sentences come through with their first words and marks, and what is found has neither halves of words nor of characters."""
    shape = {"model__name": roberta, "data__source": marked_corpus, "data__length": 16, "distill__length": 14}
    small = {"distill__outer_steps": 1, "distill__validate_every": 1, "distill__rate_embeddings": 1e-6, "text__rounds": 2, "text__rate_mixture": 1e-6}
    line = make_line(tmp_path / "run", "distill,text" if route == "project" else "text", text__route=route, **shape, **small)
    assert main(line) == 0
    folder = tmp_path / "run" / "text" / route
    rows = [json.loads(line) for line in (folder / "text.jsonl").read_text().splitlines()]
    real = {json.loads(line)["text"] for line in (marked_corpus / "train.jsonl").read_text().splitlines()}
    read = starts_word(tokenizer := load_tokenizer(roberta)), starts_text(tokenizer)
    for row in rows:
        assert row["text"] == row["text"].strip() and UNKNOWN not in row["text"]
        assert row["ids"][0] == 0 and row["ids"][-1] == 2 and read[1][row["ids"][1]] and read[0][row["ids"][2:-1]].all()
    found = sum(row["text"] in real for row in rows)
    assert found >= (1 if route == "search" else 3) and load_distilled(folder).data.examples == len(rows) == 4


def test_no_text_begins_with_a_piece_of_a_word(embedded):
    pretrained = load_pretrained("embedded")
    names = token_names(load_tokenizer(pretrained.folder))
    for whole_words in (False, True):
        text = SimpleNamespace(whole_words=whole_words, words="")
        allowed = allowed_by(cast(Any, SimpleNamespace(pretrained=pretrained, tokens=SimpleNamespace(train=None), config=SimpleNamespace(text=text))))
        assert allowed[:, names.index("good")].all() and not allowed[FIRST, names.index("##ing")]
        assert allowed[REST, names.index("##ing")] != whole_words


def test_texts_of_listed_words(make_line, tiny_corpus, tmp_path, monkeypatch, capsys):
    file = tmp_path / "words.txt"
    file.write_text("good\n\ndull\nplot\nunheard of\nfilm\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    line = make_line(tmp_path / "run", text__route="search", text__words="~/words.txt")
    assert main(line) == 0
    assert "1 of the 5 words in ~/words.txt are no token" in " ".join(capsys.readouterr().err.split())
    rows = [json.loads(row)["text"] for row in (tmp_path / "run" / "text" / "search" / "text.jsonl").read_text().splitlines()]
    assert {word for text in rows for word in text.split()} <= {"good", "dull", "plot", "film"}
    file.write_text("good\n")
    assert main(line) == 2 and "another list of words for texts" in " ".join(capsys.readouterr().err.split())
    file.write_text("unheard of\n")
    for number, (words, message) in enumerate([(tmp_path / "none.txt", "there is no such file"), (file, "none of the 1 words in")]):
        assert main(make_line(tmp_path / str(number), text__words=words)) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_texts_of_the_training_texts_words(prepared):
    tokenizer, size = load_tokenizer(prepared.pretrained.folder), len(prepared.pretrained.words)
    config = prepared.config.copy_and_resolve_references()
    config.text.words = "train"
    tokens = prepared.tokens
    few = replace(prepared, config=config, tokens=replace(tokens, train=tokens.train.take(np.arange(2))))
    names, allowed = token_names(tokenizer, size), allowed_by(few)
    used = {names[number] for row, length in zip(few.tokens.train.ids, few.tokens.train.lengths, strict=True) for number in row[:length]}
    assert {names[number] for number in np.flatnonzero(allowed[REST])} == used - {"[CLS]", "[SEP]"} and 2 < len(used) < 20


def test_listed_words_of_a_byte_level_vocabulary(roberta):
    tokenizer = load_tokenizer(roberta)
    names = token_names(tokenizer)
    numbers, missing = find_words(tokenizer, ["good", "Ġfilm", ",", "unheard", "<s>"])
    assert {names[number] for number in numbers} == {"good", "Ġgood", "Ġfilm", ","} and missing == ["unheard", "<s>"]


def test_texts_begin_with_other_tokens_than_they_go_on_with():
    rng = np.random.default_rng(0)
    table, frame = rng.standard_normal((9, 4)).astype(np.float32), np.array([[[8, FREE, FREE, 7], [8, FREE, 7, 0]]])
    allowed = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0]], bool)
    index = TextIndex(index_table(table, allowed=allowed[REST]), index_table(table, allowed=allowed[FIRST]))
    queries = rng.standard_normal((1, 2, 4, 4)).astype(np.float32)
    found = nearest_tokens(queries, index, frame, k=2)
    np.testing.assert_array_equal(begins(frame), [[[False, True, False, False]] * 2])
    cosines = (queries / np.linalg.norm(queries, axis=-1, keepdims=True)) @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T
    for place in np.ndindex(1, 2, 4):
        kind = FIRST if place[2] == 1 else REST
        order = np.argsort(np.where(allowed[kind], -cosines[place], np.inf))[:2]
        np.testing.assert_array_equal(found.ids[place], order)
        np.testing.assert_allclose(found.scores[place], cosines[place][order], atol=1e-6)
