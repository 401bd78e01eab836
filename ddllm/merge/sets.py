"""From several loaded distilled data sets to one: `merge_sets` for what needs no learning, `reduce_set` for fewer examples; both hand on a `Merged`.

    pretrained = load_pretrained("embedded")
    merged = merge_sets([load_distilled(folder) for folder in folders], folders, "interleave", pretrained)
    merged.save("merged", pretrained)
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddllm.artefact.arrays import check_dealt
from ddllm.artefact.base import Distilled, describe_base, drawn_parts
from ddllm.artefact.folder import save_distilled
from ddllm.artefact.rows import read_rows
from ddllm.artefact.schema import FLOAT32, named_by
from ddllm.data.tokens import load_tokenizer
from ddllm.distill.dataset import FED, DistilledData, Recipe, raw_rates
from ddllm.distill.gains import same_in_all_steps
from ddllm.errors import UserError
from ddllm.merge.align import Classes, align, headed_classes, same_classes, united_classes
from ddllm.merge.combine import combine, merge_heads
from ddllm.merge.fit import check_classes, check_sets
from ddllm.models.heads import init_head
from ddllm.models.learner import Learner
from ddllm.models.pretrained import Pretrained
from ddllm.models.products import PRECISIONS
from ddllm.runtime.storage import read_json

SAME, UNION, HEADS = "same", "union", "heads"


@dataclass(frozen=True)
class Merged:
    """A merged data set before it is a folder.

    Attributes:
        data: its arrays.
        recipe: its recipe.
        classes: its classes, and where each set's are among them.
        learner: head and task.
        card: what recipe.json will say beside that.
    """

    data: DistilledData
    recipe: Recipe
    classes: Classes
    learner: Learner
    card: dict[str, Any]

    def save(self, folder: str | Path, pretrained: Pretrained, storage: str = FLOAT32, **card: Any) -> None:
        """Write it as an ordinary distilled folder, with `card` beside what recipe.json says anyway."""
        names, tokenizer = self.classes.names, load_tokenizer(pretrained.folder)
        rows = read_rows(self.data, self.recipe, names, self.card, pretrained.words, tokenizer)
        drawn = drawn_parts(self.learner, pretrained)
        save_distilled(Path(folder), self.data, self.recipe, names, storage, rows, drawn, **self.card, **card)

    def as_distilled(self) -> Distilled:
        """As if it had been saved and loaded."""
        return Distilled(self.data, self.recipe, {"label_names": list(self.classes.names), **self.card})


def merge_sets(
    sets: list[Distilled],
    folders: list[str],
    way: str,
    pretrained: Pretrained,
    over: str = SAME,
    names: tuple[str, ...] = (),
    heads: tuple[str, ...] = (),
) -> Merged:
    """Several sets of one encoder as one, nothing being learned.

    Args:
        sets: of the same encoder, head and inner optimizer. Where they were distilled with matrix products of several kinds, the merged one has the most
            exact.
        folders: what they are called in messages and in the merged set's card.
        way: "concatenate", "interleave" or "join" (see combine.py).
        pretrained: the encoder.
        over: "same": all are of one task; "union": all their classes in one head; "heads": a head for each set.
        names: order of the united classes, where these are the same ones; or of the one task's.
        heads: names of heads; left out, those of the folders.

    Raises:
        UserError: the sets do not fit together, or are not this encoder's.
    """
    check_sets(sets, folders, task=over == SAME)
    for distilled in sets:
        distilled.check_base(pretrained)
    if over == SAME:
        classes = same_classes(sets)
        if sorted(names) == sorted(classes.names):
            classes = Classes(names, [np.array([names.index(name) for name in s.label_names]) for s in sets], classes.task)
    else:
        check_classes(sets, folders)
        classes = united_classes(sets, names) if over == UNION else headed_classes(sets, list(heads or name_heads(folders)))
    first = sets[0].learner(pretrained)
    encoder = replace(first.encoder, products=most_exact(sets))
    learner = replace(first, encoder=encoder, head=replace(first.head, classes=len(classes.names)), task=classes.task)
    weights = [count_sets(distilled) for distilled in sets] if way == "join" else []
    aligned, recipe = align(sets, classes, shapes_of(pretrained, learner), weights)
    data, recipe = combine(aligned, recipe, way, classes.task.groups(len(classes.names)) if over == SAME else 1, weights)
    if over != SAME and data.head is not None:
        data = data.replace(head=merge_heads(aligned, weights))
    length = max(d.card.get("preprocessing", {}).get("text_length", 0) for d in sets)
    card = describe_base(pretrained, learner, length, sets[0].pairs)
    seconds = [float(d.card["distillation_seconds"]) for d in sets if "distillation_seconds" in d.card]
    card["merged"] = {"way": way, "over": over, "sets": [describe_set(d, folder) for d, folder in zip(sets, folders, strict=True)]}
    if len(seconds) == len(sets):
        card["distillation_seconds"] = sum(seconds)
    check_dealt(Path("the merged set"), data, recipe, len(classes.names), card)
    return Merged(data, recipe, classes, learner, card)


def describe_set(distilled: Distilled, folder: str) -> dict[str, Any]:
    """What the card says of one of the sets: its name, checksum, classes and size, no path of one machine."""
    return {
        "name": named_by(Path(folder)).name,
        "sha256": distilled.checksum,
        "label_names": list(distilled.label_names),
        "examples": distilled.data.examples,
        "inner_steps": distilled.data.steps,
        "sets": count_sets(distilled),
        "texts": distilled.texts,
    }


def most_exact(sets: Iterable[Distilled]) -> str:
    """The most exact kind of matrix products that one of the sets was distilled with."""
    return min((distilled.products for distilled in sets), key=list(PRECISIONS).index)


def count_sets(distilled: Distilled) -> int:
    """How many sets were merged into one, those that were merged into these counted; 1 if it was learned as it is."""
    return sum(one.get("sets", 1) for one in distilled.card.get("merged", {}).get("sets", [])) or 1


def name_heads(folders: list[str]) -> list[str]:
    """Different names for the heads of different folders: the folders' own where they differ, or else with numbers."""
    names = []
    for folder in map(Path, folders):
        config = folder.parent / "config.json"
        named = read_json(config).get("name") if folder.name == "distilled" and config.is_file() else None
        names.append(named or named_by(folder).name)
    return names if len(set(names)) == len(names) else [f"{name}-{number}" for number, name in enumerate(names)]


