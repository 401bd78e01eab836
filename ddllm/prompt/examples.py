"""Which examples stand in a prompt: distilled text, selected real texts, or those of a file. Each source hands on draws of k examples of every class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.artefact.rows import read_tokens
from ddllm.data.splits import Split
from ddllm.data.tokens import load_tokenizer, tokenize_texts
from ddllm.errors import UserError
from ddllm.evaluate.selection import pick_for_seeds
from ddllm.evaluate.submission import count_known, read_sets
from ddllm.prepare import Prepared
from ddllm.prompt.checks import OWN, ROUTES
from ddllm.prompt.templates import Example
from ddllm.runtime.progress import say
from ddllm.select.methods import DETERMINISTIC
from ddllm.text.projection import nearest
from ddllm.text.vocabulary import allowed_tokens, readable_tokens

Examples = list[Example]


@dataclass(frozen=True)
class Source:
    """Where examples come from.

    Attributes:
        name: in results.
        draw: (k, seed) to k examples of each class, class by class; None where there are not so many.
        drawn: whether seeds give other examples, when k of each class are drawn.
    """

    name: str
    draw: Callable[[int, int], Examples | None]
    drawn: Callable[[int], bool]


def open_sources(prepared: Prepared, train: Split, names: Sequence[str], texts: Path, own: Callable[[], Distilled | Path]) -> list[Source]:
    """The sources that config.prompt.examples names.

    Args:
        prepared: data and model.
        train: the training texts as texts, in the order of `prepared.tokens.train`.
        names: "distilled", "text", selection methods, or paths.
        texts: folder of what text routes wrote, <route>/text.jsonl in it.
        own: the distilled data set, or the file of texts that stands in its place.

    Raises:
        UserError: there is no distilled data set or text yet, or a file cannot be read.
    """
    sources: list[Source] = []
    for name in names:
        if name == OWN:
            found = own()
            if not isinstance(found, Path) and prepared.config.data.pair_column and found.data.types is None:
                say(f"  {OWN}: the data set does not say which positions are of a pair's second text: left out")
                continue
            sources.append(
                from_file(prepared, found, OWN) if isinstance(found, Path) else from_sets(OWN, [distilled_examples(prepared, found)], prepared.classes)
            )
        elif name == ROUTES:
            files = sorted(texts.glob("*/text.jsonl"))
            if not files:
                raise UserError(f"there are no texts in {texts}; run --mode=text first, or leave 'text' out of config.prompt.examples.")
            sources += [from_file(prepared, file, f"text, {file.parent.name}") for file in files]
        elif PurePath(name).suffix:
            sources.append(from_file(prepared, Path(expanduser(name)), PurePath(name).stem))
        else:
            sources.append(from_selection(prepared, train, name))
    return sources


def from_selection(prepared: Prepared, train: Split, name: str) -> Source:
    """Training texts that a method of select/methods.py chooses."""

    def draw(count: int, seed: int) -> Examples | None:
        if np.bincount(train.labels, minlength=prepared.classes).min() < count:
            return None
        picked = pick_for_seeds(prepared, name, count, [seed])[seed]
        return [Example(train.texts[row], label, train.pairs[row] if train.pairs else "") for label, rows in enumerate(picked) for row in rows]

    return Source(name, draw, lambda count: name not in DETERMINISTIC)


def from_file(prepared: Prepared, file: Path, name: str) -> Source:
    """The texts of a file, perhaps in several sets, as `--mode=evaluate --distilled FILE` reads them.

    Raises:
        UserError: the file cannot be read.
    """
    sets: list[Examples] = []
    for made in read_sets(file, prepared.tokens.label_names, bool(prepared.config.data.pair_column)):
        pairs = made.pairs or [""] * len(made.texts)
        sets.append([Example(text, int(label), pair) for text, label, pair in zip(made.texts, made.labels.argmax(axis=1), pairs, strict=True)])
    return from_sets(name, sets, prepared.classes)


def from_sets(name: str, sets: list[Examples], classes: int) -> Source:
    """A source that draws from one set of examples after the other, k of each class by chance; all of them where there are no more."""

    def draw(count: int, seed: int) -> Examples | None:
        chosen = sets[seed % len(sets)]
        groups = [[example for example in chosen if example.label == label] for label in range(classes)]
        if min(len(group) for group in groups) < count:
            return None
        rng = np.random.default_rng([seed, count, 31])
        return [group[place] for group in groups for place in np.sort(rng.permutation(len(group))[:count])]

    most = max(sum(example.label == label for example in made) for made in sets for label in range(classes))
    return Source(name, draw, lambda count: len(sets) > 1 or most > count)


def distilled_examples(prepared: Prepared, distilled: Distilled) -> Examples:
    """The nearest tokens of a distilled data set's embeddings, as text without special ones; classes are those that the labels favour.

    Of pairs, the positions of the second type are the second text's.
    """
    data = distilled.data
    tokenizer, words_VD = load_tokenizer(prepared.pretrained.folder), np.asarray(prepared.pretrained.words)
    length, hidden = data.embeddings.shape[2:]
    masks_NT = np.asarray(data.mask).reshape(-1, length) > 0
    allowed_V = readable_tokens(tokenizer, len(words_VD))
    ids_NT = nearest_ids(np.asarray(data.embeddings).reshape(-1, hidden), words_VD, allowed_V).reshape(masks_NT.shape)
    labels_N = np.asarray(data.labels).reshape(len(ids_NT), -1).argmax(axis=1)
    second_NT = np.zeros(masks_NT.shape, bool) if data.types is None else np.asarray(data.types).reshape(masks_NT.shape) > 0.5
    return [
        Example(read_tokens(tokenizer, ids[mask & ~second]), int(label), read_tokens(tokenizer, ids[mask & second]))
        for ids, mask, second, label in zip(ids_NT, masks_NT, second_NT, labels_N, strict=True)
    ]


def count_in_test(prepared: Prepared, tokenizer: Any, examples: Examples) -> int:
    """How many of some examples, each counted once, are texts of the test split, as the encoder's tokenizer sees them."""
    texts = sorted({(example.text, example.pair) for example in examples})
    pairs = [pair for _, pair in texts] if prepared.config.data.pair_column else None
    split = Split([text for text, _ in texts], np.zeros(len(texts), np.int32), pairs)
    return count_known([tokenize_texts(tokenizer, split, prepared.config.data.length)[0]], prepared.tokens.test)


