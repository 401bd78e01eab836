"""Soft mixtures: each position is a weighted mean of its nearest tokens, whose weights harden as the temperature falls.

With Gumbel noise on the weights' logits (Jang et al., 2017, arXiv 1611.01144) the inner loop sees samples that come ever closer to single tokens; without, a
plain softmax. Validations and the text itself take the likeliest token alone.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.prepare import Prepared
from ddllm.text.allowed import index_of, nearest_tokens
from ddllm.text.distilled_text import FREE, DistilledText, frame_of, make_text
from ddllm.text.learn import Desk, learn, learned_beside, plan_texts

MIXTURE = "mixture"  # logits of the candidates, among the learned parts


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """A shaping: mixtures of candidate tokens instead of embeddings.

    Attributes:
        candidates: token numbers [M, N, T, K].
        frame: tokens that stay [M, N, T], `FREE` elsewhere.
        hot, cold: temperatures at the start and at the end, falling by the same factor in every outer step.
        gumbel: whether noise is drawn.
    """

    candidates: Any
    frame: Any
    hot: float = dataclasses.field(metadata={"static": True})
    cold: float = dataclasses.field(metadata={"static": True})
    gumbel: bool = dataclasses.field(metadata={"static": True})

    def ids(self, logits_MNTK: Any) -> jax.Array:
        """The likeliest token of each position, [M, N, T]."""
        likeliest = jnp.argmax(jnp.asarray(logits_MNTK), axis=-1, keepdims=True)
        frame, found = jnp.asarray(self.frame), jnp.take_along_axis(jnp.asarray(self.candidates), likeliest, axis=-1)[..., 0]
        return jnp.where(frame == FREE, found, frame)

    def settle(self, learned: dict[str, Any], words_VD: jax.Array, progress: jax.Array) -> dict[str, Any]:
        """As it is."""
        return learned

    def use(self, learned: dict[str, Any], words_VD: jax.Array, progress: jax.Array, key: jax.Array) -> dict[str, Any]:
        """The mixtures at the temperature of the moment."""
        logits = learned[MIXTURE]
        noise = jax.random.gumbel(key, logits.shape) if self.gumbel else 0.0
        shares_MNTK = jax.nn.softmax((logits + noise) / (self.hot * (self.cold / self.hot) ** progress), axis=-1)
        mixed = jnp.einsum("mntk,mntkd->mntd", shares_MNTK, words_VD[jnp.asarray(self.candidates)])
        frame = jnp.asarray(self.frame)
        embeddings = jnp.where((frame == FREE)[..., None], mixed, words_VD[jnp.maximum(frame, 0)])
        return {name: part for name, part in learned.items() if name != MIXTURE} | {"embeddings": embeddings}

    def final(self, learned: dict[str, Any], words_VD: jax.Array) -> dict[str, Any]:
        """The likeliest tokens' rows."""
        rest = {name: part for name, part in learned.items() if name != MIXTURE}
        return rest | {"embeddings": words_VD[self.ids(learned[MIXTURE])]}


def mixture(prepared: Prepared, distilled: Distilled | None, desk: Desk) -> DistilledText:
    """Learn which of the config.text.k nearest tokens each position becomes, with labels and rates.

    Args:
        prepared: data and model.
        distilled: whose nearest tokens are mixed; None: those of what config.distill begins with.
        desk: where to work.
    """
    prepared, data, recipe = plan_texts(prepared, distilled)
    config, index = prepared.config.text, index_of(prepared)
    frame = frame_of(prepared, data.mask)
    found = nearest_tokens(data.embeddings, index, frame, k=min(config.k, index.allowed))
    shaping = Mixture(found.ids, frame, config.temperature, config.final_temperature, config.gumbel)
    # The nearest begins as the likeliest, by as much as keeps the others in play.
    scores = np.asarray(found.scores)
    logits = (scores - scores.max(axis=-1, keepdims=True)).astype(np.float32)
    learned = learned_beside(data, recipe) | {MIXTURE: logits}
    best = learn(prepared, data, learned, desk, "text mixture", shaping, {MIXTURE: config.rate_mixture})
    ids = shaping.ids(best.learned.pop(MIXTURE))
    return make_text(prepared, ids, data.replace(**best.learned), recipe, **best.notes)
