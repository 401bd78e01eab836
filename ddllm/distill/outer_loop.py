"""The outer loop: learn a distilled data set, choosing what is kept on validation texts.

Everything random derives from (seed, step): heads from keys folded with the step's number, batches from the stream.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ddllm.distill.clipping import clip_by_usual_norm
from ddllm.distill.inner_loop import same_every_time
from ddllm.distill.optimizers import LEARNED_MOMENTUM
from ddllm.distill.outer_step import OuterState, OuterStep, initial_state
from ddllm.distill.teacher import Teacher
from ddllm.models.scoring import Scorer
from ddllm.runtime.loop import NOTHING, Diverged, Loop, keep_best

STAGE = "distill"
LATE = "one_standard_error"  # of config.distill.choose


def outer_schedule(config: ConfigDict, rate: float) -> optax.Schedule:
    """The outer learning rate at each step: a linear rise to `rate`, then the decay that config.distill.decay names."""
    warmup = int(config.warmup * config.outer_steps)
    rest = max(config.outer_steps - warmup, 1)
    after = {
        "linear": optax.linear_schedule(rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(rate, rest),
        "constant": optax.constant_schedule(rate),
    }[config.decay]
    if not warmup:
        return after
    # The rise starts one step above zero, so that the first step is not lost.
    return optax.join_schedules([optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1)), after], [warmup])


def outer_optimizer(config: ConfigDict, more: dict[str, float] | None = None) -> optax.GradientTransformation:
    """The optimizer of config.distill: one clipped gradient, and a learning rate for each part of the distilled data, and of `more` that a shaping has."""

    def for_part(rate: float) -> optax.GradientTransformation:
        schedule = outer_schedule(config, rate)
        if config.optimizer == "adam":
            return optax.adam(schedule, b2=config.second_moment)
        return optax.adamw(schedule, b2=config.second_moment, weight_decay=config.weight_decay)

    rates = {
        "embeddings": config.rate_embeddings,
        "labels": config.rate_labels,
        "rates": config.rate_rates,
        "head": config.rate_head,
    }
    # Only where they are learned: the optimizer's state of other runs stays what their checkpoints hold.
    if config.inner_optimizer == LEARNED_MOMENTUM:
        rates["momentum"] = config.rate_rates
    if config.order == "learned":
        rates["order"] = config.rate_order
    if config.attention_labels != "none":
        rates["attention"] = config.rate_attention
    if config.feature_labels:
        rates["features"] = config.rate_features
    if config.direction_labels:
        rates["directions"] = config.rate_directions
    if config.gains:
        rates["gains"] = config.rate_gains
    if config.word_scores:
        rates |= {"word_scores": config.rate_words, "word_shares": config.rate_words}
    rates |= more or {}
    if config.adaptive_clip:
        clip = clip_by_usual_norm(config.adaptive_clip)
    else:
        clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(
        clip,
        optax.multi_transform(
            {part: for_part(rate) for part, rate in rates.items()},
            lambda learned: {part: part for part in learned},
        ),
    )


def distil(
    loop: Loop,
    step: OuterStep,
    learned: dict[str, Any],
    stream: Any,
    scorer: Scorer,
    heads: int = 1,
    seed: int = 0,
    teacher: Teacher | None = None,
    late: bool = False,
    keep_start: bool = False,
) -> tuple[OuterState, float]:
    """Run the outer loop to its end, from the last checkpoint where there is one.

    Args:
        loop: how long, and where the state and the figures go.
        step: the compiled outer step.
        learned: first values of the learned parts.
        stream: has `batch(number)`, the same one whenever it is asked.
        scorer: measures the figure that is chosen by on validation texts.
        heads: trainings behind each validation, each with its own redrawn head or shuffled order; one where nothing is redrawn.
        seed: of redrawn heads and orders.
        teacher: gives real texts their targets; their labels do without one.
        late: keep the latest validation that lies within a standard error of the highest, instead of the highest.
        keep_start: validate the first values too, which are kept, as those of step 0, where no later ones are preferred.

    Returns:
        The last state, whose `best` holds what was kept, and the seconds of all starts together.

    Raises:
        Diverged: the loss or the gradient became NaN or infinite, or the trainings of all validations did.
    """
    key, keys = jax.random.key(seed), validation_keys(step, heads, seed)

    def advance(state: OuterState, index: int) -> tuple[OuterState, dict[str, jax.Array]]:
        batch = stream.batch(index)
        return step(state, teacher.teach(batch) if teacher else batch, jax.random.fold_in(key, index))

    finite = jax.jit(lambda trained: jnp.isfinite(optax.tree.norm(trained)))

    def measure(average: dict[str, Any], key: jax.Array) -> float | None:
        """The figure after one training; None where it has diverged, and what its predictions are worth is chance."""
        trained = step.train(average, key)
        return scorer.figure(trained) if finite(trained) else None

    def validate(state: OuterState) -> tuple[OuterState, float]:
        figures = [measure(state.average, key) for key in keys]
        if all(figure is None for figure in figures):
            return state, 0.0
        reached = float(np.mean([figure or 0.0 for figure in figures]))
        best = keep_best(state.best, {"learned": state.average}, reached, state.step, scorer.standard_error)
        return state._replace(best=best), reached

    state = initial_state(learned, step.optimizer, step.everywhere, late)
    if keep_start and loop.checkpoints.latest() is None:
        state, _ = validate(state)
    state, seconds = loop.run(state, advance, validate, explain_divergence)
    if not int(state.best["step"]) and float(state.best["accuracy"]) == NOTHING:
        raise Diverged(
            f"{loop.stage} has taken its {loop.steps} steps, but at every validation, training on what was learned led to numbers that are not finite, so that "
            f"there is nothing to keep. {explain_divergence(state, {})}"
        )
    return state, seconds


def validation_keys(step: OuterStep, heads: int, seed: int) -> list[jax.Array]:
    """Keys of the trainings behind a validation, see `distil`: far from those of outer steps, and the same every time, so that data alone make a difference."""
    apart = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
    return [jax.random.fold_in(apart, draw) for draw in range(1 if same_every_time(step.learner, step.recipe) else heads)]


def validation_loss(step: OuterStep, learned: dict[str, Any], scorer: Scorer, heads: int = 1, seed: int = 0) -> float:
    """Mean loss on the validation texts after the trainings of a validation, infinite where one has diverged; for arguments see `distil`."""
    losses = [scorer.loss(step.train(learned, key)) for key in validation_keys(step, heads, seed)]
    return float(np.mean(losses)) if np.isfinite(losses).all() else float("inf")


def explain_divergence(state: OuterState, figures: dict[str, float]) -> str:
    """What was learned before something was not finite, and what to change."""
    norms = ", ".join(f"{part} {float(optax.tree.norm(tree)):.3g}" for part, tree in state.learned.items())
    told = f"Before that, the norms of what is learned were: {norms}"
    if "rates" in state.learned:
        rates = np.logaddexp(0, np.asarray(state.learned["rates"]))
        told += f"; the inner rates lay between {rates.min():.3g} and {rates.max():.3g}"
    return (
        f"{told}. Start anew, in another working directory, with a smaller config.distill.initial_rate, config.distill.rate_rates or config.distill.clip."
    )
