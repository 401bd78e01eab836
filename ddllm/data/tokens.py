"""From a corpus's texts to arrays of token numbers, made once and cached by content: `tokenize_corpus` hands them on to `batches`.

The cache is one safetensors file per content (texts, labels, tokenizer and length), with its counts as JSON in the file's own metadata, so
that both are written in one move. A file that does not hold what it should is made again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddllm.data.splits import Corpus, Split
from ddllm.errors import UserError
from ddllm.runtime.progress import say
from ddllm.runtime.storage import write_atomically

if TYPE_CHECKING:
    from ddllm.models.pretrained import Pretrained

FORMAT = 1  # to be raised whenever the same input gives other arrays
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
PARTS = ("train", "validation", "test")
ARRAYS = ("ids", "lengths", "labels", "types")
CHUNK = 2000  # texts tokenised at once; each costs far more memory as an encoding than as a row


@dataclass(frozen=True)
class TokenSplit:
    """Tokenised texts of one split.

    Attributes:
        ids: int32 [n, T], T the longest row, filled up with the pad token.
        lengths: int32 [n], tokens of each row, special ones included.
        labels: as in the split.
        types: token types, int32 [n, T], where texts come in pairs and the model tells their tokens apart; else None.
    """

    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    types: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "TokenSplit":
        """The rows of these numbers, in their order."""
        return TokenSplit(self.ids[rows], self.lengths[rows], self.labels[rows], None if self.types is None else self.types[rows])


def join_splits(splits: Sequence[TokenSplit]) -> TokenSplit:
    """All texts of all splits, one split behind the other."""
    width = max(split.ids.shape[1] for split in splits)

    def wide(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])))

    typed = any(split.types is not None for split in splits)
    return TokenSplit(
        np.concatenate([wide(split.ids) for split in splits]),
        np.concatenate([split.lengths for split in splits]),
        np.concatenate([split.labels for split in splits]),
        np.concatenate([wide(np.zeros_like(split.ids) if split.types is None else split.types) for split in splits]) if typed else None,
    )


@dataclass(frozen=True)
class TokenCorpus:
    """Tokenised corpus.

    Attributes:
        name, label_names, task: the corpus's.
        train, validation, test: its splits.
        notes: the corpus's, and `cut` (texts cut, by split) and `length` (to how many tokens).
        fingerprint: hexadecimal, of everything that the arrays depend on.
    """

    name: str
    label_names: tuple[str, ...]
    train: TokenSplit
    validation: TokenSplit
    test: TokenSplit
    notes: dict[str, Any]
    fingerprint: str
    task: str = "classification"


def tokenize_corpus(corpus: Corpus, tokenizer_folder: Path, length: int, cache: Path) -> TokenCorpus:
    """Tokenise a corpus, or take it from the cache; and say, once for a run, which of its source's splits are not used.

    Args:
        corpus: texts.
        tokenizer_folder: folder of the pretrained model.
        length: longest text in tokens, special ones included; longer ones are cut.
        cache: folder for the result, made if need be.

    Raises:
        UserError: the folder has no tokenizer that can be used, or length leaves no room for text.
        OSError: the cache cannot be written.
    """
    for part, name in corpus.notes.get("unused", {}).items():
        say(f"{corpus.name}: the split {name!r} is there but not used: config.data.{part} is empty, which holds rows out of train; auto takes the split")
    fingerprint = fingerprint_of(corpus, tokenizer_folder, length)
    path = cache / f"{fingerprint}.safetensors"
    cached = _read_cache(path)
    if cached is None:
        tokenizer = load_tokenizer(tokenizer_folder)
        made = {part: tokenize_texts(tokenizer, getattr(corpus, part), length) for part in PARTS}
        splits, cut = {part: split for part, (split, _) in made.items()}, {part: count for part, (_, count) in made.items()}
        _write_cache(path, splits, cut)
    else:
        splits, cut = cached
    notes = corpus.notes | {"cut": cut, "length": length}
    return TokenCorpus(corpus.name, corpus.label_names, **splits, notes=notes, fingerprint=fingerprint, task=corpus.task)


def fingerprint_of(corpus: Corpus, tokenizer_folder: Path, length: int) -> str:
    """SHA-256 of all that decides the arrays.

    Raises:
        UserError: there is no tokenizer in the folder.
    """
    if not any((tokenizer_folder / name).is_file() for name in VOCABULARIES):
        raise UserError(f"the model folder {tokenizer_folder} has no tokenizer: none of {', '.join(VOCABULARIES)} is there.")
    digest = hashlib.sha256(json.dumps([FORMAT, length, corpus.label_names]).encode())
    for name in TOKENIZER_FILES:
        if (file := tokenizer_folder / name).is_file():
            content = file.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    for part in PARTS:
        split: Split = getattr(corpus, part)
        digest.update(f"{part} {len(split)}\n".encode() + split.labels.astype(split.labels.dtype.newbyteorder("<")).tobytes())
        for text in split.texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d\n" % len(content) + content)
        for text in split.pairs or ():
            content = text.encode("utf-8", "surrogatepass")
            digest.update(b"pair %d\n" % len(content) + content)
    return digest.hexdigest()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, as `transformers` reads it.

    Raises:
        UserError: it cannot be read, or is not one of the fast ones.
    """
    # Where PyTorch is absent, transformers would advise to install it, for models that are not wanted here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, use_fast=True, trust_remote_code=False)
    except Exception as error:  # Many kinds, for a damaged file as for an unknown architecture.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"the tokenizer in {folder} cannot be read: {reason}.") from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer in {folder} has no fast form; save it again with `transformers` as a tokenizer.json.")
    return tokenizer


