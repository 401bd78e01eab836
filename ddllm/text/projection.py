"""Token projection: the nearest rows of a word table to learned embeddings, exactly, by one matrix product after another.

    neighbours = nearest(embeddings, table, k=5)          # [..., T, D] against [V, D]
    neighbours.ids, neighbours.scores                     # [..., T, 5], the nearest first

Queries go through in blocks and the table in chunks, so that scores of all queries with the whole table never exist at once. Equal scores go to
the lowest id. A table that is searched again and again is prepared once, by `index_table`.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec

from ddllm.errors import UserError
from ddllm.runtime.mesh import TEXTS, with_all_axes

METRICS = ("cosine", "dot", "euclidean")
BLOCK, CHUNK = 1024, 2048  # queries and rows whose scores exist at once
SLICE = 16 * BLOCK  # queries that are on the device at once
GROUP = 16  # neighbouring rows whose best one is looked for first


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of each query, the nearest first.

    Attributes:
        ids: their numbers, int32 [..., k].
        scores: cosine, inner product, or the Euclidean distance with a minus sign, float32 [..., k]; higher is nearer.
    """

    ids: Any
    scores: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TableIndex:
    """A word table ready to be searched.

    Attributes:
        rows: float32 [V', D], normalised for cosine; zeros after the table's V rows, up to whole chunks.
        bias: float32 [V'], added to inner products: what a metric asks for, and -inf for rows that are not allowed.
        metric: one of `METRICS`.
        allowed: how many rows may be found.
    """

    rows: Any
    bias: Any
    metric: str = dataclasses.field(metadata={"static": True})
    allowed: int = dataclasses.field(metadata={"static": True})


def index_table(table: Any, metric: str = "cosine", allowed: Any = None, shards: int = 1) -> TableIndex:
    """Prepare a table [V, D] for `nearest`.

    Args:
        table: word embeddings.
        metric: "cosine", "dot" or "euclidean".
        allowed: bool [V], rows that may be found; None for all.
        shards: devices that the table will be shared out over.

    Raises:
        UserError: the metric is unknown, or no row is allowed.
    """
    if metric not in METRICS:
        raise UserError(f"a projection's metric is {metric!r}; it must be one of {', '.join(METRICS)}.")
    table = jnp.asarray(table, jnp.float32)
    size = table.shape[0]
    allowed = np.ones(size, bool) if allowed is None else np.asarray(allowed, bool)
    if allowed.shape != (size,):
        raise ValueError(f"allowed has shape {allowed.shape}, but the table has {size} rows")
    if not allowed.any():
        raise UserError("no token of the vocabulary is allowed, so none can be nearest; allow at least one.")
    filled = -(-size // (CHUNK * shards)) * CHUNK * shards - size
    rows, bias = _prepare(table, jnp.asarray(allowed), metric, filled)
    return TableIndex(rows, bias, metric, int(allowed.sum()))


@partial(jax.jit, static_argnames=("metric", "filled"))
def _prepare(table: jax.Array, allowed: jax.Array, metric: str, filled: int) -> tuple[jax.Array, jax.Array]:
    bias = -0.5 * jnp.sum(table**2, axis=1) if metric == "euclidean" else jnp.zeros(table.shape[0])
    rows = _normalised(table) if metric == "cosine" else table
    bias = jnp.where(allowed, bias, -jnp.inf)
    return jnp.pad(rows, ((0, filled), (0, 0))), jnp.pad(bias, (0, filled), constant_values=-jnp.inf)


def _normalised(rows: jax.Array) -> jax.Array:
    # A row of zeros has no direction: its cosine with everything is 0.
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(rows**2, axis=-1, keepdims=True), 1e-30))


