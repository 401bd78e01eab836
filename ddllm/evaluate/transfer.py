"""A distilled data set on an encoder that it was not distilled for: hands on `Variation`s for that encoder.

Input embeddings are points in one word table's space. With equal hidden sizes they can be fed as they are, which makes sense for encoders with a common
ancestor; and between any two whose tokenizers share enough tokens an affine map from one word table to the other, fitted by least squares, carries them
over. Rates of layers go to layers of the same relative depth.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.data.tokens import load_tokenizer
from ddllm.distill.auxiliary import auxiliary_of
from ddllm.distill.dataset import DistilledData, Recipe, group_names
from ddllm.distill.gains import count_gains
from ddllm.distill.word_scores import with_moves
from ddllm.errors import UserError
from ddllm.evaluate.variations import Variation
from ddllm.models.encoder import Tree
from ddllm.models.heads import init_head
from ddllm.prepare import Prepared

SPECIAL = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "unk_token", "mask_token")


def carry_over(base: Prepared, other: Prepared, data: DistilledData, recipe: Recipe, short: str = "") -> list[Variation]:
    """The recipe on another encoder: with the embeddings as they are, where hidden sizes are equal, and mapped, where word tables differ.

    Args:
        base: of the encoder that the data set was distilled for.
        other: of the other one.
        data: the distilled data set.
        recipe: its recipe.
        short: what the other encoder is called in names of variations; its whole name if left out.

    Raises:
        UserError: hidden sizes differ and the tokenizers share too few tokens to fit a map.
    """
    name, hidden = other.pretrained.name, other.pretrained.config.hidden
    short = short or name
    same_size = base.pretrained.config.hidden == hidden
    params, others = (with_moves(_shapes(prepared), data) for prepared in (base, other))
    head = data.head if jax.tree.map(jnp.shape, data.head) == jax.tree.map(jnp.shape, others["head"]) else None
    dropped = [label for label in auxiliary_of(data) if not same_body(base, other)]
    gains = data.gains if data.gains is not None and data.gains.shape[1] == count_gains(other.start.body) else None
    ours, theirs = shared_tokens(base.pretrained.folder, other.pretrained.folder)
    scores = None if data.word_scores is None else carry_scores(data.word_scores, ours, theirs, len(other.pretrained.words))
    carried = data.replace(word_scores=scores, rates=carry_rates(data.rates, params, others), head=head, gains=gains, **dict.fromkeys(dropped))
    how = f"trained on {name}" + ("" if head is not None or data.head is None else ", whose head cannot start from the learned one")
    how += f", without the labels of {' and '.join(dropped)}, which are for other layers" if dropped else ""
    how += ", without gains, which are for other kernels" if gains is None and data.gains is not None else ""
    made = []
    if same_size:
        made.append(Variation(f"on {short}", how + ", the embeddings fed as they are", {"": carried}, recipe))
    source, target = np.asarray(base.pretrained.words), np.asarray(other.pretrained.words)
    needed = source.shape[1] + 1
    if len(ours) < needed:
        if same_size:
            return made
        raise UserError(
            f"{base.pretrained.name} and {name} share only {len(ours)} tokens, but a map between their word tables needs at least {needed}; take an "
            "encoder with a related tokenizer or of the same hidden size, or leave it out of config.evaluate.transfer."
        )
    if same_size and np.array_equal(source[ours], target[theirs]):
        return made
    matrix, offset, explained = fit_map(source[ours], target[theirs])
    mapped = carried.replace(embeddings=jnp.asarray(np.asarray(carried.embeddings) @ matrix + offset, jnp.float32))
    how += f", the embeddings mapped by least squares on {len(ours):,} shared tokens (which explains {explained:.0%} of the variance)"
    return [*made, Variation(f"on {short}, mapped", how, {"": mapped}, recipe)]


def same_body(base: Prepared, other: Prepared) -> bool:
    """Whether both encoders have the same layers, heads and hidden size, as auxiliary labels need."""
    ours, theirs = base.pretrained.config, other.pretrained.config
    return (ours.layers, ours.heads, ours.hidden) == (theirs.layers, theirs.heads, theirs.hidden)


def fit_map(source_UD: np.ndarray, target_UE: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The affine map between word vectors of the same U tokens that has the least squared error.

    Returns:
        Its matrix [D, E], its offset [E], and the share of the targets' variance that it explains.
    """
    extended = np.hstack([source_UD, np.ones((len(source_UD), 1), source_UD.dtype)])
    solution = np.linalg.lstsq(extended, target_UE, rcond=None)[0]
    error = np.sum((extended @ solution - target_UE) ** 2)
    return solution[:-1], solution[-1], float(1 - error / np.sum((target_UE - target_UE.mean(axis=0)) ** 2))


