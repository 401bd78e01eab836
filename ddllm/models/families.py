"""What sets BERT, RoBERTa, DistilBERT and MPNet checkpoints apart: translates their config.json to an
`EncoderConfig` and their tensor names to tree paths.

Both directions read the same list of `Leaf`s, one for each array of a parameter tree: loading joins Hugging
Face tensors into a leaf, saving splits the leaf again. MiniLM-type models are BERTs; XLM-RoBERTa and
CamemBERT are RoBERTas with another vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddllm.errors import UserError
from ddllm.models.encoder import DISTANCES, EncoderConfig, Tree, layer_name

FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "mpnet": "mpnet",
}
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
}

WORDS = "embeddings.word_embeddings.weight"
DISTILBERT_EPSILON = 1e-12  # a constant in its code, not a key of its config
MPNET_PADDING = 1  # row of its position table; the same

# Names that transformers knows for the same three functions.
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "relu": "relu",
}

BERT_LAYER = {
    "attention/qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention/out": ("attention.output.dense",),
    "attention/norm": ("attention.output.LayerNorm",),
    "feed_forward/up": ("intermediate.dense",),
    "feed_forward/down": ("output.dense",),
    "feed_forward/norm": ("output.LayerNorm",),
}
DISTILBERT_LAYER = {
    "attention/qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention/out": ("attention.out_lin",),
    "attention/norm": ("sa_layer_norm",),
    "feed_forward/up": ("ffn.lin1",),
    "feed_forward/down": ("ffn.lin2",),
    "feed_forward/norm": ("output_layer_norm",),
}
MPNET_LAYER = BERT_LAYER | {
    "attention/qkv": ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    "attention/out": ("attention.attn.o",),
    "attention/norm": ("attention.LayerNorm",),
}
LAYERS = {
    "bert": ("encoder.layer", BERT_LAYER),
    "roberta": ("encoder.layer", BERT_LAYER),
    "distilbert": ("transformer.layer", DISTILBERT_LAYER),
    "mpnet": ("encoder.layer", MPNET_LAYER),
}

# The parts of a head as the family's ForSequenceClassification class calls them. BERT's dense layer belongs
# to its body there.
HEADS = {
    "bert": {"dense": "pooler.dense", "out": "classifier"},
    "roberta": {"dense": "classifier.dense", "out": "classifier.out_proj"},
    "distilbert": {"dense": "pre_classifier", "out": "classifier"},
    "mpnet": {"dense": "classifier.dense", "out": "classifier.out_proj"},
    "mean": {"out": "classifier"},
}


@dataclass(frozen=True)
class Leaf:
    """One array of a parameter tree and the Hugging Face tensors it is made of.

    Attributes:
        path: keys from the tree's root.
        names: tensor names without the family's prefix; several stand side by side along the last axis.
        shape: of the array in the tree.
        transposed: the tensors are [out, in] as in torch's Linear, the array is [in, out].
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of each of the tensors."""
        shape = (*self.shape[:-1], self.shape[-1] // len(self.names))
        return shape[::-1] if self.transposed else shape

    def join(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Tensors, in the order of `names`, to the tree's array."""
        pieces = [tensor.T if self.transposed else tensor for tensor in tensors]
        return np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1))

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        """The tree's array to tensors, in the order of `names`."""
        pieces = np.split(array, len(self.names), axis=-1)
        return [np.ascontiguousarray(piece.T if self.transposed else piece) for piece in pieces]


def body_leaves(config: EncoderConfig) -> Iterator[Leaf]:
    """The leaves of a body tree, as `ddllm.models.encoder` lays it out."""
    width, inner = config.hidden, config.feed_forward
    rows = config.positions + config.position_offset
    yield Leaf(("embeddings", "position"), ("embeddings.position_embeddings.weight",), (rows, width))
    if config.token_types:
        yield Leaf(
            ("embeddings", "token_type"),
            ("embeddings.token_type_embeddings.weight",),
            (config.token_types, width),
        )
    if config.distances:
        yield Leaf(("embeddings", "distance"), ("encoder.relative_attention_bias.weight",), (config.distances, config.heads))
    yield from _norm_leaves(("embeddings", "norm"), "embeddings.LayerNorm", width)
    sizes = {
        "attention/qkv": (width, 3 * width),
        "attention/out": (width, width),
        "feed_forward/up": (width, inner),
        "feed_forward/down": (inner, width),
    }
    prefix, parts = LAYERS[config.family]
    for index in range(config.layers):
        for part, names in parts.items():
            path = ("layers", layer_name(index), *part.split("/"))
            full_names = [f"{prefix}.{index}.{name}" for name in names]
            yield from (dense_leaves(path, full_names, *sizes[part]) if part in sizes else _norm_leaves(path, full_names[0], width))


def head_leaves(kind: str, hidden: int, classes: int) -> Iterator[Leaf]:
    """The leaves of a head tree of the kind, as `ddllm.models.heads` lays it out."""
    for part, name in HEADS[kind].items():
        yield from dense_leaves((part,), [name], hidden, classes if part == "out" else hidden)


def dense_leaves(path: tuple[str, ...], names: Sequence[str], inputs: int, outputs: int) -> Iterator[Leaf]:
    """The kernel [inputs, outputs] and bias [outputs] of a dense layer made of the named torch Linears."""
    yield Leaf((*path, "kernel"), tuple(f"{name}.weight" for name in names), (inputs, outputs), transposed=True)
    yield Leaf((*path, "bias"), tuple(f"{name}.bias" for name in names), (outputs,))