def nearest(
    queries: Any, table: Any, k: int = 1, metric: str = "cosine", allowed: Any = None, mesh: Mesh | None = None, block: int = BLOCK
) -> Neighbours:
    """The k nearest rows of a table to each query, exactly.

    It can be called inside a compiled function too, with an index.

    Args:
        queries: embeddings [..., D].
        table: word embeddings [V, D], or what `index_table` made of them (then `metric` and `allowed` are the index's).
        k: how many for each query.
        metric: "cosine", "dot" or "euclidean".
        allowed: bool [V], rows that may be found; None for all.
        mesh: devices to share the work: queries along the axes "head" and "data", rows along "model".
        block: queries whose scores exist at once; memory beside queries, index and result is about 4 x block x 2,048 bytes, and two
            copies of 16,384 queries.

    Returns:
        `Neighbours` with ids and scores [..., k].

    Raises:
        UserError: k is greater than the number of allowed rows, or the metric is unknown.
    """
    shards = with_all_axes(mesh).shape["model"] if mesh is not None else 1
    index = table if isinstance(table, TableIndex) else index_table(table, metric, allowed, shards)
    if not 1 <= k <= index.allowed:
        raise UserError(f"{k} nearest tokens are asked for, but {index.allowed} are allowed; ask for 1 to {index.allowed}.")
    queries = queries if isinstance(queries, jax.Array) else np.asarray(queries, np.float32)
    if queries.shape[-1] != index.rows.shape[1]:
        raise ValueError(f"queries are {queries.shape[-1]} wide, but the table's rows {index.rows.shape[1]}")
    flat = queries.reshape(-1, queries.shape[-1])
    if not len(flat):
        return Neighbours(jnp.zeros((*queries.shape[:-1], k), jnp.int32), jnp.zeros((*queries.shape[:-1], k)))
    if mesh is not None:
        ids, scores = _search_on(with_all_axes(mesh), jnp.asarray(flat, jnp.float32), index, k, block)
    elif len(flat) <= SLICE or isinstance(flat, Tracer):
        ids, scores = _search(flat, index, k, min(block, len(flat)))
    else:
        # One slice after the other, each waited for: copies of a few queries alone exist beside the queries themselves.
        slices = (flat[begin : begin + SLICE] for begin in range(0, len(flat), SLICE))
        parts = [jax.block_until_ready(_search(part, index, k, min(block, len(part)))) for part in slices]
        ids, scores = (jnp.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Neighbours(ids.reshape(*queries.shape[:-1], k), scores.reshape(*queries.shape[:-1], k))


def _search_on(mesh: Mesh, queries: jax.Array, index: TableIndex, k: int, block: int) -> tuple[jax.Array, jax.Array]:
    """`_search` with queries and rows shared out; each device sends its k best to those that have the other rows."""
    copies, shards = mesh.shape["head"] * mesh.shape["data"], mesh.shape["model"]
    if index.rows.shape[0] % (CHUNK * shards):
        raise ValueError(f"the index was made for another number of shards than {shards}")
    count = len(queries)
    each = -(-count // copies)
    part = index.rows.shape[0] // shards

    def search(queries: jax.Array, rows: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        ids, scores = _rank(queries, rows, bias, k, min(block, each))
        ids += part * jax.lax.axis_index("model")
        # In the order of the devices, and so of the ids, which decides between equals.
        ids, scores = (jax.lax.all_gather(x, "model", axis=1, tiled=True) for x in (ids, scores))
        scores, order = jax.lax.top_k(scores, k)
        return jnp.take_along_axis(ids, order, axis=1), scores

    queries = _directed(jnp.pad(queries, ((0, each * copies - count), (0, 0))), index.metric)
    table = PartitionSpec("model")
    shared = jax.shard_map(search, mesh=mesh, in_specs=(TEXTS, table, table), out_specs=TEXTS, check_vma=False)
    ids, scores = jax.jit(shared)(queries, index.rows, index.bias)
    return ids[:count], _finish(queries[:count], index, ids[:count], scores[:count])


@partial(jax.jit, static_argnames=("k", "block"))
def _search(queries: Any, index: TableIndex, k: int, block: int) -> tuple[jax.Array, jax.Array]:
    queries = _directed(queries.astype(jnp.float32), index.metric)
    ids, scores = _rank(queries, index.rows, index.bias, k, block)
    return ids, _finish(queries, index, ids, scores)


def _directed(queries: jax.Array, metric: str) -> jax.Array:
    return _normalised(queries) if metric == "cosine" else queries


def _finish(queries_QD: jax.Array, index: TableIndex, ids_Qk: jax.Array, scores_Qk: jax.Array) -> jax.Array:
    if index.metric != "euclidean":
        return scores_Qk
    # |q|² - 2 q·r + |r|² cancels where query and row are close; the difference does not.
    columns = [jnp.sum((queries_QD - index.rows[ids_Qk[:, i]]) ** 2, axis=-1) for i in range(ids_Qk.shape[1])]
    return -jnp.sqrt(jnp.stack(columns, axis=1))


def _rank(queries_QD: jax.Array, rows_VD: jax.Array, bias_V: jax.Array, k: int, block: int) -> tuple[jax.Array, jax.Array]:
    """Ids and scores [Q, k] of the greatest q·r + bias."""
    count = len(queries_QD)
    blocks = -(-count // block)
    block = -(-count // blocks)  # equal ones, so that little is filled up
    queries = jnp.pad(queries_QD, ((0, blocks * block - count), (0, 0))).reshape(blocks, block, -1)
    chunks = rows_VD.reshape(-1, CHUNK, rows_VD.shape[1]), bias_V.reshape(-1, CHUNK)
    starts = CHUNK * jnp.arange(len(chunks[0]), dtype=jnp.int32)

    def search(queries_BD: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one_chunk(best: tuple[jax.Array, jax.Array], chunk: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
            (rows, bias), start = chunk
            # In full precision on every device: what is nearest should not depend on it.
            scores = jnp.dot(queries_BD, rows.T, precision=jax.lax.Precision.HIGHEST) + bias[None]
            ids, scores = _best(scores, min(k, CHUNK))
            return _merge(best, (ids + start, scores), k), None

        nothing = jnp.zeros((block, k), jnp.int32), jnp.full((block, k), -jnp.inf)
        return jax.lax.scan(one_chunk, nothing, (chunks, starts))[0]

    ids, scores = jax.lax.map(search, queries) if blocks > 1 else jax.tree.map(lambda x: x[None], search(queries[0]))
    return ids.reshape(-1, k)[:count], scores.reshape(-1, k)[:count]


def _merge(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array], k: int) -> tuple[jax.Array, jax.Array]:
    """The k best of two lists, of which the first has the lower ids."""
    if k == 1:
        better = second[1] > first[1]
        return jnp.where(better, second[0], first[0]), jnp.where(better, second[1], first[1])
    ids, scores = (jnp.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    scores, order = jax.lax.top_k(scores, k)  # the first of equals first
    return jnp.take_along_axis(ids, order, axis=1), scores


def _best(scores_BV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Positions and values of the k greatest in each row, the first of equals first.

    The k greatest lie in the k groups of neighbours with the greatest maxima, so that only these are sorted.
    """
    size = scores_BV.shape[1]
    if k == 1:
        # Over GROUP slices first, element by element, which vectorises; the barriers keep XLA from making one slow reduction of the two.
        sliced = scores_BV.reshape(len(scores_BV), GROUP, -1)
        greatest = jnp.max(jax.lax.optimization_barrier(jnp.max(sliced, axis=1)), axis=1, keepdims=True)
        places = jnp.arange(size, dtype=jnp.int32).reshape(1, GROUP, -1)
        first = jnp.min(jnp.where(sliced == greatest[:, :, None], places, size - 1), axis=1)
        return jnp.min(jax.lax.optimization_barrier(first), axis=1, keepdims=True), greatest
    if k >= size // GROUP:
        scores, places = jax.lax.top_k(scores_BV, k)
        return places, scores
    grouped = scores_BV.reshape(len(scores_BV), -1, GROUP)
    _, groups = jax.lax.top_k(jnp.max(grouped, axis=2), k)
    groups = jnp.sort(groups, axis=1)
    found = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(scores_BV), -1)
    scores, order = jax.lax.top_k(found, k)
    return GROUP * jnp.take_along_axis(groups, order // GROUP, axis=1) + order % GROUP, scores
