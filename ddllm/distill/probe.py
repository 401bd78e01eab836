"""A head to start from that already classifies: a linear probe of the pretrained encoder.

From a head of zeros or of noise, the first hundred outer steps go into what a logistic regression finds in a second. Where the head is learned
with the data it may as well begin there; and where each example's label begins as what the probed model says of it anyway, the inner loss has no
slope at first: no inner rate, however large, can hurt before something has been learned that it helps with.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.data.batches import Batch, compute_rows
from ddllm.errors import UserError
from ddllm.models.encoder import Tree, encode
from ddllm.models.heads import last_inputs, pool
from ddllm.models.learner import Learner, Start
from ddllm.prepare import Prepared

INVERSE_PENALTY = 0.1  # scikit-learn's C: features are of norm 4 or so, and a few thousand texts would overfit without


def probe_head(prepared: Prepared, head: Tree, texts: int) -> Tree:
    """The head with its last layer fitted by logistic regression on the pretrained encoder's features of random training texts.

    Args:
        prepared: data and model.
        head: gives the layer before the last, where there is one.
        texts: how many training texts at most.

    Raises:
        UserError: the texts drawn are all of one class.
    """
    from sklearn.linear_model import LogisticRegression

    train, config = prepared.tokens.train, prepared.learner.head
    rows = np.random.default_rng([prepared.config.seed, 31]).permutation(len(train))[:texts]
    if len(set(train.labels[rows].tolist())) < 2:
        raise UserError(
            f"config.distill.probe_texts is {texts}, and the training texts drawn are all of one class, which no logistic regression can be fitted to; "
            "make it larger, or 0 for a head drawn by seed."
        )
    look, width = partial(_last_inputs, prepared.learner, prepared.start, head), prepared.learner.encoder.hidden
    inputs_nD = compute_rows(train.take(rows), prepared.config.evaluate.batch_size, prepared.buckets, width, look)
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000).fit(inputs_nD, train.labels[rows])
    weights_CD, biases_C = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # one row, for the second class
        weights_CD, biases_C = np.concatenate([-weights_CD, weights_CD]) / 2, np.concatenate([-biases_C, biases_C]) / 2
    kernel, bias = np.zeros(head["out"]["kernel"].shape, np.float32), np.full(config.classes, biases_C.min(), np.float32)
    kernel[:, fitted.classes_], bias[fitted.classes_] = weights_CD.T, biases_C  # classes that no text is of stay unlikely
    return {**head, "out": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}


@partial(jax.jit, static_argnums=0)
def _last_inputs(learner: Learner, start: Start, head: Tree, batch: Batch) -> jax.Array:
    hidden_NTD = encode(start.body, learner.encoder, start.words[batch.ids], batch.mask, batch.types)
    return last_inputs(head, learner.head, pool(learner.head, hidden_NTD, batch.mask))


def own_labels(
    learner: Learner, start: Start, head: Tree, embeddings_MNTD: Any, mask_MNT: Any, kind: str, types_MNT: Any = None
) -> np.ndarray:
    """Labels [M, N, C] of a kind that say what the model says of the examples before it is trained, as the task's `opinion` has them."""

    def flat(array: Any) -> Any:
        return None if array is None else np.reshape(array, (-1, *np.shape(array)[2:]))

    logits_NC = _logits(learner, {"body": start.body, "head": head}, flat(embeddings_MNTD), flat(mask_MNT), flat(types_MNT))
    return np.asarray(learner.task.opinion(logits_NC, kind)).reshape(*np.shape(mask_MNT)[:2], -1)


@partial(jax.jit, static_argnums=0)
def _logits(learner: Learner, params: Tree, embeddings_NTD: jax.Array, mask_NT: jax.Array, types_NT: jax.Array | None) -> jax.Array:
    return learner.logits(params, embeddings_NTD, mask_NT, types_NT)
