"""A whole piece of outer-loop work, from its checkpoints to what the best validation had: `learn`, for every stage that learns distilled data.

`learn_from_texts` learns from the training texts whatever parts it is given; `distil_texts` is the distillation that a configuration describes: the run's
own, and those of shadow sets (privacy/shadows.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddllm.data.batches import BatchStream
from ddllm.distill.bodies import gather_bodies, pool_seconds
from ddllm.distill.cross import real_batches
from ddllm.distill.dataset import DistilledData, learned_parts
from ddllm.distill.memory import check_memory
from ddllm.distill.outer_loop import LATE, distil, validation_loss
from ddllm.distill.outer_step import OuterStep
from ddllm.distill.plan import first_data, make_outer_step, recipe_of
from ddllm.distill.shaping import Shaping
from ddllm.distill.teacher import Teacher, ask_ahead
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
    keep_start: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run an outer loop to its end, from its last checkpoint where there is one.

    Args:
        prepared: config.distill says how long, and how often is validated and saved.
        learned: first values of the learned parts.
        stream: real batches or others, by number.
        scorer: has `figure`, which chooses, and its `standard_error`.
        folder: of checkpoints.
        open_metrics: opens where figures are written.
        name: of the work, on its progress bar and in metrics.jsonl.
        make_step: makes the outer step, told whether outer steps are left; where none are, it trains for the loss on validation texts alone.
        teacher: loads what gives real texts their targets, where outer steps are left; None: their labels do without.
        keep_start: see `distil`.

    Returns:
        The learned parts in numpy, and {"validation_…", "validation_loss", "outer_step", "distillation_seconds"} for a card.

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
            ahead = ask_ahead(taught, stream, config.outer_steps) if taught and isinstance(stream, BatchStream) else None
            batches, asked = (ahead, None) if ahead else (stream, taught)
            state, seconds = distil(loop, step, learned, batches, scorer, config.validation_heads, seed, asked, config.choose == LATE, keep_start)
            loss = validation_loss(step, state.best["learned"], scorer, config.validation_heads, seed)
        finally:
            metrics.close()
    finally:
        checkpoints.close()
    best = jax.tree.map(np.asarray, state.best)
    figures = {f"validation_{prepared.metric}": float(best["accuracy"]), "outer_step": int(best["step"]), "distillation_seconds": seconds}
    figures |= {"validation_loss": loss} if np.isfinite(loss) else {}
    return best["learned"], figures


def learn_from_texts(
    prepared: Prepared,
    data: DistilledData,
    learned: dict[str, Any],
    folder: Path,
    bodies: Path,
    open_metrics: Callable[[], Metrics],
    name: str,
    teacher: Callable[[], Teacher] | None = None,
    shaping: Shaping | None = None,
    more: dict[str, float] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Learn from the training texts as config.distill says, chosen on the validation texts.

    Args:
        prepared: data, model and configuration.
        data: gives what is not learned.
        learned, folder, open_metrics, name, teacher: see `learn`.
        bodies: folder of partly fine-tuned bodies (see bodies.py).
        shaping: between what is learned and the data (see shaping.py).
        more: outer rates of parts that only the shaping knows.

    Returns:
        What `learn` does.

    Raises:
        Diverged: the loss or the gradient became NaN or infinite.
        UserError: an outer step needs more memory than there is.
    """
    config = prepared.config.distill
    stream = real_batches(prepared)
    scorer = prepared.scorer(prepared.tokens.validation, config.validation_texts)

    def make_step(unfinished: bool) -> OuterStep:
        others = gather_bodies(prepared, bodies, open_metrics) if unfinished else ()
        step = make_outer_step(prepared, data, others=others, shaping=shaping, more=more)
        if unfinished:  # a finished run takes no gradient
            # A shaping feeds the inner loop with other parts than are learned.
            check_memory(prepared, step, data, tuple(jax.eval_shape(step.final, learned)))
        return step

    best, figures = learn(prepared, learned, stream, scorer, folder, open_metrics, name, make_step, teacher)
    if config.pool:
        metrics = open_metrics()
        figures["distillation_seconds"] += pool_seconds(metrics, config.pool)
        metrics.close()
    return best, figures


def distil_texts(
    prepared: Prepared, folder: Path, bodies: Path, open_metrics: Callable[[], Metrics], name: str, teacher: Callable[[], Teacher] | None = None
) -> tuple[DistilledData, dict[str, Any]]:
    """The distilled data set that config.distill describes, in numpy, and `learn`'s entries for its card; for arguments and errors see `learn_from_texts`."""
    data = first_data(prepared)
    learned = learned_parts(data, recipe_of(prepared.config.distill))
    best, figures = learn_from_texts(prepared, data, learned, folder, bodies, open_metrics, name, teacher)
    return data.replace(**best), figures
