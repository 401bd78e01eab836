"""Mean pooling as one more layer is the mean-pooled head, whatever units its outputs have."""

import jax
import numpy as np
import pytest

from ddllm.models.encoder import encode
from ddllm.models.heads import HeadConfig, apply_head, init_head
from ddllm.models.pooling import fold_mean
from ddllm.models.pretrained import load_pretrained
from ddllm.models.tasks import Regression


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("deviation", [1e-5, 1.0, 1e6])
def test_the_units_of_labels_cost_nothing(write_checkpoint, make_texts, tmp_path, family, deviation):
    checkpoint = load_pretrained(str(write_checkpoint(tmp_path / "model", family)))
    config, mean = checkpoint.config, HeadConfig("mean", 1, 1.0)
    head = Regression(3 * deviation, deviation).export_head(init_head(jax.random.key(0), mean, config.hidden))
    ids, mask, _ = make_texts(config, 4, 7)
    embeddings, mask = checkpoint.words[ids], mask.astype(np.float32)
    expected = apply_head(head, mean, encode(checkpoint.body, config, embeddings, mask), mask)
    body, folded, own = fold_mean(checkpoint.body, config, head)
    found = apply_head(own, HeadConfig(family, 1), encode(body, folded, embeddings, mask), mask)
    assert np.std(expected) > 0.05 * deviation
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * deviation)


def test_a_head_of_zeros_gives_its_bias(write_checkpoint, make_texts, tmp_path):
    checkpoint = load_pretrained(str(write_checkpoint(tmp_path / "model", "bert")))
    width = checkpoint.config.hidden
    head = {"out": {"kernel": np.zeros((width, 2), np.float32), "bias": np.array([0.5, -2.0], np.float32)}}
    body, folded, own = fold_mean(checkpoint.body, checkpoint.config, head)
    hidden = encode(body, folded, checkpoint.words[np.ones((3, 5), np.int32)], np.ones((3, 5), np.float32))
    np.testing.assert_allclose(apply_head(own, HeadConfig("bert", 2), hidden, np.ones((3, 5))), [[0.5, -2.0]] * 3, rtol=1e-6)
