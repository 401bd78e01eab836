"""The outer step: the same numbers in one program as in three, and on any split of the devices; no parameters travel; averages and heads."""

import re
from functools import cache

import jax
import numpy as np
import optax
import pytest

from ddllm.distill.dataset import Recipe
from ddllm.distill.gradients import Direct
from ddllm.distill.inner_loop import train, unroll
from ddllm.distill.truncation import Truncation
from ddllm.models.scoring import real_loss
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.loop import Loop
from ddllm.runtime.metrics import Metrics

ONE, EIGHT, SHARED, ALL_AXES = (1, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2)


@pytest.fixture(scope="module")
def two_heads(tiny, make_step):
    """make(sizes) -> an outer step of two heads and words that move; the same one for the same sizes."""
    return cache(lambda sizes: make_step(tiny, sizes, heads=2, moves=2))


def head_key(index: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(0), index)


def run(step, state, make_batch, steps: int):
    for index in range(steps):
        state, figures = step(state, make_batch(index), head_key(index))
    return state, figures


def assert_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance), one, other)


def test_is_the_gradient_of_one_whole_program(tiny, make_step, make_batch):
    rate = 0.5
    step, state, data, recipe = make_step(tiny, optimizer=optax.sgd(rate))
    learner, key, batch = tiny[0], jax.random.key(4), make_batch()

    def loss(learned):
        filled = data.replace(**learned)
        params = {"body": step.start.body, "head": learner.init_head(key)}
        return real_loss(unroll(learner, recipe, params, filled, Direct()), learner, step.start.words, batch)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.learned)
    moved, figures = step(state, batch, key)
    assert float(figures["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(figures["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    for part in gradient:
        np.testing.assert_allclose((state.learned[part] - moved.learned[part]) / rate, gradient[part], atol=2e-6)


def test_several_heads_are_the_mean_of_single_ones(tiny, make_step, make_batch, two_heads):
    single, state = make_step(tiny, moves=2)[:2]
    singles = [single.gradient(state.learned, make_batch(), head_key(index)) for index in range(2)]
    mean = jax.tree.map(lambda *parts: np.mean(parts, axis=0), *singles)
    for part in singles[0][2]:
        assert np.abs(np.asarray(singles[0][2][part]) - mean[2][part]).max() > 1e-3
    # One after the other, and both at once.
    for sizes, rounds in ((ONE, 2), (ALL_AXES, 1)):
        step, state = two_heads(sizes)[:2]
        assert len(step.rounds(jax.random.key(0))) == rounds
        assert_close(step.gradient(state.learned, make_batch(), jax.random.key(0)), mean, atol=1e-5)


@pytest.mark.parametrize("sizes", [EIGHT, SHARED, ALL_AXES])
def test_any_split_of_the_devices_gives_the_numbers_of_one(make_batch, two_heads, sizes):
    one, state = two_heads(ONE)[:2]
    many, other = two_heads(sizes)[:2]
    (first, a), (second, b) = run(one, state, make_batch, 4), run(many, other, make_batch, 4)
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-5)
    assert_close(first.learned, second.learned, atol=1e-5)
    for part in first.learned:
        assert np.abs(np.asarray(first.learned[part]) - np.asarray(state.learned[part])).max() > 1e-3


@pytest.mark.parametrize("sizes", [ONE, ALL_AXES])
def test_a_batch_in_parts_gives_the_same_gradient_in_less_memory(shallow, make_step, make_batch, sizes):
    (whole, state), (parts, _) = (make_step(shallow, sizes, heads=2, tokens_at_once=tokens)[:2] for tokens in (0, 12))
    key = jax.random.key(0)
    batch = make_batch()._replace(targets=np.full((16, 3), 1 / 3, np.float32), types=np.zeros((16, 6), np.int32))
    for texts in (make_batch(), batch):
        assert_close(parts.gradient(state.learned, texts, key), whole.gradient(state.learned, texts, key), rtol=1e-5, atol=1e-5)
    trained = whole.begin(state.learned, whole.fixed, whole.start, whole.rounds(key)[0])[0]
    arguments = (trained, whole.start.words, jax.device_put(batch, whole.batches))
    needed = [step.measure.lower(*arguments).compile().memory_analysis().temp_size_in_bytes for step in (whole, parts)]
    assert needed[1] < 0.8 * needed[0]


def crossing_sizes(program: str, mesh) -> list[int]:
    """Elements of the arrays that a compiled program sends between devices with different heads or shares of the batch."""
    place = {int(device): index // mesh.shape["model"] for index, device in enumerate(np.vectorize(lambda d: d.id)(mesh.devices).flat)}
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    sizes = []
    for line in program.splitlines():
        found = re.search(rf"= (.*?) (?:{kinds})(?:-start)?\(", line)
        if not found:
            continue
        pairs = re.search(r"source_target_pairs=\{(.*?\})\}", line)
        groups = pairs or re.search(r"replica_groups=\{(.*?\})\}", line)
        iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
        axes_named = re.search(r"replica_groups=mesh\[[^\]]*\] ?\{([^}]*)\}", line)  # as later jaxlibs write it
        assert groups or iota or axes_named, line
        if axes_named:
            crossed = re.findall(r"'(\w+)'", axes_named[1])
            order = [mesh.axis_names.index(axis) for axis in mesh.axis_names if axis not in crossed]
            moved = np.moveaxis(np.vectorize(lambda d: int(d.id))(mesh.devices), order, range(len(order)))
            members = moved.reshape(int(np.prod([mesh.devices.shape[axis] for axis in order])), -1).tolist()
        elif iota:
            shape, reach, axes = ([int(n) for n in part.split(",")] if part else None for part in iota.groups())
            members = np.arange(np.prod(reach)).reshape(reach).transpose(axes).reshape(shape).tolist()
        else:
            members = [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", "{" + groups[1].lstrip("{"))]
        if any(len({place[device] for device in group}) > 1 for group in members):
            sizes += [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in re.findall(r"\w+\[([\d,]*)\]", found[1])]
    return sizes


@pytest.mark.parametrize("sizes", [EIGHT, ALL_AXES])
def test_no_parameter_sized_array_travels_between_heads_or_shares(shallow, make_step, make_batch, sizes):
    step, state = make_step(shallow, sizes, heads=sizes[0])[:2]
    begin = (state.learned, step.fixed, step.start, step.rounds(jax.random.key(0))[0])
    trained, pullback = step.begin(*begin)
    measure = (trained, step.start.words, jax.device_put(make_batch(), step.batches))
    pull = (pullback, step.measure(*measure)[2])
    smallest = 64 * 64 // sizes[2]
    for program, arguments, expected in (
        (step.begin, begin, 0),
        (step.measure, measure, 1),
        (step.pull, pull, max(state.learned["rates"].size, 1)),
    ):
        travels = crossing_sizes(program.lower(*arguments).compile().as_text(), step.everywhere.mesh)
        assert max(travels, default=0) < smallest
        assert max(travels, default=0) >= expected


def test_what_is_kept_waits_in_host_memory_on_all_axes(shallow, make_step, make_batch):
    (here, state), (away, _) = (make_step(shallow, ALL_AXES, heads=2, offload=offload)[:2] for offload in (False, True))
    key = jax.random.key(0)
    assert_close(away.gradient(state.learned, make_batch(), key), here.gradient(state.learned, make_batch(), key), atol=1e-6)
    pullback = away.begin(state.learned, away.fixed, away.start, away.rounds(key)[0])[1]
    steps = [leaf for leaf in jax.tree.leaves(pullback) if leaf.shape[1:] == (4, 64, 128)]
    assert steps
    for leaf in steps:  # each device puts its own half away
        assert (leaf.sharding.memory_kind, leaf.addressable_shards[0].data.shape) == ("pinned_host", (1, 4, 64, 64))


def test_parameters_are_shared_out(shallow, make_step, make_batch):
    step, state = make_step(shallow, SHARED)[:2]
    trained, pullback = step.begin(state.learned, step.fixed, step.start, *step.rounds(jax.random.key(0)))
    cotangent = step.measure(trained, step.start.words, jax.device_put(make_batch(), step.batches))[2]
    for tree in (step.start, trained, pullback, cotangent):
        large = [leaf for leaf in jax.tree.leaves(tree) if leaf.size >= 50 * 64]
        assert large
        for leaf in large:
            copies = 4 if tree is cotangent else 1  # the whole mesh holds one for each share of the batch
            assert 2 * leaf.addressable_shards[0].data.size * copies == leaf.size, leaf.shape


def test_a_run_goes_on_with_other_devices(tmp_path, make_batch, two_heads):
    whole = run(*two_heads(ONE)[:2], make_batch, 6)[0]
    seen = []
    for steps, sizes in ((2, ONE), (4, EIGHT), (6, SHARED)):
        step, state = two_heads(sizes)[:2]
        firsts = []

        def advance(state, index, step=step, firsts=firsts):
            firsts.append((index, jax.tree.map(np.asarray, state)))
            return step(state, make_batch(index), head_key(index))

        checkpoints, metrics = Checkpoints(tmp_path / "states", keep=1), Metrics(tmp_path / "metrics.jsonl")
        state, _ = Loop("distill", steps, 100, 100, checkpoints, metrics).run(state, advance, lambda state: (state, 0.5))
        checkpoints.close()
        metrics.close()
        assert firsts[0][0] == steps - 2
        if seen:
            jax.tree.map(np.testing.assert_array_equal, seen[-1], firsts[0][1])
        seen.append(jax.tree.map(np.asarray, state))
    assert_close(seen[-1].learned, whole.learned, atol=1e-5)


def test_average_follows_what_is_learned(tiny, make_step, make_batch):
    averaged, state = make_step(tiny, average=0.9)[:2]
    last = run(averaged, state, make_batch, 3)[0]
    assert np.abs(np.asarray(last.average["embeddings"]) - np.asarray(last.learned["embeddings"])).max() > 1e-4


def test_truncation_and_shuffling_follow_the_key_and_end_no_training_but_the_gradients(layerless, make_step, make_batch):
    recipe, truncation = Recipe("unrestricted", "sgd", passes=2, order="shuffled"), Truncation(2, random=True)
    step, state, data, _ = make_step(layerless, EIGHT, recipe=recipe, truncation=truncation)
    learned, begun = state.learned, {}
    for seed in range(8):
        key = jax.random.key(seed)
        begin = int(truncation.begin(4, key))
        begun[begin] = float(optax.tree.norm(step.begin(learned, step.fixed, step.start, *step.rounds(key))[0]))
        gradient = step.gradient(learned, make_batch(), key)[2]
        assert list(np.flatnonzero(np.asarray(gradient["rates"]).any(axis=1))) == [begin, begin + 1]
        whole = float(optax.tree.norm(step.train(learned, key)))
        expected = train(layerless[0], recipe, step.start, data.replace(**learned), key)
        assert whole == pytest.approx(float(optax.tree.norm(expected)), rel=1e-6)
        assert (begun[begin] == pytest.approx(whole, rel=1e-6)) == (begin == 2)
    assert set(begun) == {0, 1, 2}
