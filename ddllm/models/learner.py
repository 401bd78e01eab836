"""A learner: how parameters start, how logits come out, and of which task they are.

The parameter tree that an inner loop changes is `{"body": …, "head": …}` (see models/encoder.py and models/heads.py); the word table stays outside it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ddllm.models.encoder import EncoderConfig, Tree, encode
from ddllm.models.heads import HeadConfig, apply_head, init_head
from ddllm.models.tasks import Classification, Task


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
        if types_NT is not None:
            # Floating-point ones are distilled data's: constants among arrays that are differentiated.
            types_NT = jax.lax.stop_gradient(types_NT).astype(jnp.int32)
        hidden_NTD = encode(params["body"], self.encoder, embeddings_NTD, mask_NT, types_NT)
        return apply_head(params["head"], self.head, hidden_NTD, mask_NT)

    @property
    def same_every_time(self) -> bool:
        """True where the head has no randomness, so that results have no spread over heads."""
        return self.start != "redrawn"
