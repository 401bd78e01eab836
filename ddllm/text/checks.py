"""Which values of config.text can be meant; without jax, since the command line checks them before it is loaded."""

from os.path import expanduser
from pathlib import Path

from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.values import check_choice, check_choices, check_not_negative, check_positive, named

ROUTE_NAMES = ("project", "relearn", "straight_through", "mixture", "search", "splice")
TRAIN = "train"  # config.text.words: those of the training texts
NEEDS_DISTILLED = ("project", "relearn")
METRICS = ("cosine", "dot", "euclidean")
POSITIVE = ("k", "temperature", "final_temperature", "rate_mixture", "rounds", "candidates", "together", "search_texts", "pool", "fluency_candidates")
NOT_NEGATIVE = ("steps", "passes", "fluency_weight")


def route_names(text: ConfigDict) -> list[str]:
    """The routes that config.text.route names."""
    return [name.strip() for name in text.route.split(",")]


def check_pool(text: ConfigDict, per_class: int) -> None:
    """Raise `UserError` where fewer sentences are chosen from than are to be chosen."""
    if text.pool < per_class:
        raise UserError(f"config.text.pool is {text.pool}, but config.distill.examples_per_class={per_class} sentences are chosen of it; raise it.")


def validate_text(text: ConfigDict, per_class: int) -> None:
    """Raise `UserError` for the first value that cannot be meant, with so many examples per class."""
    check_choices("text.route", route_names(text), ROUTE_NAMES, ", as in project,search")
    if "splice" in route_names(text):
        check_pool(text, per_class)
    check_choice("text.metric", text.metric, METRICS)
    check_positive(named("text", text, POSITIVE))
    check_not_negative(named("text", text, NOT_NEGATIVE))
    if not 0 <= text.pull <= 1:
        raise UserError(f"config.text.pull is {text.pull!r}, but must lie between 0 and 1: it is a share of the way to the nearest token.")
    if text.final_temperature > text.temperature:
        raise UserError(
            f"config.text.final_temperature is {text.final_temperature!r}, above config.text.temperature={text.temperature!r}; "
            "mixtures harden as the temperature falls, so make it lower."
        )
    if text.fluency_weight and "search" not in route_names(text):
        raise UserError(
            f"config.text.fluency_weight is {text.fluency_weight!r}, but only the route search counts fluency; "
            "set config.text.route=search, or the weight to 0."
        )
    if text.fluency_model and not text.fluency_weight:
        raise UserError(
            f"config.text.fluency_model is {text.fluency_model!r}, but config.text.fluency_weight is 0; say how much fluency counts, or name no model."
        )
    if text.fluency_model and text.fluency_candidates < text.candidates:
        raise UserError(
            f"config.text.fluency_candidates is {text.fluency_candidates}, fewer than config.text.candidates={text.candidates}, which are taken of them; "
            "raise the one or lower the other."
        )
    if text.words and route_names(text) == ["splice"]:
        raise UserError(f"config.text.words is {text.words!r}, but config.text.route=splice keeps real sentences as they are; leave one of them out.")
    if text.words not in ("", TRAIN) and not Path(expanduser(text.words)).is_file():
        raise UserError(f"config.text.words is {text.words!r}, but there is no such file; give one with a word in each line, or {TRAIN!r}.")
    if text.start and route_names(text) == ["splice"]:
        raise UserError("config.text.start is a set to begin with, but config.text.route=splice begins with real sentences; leave one of them out.")
    if text.start and not Path(expanduser(text.start)).is_dir():
        raise UserError(f"config.text.start is {text.start!r}, but there is no such folder; give a distilled folder, or another route's text.")
