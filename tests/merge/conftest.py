"""Distilled sets that were never distilled (random arrays on a tiny learner), and a run's exported ones on a tiny model."""

import numpy as np
import pytest

from ddllm.artefact.base import Distilled
from ddllm.distill.dataset import DistilledData, Recipe, raw_rates
from ddllm.distill.gains import count_gains
from ddllm.distill.word_scores import add_rate


@pytest.fixture
def make_set(tiny):
    """make(seed, batches, examples, length, passes, groups, names, directions, rows of gains, moves of words, **recipe) -> a set of random arrays.

    It is for the learner `tiny`.
    """
    learner, params = tiny

    def make(seed=0, batches=1, examples=3, length=5, passes=2, groups=1, names=("a", "b", "c"), directions=False, gains=0, moves=0, **constants):
        rng = np.random.default_rng(seed)
        shape = (batches, examples, length)
        mask = np.ones(shape, np.float32)
        mask[:, 0, -1] = 0
        labels = rng.standard_normal((*shape[:2], len(names))).astype(np.float32)
        if constants.get("labels") == "hard":
            labels = np.eye(len(names), dtype=np.float32)[np.tile(np.arange(examples) % len(names), (batches, 1))]
        rates = np.asarray(raw_rates(rng.uniform(0.02, 0.2, (batches * passes, groups))), np.float32)
        data = DistilledData(rng.standard_normal((*shape, 8)).astype(np.float32), mask, labels, rates)
        if directions:
            layers = len(params["body"]["layers"])
            data = data.replace(directions=0.1 * rng.standard_normal((*shape[:2], layers, 8)).astype(np.float32))
        if gains:
            data = data.replace(gains=rng.uniform(0.5, 1.5, (gains, count_gains(params["body"]))).astype(np.float32))
        if moves:
            scores, shares = rng.standard_normal((moves, 11)).astype(np.float32), rng.standard_normal((*shape, moves)).astype(np.float32)
            data = data.replace(word_scores=scores, word_shares=shares, rates=add_rate(data.rates, -2.0))
        head = {"kind": "mean", "classes": len(names), "deviation": 0.3, "start": "zero", "seed": 0}
        card = {"label_names": list(names), "head": head, "base_model": {"name": "tiny", "fingerprint": "f"}}
        return Distilled(data, Recipe(**{"labels": "unrestricted", "passes": passes, **constants}), card)

    return make
