"""The sequence of tasks that is learned: groups of one corpus's classes, or several corpora, each with its own texts in all three splits.

Classes are numbered in the order in which they are met first, so that those seen so far are always the first ones.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddllm.config import suggest
from ddllm.data.several import are_corpora, read_several
from ddllm.data.tokens import PARTS, TokenCorpus, TokenSplit
from ddllm.errors import UserError
from ddllm.models.tasks import Classification
from ddllm.prepare import Prepared
from ddllm.values import split_parts

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
    parts = split_parts(config.continual.tasks)
    files = are_corpora(parts)
    if files:
        corpora = read_several(parts, config.data, prepared.pretrained, cache, "continual.tasks")
    else:
        corpora = [take_classes(prepared.tokens, names) for names in _groups(parts, prepared.tokens)]
    if len(corpora) < 2:
        raise UserError("config.continual.tasks has one task only; name two or more, with | between them.")
    names, lessons = [], []
    for corpus in corpora:
        names += [name for name in corpus.label_names if name not in names]
        columns = np.array([names.index(name) for name in corpus.label_names])
        lessons.append(Lesson(corpus.name if files else ", ".join(corpus.label_names), corpus, columns, len(names)))
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
