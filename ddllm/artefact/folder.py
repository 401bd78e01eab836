"""The distilled data set as a folder, written whole and read with suspicion: `save_distilled` and `load_distilled`.

    distilled.safetensors   embeddings (in the bits of config.distill.storage), masks, labels, rates, and what else the recipe has
    recipe.json             everything needed to train on them, and a checksum of every other file but the card
    text.jsonl              readable rows: the nearest tokens of each position, labels, similarities (see rows.py)
    examples.parquet        the same rows, which `datasets.load_dataset` opens
    train_pytorch.py        a copy of ddllm/pytorch.py: trains on the folder with PyTorch alone
    README.md               the card, for people and for a hub (see card.py)

Only safetensors and JSON are read, so that opening someone else's folder runs nothing of theirs.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ddllm.artefact.arrays import ALWAYS, SOMETIMES, check_arrays, check_dealt, check_head
from ddllm.artefact.base import Distilled, describe_loss
from ddllm.artefact.card import render_card
from ddllm.artefact.entries import check_card
from ddllm.artefact.rows import PARQUET, TEXT, encode_rows, plain_rows
from ddllm.artefact.schema import ARRAYS, FLOAT32, RECIPE, SCHEMA, STORAGES, migrate
from ddllm.artefact.storage import NAME, pack, unpack
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.errors import UserError
from ddllm.models.words import scored_words
from ddllm.runtime.storage import write_atomically

CARD, TORCH = "README.md", "train_pytorch.py"
FILES = (ARRAYS, RECIPE, TEXT, PARQUET, TORCH, CARD)
# A head that is drawn from a seed by JAX's generator, for programs that do not have it; loading draws it again.
DRAWN = "drawn_head."
VERSIONS = ("jax", "numpy", "optax", "safetensors", "transformers", "torch")


def save_distilled(
    folder: Path,
    data: DistilledData,
    recipe: Recipe,
    label_names: tuple[str, ...],
    storage: str = FLOAT32,
    rows: list[dict[str, Any]] | None = None,
    drawn: dict[str, np.ndarray] | None = None,
    **card: Any,
) -> None:
    """Write the folder, whole or not at all; an earlier distilled data set in its place is replaced, its scores kept where the arrays are the same.

    What else lies in that folder stays there, and where nothing would change, nothing is written.

    Args:
        folder: where to.
        data: arrays as in `DistilledData`.
        recipe: constants of learning from them.
        label_names: class names in the order of the logits.
        storage: how arrays are stored, one of `schema.STORAGES`.
        rows: readable rows (see `rows.read_rows`); left out, they have labels alone.
        drawn: parts of the head that are drawn by seed, see `base.drawn_parts`.
        card: further entries of recipe.json, see `base.describe_base`.

    Raises:
        UserError: something else lies in the folder, the storage cannot hold the embeddings, or nobody could train in a shuffled order.
    """
    from safetensors.numpy import save

    folder = Path(expanduser(folder))
    if folder.exists() and any(folder.iterdir()) and not (folder / RECIPE).exists():
        raise UserError(f"{folder} holds something other than a distilled data set; choose another folder.")
    check_dealt(folder, data, recipe, len(label_names), card)
    present = [*ALWAYS, *(name for name in SOMETIMES if getattr(data, name) is not None)]
    arrays = {name: np.ascontiguousarray(getattr(data, name), np.float32) for name in present}
    arrays |= {f"head.{name}": np.ascontiguousarray(value, np.float32) for name, value in flatten_dict(data.head or {}, sep=".").items()}
    described = _describe(data, recipe, arrays, card)
    arrays = pack(arrays, storage) | {f"{DRAWN}{name}": value for name, value in (drawn or {}).items()}
    # One entry only: the library writes several in no fixed order, and equal data should be equal files.
    content = save(arrays, metadata={"format": "ddllm"})
    files = {ARRAYS: content, TORCH: (Path(__file__).parents[1] / "pytorch.py").read_bytes()}
    files |= encode_rows(rows if rows is not None else plain_rows(data, recipe, label_names, card))
    checksums = {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}
    text = {
        "schema": SCHEMA,
        "files": checksums,
        "storage": storage,
        "label_names": list(label_names),
        **described,
        "scores": _earlier_scores(folder, checksums[ARRAYS]),
        "versions": _versions(),
        **card,
    }
    _replace(folder, files | _tell(text, sum(map(len, files.values()))))


def add_scores(folder: Path, scores: list[dict[str, Any]]) -> None:
    """Put scores into the recipe of a folder, in the place of earlier ones under the same name, and into its card.

    Args:
        folder: what `save_distilled` wrote.
        scores: dicts with "name", "figure", "mean", "deviation", "runs", "texts" and what else says how they came about.
    """
    folder = Path(expanduser(folder))
    text = read_recipe(folder)
    names = {score["name"] for score in scores}
    text["scores"] = [score for score in text["scores"] if score["name"] not in names] + scores
    size = sum((folder / name).stat().st_size for name in text["files"] if (folder / name).is_file())
    for name, content in _tell(text, size).items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)


def load_distilled(folder: str | Path) -> Distilled:
    """Open a folder that `save_distilled` wrote, in this or an earlier schema.

    Raises:
        UserError: the folder is not one, is of a newer schema, was changed, says what cannot be meant, or holds arrays that do not fit together or are not
            finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(expanduser(folder))
    card = read_recipe(folder)
    check_card(card, folder / RECIPE)
    _check_files(folder, card)
    try:
        arrays = load((folder / ARRAYS).read_bytes())
        recipe = Recipe(**card["recipe"])
        if card["storage"] not in STORAGES:
            raise UserError(f"{folder} is stored as {card['storage']!r}, but must be one of {', '.join(STORAGES)}; get the folder again.")
        arrays = unpack(arrays, card["storage"])
        parts: dict[str, Any] = {name: arrays.pop(name) for name in (*ALWAYS, *(name for name in SOMETIMES if name in arrays))}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is incomplete ({error}); get the folder again.") from None
    unknown = [name for name in arrays if not name.startswith(("head.", DRAWN))]
    if unknown:
        raise UserError(f"{folder / ARRAYS} holds {', '.join(unknown)}, which no recipe has; get the folder again.")
    data = DistilledData(**parts)
    check_arrays(folder, data, recipe, card)
    head = {name.removeprefix("head."): value for name, value in arrays.items() if name.startswith("head.")}
    check_head(folder, head, data, card)
    return Distilled(data.replace(head=unflatten_dict(head, sep=".") or None), recipe, card)


