"""Which tokens texts may be made of, and where: hands on `allowed_by`, masks over the vocabulary, and `TextIndex`, the word table prepared to be searched so.

What a text begins with stands for itself where a person reads it: a piece of a word (##ing) cannot, and a byte-level vocabulary has other tokens for a word at
the beginning (good) than after a space (Ġgood).
"""

import dataclasses
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.data.tokens import load_tokenizer
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.runtime.progress import say
from ddllm.text.checks import TRAIN
from ddllm.text.distilled_text import FREE
from ddllm.text.projection import Neighbours, TableIndex, index_table, nearest
from ddllm.text.vocabulary import allowed_tokens, find_words, readable, starts_text, starts_word

FIRST, REST = 0, 1  # rows of `allowed_by`: a text's first free position, and the others


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextIndex:
    """The word table for nearest-token searches, with what is allowed.

    Attributes:
        rest: for all positions, or all but the first one.
        first: for a text's first free position, where others are allowed there.
    """

    rest: TableIndex
    first: TableIndex | None = None

    @property
    def allowed(self) -> int:
        """How many tokens are allowed at every position."""
        return min(index.allowed for index in (self.rest, self.first) if index is not None)


def allowed_by(prepared: Prepared) -> np.ndarray:
    """Tokens that texts may be made of, bool [2, V]: at a text's first free position, and at the others.

    Raises:
        UserError: there is none.
    """
    tokenizer, size, config = load_tokenizer(prepared.pretrained.folder), len(prepared.pretrained.words), prepared.config.text
    allowed = allowed_tokens(tokenizer, size, only=listed(prepared, tokenizer))
    rest = allowed & (starts_word if config.whole_words else readable)(tokenizer, size)
    if not rest.any():
        raise UserError(f"no token that config.text.words={config.words!r} allows is a whole word; list others, or set config.text.whole_words=False.")
    first = allowed & starts_text(tokenizer, size)
    return np.stack([first if first.any() else rest, rest])


def listed(prepared: Prepared, tokenizer: Any) -> list[int] | None:
    """Numbers of the tokens that config.text.words limits texts to; None for no such limit.

    Raises:
        UserError: the list cannot be read, or none of its words is a token.
    """
    words, train = prepared.config.text.words, prepared.tokens.train
    if not words:
        return None
    if words == TRAIN:
        return np.unique(train.ids[np.arange(train.ids.shape[1]) < train.lengths[:, None]]).tolist()
    try:
        lines = [line.strip() for line in Path(expanduser(words)).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config.text.words is {words!r}, which cannot be read as text ({error}); give a file with a word in each line.") from None
    numbers, missing = find_words(tokenizer, lines)
    if not numbers:
        raise UserError(f"none of the {len(lines)} words in {words} is a token of {prepared.pretrained.name}; list words that its tokenizer does not cut.")
    if missing:
        few = ", ".join(missing[:3]) + ", …" * (len(missing) > 3)
        say(f"  {len(missing)} of the {len(lines)} words in {words} are no token of {prepared.pretrained.name} and are left out: {few}")
    return numbers


def index_of(prepared: Prepared, allowed_2V: np.ndarray | None = None) -> TextIndex:
    """The word table for nearest-token searches, as config.text.metric and what is allowed (by `allowed_by`, where it is not given) say."""
    allowed_2V = allowed_by(prepared) if allowed_2V is None else allowed_2V
    first, rest = (index_table(prepared.pretrained.words, prepared.config.text.metric, allowed_V) for allowed_V in allowed_2V)
    # Both with the same copy of the table; and with one search, where one will do.
    return TextIndex(rest) if np.array_equal(*allowed_2V) else TextIndex(rest, dataclasses.replace(first, rows=rest.rows))


def begins(frame_MNT: Any) -> jax.Array:
    """bool [M, N, T]: the first free position of each text."""
    free = jnp.asarray(frame_MNT) == FREE
    return free & (jnp.cumsum(free, axis=-1) == 1)


def nearest_tokens(embeddings_MNTD: Any, index: TextIndex, frame_MNT: Any, k: int = 1) -> Neighbours:
    """The k nearest allowed tokens of each position, as `nearest` gives them."""
    found = nearest(embeddings_MNTD, index.rest, k)
    if index.first is None:
        return found
    first_MNT = begins(frame_MNT)
    place_MN11 = jnp.argmax(first_MNT, axis=-1)[..., None, None]
    at_first = nearest(jnp.take_along_axis(jnp.asarray(embeddings_MNTD), place_MN11, axis=-2), index.first, k)
    return jax.tree.map(lambda one, other: jnp.where(first_MNT[..., None], one, other), at_first, found)
