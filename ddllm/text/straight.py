"""Straight-through projection: texts learned as embeddings that are replaced by their nearest tokens at every use.

The inner loop only ever sees rows of the word table, so that the outer loss is that of the text; its gradient by these rows is taken for the gradient by the
embeddings behind them (Bengio et al., arXiv 1308.3432), which go on moving until another token is nearer. A pull towards the nearest token grows over
the outer steps and settles them.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ddllm.artefact.base import Distilled
from ddllm.distill.dataset import learned_parts
from ddllm.prepare import Prepared
from ddllm.text.allowed import TextIndex, index_of, nearest_tokens
from ddllm.text.distilled_text import FREE, DistilledText, frame_of, make_text
from ddllm.text.learn import Desk, learn, plan_texts


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StraightThrough:
    """A shaping: rows of the table instead of embeddings.

    Attributes:
        index: the word table, with what is allowed.
        frame: tokens that stay [M, N, T], `FREE` elsewhere.
        pull: share of the way to its nearest row that an embedding goes before each outer step, at the end; at progress p, p times as much.
    """

    index: TextIndex
    frame: Any
    pull: float = dataclasses.field(metadata={"static": True})

    def ids(self, embeddings_MNTD: Any) -> jax.Array:
        """The token of each position, [M, N, T]."""
        return snap(embeddings_MNTD, self.index, self.frame)

    def settle(self, learned: dict[str, Any], words_VD: jax.Array, progress: jax.Array) -> dict[str, Any]:
        """Embeddings drawn towards their tokens."""
        embeddings = learned["embeddings"]
        rows = words_VD[self.ids(embeddings)]
        return learned | {"embeddings": embeddings + self.pull * progress * (rows - embeddings)} if self.pull else learned

    def use(self, learned: dict[str, Any], words_VD: jax.Array, progress: jax.Array, key: jax.Array) -> dict[str, Any]:
        """The rows, whose derivative by the embeddings is one where a token is free and zero where it is not."""
        embeddings = learned["embeddings"]
        free = (jnp.asarray(self.frame) == FREE)[..., None].astype(embeddings.dtype)
        rows = words_VD[self.ids(jax.lax.stop_gradient(embeddings))]
        # Adding an exact zero keeps the rows what they are, to the last bit.
        return learned | {"embeddings": rows + free * (embeddings - jax.lax.stop_gradient(embeddings))}

    def final(self, learned: dict[str, Any], words_VD: jax.Array) -> dict[str, Any]:
        """The rows."""
        return learned | {"embeddings": words_VD[self.ids(learned["embeddings"])]}


def snap(embeddings_MNTD: Any, index: TextIndex, frame_MNT: Any) -> jax.Array:
    """The nearest allowed token of each free position and the frame's of the others, [M, N, T]."""
    frame = jnp.asarray(frame_MNT)
    return jnp.where(frame == FREE, nearest_tokens(embeddings_MNTD, index, frame).ids[..., 0], frame)


def straight_through(prepared: Prepared, distilled: Distilled | None, desk: Desk) -> DistilledText:
    """Learn texts, their labels and their rates together.

    Args:
        prepared: data and model.
        distilled: what to begin with; None: what config.distill begins with.
        desk: where to work.
    """
    prepared, data, recipe = plan_texts(prepared, distilled)
    shaping = StraightThrough(index_of(prepared), frame_of(prepared, data.mask), prepared.config.text.pull)
    found = learn(prepared, data, learned_parts(data, recipe), desk, "text straight_through", shaping)
    ids = shaping.ids(found.learned["embeddings"])
    return make_text(prepared, ids, data.replace(**found.learned), recipe, **found.notes)
