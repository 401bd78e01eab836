"""Embeddings in fewer bits lose as much as the bits say, in the folder as in the analysis."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.artefact.schema import ARRAYS, STORAGES
from ddllm.artefact.storage import restored
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.errors import UserError


def test_rounding_loses_as_much_as_its_bits():
    embeddings = np.random.default_rng(0).standard_normal((2, 3, 4, 64), np.float32)
    embeddings[0, 0, 0] = 0.5
    errors = {kind: float(np.abs(restored(embeddings, kind) - embeddings).max()) for kind in STORAGES}
    assert errors["float32"] == 0 < errors["float16"] < errors["bfloat16"] < 0.02 and errors["float16"] < errors["int8"]
    width = float((embeddings.max(-1) - embeddings.min(-1)).max()) / 255
    assert 0.9 * width / 2 < errors["int8"] <= 1.01 * width / 2
    np.testing.assert_array_equal(restored(embeddings, "int8")[0, 0, 0], 0.5)
    np.testing.assert_array_equal(restored(embeddings, "bfloat16"), jnp.asarray(embeddings).astype(jnp.bfloat16).astype(jnp.float32))


def test_folders_in_fewer_bits(tmp_path):
    rng = np.random.default_rng(0)
    data = DistilledData(*(rng.standard_normal(shape).astype(np.float32) for shape in ((1, 2, 48, 384), (1, 2, 48), (1, 2, 2), (2, 1))))
    data = data.replace(gains=1 + rng.standard_normal((1, 100)).astype(np.float32))
    head = {"kind": "mean", "classes": 2, "deviation": 0.02, "start": "zero", "seed": 0}
    card = {"base_model": {"name": "embedded", "fingerprint": "0"}, "head": head, "preprocessing": {"text_length": 48}}
    sizes = {}
    for kind in STORAGES:
        save_distilled(tmp_path / kind, data, Recipe("hard", "sgd", 2), ("a", "b"), storage=kind, **card)
        loaded = load_distilled(tmp_path / kind).data
        np.testing.assert_array_equal(loaded.embeddings, restored(data.embeddings, kind))
        np.testing.assert_array_equal(loaded.labels, data.labels)
        np.testing.assert_array_equal(loaded.gains, data.gains.astype(np.float32 if kind == "float32" else np.float16).astype(np.float32))
        sizes[kind] = (tmp_path / kind / ARRAYS).stat().st_size
    assert abs(sizes["float16"] - sizes["bfloat16"]) < 64  # the names of the types
    assert sizes["float16"] < 0.51 * sizes["float32"] and sizes["int8"] < 0.27 * sizes["float32"]


def test_numbers_that_float16_cannot_hold(tmp_path):
    data = DistilledData(np.full((1, 2, 3, 4), 1e5, np.float32), np.ones((1, 2, 3)), np.zeros((1, 2, 2)), np.zeros((1, 1)))
    with pytest.raises(UserError, match="65,504.*bfloat16"):
        save_distilled(tmp_path / "out", data, Recipe("hard"), ("a", "b"), storage="float16")
    assert not (tmp_path / "out").exists()
