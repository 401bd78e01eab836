"""The arrays of a folder: which there are, and whether they fit each other, the recipe and its head."""

from pathlib import Path
from typing import Any

import numpy as np

from ddllm.artefact.base import LABELS
from ddllm.artefact.schema import ARRAYS, RECIPE
from ddllm.distill.auxiliary import auxiliary_fits
from ddllm.distill.dataset import AUXILIARY, DistilledData, Recipe
from ddllm.distill.optimizers import LEARNED_MOMENTUM, make_optimizer
from ddllm.distill.order import ORDERS
from ddllm.errors import UserError
from ddllm.models.tasks import read_task

ALWAYS, SOMETIMES = ("embeddings", "mask", "labels", "rates"), ("momentum", "order", "gains", "types", "word_scores", "word_shares", *AUXILIARY)


def check_dealt(folder: Path, data: DistilledData, recipe: Recipe, outputs: int, card: dict[str, Any]) -> None:
    """Raise `UserError` where a shuffled order cannot deal the examples of inner batches over the classes, as of sets that were merged."""
    examples, classes = data.mask.shape[1], read_task(card).groups(outputs)
    if recipe.order == "shuffled" and examples % classes:
        raise UserError(
            f"the inner batches of {folder} have {examples} examples, which a shuffled order cannot deal over {classes} classes; merge sets of "
            "another order, or of more examples for each class."
        )


def check_arrays(folder: Path, data: DistilledData, recipe: Recipe, card: dict[str, Any]) -> None:
    """Raise `UserError` where the arrays of a folder do not fit each other or its recipe, or are not finite."""
    if recipe.order not in ORDERS:
        raise UserError(
            f"the order in {folder / RECIPE} is {recipe.order!r}, but must be one of {', '.join(ORDERS)}; get the folder again."
        )
    if recipe.labels not in LABELS:
        raise UserError(
            f"the labels in {folder / RECIPE} are {recipe.labels!r}, but must be one of {', '.join(LABELS)}; get the folder again."
        )
    make_optimizer(str(recipe.optimizer), f"the inner optimizer in {folder / RECIPE}")
    shape = data.embeddings.shape
    fits = (
        len(shape) == 4
        and min(shape) > 0
        and data.mask.shape == shape[:3]
        and data.labels.shape == (*shape[:2], len(card["label_names"]))
        and data.rates.ndim == 2
        and data.rates.shape[0] == shape[0] * recipe.passes
        and (None if data.momentum is None else data.momentum.shape)
        == (data.rates.shape[:1] if recipe.optimizer == LEARNED_MOMENTUM else None)
        and (data.gains is None or (data.gains.ndim == 2 and data.gains.shape[0] in (1, data.rates.shape[0])))
        and _scores_fit(data)
        and (data.types is None or data.types.shape == shape[:3])
        and (None if data.order is None else data.order.shape) == ((data.rates.shape[0], shape[0]) if recipe.order == "learned" else None)
        and auxiliary_fits(data)
        and all(isinstance(weight, int | float) for weight in recipe.auxiliary_weights.values())
    )
    if not fits:
        raise UserError(f"the arrays in {folder / ARRAYS} do not fit together or not with {RECIPE}; get the folder again.")
    check_dealt(folder, data, recipe, len(card["label_names"]), card)
    for name in (*ALWAYS, *SOMETIMES):
        if not np.isfinite(getattr(data, name) if getattr(data, name) is not None else 0).all():
            raise UserError(f"{name} in {folder / ARRAYS} holds values that are not finite numbers; the distillation had failed.")
    if not np.any(data.mask > 0, axis=-1).all():
        raise UserError(f"the mask in {folder / ARRAYS} leaves an example no position; get the folder again.")


def _scores_fit(data: DistilledData) -> bool:
    scores, shares = data.word_scores, data.word_shares
    if scores is None or shares is None:
        return scores is None and shares is None
    return scores.ndim == 2 and scores.shape[0] > 0 and shares.shape == (*data.mask.shape, scores.shape[0])


def check_head(folder: Path, head: dict[str, np.ndarray], data: DistilledData, card: dict[str, Any]) -> None:
    """Raise `UserError` unless a head that is learned, and no other, is among the arrays of a folder, with the parts of its kind ("out.kernel", …)."""
    kind, width, classes = card["head"]["kind"], data.embeddings.shape[-1], len(card["label_names"])
    wanted: dict[str, tuple[int, ...]] = {}
    if card["head"]["start"] == "learned":
        wanted = {"out.kernel": (width, classes), "out.bias": (classes,)}
        wanted |= {} if kind == "mean" else {"dense.kernel": (width, width), "dense.bias": (width,)}
    found = {name: value.shape for name, value in head.items()}
    if found != wanted:
        shapes = [", ".join(f"{name} {shape}" for name, shape in sorted(each.items())) or "no arrays of a head" for each in (found, wanted)]
        raise UserError(f"{folder / ARRAYS} holds {shapes[0]}, but by {RECIPE} it must hold {shapes[1]}; get the folder again.")
    if not all(np.isfinite(value).all() for value in head.values()):
        raise UserError(f"the head in {folder / ARRAYS} holds values that are not finite numbers; the distillation had failed.")