def _norm_leaves(path: tuple[str, ...], name: str, width: int) -> Iterator[Leaf]:
    yield Leaf((*path, "scale"), (f"{name}.weight",), (width,))
    yield Leaf((*path, "bias"), (f"{name}.bias",), (width,))


def plain_name(name: str, family: str) -> str:
    """A tensor's name in today's plain model: without the prefix, and without gamma and beta for norms."""
    name = name.removeprefix(f"{family}.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def set_leaf(tree: Tree, path: tuple[str, ...], array: Any) -> None:
    """Put an array into nested dicts, making those on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = array


def get_leaf(tree: Tree, path: tuple[str, ...]) -> Any:
    """The array at a path of nested dicts."""
    for key in path:
        tree = tree[key]
    return tree


def translate_config(raw: dict[str, Any], where: str) -> EncoderConfig:
    """The constants in the contents of a Hugging Face config.json.

    Args:
        raw: the parsed file. Keys left out have the defaults of the transformers config class, except sizes,
            which must be there.
        where: the file's path, for messages.

    Raises:
        UserError: another architecture, a variation of these that this encoder does not compute, or a missing
            or senseless value.
    """
    kind = raw.get("model_type")
    if kind not in list(FAMILIES):
        raise UserError(f"{where} has model_type {kind!r}, which is not supported: use one of {', '.join(FAMILIES)} (MiniLMs are bert)")
    _refuse_variations(raw, where)
    family = FAMILIES[kind]
    short = family == "distilbert"
    hidden = _read_size(raw, where, *(("dim",) if short else ()), "hidden_size")
    heads = _read_size(raw, where, *(("n_heads",) if short else ()), "num_attention_heads")
    if hidden % heads:
        raise UserError(f"{where} has a hidden size of {hidden}, which {heads} attention heads cannot share evenly")
    if raw.get("embedding_size") not in (None, hidden):
        raise UserError(f"{where} has embedding_size {raw['embedding_size']} and hidden size {hidden}; only equal ones are supported")
    activation = raw.get("activation" if short else "hidden_act", "gelu")
    if activation not in list(ACTIVATION_NAMES):
        raise UserError(f"{where} has the activation {activation!r}; supported are {', '.join(ACTIVATION_NAMES)}")
    epsilon = DISTILBERT_EPSILON if short else raw.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise UserError(f"{where} has layer_norm_eps {epsilon!r}, which must be a number between 0 and 1")
    vocabulary = _read_size(raw, where, "vocab_size")
    usual_pad = 1 if family in ("roberta", "mpnet") else 0
    pad = raw.get("pad_token_id", usual_pad)
    if pad is None and family != "roberta":
        pad = usual_pad
    if type(pad) is not int or not 0 <= pad < vocabulary:
        raise UserError(f"{where} has pad_token_id {pad!r}, which must be a token id from 0 to {vocabulary - 1}")
    # Their positions are counted from the row after the padding's.
    offset = {"roberta": pad + 1, "mpnet": MPNET_PADDING + 1}.get(family, 0)
    rows = _read_size(raw, where, "max_position_embeddings")
    if rows <= offset:
        raise UserError(f"{where} has max_position_embeddings {rows}, which leaves no position after the first {offset} rows")
    return EncoderConfig(
        family=family,
        vocabulary=vocabulary,
        hidden=hidden,
        layers=_read_size(raw, where, *(("n_layers",) if short else ()), "num_hidden_layers"),
        heads=heads,
        feed_forward=_read_size(raw, where, "hidden_dim" if short else "intermediate_size"),
        positions=rows - offset,
        position_offset=offset,
        token_types=0 if family in ("distilbert", "mpnet") else _read_size(raw, where, "type_vocab_size", default=2),
        activation=ACTIVATION_NAMES[activation],
        norm_epsilon=epsilon,
        pad_token=pad,
        distances=_read_distances(raw, where) if family == "mpnet" else 0,
    )


def _refuse_variations(raw: dict[str, Any], where: str) -> None:
    """Stop at settings under which the same tensors mean another function: wrong numbers, silently."""
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{where} has position_embedding_type {raw['position_embedding_type']!r}; only 'absolute' is supported")
    for key in ("is_decoder", "add_cross_attention"):
        if raw.get(key):
            raise UserError(f"{where} has {key} set: decoders are not supported, use an encoder checkpoint")
    if raw.get("auto_map"):
        raise UserError(f"{where} has auto_map, so its model is computed by code of its own: use a checkpoint of a standard architecture")
    if raw.get("quantization_config"):
        raise UserError(f"{where} has quantization_config: use the checkpoint's unquantised original")


def _read_distances(raw: dict[str, Any], where: str) -> int:
    # Its code tells as many apart whatever the table's size.
    rows = _read_size(raw, where, "relative_attention_num_buckets", default=DISTANCES)
    if rows < DISTANCES:
        raise UserError(f"{where} has relative_attention_num_buckets {rows}; an MPNet needs at least {DISTANCES}")
    return rows


def _read_size(raw: dict[str, Any], where: str, *keys: str, default: int | None = None) -> int:
    """The positive integer under the first of the keys that is there."""
    value = next((raw[key] for key in keys if key in raw), default)
    if value is None:
        raise UserError(f"{where} has no {keys[0]!r}: is it the config.json of a {raw['model_type']} model?")
    if type(value) is not int or value < 1:
        raise UserError(f"{where} has {keys[0]} {value!r}, which must be a positive whole number")
    return value
