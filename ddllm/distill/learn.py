"""A whole piece of outer-loop work, from its checkpoints to what the best validation had: `learn`, for every stage that learns distilled data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddllm.distill.outer_loop import distil
from ddllm.distill.outer_step import OuterStep
from ddllm.distill.teacher import Teacher
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.loop import Loop
from ddllm.runtime.metrics import Metrics


def learn(
    prepared: Prepared,
    learned: dict[str, Any],
    stream: Any,
    scorer: Any,
    folder: Path,
    open_metrics: Callable[[], Metrics],
    name: str,
    make_step: Callable[[bool], OuterStep],
    teacher: Callable[[], Teacher] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run an outer loop to its end, from its last checkpoint where there is one.

    Args:
        prepared: config.distill says how long, and how often is validated and saved.
        learned: first values of the learned parts.
        stream: real batches or others, by number.
        scorer: has `figure`, which chooses.
        folder: of checkpoints.
        open_metrics: opens where figures are written.
        name: of the work, on its progress bar and in metrics.jsonl.
        make_step: makes the outer step, told whether outer steps are left; where none are, nothing need be compiled.
        teacher: loads what gives real texts their targets, where outer steps are left; None: their labels do without.

    Returns:
        The learned parts in numpy, and {"validation_…", "outer_step", "distillation_seconds"} for a card.

    Raises:
        Diverged: the loss or the gradient became NaN or infinite.
    """
    config, seed = prepared.config.distill, prepared.config.seed
    checkpoints = Checkpoints(folder, config.checkpoints_kept)
    try:
        unfinished = (checkpoints.latest() or 0) < config.outer_steps
        taught = teacher() if teacher and unfinished else None
        step, metrics = make_step(unfinished), open_metrics()
        try:
            loop = Loop(name, config.outer_steps, config.validate_every, config.checkpoint_every, checkpoints, metrics, prepared.metric)
            state, seconds = distil(loop, step, learned, stream, scorer, config.validation_heads, seed, taught)
        finally:
            metrics.close()
    finally:
        checkpoints.close()
    best = jax.tree.map(np.asarray, state.best)
    figures = {f"validation_{prepared.metric}": float(best["accuracy"]), "outer_step": int(best["step"]), "distillation_seconds": seconds}
    return best["learned"], figures
