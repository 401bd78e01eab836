"""The one loop that long work runs in: resume, step, validate, write figures, save, show progress.

The state is a named tuple of arrays with a field `step`; whatever a step needs beyond it must derive from the step's number, which makes
a run that was killed and started again the same as one that was not, bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.errors import UserError
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.devices import place
from ddllm.runtime.host_memory import give_back_freed
from ddllm.runtime.metrics import Metrics, read_metrics
from ddllm.runtime.progress import Progress

NOTHING = -1.0  # in the place of the best figure, of step 0, before there is one


class Diverged(UserError):
    """A figure of a step is not a finite number."""


@dataclass(frozen=True)
class Loop:
    """How long a loop runs and where it writes.

    Attributes:
        stage: names the loop's figures and its progress bar.
        steps: number of steps.
        validate_every: steps between validations; the last step is validated too.
        checkpoint_every: steps between checkpoints; the last step is saved too.
        checkpoints: where the state goes and comes from.
        metrics: where figures are written.
        figure: what validations measure.
        began: when this start of the run began, by `time.monotonic()`: what is done between the loop's making and its running counts as its time.
    """

    stage: str
    steps: int
    validate_every: int
    checkpoint_every: int
    checkpoints: Checkpoints
    metrics: Metrics
    figure: str = "accuracy"
    began: float = field(default_factory=time.monotonic)

    def run(
        self,
        state: Any,
        advance: Callable[[Any, int], tuple[Any, dict[str, jax.Array]]],
        validate: Callable[[Any], tuple[Any, float]],
        explain: Callable[[Any, dict[str, float]], str] = lambda state, figures: "",
    ) -> tuple[Any, float]:
        """Run to the end, from the last checkpoint where there is one.

        Args:
            state: before the first step; also the template of what is restored.
            advance: one step, (state, index) to the new state and its figures, among them "loss".
            validate: (state) to the state with its best so far brought up to date, and the figure measured.
            explain: what else is known when a figure is not finite, and what to do, from the state before that step.

        Returns:
            The last state, and the seconds that all starts of this run took together.

        Raises:
            Diverged: a figure was NaN or infinite; the last checkpoint is kept.
        """
        state, first = self._restore(state)
        self.metrics.rewind(self.stage, first)
        before = self._seconds() - self.began
        shown: dict[str, float] = {}
        with Progress(self.steps, self.stage, first) as progress:
            for index in range(first, self.steps):
                moved, values = advance(state, index)
                number = index + 1
                figures = {name: float(value) for name, value in values.items()}
                if not np.isfinite(list(figures.values())).all():
                    raise Diverged(self._sentence(number, figures, explain(state, figures)))
                state = moved
                last = number == self.steps
                validated = number % self.validate_every == 0 or last
                if validated:
                    state, reached = validate(state)
                    figures[f"validation_{self.figure}"] = shown["validation"] = reached
                if validated or index == first:  # where programs may have been compiled
                    give_back_freed()
                figures["elapsed"] = before + time.monotonic()
                self.metrics.write(number, figures, self.stage)
                progress.update(number, loss=figures["loss"], **shown)
                if number % self.checkpoint_every == 0 or last:
                    self.checkpoints.save(number, state)
        return state, before + time.monotonic()

    def _restore(self, state: Any) -> tuple[Any, int]:
        if self.checkpoints.latest() is None:
            return state, 0
        restored = self.checkpoints.restore(state)
        state = jax.tree.map(lambda old, new: place(jnp.asarray(new, old.dtype), old.sharding), state, restored)
        return state, int(state.step)

    def _seconds(self) -> float:
        lines = read_metrics(self.metrics.path)
        return max((line["elapsed"] for line in lines if line["stage"] == self.stage), default=0.0)

    def _sentence(self, number: int, figures: dict[str, float], explanation: str) -> str:
        saved = self.checkpoints.latest()
        listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        kept = f"the checkpoint of step {saved} is kept" if saved is not None else "no checkpoint had been written yet"
        return f"{self.stage} stopped at step {number} with {listed}; {kept}. {explanation}".strip()


def keep_best(
    best: dict[str, Any],
    values: dict[str, Any] | Callable[[], dict[str, Any]],
    accuracy: float,
    step: jax.Array,
    error: Callable[[float], float] = lambda highest: 0.0,
) -> dict[str, Any]:
    """The better of the best so far and new values, as {**values, "accuracy", "step"}; of equals the later one, learned from more, and never one of NaN.

    Args:
        best: so far. Where it has "highest", the highest figure seen, the latest is kept that lies no farther below that than its `error`.
        values: what is chosen among, or what gives them, called where they are kept.
        accuracy: whatever figure is chosen by.
        step: of the values.
        error: of the highest figure, by which equals may differ.
    """
    figure = np.float32(accuracy)  # as it is kept: what is equal must be so after rounding as well
    highest = max(np.float32(best.get("highest", best["accuracy"])), figure)
    if not figure >= highest - (error(float(highest)) if "highest" in best else 0.0):  # so that NaN, of which nothing is true, replaces nothing
        return best
    seen = {"highest": jnp.asarray(highest)} if "highest" in best else {}
    return {**(values() if callable(values) else values), "accuracy": jnp.asarray(figure), "step": step, **seen}


def no_best(values: dict[str, Any], late: bool = False) -> dict[str, Any]:
    """What stands in for the best before the first validation; `late` where the latest of nearly equal ones is kept."""
    seen = {"highest": jnp.asarray(NOTHING, jnp.float32)} if late else {}
    return {**values, "accuracy": jnp.asarray(NOTHING, jnp.float32), "step": jnp.asarray(0, jnp.int32), **seen}
