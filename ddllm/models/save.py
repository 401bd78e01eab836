"""Saves a trained classifier as a folder that `transformers` opens: hands on config.json, model.safetensors
and the tokenizer's files.

The folder is a ForSequenceClassification model of its family. Mean pooling has no such class in transformers:
there one more encoder layer computes it (see pooling.py). config.json then says "ddllm_head": "mean" and how many layers are the
encoder's own, and the head as it was trained lies in classifier_head.safetensors beside the model (a torch Linear:
classifier.weight [C, D], classifier.bias [C], to be fed the mean over real positions): `load_pretrained` reads
that back, and leaves the further layer out. Where there are too many classes for such a layer, or the family has
none that could (MPNet), the folder is the family's plain model.

Beside the model lies ddllm.json, the mark of a save: the checksum of its weights. A folder without it, or with other
weights than it says, is somebody's own and never replaced.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np

import ddllm
from ddllm.errors import UserError
from ddllm.models.encoder import Tree
from ddllm.models.families import (
    CLASSES,
    HEADS,
    WORDS,
    Leaf,
    body_leaves,
    dense_leaves,
    get_leaf,
    head_leaves,
)
from ddllm.models.heads import HeadConfig
from ddllm.models.pooling import can_fold, fold_mean
from ddllm.models.pretrained import (
    CONFIG_FILE,
    MEAN_HEAD_FILE,
    MEAN_HEAD_KEY,
    OWN_LAYERS_KEY,
    TOKENIZER_FILES,
    Pretrained,
    read_config_file,
)
from ddllm.models.weights import SINGLE
from ddllm.runtime.storage import read_json

WEIGHTS_FILE = SINGLE[0]
TOKENIZER_CONFIG, MARK_FILE = "tokenizer_config.json", "ddllm.json"
OWN_FILES = {CONFIG_FILE, WEIGHTS_FILE, MEAN_HEAD_FILE, MARK_FILE, *TOKENIZER_FILES}


def save_pretrained(
    folder: str | Path,
    source: Pretrained,
    params: Tree,
    words: Any,
    head_config: HeadConfig,
    label_names: Sequence[str],
    problem: str = "single_label_classification",
    length: int | None = None,
) -> None:
    """Write a classifier, whole or not at all: a save that fails leaves what was there before.

    Args:
        folder: where to. A model saved there before is replaced, unless it is the source.
        source: the encoder that the parameters were trained from; its config and tokenizer go along.
        params: {"body": tree, "head": tree} of JAX or NumPy arrays; they are written as float32.
        words: word table [V, D].
        head_config: the head's kind, "mean" or the encoder's family, and number of classes C.
        label_names: C distinct names.
        problem: what transformers calls the task.
        length: tokens that the tokenizer cuts texts to where it is asked to cut; left out, as the source's does.

    Raises:
        UserError: the folder is the source's or holds other things than a saved model, cannot be written, or the
            parameters are not finite.
        ValueError: parameters, head and names do not fit each other.
    """
    target = Path(expanduser(folder)).resolve()
    check_target(target, source)
    config = source.config
    if head_config.kind not in (config.family, "mean"):
        raise ValueError(f"a {config.family} encoder is saved with a head of its family or 'mean', not {head_config.kind!r}")
    if len(set(label_names)) != head_config.classes or len(label_names) != head_config.classes:
        raise ValueError(f"{head_config.classes} classes need as many distinct names, not {list(label_names)}")

    word_leaf = Leaf((), (WORDS,), (config.vocabulary, config.hidden))
    body = {**_split(body_leaves(config), params["body"]), **_split([word_leaf], words)}
    head = _split(head_leaves(head_config.kind, config.hidden, head_config.classes), params["head"])
    if head_config.kind == "mean":
        if source.pooler is not None:  # unused by this head, but the plain model has one
            body |= _split(dense_leaves((), [HEADS["bert"]["dense"]], config.hidden, config.hidden), source.pooler)
        files = {WEIGHTS_FILE: body, MEAN_HEAD_FILE: head}
        if can_fold(config, head_config.classes):
            whole, folded, own = fold_mean(params["body"], config, params["head"])
            own_head = _split(head_leaves(config.family, config.hidden, head_config.classes), own)
            body = {**_split(body_leaves(folded), whole), **_split([word_leaf], words)}
            files = {WEIGHTS_FILE: _name_for_class(config.family, body, own_head), MEAN_HEAD_FILE: head}
            if source.pooler is not None:  # the further layer's stands in its place
                files[MEAN_HEAD_FILE] = head | _split(dense_leaves((), [HEADS["bert"]["dense"]], config.hidden, config.hidden), source.pooler)
    else:
        files = {WEIGHTS_FILE: _name_for_class(config.family, body, head)}
    _write(target, _describe(source, head_config, label_names, problem), files, source.folder, length)


def _name_for_class(family: str, body: dict[str, np.ndarray], head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors as the family's ForSequenceClassification class calls them; a BERT's pooler belongs to its body there."""
    pooler = {name: tensor for name, tensor in head.items() if name.startswith("pooler.")}
    body = {f"{family}.{name}": tensor for name, tensor in (body | pooler).items()}
    return body | {name: tensor for name, tensor in head.items() if name not in pooler}


