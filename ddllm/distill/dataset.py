"""The distilled data set: one pytree that stands for a whole learning recipe.

It holds what is fed (embeddings, mask, labels), in which order (inner batches, gone through `passes` times; see order.py) and at which rates.
`Recipe` holds the constants that turn the arrays into a training run. Everything that learns from distilled data takes these two and nothing else.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.models.encoder import Tree
from ddllm.models.words import MOVES, scored_words


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DistilledData:
    """Arrays of a distilled data set.

    Attributes:
        embeddings: input embeddings [M, N, T, D]: inner batch, example, position, hidden.
        mask: 1 for positions that are used, [M, N, T]; not learned.
        labels: [M, N, C], read as the recipe's label kind says; not learned where that is "hard".
        rates: raw learning rates [S, G] per inner step and parameter group; softplus gives the rate.
        gains: factors of the gradient along the channels of the body's kernels, [1, K] or [S, K]; None without (see gains.py).
        head: initial head, where it is learned with the data; else None.
        momentum: raw coefficients [S] of learned momentum, sigmoid gives the coefficient; None for every other optimizer.
        order: logits [S, M] of the inner batches at each inner step, where the order is learned; else None.
        types: token types [M, N, T], whole numbers, where examples stand for pairs of texts; not learned. None: all 0.
        attention: logits of attention labels, [M, N, L, H, T] for the first position's row or [M, N, L, H, T, T] for all; None without (see auxiliary.py).
        features: feature labels [M, N, D]; None without.
        directions: direction labels [M, N, L, D]; None without.
        word_scores: how far each word goes along each move, [R, V]; None without (see word_scores.py).
        word_shares: of each position in the moves, [M, N, T, R]; None without.
    """

    embeddings: Any
    mask: Any
    labels: Any
    rates: Any
    head: Tree | None = None
    momentum: Any = None
    order: Any = None
    types: Any = None
    attention: Any = None
    features: Any = None
    directions: Any = None
    gains: Any = None
    word_scores: Any = None
    word_shares: Any = None

    @property
    def batches(self) -> dict[str, Any]:
        """What inner steps are fed with: arrays [M, N, …], auxiliary labels among them."""
        return {name: getattr(self, name) for name in FED if getattr(self, name) is not None}

    def replace(self, **changes: Any) -> "DistilledData":
        """A copy with some parts exchanged."""
        return dataclasses.replace(self, **changes)

    @property
    def examples(self) -> int:
        """Number of distinct synthetic examples."""
        return int(self.embeddings.shape[0] * self.embeddings.shape[1])

    @property
    def steps(self) -> int:
        """Number of inner steps S."""
        return int(self.rates.shape[0])

    @property
    def floats(self) -> int:
        """How many learned numbers the data set holds, padding left out."""
        positions_MN = np.sum(np.asarray(self.mask) > 0, axis=-1)
        size = np.sum(positions_MN) * self.embeddings.shape[-1] + self.labels.size + self.rates.size
        if self.attention is not None:
            layers, heads = self.attention.shape[2:4]
            size += layers * heads * np.sum(positions_MN if self.attention.ndim == 5 else positions_MN**2)
        if self.word_scores is not None:
            moves = self.word_scores.shape[0]
            size += moves * (np.sum(scored_words(self.word_scores)) + np.sum(positions_MN))
        return int(
            size + sum(leaf.size for leaf in jax.tree.leaves((self.head, self.momentum, self.order, self.features, self.directions, self.gains)))
        )


# Labels of the body, see auxiliary.py.
AUXILIARY = ("attention", "features", "directions")
# Learned parts of which a text has nothing: all but class labels and rates.
BESIDE = (*AUXILIARY, "gains", "word_scores", "word_shares")
# Arrays with the examples' axes [M, N, …].
FED = ("embeddings", "mask", "labels", "types", "word_shares", *AUXILIARY)
# Parts that only some recipes have, and learn.
OPTIONAL = ("head", "momentum", "order", "gains", "word_scores", "word_shares", *AUXILIARY)


@dataclass(frozen=True)
class Recipe:
    """Constants of learning from distilled data.

    Attributes:
        labels: "hard", "soft" or "unrestricted".
        optimizer: the inner optimizer, in the words of `optimizers.make_optimizer`.
        passes: how often the inner batches are gone through.
        order: "fixed" (as they are stored), "shuffled" or "learned"; see order.py.
        attention_weight: λ of attention labels, where the data has them.
        feature_weight: λ of feature labels, where the data has them.
    """

    labels: str
    optimizer: str = "sgd"
    passes: int = 1
    order: str = "fixed"
    attention_weight: float = 1.0
    feature_weight: float = 1.0

    @property
    def auxiliary_weights(self) -> dict[str, float]:
        """λ of each kind of auxiliary labels."""
        return {"attention": self.attention_weight, "features": self.feature_weight}


def learned_parts(data: DistilledData, recipe: Recipe) -> dict[str, Any]:
    """The parts of the data that an outer loop changes, as a dict that `DistilledData.replace` takes back."""
    parts = {"embeddings": data.embeddings, "rates": data.rates}
    if recipe.labels != "hard":
        parts["labels"] = data.labels
    for name in OPTIONAL:
        if getattr(data, name) is not None:
            parts[name] = getattr(data, name)
    return parts


def raw_rate(rate: float) -> float:
    """The number whose softplus is `rate`."""
    return float(rate + np.log(-np.expm1(-rate)))  # without overflow for large rates


def raw_rates(rates: jax.Array) -> jax.Array:
    """The same for arrays, differentiably; rates that have vanished stay where a derivative is finite."""
    rates = jnp.maximum(rates, 1e-30)
    return rates + jnp.log(-jnp.expm1(-rates))


def raw_share(share: float) -> float:
    """The number whose sigmoid is `share`."""
    return float(np.log(share / (1 - share)))


def group_names(params: Tree, kind: str) -> tuple[str, ...]:
    """Names of the parameter groups that have a rate of their own, in the order of the rates' last axis.

    Args:
        params: parameters {"body", "head"}, or anything with their tree's shape; with "moves" where words have scores (see word_scores.py).
        kind: "step": all together; "layer": embeddings, each layer, the head, and the moves; "tensor": every array.
    """
    if kind == "step":
        return ("all",)
    if kind == "layer":
        return ("embeddings", *sorted(params["body"]["layers"]), "head", *(name for name in params if name == MOVES))
    return tuple(jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(params))


def spread_rates(rates_G: jax.Array, params: Tree) -> Tree:
    """A tree like `params` whose leaves are the scalar rates of their groups, G as one of the kinds of `group_names` has."""
    groups = rates_G.shape[0]
    if groups == 1:
        return jax.tree.map(lambda _: rates_G[0], params)
    layers = sorted(params["body"]["layers"])
    leaves, structure = jax.tree.flatten(params)
    if groups == len(leaves):
        return jax.tree.unflatten(structure, [rates_G[index] for index in range(groups)])
    moved = MOVES in params
    if groups != len(layers) + 2 + moved:
        raise ValueError(f"{groups} rates for {len(layers)} layers: 1, {len(layers) + 2 + moved} or {len(leaves)} are needed")

    def fill(index: int, tree: Tree) -> Tree:
        return jax.tree.map(lambda _: rates_G[index], tree)

    body = {key: fill(0, value) for key, value in params["body"].items() if key != "layers"}
    body["layers"] = {name: fill(1 + index, params["body"]["layers"][name]) for index, name in enumerate(layers)}
    head = fill(len(layers) + 1, params["head"])
    return {"body": body, "head": head} | ({MOVES: rates_G[-1]} if moved else {})


def actual_rates(data: DistilledData) -> jax.Array:
    """Learning rates [S, G], all positive."""
    return jax.nn.softplus(jnp.asarray(data.rates))


def actual_momentum(data: DistilledData) -> jax.Array | None:
    """Coefficients of learned momentum [S], between 0 and 1, where there are any."""
    return None if data.momentum is None else jax.nn.sigmoid(jnp.asarray(data.momentum))
