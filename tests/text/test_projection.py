"""Token projection against plain numpy in float64, on one device and many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.runtime.mesh import arrange
from ddllm.text.projection import CHUNK, METRICS, index_table, nearest


def by_hand(queries, table, k, metric, allowed=None):
    queries, table = queries.astype(np.float64), table.astype(np.float64)
    if metric == "euclidean":
        scores = -np.linalg.norm(queries[:, None] - table[None], axis=-1)
    else:
        if metric == "cosine":
            queries, table = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, table))
        scores = queries @ table.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, 1)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    # More rows than a chunk has, by a number that does not divide, and norms that differ.
    table = (rng.standard_normal((CHUNK + 77, 12)) * rng.uniform(0.1, 2, (CHUNK + 77, 1))).astype(np.float32)
    return rng.standard_normal((37, 12)).astype(np.float32), table


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 4, 100])
def test_the_nearest_are_those_of_plain_search(arrays, metric, k) -> None:
    queries, table = arrays
    allowed = np.random.default_rng(1).random(len(table)) < 0.5
    for mask in (None, allowed):
        found = nearest(queries, table, k, metric, mask, block=10)
        ids, scores = by_hand(queries, table, k, metric, mask)
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_allclose(found.scores, scores, atol=2e-5)


def test_more_may_be_asked_for_than_are_searched_at_once(arrays) -> None:
    queries, table = arrays
    found, k = nearest(queries, table, CHUNK + 3), CHUNK + 3
    np.testing.assert_allclose(found.scores, by_hand(queries, table, k, "cosine", None)[1], atol=2e-5)
    assert all(len(set(row)) == k for row in np.asarray(found.ids).tolist())


def test_shapes_are_kept_and_an_index_serves_inside_a_program(arrays) -> None:
    queries, table = arrays
    index = index_table(table)
    found = jax.jit(lambda q: nearest(q, index, 2))(queries[:36].reshape(3, 4, 3, 12))
    assert found.ids.shape == found.scores.shape == (3, 4, 3, 2)
    np.testing.assert_array_equal(found.ids.reshape(36, 2), nearest(queries[:36], table, 2).ids)
    assert nearest(queries[:0], table, 3).ids.shape == (0, 3)


def test_many_queries_go_through_in_slices(arrays, monkeypatch) -> None:
    queries, table = arrays
    whole = nearest(queries, table, 3)
    monkeypatch.setattr("ddllm.text.projection.SLICE", 16)
    for given in (queries, jnp.asarray(queries), queries.astype(np.float64)):
        found = nearest(given, table, 3, block=5)
        np.testing.assert_array_equal(found.ids, whole.ids)
        np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 40, 90])
def test_equal_rows_go_to_the_lowest_id(k) -> None:
    rng = np.random.default_rng(2)
    few = rng.standard_normal((5, 24)).astype(np.float32)
    kinds = rng.integers(5, size=2 * CHUNK + 5)
    found = np.asarray(nearest(few, few[kinds], k).ids)
    for kind in range(5):
        np.testing.assert_array_equal(found[kind], np.flatnonzero(kinds == kind)[:k])


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
@pytest.mark.parametrize("k", [1, 5])
def test_devices_share_queries_and_rows(arrays, shape, k) -> None:
    queries, table = arrays
    head, data, model = shape
    table = np.concatenate([table, table])  # equal rows lie on different devices
    found = nearest(queries, table, k, mesh=arrange(jax.devices()[:8], head, data, model))
    alone = nearest(queries, table, k)
    np.testing.assert_array_equal(found.ids, alone.ids)
    np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)


def test_zeros_have_no_direction_and_are_no_trouble() -> None:
    table = np.eye(4, dtype=np.float32)
    found = nearest(np.zeros((1, 4), np.float32), table, 2)
    assert found.ids.tolist() == [[0, 1]] and found.scores.tolist() == [[0, 0]]
    assert np.isfinite(nearest(jnp.ones((1, 4)), np.zeros((4, 4)), 1).scores).all()


def test_what_cannot_be_found_is_said(arrays) -> None:
    queries, table = arrays
    with pytest.raises(UserError, match="must be one of cosine, dot, euclidean"):
        nearest(queries, table, metric="cosinus")
    with pytest.raises(UserError, match="3 nearest tokens are asked for, but 2 are allowed"):
        nearest(queries, table, 3, allowed=np.arange(len(table)) < 2)
    with pytest.raises(UserError, match="no token"):
        nearest(queries, table, allowed=np.zeros(len(table), bool))