def shared_tokens(folder: Path, other: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens that two models' tokenizers have in common, [U] each, in the same order."""
    one, two = _plain_vocabulary(folder), _plain_vocabulary(other)
    common = sorted(one.keys() & two.keys())
    return np.array([one[token] for token in common], np.int64), np.array([two[token] for token in common], np.int64)


def _plain_vocabulary(folder: Path) -> dict[tuple[str, str], int]:
    """Ids by (role, text), whichever way the tokenizer marks the beginnings or the continuations of words."""
    tokenizer = load_tokenizer(folder)
    roles = {getattr(tokenizer, role, None): role for role in reversed(SPECIAL)}
    # A first and a last token mean the same, whether they are called [CLS] and [SEP] or <s> and </s>.
    renamed = {"bos_token": "cls_token", "eos_token": "sep_token"}
    vocabulary = tokenizer.get_vocab()
    # A byte-level or sentence-piece vocabulary marks the words' beginnings, all others their continuations.
    marks = {mark: sum(token.startswith(mark) for token in vocabulary) for mark in ("\u0120", "\u2581", "##")}
    mark = max(marks, key=lambda mark: marks[mark]) if any(marks.values()) else "##"
    plain = {}
    for token, index in vocabulary.items():
        if token in roles:
            plain["special", renamed.get(roles[token], roles[token])] = index
        else:
            begins = token.startswith(mark) != (mark == "##")
            plain["beginning" if begins else "continuation", token.removeprefix(mark)] = index
    return plain


def carry_rates(rates_SG: jax.Array, params: Tree, others: Tree) -> jax.Array:
    """Raw rates for another encoder's parameter groups; those that the first one lacks get the mean of all."""
    kinds = {len(group_names(params, kind)): kind for kind in ("tensor", "layer", "step")}
    kind = kinds[rates_SG.shape[1]]
    names = {name: index for index, name in enumerate(group_names(params, kind))}
    ours, theirs = (sorted(tree["body"]["layers"]) for tree in (params, others))
    depth = {layer: ours[int((index + 0.5) * len(ours) / len(theirs))] for index, layer in enumerate(theirs)} if ours else {}
    columns = []
    for name in group_names(others, kind):
        name = re.sub(r"(?<=layers\.)\w+|^\d+$", lambda found: depth.get(found[0], found[0]), name)
        columns.append(rates_SG[:, names[name]] if name in names else jnp.mean(rates_SG, axis=1))
    return jnp.stack(columns, axis=1)


def carry_scores(scores_RV: jax.Array, ours: np.ndarray, theirs: np.ndarray, vocabulary: int) -> jax.Array:
    """Word scores for another vocabulary: of the tokens that both have, and 0 for others."""
    carried = np.zeros((np.shape(scores_RV)[0], vocabulary), np.float32)
    carried[:, theirs] = np.asarray(scores_RV)[:, ours]
    return jnp.asarray(carried)


def _shapes(prepared: Prepared) -> Tree:
    learner, start = prepared.learner, prepared.start
    return {"body": start.body, "head": init_head(jax.random.key(0), learner.head, learner.encoder.hidden, start.pooler)}
