"""A head that starts as a linear probe, and labels that start as what it says."""

import jax
import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.distill.initialise import noise_data
from ddllm.distill.inner_loop import inner_loss
from ddllm.distill.plan import first_data
from ddllm.distill.probe import probe_head
from ddllm.errors import UserError
from ddllm.models.scoring import Scorer
from ddllm.prepare import prepare


@pytest.fixture
def make_prepared(tiny_model, tiny_corpus, tmp_path):
    """make(**keys of config.distill) -> a small problem that a linear probe solves, on one device."""

    def make(head="bert", **changes):
        config = default_config()
        config.model.name, config.model.head = str(tiny_model), head
        config.data.source, config.data.length, config.distill.length = str(tiny_corpus), 12, 6
        config.runtime.devices = 1
        config.distill.update({"head": "learned", "initial": "real", "probe_texts": 144, **changes})
        return prepare(config, tmp_path)

    return make


@pytest.mark.parametrize("head, least", [("bert", 0.6), ("mean", 0.75)])
def test_the_probe_classifies_before_anything_is_trained(make_prepared, head, least):
    prepared = make_prepared(head)
    first = first_data(prepared).head
    scorer = Scorer(prepared.learner, prepared.start.words, prepared.tokens.train, 16, prepared.buckets)
    assert scorer.figure({"body": prepared.start.body, "head": first}) > least
    again = probe_head(prepared, first, 144)
    np.testing.assert_allclose(again["out"]["kernel"], first["out"]["kernel"])


def test_a_probe_needs_texts_of_two_classes(make_prepared):
    with pytest.raises(UserError, match="config.distill.probe_texts is 1, .* all of one class"):
        first_data(make_prepared(probe_texts=1))


@pytest.mark.parametrize("kind", ["unrestricted", "soft"])
def test_own_labels_have_no_slope(make_prepared, kind):
    prepared = make_prepared(labels=kind, initial_labels="model")
    data = first_data(prepared)
    batch = {"embeddings": data.embeddings[0], "mask": data.mask[0], "labels": data.labels[0]}
    params = {"body": prepared.start.body, "head": data.head}
    slope = jax.jit(jax.grad(inner_loss(prepared.learner, kind)))
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(slope(params, batch))) < 1e-5
    moved = noise_data(np.asarray(prepared.start.words), data.embeddings.shape[:3], np.random.default_rng(0))[0][0]
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(slope(params, batch | {"embeddings": moved}))) > 1e-4
