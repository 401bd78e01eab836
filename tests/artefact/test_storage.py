"""Embeddings in fewer bits lose as much as the bits say, in the folder as in the analysis."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.artefact.schema import ARRAYS, STORAGES
from ddllm.artefact.storage import BLOCK, pack, restored, stored_bytes, unpack
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.errors import UserError


def test_rounding_loses_as_much_as_its_bits():
    embeddings = np.random.default_rng(0).standard_normal((2, 3, 4, 64), np.float32)
    embeddings[0, 0, 0] = 0.5
    back = {kind: restored({"embeddings": embeddings}, kind)["embeddings"] for kind in STORAGES}
    errors = {kind: float(np.abs(back[kind] - embeddings).max()) for kind in STORAGES}
    assert errors["float32"] == 0 < errors["float16"] < errors["bfloat16"] < 0.02 and errors["float16"] < errors["int8"]
    width = float((embeddings.max(-1) - embeddings.min(-1)).max()) / 255
    assert 0.9 * width / 2 < errors["int8"] <= 1.01 * width / 2
    np.testing.assert_array_equal(back["int8"][0, 0, 0], 0.5)
    np.testing.assert_array_equal(back["bfloat16"], jnp.asarray(embeddings).astype(jnp.bfloat16).astype(jnp.float32))


def test_gains_have_256_levels_in_every_block():
    gains = np.random.default_rng(0).standard_normal((2, 3 * BLOCK + 5), np.float32)
    gains[1, BLOCK : 2 * BLOCK] *= 1e6  # which costs the others nothing
    gains[1, -5:] = -7
    arrays = {"embeddings": np.zeros((1, 1, 1, 4), np.float32), "gains": gains}
    for kind in STORAGES[1:]:
        packed = pack(arrays, kind)
        assert packed["gains"].dtype == np.uint8 and packed["gains.width"].shape == (2, 4)
        size = sum(packed[name].nbytes for name in ("gains", "gains.lowest", "gains.width"))
        assert size == stored_bytes(0, 0, 0, gains.shape, kind) == gains.size + 64
        back = unpack(packed, kind)["gains"]
        for first in range(0, gains.shape[1], BLOCK):
            block, error = gains[:, first : first + BLOCK], np.abs(back - gains)[:, first : first + BLOCK]
            width = np.ptp(block, axis=1, keepdims=True) / 255
            assert (error <= 1.01 * width / 2).all() and (first == 3 * BLOCK or error.max() > 0.4 * width.max())
        np.testing.assert_array_equal(back[1, -5:], -7)
    np.testing.assert_array_equal(restored(arrays, "float32")["gains"], gains)
    # As schema 5 had them.
    np.testing.assert_array_equal(unpack(pack(arrays, "float16") | {"gains": np.float16(gains[:, :9])}, "float16")["gains"], np.float16(gains[:, :9]))


@pytest.mark.parametrize("change", [{"gains.width": np.ones((1, 3), np.float32)}, {"gains": np.zeros((), np.uint8)}, {"gains.lowest": np.ones((1, 2))}])
def test_bounds_that_do_not_fit(change):
    packed = pack({"embeddings": np.zeros((1, 1, 1, 4), np.float32), "gains": np.ones((1, BLOCK + 1), np.float32)}, "float16")
    assert unpack(packed, "float16")["gains"].shape == (1, BLOCK + 1)
    with pytest.raises(ValueError, match="bounds .* do not fit gains"):
        unpack(packed | change, "float16")


@pytest.mark.parametrize("vocabulary", [30, 3_001])
def test_of_word_scores_only_words_that_have_any_are_stored(vocabulary):
    scores = np.random.default_rng(0).standard_normal((2, vocabulary), np.float32)
    scores[:, ::2] = 0
    arrays = {"embeddings": np.zeros((1, 1, 1, 4), np.float32), "word_scores": scores}
    np.testing.assert_array_equal(restored(arrays, "float32")["word_scores"], scores)
    for kind, size in (("float32", 4), ("int8", 1)):
        packed = pack(arrays, kind)
        stored = sum(array.nbytes for name, array in packed.items() if name.startswith("word_scores") and not name.endswith(".vocabulary"))
        count = vocabulary // 2
        assert packed["word_scores"].shape == (2, count) and packed["word_scores"].itemsize == size
        assert stored == stored_bytes(0, 0, 0, (0, 0), kind, (2, count, vocabulary))
    back = unpack(packed, "int8")["word_scores"]
    np.testing.assert_array_equal(back[:, ::2], 0)
    np.testing.assert_allclose(back, scores, atol=0.02)
    none = unpack(pack(arrays | {"word_scores": np.zeros_like(scores)}, "int8"), "int8")["word_scores"]
    np.testing.assert_array_equal(none, np.zeros_like(scores))


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
        back = restored({"embeddings": data.embeddings, "gains": data.gains}, kind)
        np.testing.assert_array_equal(loaded.embeddings, back["embeddings"])
        np.testing.assert_array_equal(loaded.labels, data.labels)
        np.testing.assert_array_equal(loaded.gains, back["gains"])
        sizes[kind] = (tmp_path / kind / ARRAYS).stat().st_size
    assert abs(sizes["float16"] - sizes["bfloat16"]) < 64  # the names of the types
    assert sizes["float16"] < 0.51 * sizes["float32"] and sizes["int8"] < 0.27 * sizes["float32"]


def test_numbers_that_float16_cannot_hold(tmp_path):
    data = DistilledData(np.full((1, 2, 3, 4), 1e5, np.float32), np.ones((1, 2, 3)), np.zeros((1, 2, 2)), np.zeros((1, 1)))
    with pytest.raises(UserError, match="65,504.*bfloat16"):
        save_distilled(tmp_path / "out", data, Recipe("hard"), ("a", "b"), storage="float16")
    assert not (tmp_path / "out").exists()
