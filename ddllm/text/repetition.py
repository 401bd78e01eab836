"""How much texts repeat themselves, and what is a word of them: counts that need no model.

Words are runs of letters and digits, and every mark is one of its own, as BERT splits texts before it looks for word pieces: "wo n't ." and "won't." differ by
how they are written, not by how many marks they have.
"""

import re
from collections.abc import Sequence

WORD = re.compile(r"[^\W_]+|[^\w\s]|_")
# Spaces that tokenised corpora and decoded tokens have around marks, and prose has not: in this order.
SPACES = (
    (re.compile(r"- -"), "--"),
    (re.compile(r"(?<=[^\W_]) - (?=[^\W_])"), "-"),
    (re.compile(r"(?<=[^\W_]) ?n ?(['’]) ?t\b"), r"n\1t"),
    (re.compile(r"(?<=[^\W_]) ?(['’]) ?(?=(?:s|m|d|re|ve|ll)\b)"), r"\1"),
    (re.compile(r"\s+(?=[.,;:!?%)\]])"), ""),
    (re.compile(r"(?<=[(\[$#])\s+"), ""),
)


def split_words(text: str) -> list[str]:
    """Words and marks, in lower case."""
    return WORD.findall(text.lower())


def tidy(text: str) -> str:
    """A text with its marks where prose has them: "it ' s well - made ( and how ! ) ." as "it's well-made (and how!)."."""
    for spaces, instead in SPACES:
        text = spaces.sub(instead, text)
    return text.strip()


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n (Li et al., NAACL 2016): different n-grams of all texts together, as a share of their n-grams; 1 where no text has one.

    Long and many texts repeat more, so that only sets of like size can be compared.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated(texts: Sequence[str], n: int = 4) -> float:
    """seq-rep-n (Welleck et al., ICLR 2020): the share of a text's n-grams that it had before, mean over the texts that have any; 0 where none has."""
    shares = [1 - len(set(grams)) / len(grams) for grams in (_grams(text, n) for text in texts) if grams]
    return sum(shares) / len(shares) if shares else 0.0


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = split_words(text)
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
