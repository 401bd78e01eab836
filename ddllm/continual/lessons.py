"""The sequence of tasks that is learned: groups of one corpus's classes, or several corpora, each with its own texts in all three splits.

Classes are numbered in the order in which they are met first, so that those seen so far are always the first ones. What one task tests on, no other
learns from: corpora of one origin share texts.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ddllm.config import suggest
from ddllm.data.corpus import load_corpus
from ddllm.data.tokens import PARTS, TokenCorpus, TokenSplit, tokenize_corpus
from ddllm.errors import UserError
from ddllm.models.tasks import Classification
from ddllm.prepare import Prepared
from ddllm.runtime.progress import say

PER_LESSON = 2  # classes of each task, where none are named


@dataclass(frozen=True)
class Lesson:
    """One task of the sequence.

    Attributes:
        name: for people.
        tokens: its corpus; labels count its own classes.
        columns: numbers of its classes among all [C of the lesson].
        seen: how many classes have been met after it.
    """

    name: str
    tokens: TokenCorpus
    columns: np.ndarray
    seen: int

    def split(self, part: str) -> TokenSplit:
        """One of its splits, with labels that count all classes."""
        own = getattr(self.tokens, part)
        return replace(own, labels=self.columns[own.labels].astype(np.int32))


def read_lessons(prepared: Prepared, cache: Path) -> tuple[tuple[str, ...], list[Lesson]]:
    """All classes in the order in which they are met, and the tasks that config.continual.tasks names.

    Args:
        prepared: the run's corpus, which is divided where tasks are groups of its classes.
        cache: folder of tokenised corpora.

    Raises:
        UserError: a class or source does not exist, or is named twice, or a task has fewer than two classes.
    """
    config = prepared.config
    if prepared.learner.task.name != Classification.name:
        raise UserError(f"tasks are learned one after the other by their classes, but {prepared.tokens.name} is {prepared.learner.task.name}.")
    parts = [part.strip() for part in str(config.continual.tasks).split("|") if part.strip()]
    files = [Path(part.partition(":")[0]).exists() for part in parts]
    if parts and all(files):
        corpora = keep_apart([_read(part, prepared, cache) for part in parts])
    else:
        corpora = [take_classes(prepared.tokens, names) for names in _groups(parts, prepared.tokens)]
    if len(corpora) < 2:
        raise UserError("config.continual.tasks has one task only; name two or more, with | between them.")
    names, lessons = [], []
    for corpus in corpora:
        names += [name for name in corpus.label_names if name not in names]
        columns = np.array([names.index(name) for name in corpus.label_names])
        lessons.append(Lesson(", ".join(corpus.label_names) if not all(files) or not parts else corpus.name, corpus, columns, len(names)))
    return tuple(names), lessons


def take_classes(tokens: TokenCorpus, names: tuple[str, ...]) -> TokenCorpus:
    """The part of a corpus that has these classes, in their order."""
    numbers = [tokens.label_names.index(name) for name in names]
    new = np.full(len(tokens.label_names), -1, np.int32)
    new[numbers] = np.arange(len(names))

    def take(split: TokenSplit) -> TokenSplit:
        kept = split.take(np.flatnonzero(new[split.labels] >= 0))
        return replace(kept, labels=new[kept.labels])

    fingerprint = hashlib.sha256(f"{tokens.fingerprint} {names}".encode()).hexdigest()
    splits = {part: take(getattr(tokens, part)) for part in PARTS}
    return replace(tokens, label_names=names, fingerprint=fingerprint, **splits)


def keep_apart(corpora: list[TokenCorpus]) -> list[TokenCorpus]:
    """The corpora without training and validation texts that another of them tests on."""
    tested, kept = [set(_rows(corpus.test)) for corpus in corpora], []
    for number, corpus in enumerate(corpora):
        elsewhere = set().union(*(texts for place, texts in enumerate(tested) if place != number))
        stay = {part: np.array([row not in elsewhere for row in _rows(getattr(corpus, part))], bool) for part in ("train", "validation")}
        if all(rows.all() for rows in stay.values()):
            kept.append(corpus)
            continue
        splits = {part: getattr(corpus, part).take(np.flatnonzero(rows)) for part, rows in stay.items()}
        say(f"  {corpus.name}: {sum(int((~rows).sum()) for rows in stay.values()):,} texts left out that another task tests on")
        if not all(len(split) for split in splits.values()):
            raise UserError(f"{corpus.name} has no texts left that no other task of config.continual.tasks tests on; give tasks that differ.")
        fingerprint = hashlib.sha256(repr((corpus.fingerprint, [rows.tobytes() for rows in stay.values()])).encode()).hexdigest()
        kept.append(replace(corpus, fingerprint=fingerprint, **splits))
    return kept


def _rows(split: TokenSplit) -> list[bytes]:
    return [ids[:length].tobytes() for ids, length in zip(split.ids, split.lengths, strict=True)]


def _groups(parts: list[str], tokens: TokenCorpus) -> list[tuple[str, ...]]:
    known = tokens.label_names
    if not parts:
        groups: list[tuple[str, ...]] = [known[first : first + PER_LESSON] for first in range(0, len(known), PER_LESSON)]
        if len(groups) > 1 and len(groups[-1]) < PER_LESSON:
            groups[-2:] = [groups[-2] + groups[-1]]
        if len(groups) < 2:
            raise UserError(
                f"{tokens.name} has the classes {', '.join(known)} only, which make one task; name files or configurations as config.continual.tasks, "
                "with | between them."
            )
        return groups
    groups = [tuple(name.strip() for name in part.split(",")) for part in parts]
    named = [name for group in groups for name in group]
    for name in named:
        if name not in known:
            raise UserError(
                f"config.continual.tasks has {name!r}{suggest(name, known)}, which is neither a class of {tokens.name} ({', '.join(known)}) nor a file."
            )
        if named.count(name) > 1:
            raise UserError(f"config.continual.tasks has the class {name!r} twice; it belongs to one task.")
    for group in groups:
        if len(group) < 2:
            raise UserError(f"config.continual.tasks has a task of the single class {', '.join(group)!r}; give every task two classes or more.")
    return groups


def _read(part: str, prepared: Prepared, cache: Path) -> TokenCorpus:
    """The corpus of a configuration file, or of data in the columns of config.data."""
    data: ConfigDict = prepared.config.data.copy_and_resolve_references()
    with data.unlocked():
        if Path(part.partition(":")[0]).suffix == ".py":
            from ddllm.main import parse

            data.update(parse([f"--config={part}"]).config.data.to_dict())
            data.update({key: prepared.config.data[key] for key in ("length", "limit_train", "limit_validation", "limit_test")})
        else:
            data.update({"source": part, "label_names": ()})
    corpus = tokenize_corpus(load_corpus(data), prepared.pretrained.folder, data.length, cache)
    if corpus.task != Classification.name:
        raise UserError(f"config.continual.tasks has {part}, which is read as {corpus.task}; only classes can be learned task by task.")
    return corpus