def read_recipe(folder: str | Path) -> dict[str, Any]:
    """The recipe.json of a folder, in the newest schema.

    Raises:
        UserError: the folder is no distilled data set, or of a newer schema.
    """
    folder = Path(expanduser(folder))
    for name in (ARRAYS, RECIPE):
        if not (folder / name).is_file():
            inside = folder / "distilled"
            given = inside if (inside / name).is_file() else "the folder that a run wrote, such as runs/quickstart/distilled"
            raise UserError(f"{folder} is not a distilled data set: it has no {name}; give {given}.")
    try:
        card = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / RECIPE} is not valid JSON ({error}); get the folder again.") from None
    return migrate(card, str(folder))


def _check_files(folder: Path, card: dict[str, Any]) -> None:
    """Files with a checksum are what they were; those that nothing is learned from may be missing."""
    checksums = card.get("files")
    if not isinstance(checksums, dict) or ARRAYS not in checksums or any(Path(str(name)).name != name for name in checksums):
        raise UserError(f"{folder / RECIPE} has no checksum of {ARRAYS}; get the folder again.")
    for name, checksum in checksums.items():
        if (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() != checksum:
            raise UserError(f"{folder / name} was changed or damaged since it was written (its checksum differs); get the folder again.")


def _describe(data: DistilledData, recipe: Recipe, arrays: dict[str, np.ndarray], card: dict[str, Any]) -> dict[str, Any]:
    """What recipe.json says of the arrays: sizes, constants, and learned numbers in readable form."""
    constants = asdict(recipe)
    for name, weight in (("attention", "attention_weight"), ("features", "feature_weight")):
        if name not in arrays:
            del constants[weight]
    readable: dict[str, Any] = {"learning_rates": [[float(f"{rate:.6g}") for rate in row] for row in np.logaddexp(0, arrays["rates"])]}
    if data.momentum is not None:
        readable["momentum"] = np.exp(-np.logaddexp(0, -arrays["momentum"])).tolist()
    if data.gains is not None:
        readable["gains"] = {"inputs_and_outputs": arrays["gains"].shape[1], "least": float(arrays["gains"].min()), "greatest": float(arrays["gains"].max())}
    if data.word_scores is not None:
        scores = arrays["word_scores"]
        counts = {"words": int(scored_words(scores).sum()), "moves": len(scores)}
        readable["word_scores"] = {**counts, "least": float(scores.min()), "greatest": float(scores.max())}
    if data.order is not None:
        readable["batch_shares"] = np.exp(arrays["order"] - np.logaddexp.reduce(arrays["order"], axis=1, keepdims=True)).tolist()
    sizes = {"batches": arrays[NAME].shape[0], "examples": data.examples, "positions": arrays[NAME].shape[2]}
    sizes |= {"inner_steps": data.steps, "floats": data.floats}
    return {**sizes, "recipe": constants, **describe_loss(data, recipe, card), **readable}


def _earlier_scores(folder: Path, checksum: str) -> list[dict[str, Any]]:
    """Scores of the folder that is replaced, where it holds the same arrays: a second start of a finished run loses none."""
    try:
        card = read_recipe(folder)
        check_card(card, folder / RECIPE)
        return card["scores"] if card["files"].get(ARRAYS) == checksum else []
    except (UserError, KeyError, AttributeError):
        return []


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import ddllm

    found = {"ddllm": ddllm.__version__}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _tell(text: dict[str, Any], size: int) -> dict[str, bytes]:
    """The card and recipe.json, a line for each entry; the card says how large the folder is, of which `size` bytes are other files'."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}" for key, value in text.items()]
    recipe = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    size += len(recipe)
    size += len(render_card(text, size).encode())
    return {CARD: render_card(text, size).encode(), RECIPE: recipe}


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """A folder with these files, moved into place when it is whole, and behind a link where there is one; files that are not ours move along."""
    folder = folder.resolve()
    if all((folder / name).is_file() and (folder / name).read_bytes() == content for name, content in files.items()):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    replaced = fresh.with_name(f"{fresh.name}.replaced")
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        fresh.chmod(0o755)
        if folder.exists():
            folder.rename(replaced)
        os.replace(fresh, folder)
        if replaced.exists():
            for entry in sorted(replaced.iterdir()):
                if entry.name not in files:
                    entry.rename(folder / entry.name)
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