def shapes_of(pretrained: Pretrained, learner: Learner) -> Any:
    """Shapes of the parameters {"body", "head"} that are trained."""

    def make() -> Any:
        return init_head(jax.random.key(0), learner.head, learner.encoder.hidden, pretrained.pooler)

    return {"body": pretrained.body, "head": jax.eval_shape(make)}


def reduce_set(merged: Merged, per_class: int, passes: int) -> Merged:
    """The first examples of each class, batch after batch, as one inner batch with the mean rates: where learning to do with fewer begins.

    Args:
        merged: what is to become smaller.
        per_class: examples for each class; in all, where labels are numbers or sets.
        passes: inner steps.

    Raises:
        UserError: the set has no more examples of some class.
    """
    data, recipe = merged.data, merged.recipe
    groups = merged.learner.task.groups(len(merged.classes.names))
    count = data.examples
    flat = {name: np.asarray(getattr(data, name)).reshape(count, *np.shape(getattr(data, name))[2:]) for name in FED if name in data.batches}
    kinds = flat["labels"].argmax(axis=-1) if groups > 1 else np.zeros(count, np.int64)
    real = np.any(flat["labels"] != 0, axis=-1) if groups > 1 else np.ones(count, bool)  # not what only fills a batch up
    chosen = []
    for group in range(groups):
        rows = np.flatnonzero((kinds == group) & real)
        if len(rows) < per_class:
            whose = f"of the class {merged.classes.names[group]}" if groups > 1 else "in all"
            raise UserError(
                f"config.merge.examples_per_class is {per_class}, but the sets have {len(rows)} examples {whose}; ask for fewer than there are."
            )
        # One from each batch in turn, so that all sets are there.
        order = np.lexsort((rows // data.mask.shape[1], rows % data.mask.shape[1]))
        chosen.append(rows[order][:per_class])
    rows = np.concatenate(chosen)
    changes: dict[str, Any] = {name: array[None, rows] for name, array in flat.items()}
    rates = np.logaddexp(0, np.asarray(data.rates, np.float64))
    active = rates.max(axis=1) > 1e-20  # but for steps that do nothing
    rates = rates[active].mean(axis=0)
    changes["rates"] = np.tile(np.asarray(raw_rates(rates), np.float32), (passes, 1))
    if data.gains is not None:
        changes["gains"] = np.mean(data.gains if same_in_all_steps(data.gains) else data.gains[active], axis=0, keepdims=True)
    if data.momentum is not None:
        changes["momentum"] = np.full(passes, np.mean(data.momentum), np.float32)
    return replace(merged, data=data.replace(order=None, **changes), recipe=replace(recipe, passes=passes, order="fixed"))
