"""What a loop keeps of its validations."""

import jax.numpy as jnp
import pytest

from ddllm.runtime.loop import keep_best, no_best

NAN = float("nan")


def choose(figures, error=0.0, late=False):
    """Number of the validation that is kept, counted from 1, and its figure."""
    best = no_best({"learned": 0}, late)
    for number, figure in enumerate(figures, 1):
        best = keep_best(best, {"learned": number}, figure, jnp.asarray(number, jnp.int32), error)
    assert best["learned"] == int(best["step"])
    return best["learned"], float(best["accuracy"])


@pytest.mark.parametrize(
    ("figures", "late", "kept"),
    [
        ((0.7, 0.82, 0.8), False, 2),
        ((0.7, 0.82, 0.82), False, 3),  # of equals the later one
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


def test_what_is_kept_of_the_best_is_what_older_checkpoints_hold():
    assert set(no_best({"learned": 0})) == {"learned", "accuracy", "step"}
    assert "highest" in no_best({"learned": 0}, late=True)
