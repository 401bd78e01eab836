"""What a grammar checker finds in texts: Harper (Automattic), whose rules for English come inside the package harper-py, without a server or a download.

It is young and counted where it is installed alone. What it says of spelling, capitals, marks, style and the choice of words does not count: texts of an
uncased vocabulary have no capitals, names are in no dictionary, and taste is no mistake.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from ddllm.text.repetition import split_words

PACKAGE = "harper"
NO_GRAMMAR = ("Capitalization", "Enhancement", "Formatting", "Punctuation", "Readability", "Redundancy", "Regionalism", "Spelling", "Style", "Typo")
NO_GRAMMAR += ("WordChoice",)  # offensive words among them


def can_check() -> bool:
    """Whether the checker is installed."""
    return find_spec(PACKAGE) is not None


def mistakes(texts: Sequence[str]) -> float:
    """Mistakes of grammar in a hundred words (marks count as words) of all texts together."""
    checker = _checker()
    found = sum(lint.lint_kind not in NO_GRAMMAR for text in texts for lint in checker.lint(text, language="plaintext"))
    return 100 * found / max(sum(len(split_words(text)) for text in texts), 1)


@cache
def _checker() -> Any:
    import harper  # pyright: ignore[reportMissingImports]

    return harper.Linter()
