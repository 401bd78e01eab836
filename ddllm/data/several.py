"""Several corpora for one run, each a task: files, folders or configurations, named with | between them.

What one of them tests on, no other learns from: corpora of one origin share texts.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from ddllm.data.corpus import load_corpus
from ddllm.data.tokens import TokenCorpus, TokenSplit, check_words, tokenize_corpus
from ddllm.errors import UserError
from ddllm.runtime.progress import say

if TYPE_CHECKING:
    from ddllm.models.pretrained import Pretrained


def are_corpora(parts: list[str]) -> bool:
    """Whether all are files, folders, or configurations with or without arguments."""
    return bool(parts) and all(Path(part.partition(":")[0]).exists() for part in parts)


def read_several(parts: list[str], data: ConfigDict, pretrained: "Pretrained", cache: Path, key: str) -> list[TokenCorpus]:
    """The corpora, tokenised, none with texts to learn from that another tests on.

    Args:
        parts: see `are_corpora`.
        data: the section `data` of the run's configuration: columns and splits of files, and for all of them length and limits.
        pretrained: the model, whose tokenizer reads them.
        cache: folder of tokenised corpora.
        key: of the configuration that names them, for messages.

    Raises:
        UserError: a corpus cannot be read, has no classes or tokens that the model does not know, or has nothing to learn from.
    """
    return keep_apart([_read(part, data, pretrained, cache, key) for part in parts], key)


def keep_apart(corpora: list[TokenCorpus], key: str) -> list[TokenCorpus]:
    """The corpora without training and validation texts that another of them tests on.

    Texts are the same where the model reads the same tokens, of texts that are cut too; within one corpus `splits.remove_texts` compares them as written.
    """
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
            raise UserError(f"{corpus.name} has no texts left that no other task of config.{key} tests on; give tasks that differ.")
        fingerprint = hashlib.sha256(repr((corpus.fingerprint, [rows.tobytes() for rows in stay.values()])).encode()).hexdigest()
        kept.append(replace(corpus, fingerprint=fingerprint, **splits))
    return kept


def _rows(split: TokenSplit) -> list[bytes]:
    return [ids[:length].tobytes() for ids, length in zip(split.ids, split.lengths, strict=True)]


def _read(part: str, own: ConfigDict, pretrained: "Pretrained", cache: Path, key: str) -> TokenCorpus:
    """The corpus of a configuration file, or of data in the columns of the run's own."""
    data: ConfigDict = own.copy_and_resolve_references()
    with data.unlocked():
        if Path(part.partition(":")[0]).suffix == ".py":
            from ddllm.main import parse

            data.update(parse([f"--config={part}"]).config.data.to_dict())
            data.update({name: own[name] for name in ("length", "limit_train", "limit_validation", "limit_test")})
        else:
            data.update({"source": part, "label_names": ()})
    corpus = tokenize_corpus(load_corpus(data), pretrained.folder, data.length, cache)
    check_words(pretrained, corpus.name, corpus.train, corpus.validation, corpus.test)
    if corpus.task != "classification":
        raise UserError(f"config.{key} has {part}, which is read as {corpus.task}; only classes can be learned task by task.")
    return corpus
