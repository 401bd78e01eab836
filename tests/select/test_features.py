"""Features are those of single texts, whatever the batches and the devices; they are computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.data.tokens import TokenSplit
from ddllm.models.encoder import encode
from ddllm.models.learner import Start
from ddllm.runtime.mesh import arrange, place_parameters
from ddllm.select.features import compute_features, keep_features


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_features_are_means_over_the_positions_of_each_text(tiny, sizes):
    learner, params = tiny
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 21).astype(np.int32)
    ids = (rng.integers(0, 50, (21, 8)) * (np.arange(8) < lengths[:, None])).astype(np.int32)
    split = TokenSplit(ids, lengths, rng.integers(0, 3, 21).astype(np.int32))
    words = rng.standard_normal((50, learner.encoder.hidden)).astype(np.float32)
    mesh = arrange(jax.devices()[: int(np.prod(sizes))], *sizes)
    start = place_parameters(Start(params["body"], jnp.asarray(words)), mesh)
    features = compute_features(learner.encoder, start, split, 6, (4, 8), mesh, "features", 2)
    assert features.shape == (21, learner.encoder.hidden) and features.dtype == np.float32
    encode_one = jax.jit(lambda embeddings, mask: encode(params["body"], learner.encoder, embeddings, mask))
    for row in range(21):
        mask = (np.arange(8) < lengths[row]).astype(np.float32)
        alone = encode_one(words[ids[row]][None], mask[None])[0, : lengths[row]].mean(axis=0)
        np.testing.assert_allclose(features[row], alone, atol=2e-5)


def test_kept_features_are_not_computed_again(tmp_path):
    path, calls = tmp_path / "tokens" / "features.safetensors", []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.full((3, 2), len(calls), np.float32)

    for _ in range(2):
        np.testing.assert_array_equal(keep_features(path, (3, 2), compute), np.ones((3, 2)))
    assert [file.name for file in path.parent.iterdir()] == ["features.safetensors"]
    path.write_bytes(path.read_bytes()[:-3])
    assert keep_features(path, (3, 2), compute)[0, 0] == 2, "a broken file was used"
    assert keep_features(path, (3, 1), lambda: np.zeros((3, 1), np.float32)).shape == (3, 1)
