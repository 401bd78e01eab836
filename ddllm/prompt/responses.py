"""What can be read from a server's responses, whatever they are: tokens spent, how long to wait, errors in words."""

import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

# How servers say that prompt and answer together have too many tokens.
TOO_LONG = re.compile(r"context[ _-]?(length|window|size)|maximum context|prompt is too long|too many (input )?tokens|reduce the length|max_new_tokens")


def has_choice(answer: Any) -> bool:
    """Whether an answer in JSON is one to the question."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict)


def count_tokens(answer: dict[str, Any], guess: float) -> int:
    """Tokens that the server counts for a request, or what they were guessed to be."""
    usage = answer.get("usage")
    counted = usage.get("total_tokens") if isinstance(usage, dict) else None
    return counted if isinstance(counted, int) else round(guess)


def read_wait(value: str | None) -> float | None:
    """Seconds that the header asks for, given as a number or a date; None where it asks for nothing that can be read."""
    if not value:
        return None
    try:
        return None if math.isnan(float(value)) else max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def read_code(response: Any) -> str:
    """The name that the server gives to an error, or nothing."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def is_too_long(response: Any) -> bool:
    """Whether an error is that prompt and answer together have too many tokens."""
    return TOO_LONG.search(f"{read_message(response)} {read_code(response)}".lower()) is not None


def read_message(response: Any) -> str:
    """What the server says of an error, in a line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = response.text
    return (str(text).strip().splitlines() or ["without a word"])[0][:200].rstrip(".")
