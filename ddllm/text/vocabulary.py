"""What a tokenizer's vocabulary holds, as masks for token projection, and what learned embeddings have in common with the table's rows."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ddllm.errors import UserError

MARKS = WORDPIECE, BYTE_SPACE, PIECE_SPACE = "##", "Ġ", "▁"
UNKNOWN = "\ufffd"  # what stands for bytes that are no character


def allowed_tokens(
    tokenizer: Any, size: int | None = None, special: bool = False, unused: bool = False, only: Iterable[str | int] | None = None
) -> np.ndarray:
    """Which tokens a projection may find.

    Args:
        tokenizer: of `load_tokenizer`.
        size: rows of the word table, where it has more than the tokenizer has tokens; the others are never allowed.
        special: allow special tokens, such as [CLS].
        unused: allow tokens that no text has, such as [unused7] or <extra_id_3>.
        only: texts whose tokens alone are allowed, or numbers of tokens (see `find_words`); None for no such limit.

    Returns:
        bool [V].

    Raises:
        UserError: nothing is allowed.
    """
    names = token_names(tokenizer, size)
    allowed = np.array([name is not None for name in names])
    if not special:
        allowed[[number for number in tokenizer.all_special_ids if number < len(names)]] = False
    if not unused:
        allowed &= np.array([name is None or not is_unused(name) for name in names])
    if only is not None:
        found = np.zeros(len(names), bool)
        for text in only:
            found[tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else text] = True
        allowed &= found
    if not allowed.any():
        raise UserError("no token of the vocabulary is allowed; name words that the tokenizer knows.")
    return allowed


def readable_tokens(tokenizer: Any, size: int | None = None) -> np.ndarray:
    """bool [V]: tokens that a learned set is read as: those of texts, and the special ones that the tokenizer puts around and into texts, such as [CLS].

    The first and last positions of an example that begins as a text are these; decoding leaves them out.
    """
    allowed = allowed_tokens(tokenizer, size)
    framing = {*tokenizer("")["input_ids"], *tokenizer("", "")["input_ids"], tokenizer.unk_token_id}
    allowed[[number for number in framing if number is not None and number < len(allowed)]] = True
    return allowed


def find_words(tokenizer: Any, words: Iterable[str]) -> tuple[list[int], list[str]]:
    """The numbers of words, and which of them are no token.

    Args:
        tokenizer: of `load_tokenizer`.
        words: as a person writes them, each of which is looked for at a text's start and after a space; or tokens by their names, such as ##ing.
    """
    known, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    numbers, missing = set[int](), []
    for word in words:
        read = (tokenizer.encode(text, add_special_tokens=False) for text in (word, f" {word}"))
        found = {known.get(word), *(ids[0] for ids in read if len(ids) == 1)} - {None} - special
        numbers |= found
        missing += [word] * (not found)
    return sorted(numbers), missing


def token_names(tokenizer: Any, size: int | None = None) -> list[str | None]:
    """The tokenizer's names of its tokens by number; None for rows of the word table that have none."""
    numbers = tokenizer.get_vocab()
    names: list[str | None] = [None] * max(size or 0, max(numbers.values()) + 1)
    for name, number in numbers.items():
        names[number] = name
    return names[:size]


def is_unused(name: str) -> bool:
    """Whether a token stands for nothing: BERT's [unused…], T5's <extra_id_…>, madeupword… of fairseq, and the like."""
    inner = name.strip("[]<>|").lower()
    marked = any(inner.startswith(kind) for kind in ("unused", "extra_id", "reserved", "dummy")) and inner != name.lower()
    return marked or re.fullmatch(r"madeupword\d+", inner) is not None


def mark_of(names: Iterable[str | None]) -> str:
    """How a vocabulary marks words: by "##" what goes on (##ing), by "Ġ" or "▁" what starts (Ġgood, ▁good); "" where there are whole words only.

    Marks of another kind may be words of it, such as RoBERTa's ####.
    """
    marked = {mark: sum(name is not None and name.startswith(mark) and len(name) > len(mark) for name in names) for mark in MARKS}
    return max(marked, key=lambda mark: marked[mark]) if any(marked.values()) else ""