def check_target(target: Path, source: Pretrained) -> None:
    """Replacing a folder deletes what is in it: raise `UserError` unless it is new, empty, or an earlier save, and not what is trained from."""
    target = target.resolve()
    if target == source.folder.resolve():
        raise UserError(f"cannot save a model to {target}: the model that training starts from lies there; name another folder")
    if target.exists() and not target.is_dir():
        raise UserError(f"cannot save a model to {target}: it is a file; name a folder")
    names = {path.name for path in target.iterdir()} if target.exists() else set()
    foreign = sorted(names - OWN_FILES) or (sorted(names) if CONFIG_FILE not in names else [])
    if foreign:
        raise UserError(f"cannot save a model to {target}: it holds other things ({foreign[0]}); name a new or empty folder")
    if names and not _is_own(target):
        raise UserError(
            f"cannot save a model to {target}: it holds one that this version of ddllm has not written, or that was changed since; "
            "remove that folder, or name a new or empty one"
        )


def _is_own(folder: Path) -> bool:
    """Whether a folder's weights are those that a save has left there."""
    try:
        marked = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))["files"][WEIGHTS_FILE]
        return marked == _checksum(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _split(leaves: Iterable[Leaf], tree: Any) -> dict[str, np.ndarray]:
    tensors = {}
    for leaf in leaves:
        array = np.asarray(get_leaf(tree, leaf.path), np.float32)
        if array.shape != leaf.shape:
            raise ValueError(f"{'/'.join(leaf.path) or 'words'} has the shape {array.shape}, not {leaf.shape}")
        if not np.isfinite(array).all():
            raise UserError(f"nothing was saved: the parameters at {'/'.join(leaf.path) or 'words'} hold NaN or infinity")
        tensors.update(zip(leaf.names, leaf.split(array), strict=True))
    return tensors


def _describe(source: Pretrained, head_config: HeadConfig, label_names: Sequence[str], problem: str) -> dict[str, Any]:
    raw = read_config_file(source.folder)
    for key in ("torch_dtype", "num_labels", MEAN_HEAD_KEY, OWN_LAYERS_KEY):  # each would contradict what is set below
        raw.pop(key, None)
    mean, layers = head_config.kind == "mean", source.config.layers
    folded = mean and can_fold(source.config, head_config.classes)
    plain = mean and not folded
    raw["n_layers" if source.config.family == "distilbert" and "n_layers" in raw else "num_hidden_layers"] = layers + folded
    return raw | {
        "architectures": [CLASSES[raw["model_type"]] + ("Model" if plain else "ForSequenceClassification")],
        "id2label": {str(index): name for index, name in enumerate(label_names)},
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": problem,
        "dtype": "float32",
        **({MEAN_HEAD_KEY: "mean"} if mean else {}),
        **({OWN_LAYERS_KEY: layers} if folded else {}),
    }


def _write(
    target: Path, config: dict[str, Any], files: dict[str, dict[str, np.ndarray]], tokenizer: Path, length: int | None
) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    replaced = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for name, tensors in files.items():
            save_file(tensors, partial / name, metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, partial / name)
        if length is not None:
            kept = read_json(partial / TOKENIZER_CONFIG) if (partial / TOKENIZER_CONFIG).is_file() else {}
            _write_json(partial / TOKENIZER_CONFIG, kept | {"model_max_length": length})
        _write_json(partial / CONFIG_FILE, config)
        _write_json(partial / MARK_FILE, {"ddllm": ddllm.__version__, "files": {WEIGHTS_FILE: _checksum(partial / WEIGHTS_FILE)}})
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot save a model to {target} ({error}): check the disk's space and the folder's permissions") from error
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
