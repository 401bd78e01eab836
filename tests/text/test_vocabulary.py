"""Masks over vocabularies of several kinds, and learned embeddings beside the table."""

import numpy as np
import pytest

from ddllm.data.tokens import load_tokenizer
from ddllm.errors import UserError
from ddllm.models.pretrained import load_pretrained
from ddllm.text.projection import nearest
from ddllm.text.vocabulary import allowed_tokens, compare_with_table, is_unused, starts_text, starts_word, token_names


class Named:
    """A tokenizer's vocabulary alone, by its names."""

    all_special_ids = (0,)

    def __init__(self, *names: str) -> None:
        self.names = names

    def decode(self, ids: list[int], **options: bool) -> str:
        return "".join(self.names[number] for number in ids).replace("Ġ", " ")

    def encode(self, text: str, **options: bool) -> list[int]:
        return [number for number, name in enumerate(self.names) if name == text]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.names[number] for number in ids]

    def get_vocab(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


def test_special_tokens_and_rows_without_a_token_are_left_out(tiny_model) -> None:
    tokenizer = load_tokenizer(tiny_model)
    names = token_names(tokenizer, 40)
    allowed = allowed_tokens(tokenizer, 40)
    assert allowed.shape == (40,) and not allowed[:4].any() and not allowed[len(tokenizer.get_vocab()) :].any()
    assert allowed[names.index("good")] and allowed_tokens(tokenizer, special=True)[2]
    only = allowed_tokens(tokenizer, only=["a good film", "dull"])
    assert {names[index] for index in np.flatnonzero(only)} == {"a", "good", "film", "dull"}
    with pytest.raises(UserError, match="no token"):
        allowed_tokens(tokenizer, only=[""])


def test_unused_tokens_are_known_by_their_names() -> None:
    assert all(is_unused(name) for name in ("[unused0]", "<extra_id_12>", "<|reserved_7|>", "madeupword0000"))
    assert not any(is_unused(name) for name in ("unused", "reserved", "madeupwords", "good", "[CLS]"))


def test_tokens_that_start_a_word() -> None:
    assert starts_word(Named("[CLS]", "good", "##ing", "##")).tolist() == [True, True, False, True]
    assert starts_word(Named("<s>", "Ġgood", "ing", "Ġa", ",", "####", "Ġ", "Ġ\ufffd")).tolist() == [False, True, False, True, True, True, False, False]
    assert starts_word(Named("<s>", "good", "ing")).all()
    # What a text begins with has no space before it, but where the tokenizer puts one.
    assert starts_text(Named("<s>", "Ġgood", "good", "ing", "a", "Ġa", ",")).tolist() == [False, False, True, False, True, False, True]
    assert starts_text(Named("[CLS]", "good", "##ing")).tolist() == [True, True, False]


def test_the_embedded_vocabulary(embedded) -> None:
    pretrained = load_pretrained("embedded")
    tokenizer = load_tokenizer(pretrained.folder)
    allowed = allowed_tokens(tokenizer, len(pretrained.words))
    names = token_names(tokenizer, len(pretrained.words))
    assert not any(allowed[names.index(name)] for name in ("[CLS]", "[PAD]", "[unused5]"))
    assert allowed[names.index("##ing")] and not starts_word(tokenizer)[names.index("##ing")]
    rows = [names.index(name) for name in ("good", "terrible", "##ly")]
    found = nearest(1.5 * pretrained.words[rows], pretrained.words, 3, allowed=allowed)
    assert found.ids[:, 0].tolist() == rows
    figures = compare_with_table(1.5 * pretrained.words[rows][None], np.array([[1, 1, 0]]), pretrained.words, found.scores[None, :, 0])
    assert figures["positions"] == 2 and figures["cosine"] == pytest.approx(1, abs=1e-5)
    norms = np.linalg.norm(pretrained.words[rows[:2]], axis=1)
    assert figures["norm"] == pytest.approx(1.5 * np.median(norms), rel=1e-5)
