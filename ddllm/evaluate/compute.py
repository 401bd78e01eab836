"""What trainings cost, in floating-point operations and seconds: on a distilled data set, on all texts, and the distillation itself.

Operations are those of the matrix products, a multiplication and an addition each: for a text of T positions a forward pass takes

    L · (2 T (4 D² + 2 D F) + 4 T² D)   for the layers' dense products and for attention,   2 D² + 2 D C   for a head (2 D C with mean pooling)

and a gradient three times as much. Padding counts, since it is computed. Normalisation, activations and optimizers are left out, a few per cent. XLA's own
count of one inner gradient stands beside the formula where the backend gives it.

A distillation's operations are those of its outer loop, its validations, its teachers and the bodies that config.distill.pool fine-tunes, where outer steps
differ by chance (config.distill.robust) in the mean. They leave out searches before it (selections as first values, probe heads), and count inner steps that
a curriculum or a random window leaves out. Its seconds are those of all this but for the first values.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.config import default_config, resolve
from ddllm.distill.bodies import pool_steps
from ddllm.distill.inner_loop import inner_loss, same_every_time
from ddllm.distill.perturb import RISE, STEPS
from ddllm.distill.teacher import BRIEF, texts_asked
from ddllm.distill.word_scores import with_moves
from ddllm.evaluate.small import training_seconds
from ddllm.models.heads import init_head
from ddllm.models.learner import Learner
from ddllm.prepare import Prepared
from ddllm.report.results import metric_of
from ddllm.values import split_parts

Row = dict[str, Any]
GRADIENT = 3  # forward passes that a gradient takes
STEP = {
    "direct": 9,
    "checkpointed": 12,
    "mixed": 11,
}  # forward passes that an inner step takes with its derivative, see distill/gradients.py
FULL_STRENGTH = 1 - RISE / 2  # of perturbations, in the mean over the outer steps
TRAINING, FINETUNING, DISTILLING = "one training on the distilled data", "one fine-tuning on all texts", "the distillation"


def forward_flops(learner: Learner, texts: int, length: int) -> int:
    """Operations of a forward pass on so many texts of so many positions."""
    encoder, head = learner.encoder, learner.head
    hidden, inner = encoder.hidden, encoder.feed_forward
    layer = 2 * length * (4 * hidden**2 + 2 * hidden * inner) + 4 * length**2 * hidden
    return texts * (encoder.layers * layer + 2 * hidden * head.classes + (0 if head.kind == "mean" else 2 * hidden**2))


def training_flops(learner: Learner, batches: int, examples: int, length: int, steps: int, order: str = "fixed") -> int:
    """Operations of a training of so many inner steps; with a learned order each step is fed with all batches."""
    return GRADIENT * steps * forward_flops(learner, examples * (batches if order == "learned" else 1), length)


def padded_flops(learner: Learner, lengths: np.ndarray, buckets: tuple[int, ...]) -> float:
    """Mean operations of a forward pass on one text, padded to the shortest bucket that holds it."""
    edges = np.sort(np.asarray(buckets))
    places = np.minimum(np.searchsorted(edges, lengths), len(edges) - 1)
    counts = np.bincount(places, minlength=len(edges))
    return float(sum(count * forward_flops(learner, 1, int(edge)) for count, edge in zip(counts, edges, strict=True)) / len(lengths))


def evaluate_compute(prepared: Prepared, distilled: Distilled, full: Row, own: Row, short: list[Row] | None = None) -> list[Row]:
    """The costs of both trainings and of the distillation, and after how many trainings it has paid for itself.

    Args:
        prepared: data, model and configuration; its learner is the one that the data set was distilled for.
        distilled: the distilled data set, whose recipe.json tells the configuration and the seconds of its distillation.
        full, own: the rows of results.json that tell seconds of fine-tuning and both accuracies; empty where there are none.
        short: rows of shorter fine-tunings, see short.py.

    Returns:
        Rows {"cost", "flops", "flops_by_xla", "seconds", and "accuracy_mean" or what stands in its place}, of `TRAINING`, the shorter fine-tunings,
        `FINETUNING` and `DISTILLING`; the last includes each teacher's fine-tuning, and has "paid_after_flops" and "paid_after_seconds": trainings after
        which distilling and training on the result has cost less than fine-tuning as often, None for never.
    """
    learner, data, recipe = prepared.learner, jax.tree.map(jnp.asarray, distilled.data), distilled.recipe
    batches, examples, length = data.embeddings.shape[:3]
    train = prepared.tokens.train
    real = padded_flops(learner, train.lengths, prepared.buckets)
    small = training_flops(learner, batches, examples, length, data.steps, recipe.order)
    epochs = prepared.config.finetune.epochs
    whole = int(GRADIENT * epochs * len(train) * real)
    plan = planned(distilled)
    distilling = None if plan is None else distillation_flops(prepared, distilled, plan, small, real)
    seconds = training_seconds(learner, recipe, prepared.start, data)
    took, cost = full.get("seconds"), distilled.card.get("distillation_seconds")
    if plan is not None and distilling is not None:
        # Teachers have to be fine-tuned first; what they then say of real texts is in the outer loop's cost.
        long, brief = teachers_of(plan)
        teachers = long + brief * plan["brief_epochs"] / epochs
        distilling += int(teachers * whole)
        cost = None if cost is None or (teachers and took is None) else cost + teachers * (took or 0.0)
    return [
        {
            "cost": TRAINING,
            "flops": small,
            "flops_by_xla": count_by_xla(prepared, distilled),
            "seconds": seconds,
            **_reached(own),
        },
        *(
            {"cost": f"one fine-tuning for {row['epochs']:.3g} epochs", "flops": int(whole / epochs * row["epochs"]), "seconds": row["seconds"]} | _reached(row)
            for row in short or ()
        ),
        {"cost": FINETUNING, "flops": whole, "seconds": took, **_reached(full)},
        {
            "cost": DISTILLING,
            "flops": distilling,
            "seconds": cost,
            "paid_after_flops": paid_after(distilling, whole, small),
            "paid_after_seconds": paid_after(cost, took, seconds),
        },
    ]


def _reached(row: Row) -> Row:
    name = f"{metric_of(row)}_mean"
    return {name: row.get(name)} | {key: row[key] for key in ("metric",) if key in row}


def planned(distilled: Distilled) -> Row | None:
    """config.distill of the distillation, as recipe.json tells it; None where it tells nothing."""
    return resolve(default_config().distill) | distilled.card["config"]["distill"] if "config" in distilled.card else None


def teachers_of(plan: Row) -> tuple[int, int]:
    """How many models teach: those of runs, each counted as one, and those that are fine-tuned briefly."""
    parts = split_parts(plan["teacher"])
    return len([part for part in parts if part != BRIEF]), plan["brief_teachers"] * parts.count(BRIEF)


def distillation_flops(prepared: Prepared, distilled: Distilled, plan: Row, small: float, real: float) -> int:
    """Operations of the outer loop that `plan` describes: `small` for each training, `real` for a forward pass on a real text; with validations."""
    learner, steps, validation = prepared.learner, distilled.data.steps, prepared.tokens.validation
    once, again = (_unrolled(plan, small, steps, times) for times in (1, 2))
    # The recipe twice over is one of the perturbations that are as likely as the recipe; a step for every example has as many operations as one for all.
    kinds = [kind for kind in STEPS if kind in plan["robust"]]
    likely = FULL_STRENGTH / (len(kinds) + 1) if "passes" in kinds else 0.0
    outer = plan["heads"] * (once + likely * (again - once) + GRADIENT * plan["batch_size"] * real)
    drawn = plan["outer_steps"] * plan["batch_size"]
    # Crossed texts are new each time.
    asked = drawn if plan["crossed"] else texts_asked(min(drawn, len(prepared.tokens.train)), drawn)
    taught = sum(teachers_of(plan)) * asked * real
    heads = plan["validation_heads"] if not same_every_time(learner, distilled.recipe) else 1
    texts = min(plan["validation_texts"] or len(validation), len(validation))
    validations = heads * math.ceil(plan["outer_steps"] / plan["validate_every"])
    scored = texts * padded_flops(learner, validation.lengths, prepared.buckets)
    pool = sum(pool_steps(plan["pool_steps"], plan["pool"], number) for number in range(plan["pool"]))
    bodies = pool * GRADIENT * prepared.config.finetune.batch_size * real + plan["pool"] * len(validation) * scored / max(texts, 1)
    return int(plan["outer_steps"] * outer + taught + validations * (small + scored) + bodies)


def _unrolled(plan: Row, small: float, steps: int, times: int) -> float:
    """Operations of the recipe so many times over, with its derivative; `small` without it, for its `steps` once."""
    taken = times * steps
    reached = min(plan["truncate"] or taken, taken)
    return small * (reached * STEP[plan["gradient"]] / GRADIENT + taken - reached) / steps


def paid_after(cost: float | None, whole: float | None, small: float) -> int | None:
    """Trainings after which `cost` and so many small ones have cost at most as much as so many whole ones; None for never, or where a cost is unknown."""
    if cost is None or whole is None or whole <= small:
        return None
    return math.ceil(cost / (whole - small))


def count_by_xla(prepared: Prepared, distilled: Distilled) -> int | None:
    """XLA's count of an inner gradient's operations, times the steps; None where the backend has none."""
    learner, data = prepared.learner, distilled.data
    # One gradient, not the loop: XLA counts a loop's body once, however often it runs.
    head = init_head(jax.random.key(0), learner.head, learner.encoder.hidden, prepared.start.pooler)
    batch = {name: jnp.asarray(x[0]) for name, x in data.batches.items()}
    gradient = jax.jit(jax.grad(inner_loss(learner, distilled.recipe.labels, distilled.recipe.auxiliary_weights)))
    analysis: Any = gradient.lower(with_moves({"body": prepared.start.body, "head": head}, data), batch).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    flops = (analysis or {}).get("flops", 0)
    fed = data.embeddings.shape[0] if distilled.recipe.order == "learned" else 1
    return int(flops * data.steps * fed) if flops > 0 else None
