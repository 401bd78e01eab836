"""How well each label fits what a server answered, in each of the ways of asking (see server.py)."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddllm.prompt.dialect import Refused

BEGINNING = 3  # letters of a label that a first token must have at least, since single ones begin many words
THOUGHTS, ANSWER = "<think>", "</think>"  # what models think stands between these, where the server leaves it in
BELOW = 1.0  # nats that a label which is not among the likeliest tokens lies below the last of them


def score_echo(tokens: Sequence[str], values: Sequence[float | None], continuation: str) -> float:
    """Sum of the log-probabilities of the tokens that spell a continuation at the end of what was echoed, one generated token left out or not.

    Raises:
        Refused: the tokens do not end so: the prompt was not echoed.
    """
    for end in (len(tokens) - 1, len(tokens)):
        spelt, start = "", end
        while start and len(spelt) < len(continuation):
            start -= 1
            spelt = str(tokens[start]) + spelt
        # A token may begin before the continuation does; the prompt has to come before all.
        if start and spelt.endswith(continuation):
            parts = [value for value in values[start:end] if value is not None]
            if len(parts) == end - start:
                return float(sum(parts))
    raise Refused("the prompt is not echoed")


def read_likeliest(choice: dict[str, Any]) -> dict[str, float]:
    """The first token's alternatives, from either of the forms that servers give them in."""
    try:
        found = choice["logprobs"]
        if found.get("content"):
            return {str(entry["token"]): read_number(entry["logprob"]) for entry in found["content"][0]["top_logprobs"]}
        return {str(token): read_number(value) for token, value in found["top_logprobs"][0].items()}
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise Refused("no log-probabilities in the answer") from None


def read_number(value: Any) -> float:
    """A log-probability; raises ValueError or TypeError where it is no number."""
    number = float(value)
    if not number < math.inf:
        raise ValueError("not a log-probability")
    return number


def score_first(likeliest: dict[str, float], continuations: Sequence[str]) -> list[float]:
    """Log-probability, for each continuation, that the next token is it, or begins it and no other; those not among the likeliest lie below all.

    Raises:
        Refused: there are no tokens.
    """
    if not likeliest:
        raise Refused("no likeliest tokens in the answer")
    words = [continuation.strip().lower() for continuation in continuations]
    found: list[list[float]] = [[] for _ in words]
    for token, value in likeliest.items():
        start = token.strip().lower()
        whole = [place for place, word in enumerate(words) if word == start]
        begun = whole or [place for place, word in enumerate(words) if word.startswith(start) and len(start) >= min(BEGINNING, len(word))]
        if len(begun) == 1:
            found[begun[0]].append(value)
    lowest = min(likeliest.values()) - BELOW
    return [float(np.logaddexp.reduce(values)) if values else lowest for values in found]


def answer_of(text: str) -> str:
    """What a model says behind its thoughts, where these are in the text; nothing where they have no end."""
    if ANSWER in text:
        return text.rpartition(ANSWER)[2]
    return "" if text.lstrip().startswith(THOUGHTS) else text


def score_text(text: str, continuations: Sequence[str]) -> list[float]:
    """0 for the label that comes first in a text and −1 for the others; all −1 where there is none, which no class's answer is.

    Of labels at the same place the longest is meant: "New York City" is not "New York".
    """
    nowhere = (math.inf, 0)
    places = []
    for word in (continuation.strip().lower() for continuation in continuations):
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text.lower())
        places.append((found.start(), -len(word)) if found else nowhere)
    first = min(places)
    return [0.0 if place == first != nowhere else -1.0 for place in places]
