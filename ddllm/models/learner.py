"""A learner: how parameters start, how logits come out, and of which task they are.

The parameter tree that an inner loop changes is `{"body": …, "head": …}` (see models/encoder.py and models/heads.py); the word table stays outside it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax

from ddllm.models.encoder import EncoderConfig, Tree, observe
from ddllm.models.heads import HeadConfig, apply_to_features, init_head, pool
from ddllm.models.task import Task
from ddllm.models.tasks import Classification


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Start:
    """Pretrained parameters that every training starts from.

    Attributes:
        body: parameters of the encoder.
        words: word table [V, D].
        pooler: dense layer of a BERT's head, where the checkpoint has one.
    """

    body: Tree
    words: jax.Array
    pooler: Tree | None = None


class Seen(NamedTuple):
    """What an encoder and its head make of a batch.

    Attributes:
        logits: of the classes, [N, C].
        features: what the head takes of the last hidden states, [N, D].
        log_attention: logarithms of attention probabilities [N, L, H, R, T], where they were asked for.
        means: mean hidden states of every layer [N, L, D], where they were asked for.
    """

    logits: jax.Array
    features: jax.Array
    log_attention: jax.Array | None
    means: jax.Array | None


@dataclass(frozen=True)
class Learner:
    """An encoder with a classification head, both as constants; parameters are handed in.

    Attributes:
        encoder: constants of the encoder.
        head: kind and size of the head.
        start: where the head's initialisation comes from: "redrawn" from the key given, "fixed" (drawn from `head_seed`),
            "zero" (last layer zero, any dense layer before it as in "fixed"), or "learned" (part of the distilled data).
        head_seed: seed of the fixed parts.
        task: what logits and labels mean.
    """

    encoder: EncoderConfig
    head: HeadConfig
    start: str = "redrawn"
    head_seed: int = 0
    task: Task = Classification()

    def init_head(self, key: jax.Array | None = None, pooler: Tree | None = None, learned: Tree | None = None) -> Tree:
        """The head that an inner loop starts from; `key` is needed for "redrawn" only, `learned` for "learned" only."""
        if self.start == "learned" and learned is not None:
            return learned
        if self.start == "redrawn":
            if key is None:
                raise ValueError("a redrawn head needs a key")
            return init_head(key, self.head, self.encoder.hidden, pooler)
        return init_head(jax.random.key(self.head_seed), self.head, self.encoder.hidden, pooler, zero=self.start == "zero")

    def logits(self, params: Tree, embeddings_NTD: jax.Array, mask_NT: jax.Array, types_NT: jax.Array | None = None) -> jax.Array:
        """Logits [N, C] of input embeddings [N, T, D] with mask [N, T] and, for pairs of texts, token types [N, T] (whole numbers)."""
        return self.look(params, embeddings_NTD, mask_NT, types_NT).logits

    def look(
        self,
        params: Tree,
        embeddings_NTD: jax.Array,
        mask_NT: jax.Array,
        types_NT: jax.Array | None = None,
        rows: int = 0,
        means: bool = False,
    ) -> Seen:
        """Logits, and what stands behind them: features, and of every layer the attention of the first `rows` positions and mean hidden states."""
        observed = observe(params["body"], self.encoder, embeddings_NTD, mask_NT, types_NT, rows, means)
        features_ND = pool(self.head, observed.hidden, mask_NT)
        return Seen(apply_to_features(params["head"], self.head, features_ND), features_ND, observed.log_attention, observed.means)

    @property
    def same_every_time(self) -> bool:
        """True where the head has no randomness, so that results have no spread over heads."""
        return self.start != "redrawn"