def starts_word(tokenizer: Any, size: int | None = None) -> np.ndarray:
    """bool [V]: tokens with which a word can start, so that a sentence can, too; in byte-level and SentencePiece vocabularies also marks, which no space has
    to stand before."""
    names = token_names(tokenizer, size)
    mark = mark_of(names)
    if mark in ("", WORDPIECE):
        return np.array([name is not None and not (mark and name.startswith(mark) and len(name) > len(mark)) for name in names])
    marked = np.array([name is not None and name.startswith(mark) for name in names])
    return (marked | _without_letters(tokenizer, names)) & readable(tokenizer, size)


def starts_text(tokenizer: Any, size: int | None = None) -> np.ndarray:
    """bool [V]: tokens with which a text can begin, so that what a person reads begins with them again.

    Byte-level tokenizers that put no space before a text begin it with the unmarked form of a word: with what is a word after a space too (good, Ġgood).
    """
    names, words = token_names(tokenizer, size), starts_word(tokenizer, size)
    mark = mark_of(names)
    if mark in ("", WORDPIECE):
        return words
    marked = np.array([name is not None and name.startswith(mark) for name in names])
    begun = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False)[:1])
    if begun and begun[0].startswith(mark):
        return words & marked
    whole = {name for name, word in zip(names, words, strict=True) if word}
    return ~marked & (words | np.array([name is not None and mark + name in whole for name in names]))


def readable(tokenizer: Any, size: int | None = None) -> np.ndarray:
    """bool [V]: tokens that are more than blanks and bytes of half a character, which byte-level and SentencePiece vocabularies have."""
    names = token_names(tokenizer, size)
    if mark_of(names) in ("", WORDPIECE):
        return np.array([name is not None for name in names])
    return np.array([bool(text) and UNKNOWN not in text and text.isprintable() for text in _read_each(tokenizer, names)])


def _without_letters(tokenizer: Any, names: list[str | None]) -> np.ndarray:
    return np.array([not any(letter.isalnum() for letter in text) for text in _read_each(tokenizer, names)])


def _read_each(tokenizer: Any, names: list[str | None]) -> list[str]:
    """Each token by itself as a person reads it; "" for rows without one."""
    return [tokenizer.decode([number], clean_up_tokenization_spaces=False).strip() if name is not None else "" for number, name in enumerate(names)]


def compare_with_table(embeddings: np.ndarray, mask: np.ndarray, table: np.ndarray, cosines: np.ndarray) -> dict[str, Any]:
    """How far learned embeddings are from what the table holds.

    Args:
        embeddings: [..., T, D].
        mask: 1 for positions in use, [..., T].
        table: word embeddings [V, D].
        cosines: [..., T], with the nearest row.

    Returns:
        Norms (median of learned ones and of the table's), their ratio, and the cosine's median, least and greatest.
    """
    used = np.asarray(mask) > 0
    norms = np.linalg.norm(np.asarray(embeddings, np.float32)[used], axis=-1)
    rows = np.linalg.norm(np.asarray(table, np.float32), axis=-1)
    near = np.asarray(cosines)[used]
    return {
        "positions": int(used.sum()),
        "norm": float(np.median(norms)),
        "table_norm": float(np.median(rows)),
        "norm_ratio": float(np.median(norms) / np.median(rows)),
        "cosine": float(np.median(near)),
        "cosine_least": float(near.min()),
        "cosine_greatest": float(near.max()),
    }


def mean_cosine(vectors_PD: np.ndarray, others_PD: np.ndarray) -> float:
    """The mean cosine of vectors with others, one with one; a vector of zeros has a cosine of 0 with everything."""
    lengths = np.linalg.norm(vectors_PD, axis=-1) * np.linalg.norm(others_PD, axis=-1)
    return float(np.mean(np.sum(vectors_PD * others_PD, axis=-1) / np.maximum(lengths, 1e-12)))
