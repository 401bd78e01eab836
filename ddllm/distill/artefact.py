"""The distilled data set as a folder: `distilled.safetensors` for the arrays and `recipe.json` for everything needed to train on them.

Only safetensors and JSON are read, so that opening someone else's folder runs nothing of theirs. `Distilled` is what loading hands on.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ddllm.distill.auxiliary import auxiliary_fits
from ddllm.distill.dataset import AUXILIARY, DistilledData, Recipe
from ddllm.distill.optimizers import LEARNED_MOMENTUM, SGD, SHORT, make_optimizer
from ddllm.distill.order import ORDERS
from ddllm.errors import UserError
from ddllm.models.heads import HeadConfig
from ddllm.models.learner import Learner
from ddllm.models.pretrained import Pretrained
from ddllm.models.tasks import read_task

# 1: fixed order and the optimizers by their short names; 2: every order and every optimizer; 3: auxiliary labels, pairs of texts, and tasks other than
# classification. A folder is of the lowest schema that can say what it holds.
SCHEMA = 3
ARRAYS, RECIPE = "distilled.safetensors", "recipe.json"
ALWAYS, SOMETIMES = ("embeddings", "mask", "labels", "rates"), ("momentum", "order", "types", *AUXILIARY)


@dataclass(frozen=True)
class Distilled:
    """A loaded distilled data set.

    Attributes:
        data: the arrays, in numpy.
        recipe: constants of learning from them.
        card: everything else that recipe.json says: base model, head, label names, text length, scores, configuration.
    """

    data: DistilledData
    recipe: Recipe
    card: dict[str, Any]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(self.card["label_names"])

    @property
    def pairs(self) -> bool:
        """Whether it was distilled from pairs of texts."""
        return self.card.get("preprocessing", {}).get("pairs", False)

    def learner(self, pretrained: Pretrained) -> Learner:
        """The learner that the data set was distilled for: its head and task, on a pretrained encoder.

        Raises:
            UserError: its recipe.json speaks of an unknown task.
        """
        head = dict(self.card["head"])
        start, seed = head.pop("start"), head.pop("seed")
        encoder = replace(pretrained.config, products=self.card.get("products", "float32"))
        return Learner(encoder, HeadConfig(**head), start, seed, read_task(self.card))

    def check_base(self, pretrained: Pretrained) -> None:
        """Raise `UserError` unless these are the weights that the data set was distilled for."""
        base = self.card["base_model"]
        if pretrained.fingerprint != base["fingerprint"]:
            raise UserError(
                f"the data set was distilled for other weights than {pretrained.name} has now (their checksums differ); "
                f"give {base['name']} as it was then, or distil again in another --workdir."
            )
        config = pretrained.config
        if self.data.directions is not None and self.data.directions.shape[2] != config.layers:
            raise UserError(
                f"the data set has direction labels for {self.data.directions.shape[2]} layers, but {pretrained.name} has {config.layers}; "
                "get the folder again."
            )
        if self.data.attention is not None and self.data.attention.shape[2:4] != (config.layers, config.heads):
            layers, heads = self.data.attention.shape[2:4]
            raise UserError(
                f"the data set has attention labels for {layers} layers with {heads} heads, but {pretrained.name} has {config.layers} with "
                f"{config.heads}; get the folder again."
            )

    def check_data(self, folder: str, task: str, data: str, label_names: tuple[str, ...], asked: str, pairs: bool) -> None:
        """Raise `UserError` unless this folder's data set, for a task, fits a corpus: its name, classes, task, and whether it has pairs of texts."""
        if self.label_names != label_names:
            raise UserError(
                f"{folder} has the classes {', '.join(self.label_names)}, but {data} has {', '.join(label_names)}; "
                "give the data that it was distilled from, or the same names in the same order as config.data.label_names."
            )
        if (task, self.pairs) != (asked, pairs):
            here, there = (
                f"{name} of {'pairs of texts' if of_pairs else 'single texts'}" for name, of_pairs in ((task, self.pairs), (asked, pairs))
            )
            raise UserError(f"{folder} is for {here}, but {data} is read as {there}; see config.data.task and config.data.pair_column.")


def describe_base(pretrained: Pretrained, learner: Learner, text_length: int, pairs: bool = False) -> dict[str, Any]:
    """What a distilled data set belongs to: model, head and how real texts (or pairs of them) are prepared."""
    return {
        "base_model": {"name": pretrained.name, "fingerprint": pretrained.fingerprint, "hidden": pretrained.config.hidden},
        "head": {**asdict(learner.head), "start": learner.start, "seed": learner.head_seed},
        "products": learner.encoder.products,
        **learner.task.card(),
        "preprocessing": {
            "tokenizer": pretrained.name,
            "text_length": text_length,
            "embeddings": "rows of the word table, before position and token-type embeddings",
            **({"pairs": True} if pairs else {}),
        },
    }


