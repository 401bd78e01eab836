"""Word scores to look at: the words that go farthest along with the moves of each class, and those that go farthest against them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ddllm.artefact.base import Distilled

SHOWN = 12  # words in each direction


def look_at_words(distilled: Distilled, tell: Callable[[int], str]) -> list[dict[str, Any]]:
    """For each move {"name", "with", "against"}, the two being lists of {"word", "score"}, the farthest first; nothing for sets without word scores.

    Args:
        distilled: the distilled data set.
        tell: makes readable what a number in the vocabulary stands for.
    """
    if distilled.data.word_scores is None:
        return []
    scores_RV, names = np.asarray(distilled.data.word_scores), distilled.label_names
    told = []
    for row, scores_V in enumerate(scores_RV):
        order = np.argsort(scores_V, kind="stable")
        ends = {"with": order[::-1][:SHOWN], "against": order[:SHOWN]}
        signs = {"with": 1, "against": -1}
        words = {
            end: [{"word": tell(int(word)), "score": round(float(scores_V[word]), 4)} for word in found if signs[end] * scores_V[word] > 0]
            for end, found in ends.items()
        }
        told.append({"name": names[row] if len(scores_RV) == len(names) else f"move {row + 1}", **words})
    return told


def as_line(words: list[dict[str, Any]]) -> str:
    """Words with their scores, on one line."""
    return ", ".join(f"{each['word']} {each['score']:+.2f}" for each in words)