def check_words(pretrained: "Pretrained", where: str, *splits: TokenSplit) -> None:
    """Raise `UserError` where a token has no row in the word table: looked up on a device, it would be another word. `where` is what the texts are from."""
    largest, rows = max(int(split.ids.max(initial=0)) for split in splits), len(pretrained.words)
    if largest >= rows:
        raise UserError(
            f"{where} has a token of number {largest} in the tokenizer of {pretrained.name}, but that model's word table has {rows} rows, from number 0 on; "
            "give the model a tokenizer that belongs to it, or save it with a row for each token (resize_token_embeddings of transformers)."
        )


def tokenize_texts(tokenizer: Any, split: Split, length: int) -> tuple[TokenSplit, int]:
    """Tokenise one split, special tokens included; pairs as the model's own tokenizer joins them, cut token by token where they are longer.

    Returns:
        The arrays, and how many texts (or pairs) were cut.

    Raises:
        UserError: length leaves no room beside the special tokens.
    """
    paired = split.pairs is not None
    special = tokenizer.num_special_tokens_to_add(pair=paired)
    if length <= special:
        raise UserError(f"a length of {length} tokens leaves no room for text beside the {special} special ones; raise config.data.length.")
    rows, types, cut = [], [], 0
    for start in range(0, len(split), CHUNK):
        pairs = split.pairs and split.pairs[start : start + CHUNK]
        # True is "longest_first": of a pair, always the longer text is shortened.
        encoded = tokenizer(split.texts[start : start + CHUNK], pairs, truncation=True, max_length=length, add_special_tokens=True)
        rows += [np.array(encoding.ids, np.int32) for encoding in encoded.encodings]
        types += [np.array(encoding.type_ids, np.int32) for encoding in encoded.encodings]
        cut += sum(1 for encoding in encoded.encodings if encoding.overflowing)
    lengths = np.array([len(row) for row in rows], np.int32)
    # RoBERTa's and DistilBERT's tokenizers give no types, since their models know none.
    typed = paired and "token_type_ids" in tokenizer.model_input_names
    return TokenSplit(_fill(rows, tokenizer.pad_token_id or 0), lengths, split.labels, _fill(types, 0) if typed else None), cut


def _fill(rows: list[np.ndarray], padding: int) -> np.ndarray:
    """Rows filled up to the longest, int32 [n, T]."""
    filled = np.full((len(rows), max([1, *map(len, rows)])), padding, np.int32)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled


def _names_and_arrays(splits: dict[str, TokenSplit]) -> dict[str, np.ndarray]:
    named = {f"{part}.{name}": getattr(splits[part], name) for part in PARTS for name in ARRAYS}
    return {name: np.ascontiguousarray(array) for name, array in named.items() if array is not None}


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _write_cache(path: Path, splits: dict[str, TokenSplit], cut: dict[str, int]) -> None:
    from safetensors.numpy import save

    arrays = _names_and_arrays(splits)
    content = save(arrays, {"json": json.dumps({"cut": cut, "sha256": _checksum(arrays)})})
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def _read_cache(path: Path) -> tuple[dict[str, TokenSplit], dict[str, int]] | None:
    """Splits and counts of cut texts; None where there is no file or a damaged one."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, arrays = json.loads(file.metadata()["json"]), {name: file.get_tensor(name) for name in file.keys()}
        if metadata["sha256"] != _checksum(arrays):
            return None
        splits = {
            part: TokenSplit(arrays[f"{part}.ids"], arrays[f"{part}.lengths"], arrays[f"{part}.labels"], arrays.get(f"{part}.types"))
            for part in PARTS
        }
        return splits, metadata["cut"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