def save_distilled(folder: Path, data: DistilledData, recipe: Recipe, label_names: tuple[str, ...], **card: Any) -> None:
    """Write the folder, whole or not at all; an earlier distilled data set in its place is replaced.

    Args:
        folder: where to.
        data: arrays as in `DistilledData`.
        recipe: constants of learning from them.
        label_names: class names in the order of the logits.
        card: further entries of recipe.json, see `describe_base`.

    Raises:
        UserError: something else lies in the folder.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / RECIPE).exists():
        raise UserError(f"{folder} holds something other than a distilled data set; choose another folder.")
    present = [*ALWAYS, *(name for name in SOMETIMES if getattr(data, name) is not None)]
    arrays = {name: np.ascontiguousarray(getattr(data, name), np.float32) for name in present}
    arrays |= {f"head.{name}": np.ascontiguousarray(value, np.float32) for name, value in flatten_dict(data.head or {}, sep=".").items()}
    # One entry only: the library writes several in no fixed order, and equal data should be equal files.
    content = save(arrays, metadata={"format": "ddllm"})
    sizes = {"batches": arrays["embeddings"].shape[0], "examples": data.examples, "inner_steps": data.steps, "floats": data.floats}
    newest = "task" in card or card.get("preprocessing", {}).get("pairs") or any(name in arrays for name in ("types", *AUXILIARY))
    constants, schema = asdict(recipe), 3 if newest else 2
    for name, weight in (("attention", "attention_weight"), ("features", "feature_weight")):
        if name not in arrays:
            del constants[weight]
    if schema < 3 and recipe.order == "fixed" and recipe.optimizer in (SGD, *SHORT):
        del constants["order"]
        schema = 1
    readable = {"learning_rates": np.logaddexp(0, arrays["rates"]).tolist()}
    if data.momentum is not None:
        readable["momentum"] = np.exp(-np.logaddexp(0, -arrays["momentum"])).tolist()
    if data.order is not None:
        readable["batch_shares"] = np.exp(arrays["order"] - np.logaddexp.reduce(arrays["order"], axis=1, keepdims=True)).tolist()
    text = {
        "schema": schema,
        "sha256": hashlib.sha256(content).hexdigest(),
        "label_names": list(label_names),
        **sizes,
        "recipe": constants,
        **readable,
        **card,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (fresh / ARRAYS).write_bytes(content)
        (fresh / RECIPE).write_text(json.dumps(text, indent=1) + "\n")
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load_distilled(folder: str | Path) -> Distilled:
    """Open a folder that `save_distilled` wrote.

    Raises:
        UserError: the folder is not one, is of a newer schema, was changed, or holds arrays that do not fit together or are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(folder)
    for name in (ARRAYS, RECIPE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a distilled data set: it has no {name}; give the folder that a run wrote, such as runs/quickstart/distilled."
            )
    try:
        card = json.loads((folder / RECIPE).read_text())
    except ValueError as error:
        raise UserError(f"{folder / RECIPE} is not valid JSON ({error}); get the folder again.") from None
    if card.get("schema", 0) > SCHEMA:
        raise UserError(f"{folder} was written by a newer ddllm (schema {card['schema']}, known up to {SCHEMA}); update ddllm.")
    content = (folder / ARRAYS).read_bytes()
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        raise UserError(f"{folder / ARRAYS} was changed or damaged since it was written (its checksum differs); get the folder again.")
    try:
        arrays = load(content)
        recipe = Recipe(**card["recipe"])
        parts = {name: arrays.pop(name) for name in (*ALWAYS, *(name for name in SOMETIMES if name in arrays))}
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is incomplete ({error}); get the folder again.") from None
    unknown = [name for name in arrays if not name.startswith("head.")]
    if unknown:
        raise UserError(f"{folder / ARRAYS} holds {', '.join(unknown)}, which no recipe has; get the folder again.")
    head = unflatten_dict({name.removeprefix("head."): value for name, value in arrays.items()}, sep=".") or None
    data = DistilledData(head=head, **parts)
    _check(folder, data, recipe, card)
    return Distilled(data, recipe, card)


def _check(folder: Path, data: DistilledData, recipe: Recipe, card: dict[str, Any]) -> None:
    if recipe.order not in ORDERS:
        raise UserError(
            f"the order in {folder / RECIPE} is {recipe.order!r}, but must be one of {', '.join(ORDERS)}; get the folder again."
        )
    make_optimizer(str(recipe.optimizer), f"the inner optimizer in {folder / RECIPE}")
    shape = data.embeddings.shape
    fits = (
        len(shape) == 4
        and data.mask.shape == shape[:3]
        and data.labels.shape == (*shape[:2], len(card["label_names"]))
        and data.rates.ndim == 2
        and data.rates.shape[0] == shape[0] * recipe.passes
        and (None if data.momentum is None else data.momentum.shape)
        == (data.rates.shape[:1] if recipe.optimizer == LEARNED_MOMENTUM else None)
        and (data.types is None or data.types.shape == shape[:3])
        and (None if data.order is None else data.order.shape) == ((data.rates.shape[0], shape[0]) if recipe.order == "learned" else None)
        and auxiliary_fits(data)
        and all(isinstance(weight, int | float) for weight in recipe.auxiliary_weights.values())
    )
    if not fits:
        raise UserError(f"the arrays in {folder / ARRAYS} do not fit together or not with {RECIPE}; get the folder again.")
    for name in (*ALWAYS, *SOMETIMES):
        if not np.isfinite(getattr(data, name) if getattr(data, name) is not None else 0).all():
            raise UserError(f"{name} in {folder / ARRAYS} holds values that are not finite numbers; the distillation had failed.")