def read_soft(embeddings_TD: np.ndarray, words_VD: np.ndarray, tokenizer: Any) -> str:
    """The nearest tokens of a soft prompt, which no special tokens stand around, as text."""
    return read_tokens(tokenizer, nearest_ids(embeddings_TD, words_VD, allowed_tokens(tokenizer, len(words_VD))))


def nearest_ids(embeddings_TD: np.ndarray, words_VD: np.ndarray, allowed_V: np.ndarray) -> np.ndarray:
    """Numbers [T] of the nearest allowed rows of a word table by cosine."""
    return np.asarray(nearest(embeddings_TD, words_VD, allowed=allowed_V).ids)[:, 0]


def orders_of(examples: Examples, count: int, seed: int) -> list[Examples]:
    """So many random orders of examples, no two alike; fewer where there are no more."""
    rng = np.random.default_rng([seed, 37])
    found: dict[tuple[int, ...], Examples] = {}
    most = 1
    for size in range(2, len(examples) + 1):
        most = min(most * size, count)
    for _ in range(1000):
        if len(found) >= min(most, count):
            break
        order = tuple(int(place) for place in rng.permutation(len(examples)))
        found.setdefault(order, [examples[place] for place in order])
    return list(found.values())


def tell_missing(source: Source, count: int) -> None:
    """Say that a source has too few examples for a row."""
    say(f"  {source.name} has fewer than {count} examples of a class: left out")
