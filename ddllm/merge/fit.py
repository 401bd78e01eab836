"""Whether distilled data sets can be one at all: the sentence for the first thing in which they differ that no padding can mend."""

from typing import Any

from ddllm.artefact.base import Distilled
from ddllm.errors import UserError
from ddllm.models.tasks import Classification, Regression, read_task

# Parts of a head that its kind and start do not depend on.
DRAWN = ("redrawn", "learned")


def check_sets(sets: list[Distilled], folders: list[str], task: bool = True) -> None:
    """Raise `UserError` unless the sets are of one encoder, head, inner optimizer and, where `task`, of one task with the same classes."""
    if len(sets) < 2:
        raise UserError("merging takes two distilled data sets or more; give their folders as --sets A,B.")
    first = sets[0]
    for other, folder in zip(sets[1:], folders[1:], strict=True):
        pair = f"{folders[0]} and {folder}"
        base, theirs = first.card["base_model"], other.card["base_model"]
        if base["fingerprint"] != theirs["fingerprint"]:
            raise UserError(
                f"{pair} were distilled for other weights ({base['name']} and {theirs['name']}, whose checksums differ); "
                "only sets of one encoder can be merged."
            )
        for what, mine, others in _constants(first, other):
            if mine != others:
                raise UserError(f"{pair} differ in {what}: {mine} and {others}; distil one of them again as the other.")
        if not task:
            continue
        kind, theirs = read_task(first.card), read_task(other.card)
        if isinstance(kind, Regression) and isinstance(theirs, Regression) and kind != theirs:
            raise UserError(
                f"{pair} count their labels from other means in other deviations ({kind.mean:g} ± {kind.deviation:g} and {theirs.mean:g} ± "
                f"{theirs.deviation:g}, those of their training texts); only sets of one corpus with the same training texts can be merged."
            )
        if kind != theirs:
            raise UserError(
                f"{pair} have labels of other kinds ({_told(first)} and {_told(other)}); sets are merged by config.merge.how=heads "
                "where they are of different classifications, and not at all otherwise."
            )
        if sorted(first.label_names) != sorted(other.label_names):
            raise UserError(
                f"{pair} have other classes ({', '.join(first.label_names)} and {', '.join(other.label_names)}); "
                "set config.merge.how to union for one head over all of them, or to heads for a head each."
            )


def check_classes(sets: list[Distilled], folders: list[str]) -> None:
    """Raise `UserError` unless all sets are classifications, whose classes can be laid side by side."""
    for distilled, folder in zip(sets, folders, strict=True):
        if not isinstance(read_task(distilled.card), Classification):
            raise UserError(f"{folder} is for {_told(distilled)}, but only classes can be united; leave it out.")


def _constants(first: Distilled, other: Distilled) -> list[tuple[str, Any, Any]]:
    """What must be the same in two sets: what it is, of the one, of the other."""
    heads = [dict(distilled.card["head"]) for distilled in (first, other)]
    for head in heads:
        if head["start"] in DRAWN or (head["start"] == "zero" and head["kind"] == "mean"):
            head["seed"] = None
    shuffled = [distilled.recipe.order == "shuffled" for distilled in (first, other)]
    dealt = [(d.recipe.passes, d.data.mask.shape[1]) if shuffled[0] else None for d in (first, other)]
    weights = [{name: w for name, w in d.recipe.auxiliary_weights.items() if getattr(d.data, name) is not None} for d in (first, other)]
    rows = [None if d.data.attention is None else d.data.attention.ndim - 4 for d in (first, other)]
    return [
        *((f"the head's {key}", heads[0][key], heads[1][key]) for key in ("kind", "deviation", "start", "seed")),
        ("whether texts come in pairs", first.pairs, other.pairs),
        ("the inner optimizer", first.recipe.optimizer, other.recipe.optimizer),
        ("whether examples are shuffled", shuffled[0], shuffled[1]),
        ("the shuffled passes and batches (passes, examples)", dealt[0], dealt[1]),
        ("the dimensions of attention labels", rows[0], rows[1]),
        ("attention or feature labels and their weights", weights[0], weights[1]),
    ]


def _told(distilled: Distilled) -> str:
    return str(read_task(distilled.card).name)
