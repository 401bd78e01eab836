"""What the checks of all sections have in common: lists of parts, and a sentence for a value of the configuration that cannot be meant.

Without jax and numpy, since the command line checks before they are loaded.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ddllm.config import suggest
from ddllm.errors import UserError


def split_parts(named: str) -> list[str]:
    """What stands between the |: corpora, groups of classes, runs."""
    return [part.strip() for part in str(named).split("|") if part.strip()]


def check_positive(values: Mapping[str, Any]) -> None:
    """Raise `UserError` for the first of some values, by key, that is not above 0."""
    for key, value in values.items():
        if not value > 0:
            raise UserError(f"config.{key} is {value!r}, but must be greater than 0.")


def check_not_negative(values: Mapping[str, Any]) -> None:
    """Raise `UserError` for the first of some values, by key, that is below 0."""
    for key, value in values.items():
        if not value >= 0:
            raise UserError(f"config.{key} is {value!r}, but must not be negative.")


def check_choice(key: str, value: Any, known: tuple[str, ...], more: str = "") -> None:
    """Raise `UserError` unless a value is among those that are known; `more` says what else it may be."""
    if value not in known:
        raise UserError(f"config.{key} is {value!r}{suggest(str(value), known)}; it must be one of {', '.join(known)}{more}.")


def check_choices(key: str, values: Iterable[Any], known: tuple[str, ...], more: str = "") -> None:
    """Raise `UserError` for the first of several values that is not known; `more` says what else there may be, or gives an example."""
    for value in values:
        if value not in known:
            raise UserError(f"config.{key} has {value!r}{suggest(str(value), known)}; it may have {', '.join(known)}{more}.")


def named(section: str, values: ConfigDict, keys: Iterable[str]) -> dict[str, Any]:
    """Some values of a section by their whole keys."""
    return {f"{section}.{key}": values[key] for key in keys}
