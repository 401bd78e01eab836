"""What a loop keeps of its validations."""

import jax.numpy as jnp
import pytest

from ddllm.models.figures import standard_error
from ddllm.runtime.loop import keep_best, no_best

NAN = float("nan")


def choose(figures, error=0.0, late=False):
    """Number of the validation that is kept, counted from 1, and its figure."""
    best = no_best({"learned": 0}, late)
    for number, figure in enumerate(figures, 1):
        best = keep_best(best, {"learned": number}, figure, jnp.asarray(number, jnp.int32), lambda highest: error)
    assert best["learned"] == int(best["step"])
    return best["learned"], float(best["accuracy"])


@pytest.mark.parametrize(
    ("figures", "late", "kept"),
    [
        ((0.7, 0.82, 0.8), False, 2),
        ((0.7, 0.82, 0.82), False, 3),  # of equals the later one
        ((0.7, 0.87, 0.87), False, 3),  # which in 32 bits is less than it was
        ((0.87, 0.87), True, 2),
        ((0.7, 0.82, 0.8), True, 3),
        ((0.7, 0.82, 0.78), True, 2),
        ((0.82, 0.8, 0.78, 0.76), True, 2),  # from the highest on, not from what was kept
        ((0.82, 0.7, 0.8), True, 3),
        ((0.5, 0.82, 0.8, 0.9, 0.88, 0.5), True, 5),
        ((NAN, 0.7, NAN), False, 2),  # what has diverged is never the best
        ((NAN, 0.82, 0.8, NAN), True, 3),
    ],
)
def test_the_best_or_the_latest_that_is_as_good(figures, late, kept):
    assert choose(figures, 0.03, late) == (kept, pytest.approx(figures[kept - 1]))


def test_the_error_is_that_of_the_highest():
    best = no_best({"learned": 0}, late=True)
    for number, figure in enumerate((0.99, 0.983), 1):
        best = keep_best(best, {"learned": number}, figure, jnp.asarray(number, jnp.int32), lambda figure: standard_error("accuracy", figure, 300))
    assert best["learned"] == 1  # a standard error is 0.0057 there, and 0.0075 at the later one


def test_values_are_made_where_they_are_kept():
    def refuse():
        raise AssertionError("made in vain")

    best = keep_best(no_best({"learned": 0}), lambda: {"learned": 1}, 0.87, jnp.asarray(1, jnp.int32))
    assert keep_best(best, refuse, 0.86, jnp.asarray(2, jnp.int32)) is best and best["learned"] == 1


def test_what_is_kept_of_the_best_is_what_older_checkpoints_hold():
    assert set(no_best({"learned": 0})) == {"learned", "accuracy", "step"}
    assert "highest" in no_best({"learned": 0}, late=True)
