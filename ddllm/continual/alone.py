"""A memory of real texts as all that a model learns from: trained anew from the pretrained weights, as on a distilled set's recipe."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.data.tokens import TokenSplit
from ddllm.distill.dataset import DistilledData
from ddllm.distill.initialise import assemble, embed_rows, fit
from ddllm.evaluate.selection import train_passes
from ddllm.evaluate.small import head_key
from ddllm.models.encoder import Tree
from ddllm.models.scoring import Scorer
from ddllm.prepare import Prepared

BATCH = 32  # texts of an inner step at most


def train_alone(prepared: Prepared, texts: TokenSplit, validation: Scorer) -> Tree:
    """Parameters trained by SGD on stored texts and nothing else, from the pretrained body and a redrawn head.

    The rate and the number of passes are those of config.evaluate.selection_rates and selection_passes that do best on validation texts.

    Args:
        prepared: model, with a learner of all classes, and configuration.
        texts: of the memory; labels count all classes.
        validation: scores what was trained.
    """
    config, learner = prepared.config.evaluate, replace(prepared.learner, start="redrawn")
    key, passes = head_key(prepared, 0), sorted(set(config.selection_passes))
    best, reached = None, -np.inf
    for rate in sorted(set(config.selection_rates)):
        data = as_batches(prepared, texts, rate)
        for _, params in train_passes(learner, prepared.start, prepared.mesh, data, key, passes):
            figure = validation.figure(params)
            if figure > reached:
                best, reached = params, figure
    assert best is not None
    return best


def as_batches(prepared: Prepared, texts: TokenSplit, rate: float) -> DistilledData:
    """Texts in random order as inner batches for one pass at one rate; the last one is filled up from the beginning."""
    batches = -(-len(texts) // BATCH)
    rng = np.random.default_rng([prepared.config.seed, 43])
    rows = np.resize(rng.permutation(len(texts)), batches * -(-len(texts) // batches)).reshape(batches, -1)
    length = int(texts.lengths.max())
    classes = prepared.learner.head.classes
    data = assemble(
        *embed_rows(np.asarray(prepared.pretrained.words), texts, rows, length),
        classes=classes,
        per_class=0,
        passes=1,
        kind="hard",
        groups=1,
        rate=rate,
        types=None if texts.types is None else fit(texts.types[rows], length).astype(np.float32),
        labels=prepared.learner.task.store(texts.labels[rows], classes, "hard"),
    )
    return jax.tree.map(jnp.asarray, data)
