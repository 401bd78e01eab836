"""Merged arrays train as their parts do: one after the other, whatever had to be filled up, and side by side as the mean."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ddllm.artefact.base import Distilled
from ddllm.distill.dataset import actual_rates
from ddllm.distill.inner_loop import inner_loss, train, unroll
from ddllm.distill.word_scores import with_moves
from ddllm.errors import UserError
from ddllm.merge.align import align, headed_classes, same_classes, united_classes
from ddllm.merge.combine import choose_way, combine
from ddllm.merge.fit import check_sets
from ddllm.models.heads import HeadConfig, init_head
from ddllm.models.learner import Start
from ddllm.models.words import moved_words


def merge(sets, way, params, classes=None, weights=()):
    weights = weights or [1] * len(sets) if way == "join" else ()
    return combine(*align(sets, classes or same_classes(sets), params, weights), way, weights=weights)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "changes, order",
    [
        ({"passes": 1}, "fixed"),
        ({"passes": 2, "examples": 2, "length": 7, "groups": 2}, "learned"),
        ({"passes": 1, "batches": 2, "examples": 6}, "learned"),
        ({"passes": 3, "labels": "soft", "examples": 2}, "learned"),
        ({"passes": 1, "labels": "hard", "examples": 6}, "fixed"),
    ],
)
def test_concatenated_sets_train_as_one_after_the_other(layerless, make_set, changes, order):
    learner, params = layerless
    passes = changes.get("passes", 1) if order == "fixed" else 2
    sets = [make_set(1, passes=passes), make_set(2, **changes)]
    expected = params
    for each in sets:
        expected = unroll(learner, each.recipe, expected, each.data)
    data, recipe = merge(sets, "concatenate", params)
    assert recipe.order == order and data.rates.shape[0] == data.mask.shape[0] * recipe.passes
    assert_close(unroll(learner, recipe, params, data), expected)
    turned, other = merge(sets, "interleave", params)
    if recipe.order == "learned":  # the order does make a difference, or the comparison would say nothing
        moved = unroll(learner, other, params, turned)
        assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True)) > 1e-4


def test_sets_are_joined_where_they_can_be(make_set):
    alike, longer, more = make_set(1, passes=2), make_set(2, passes=3), make_set(3, batches=2)
    assert choose_way([alike, make_set(4, passes=2)]) == "join"
    assert choose_way([alike, longer]) == choose_way([alike, more]) == "interleave"
    learned = replace(alike, recipe=replace(alike.recipe, order="learned"))
    assert choose_way([alike, learned]) == "interleave"


def test_sets_of_the_same_shape_take_turns_in_a_fixed_order(layerless, make_set):
    _, params = layerless
    sets = [make_set(1, batches=2), make_set(2, batches=2)]
    data, recipe = merge(sets, "interleave", params)
    assert (recipe.order, recipe.passes, data.order) == ("fixed", 2, None)
    for place, (number, batch) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        np.testing.assert_array_equal(data.embeddings[place], sets[number].data.embeddings[batch])
        np.testing.assert_array_equal(data.rates[4 + place], sets[number].data.rates[2 + batch])


def test_learned_heads_joined_one_after_the_other_count_alike(layerless, make_set):
    _, params = layerless
    rng = np.random.default_rng(5)
    sets = []
    for seed in range(3):
        head = {"out": {"kernel": rng.standard_normal((8, 3)).astype(np.float32), "bias": rng.standard_normal(3).astype(np.float32)}}
        one = make_set(seed)
        sets.append(replace(one, data=one.data.replace(head=head)))
    at_once, _ = merge(sets, "join", params)
    pair, recipe = merge(sets[:2], "join", params)
    then, _ = merge([replace(sets[0], data=pair, recipe=recipe), sets[2]], "join", params, weights=[2, 1])
    assert_close(at_once.head, jax.tree.map(lambda *parts: np.mean(parts, axis=0), *(one.data.head for one in sets)))
    assert_close(then.head, at_once.head)


def test_a_joined_step_is_the_mean_of_the_steps(layerless, make_set):
    learner, params = layerless
    sets = [make_set(seed, passes=1, length=4 + seed) for seed in (1, 2)]
    data, recipe = merge(sets, "join", params)
    assert data.mask.shape == (1, 6, 6) and recipe.passes == 1
    gradients = [jax.grad(inner_loss(learner, "unrestricted"))(params, jax.tree.map(lambda x: x[0], s.data.batches)) for s in sets]
    rate = np.mean([actual_rates(s.data)[0, 0] for s in sets])
    expected = jax.tree.map(lambda x, one, other: x - rate * (one + other) / 2, params, *gradients)
    assert_close(unroll(learner, recipe, params, data), expected)
    with pytest.raises(UserError, match="interleave"):
        merge([sets[0], make_set(3, passes=2)], "join", params)


@pytest.mark.parametrize("labels, examples", [("unrestricted", (3, 3, 3)), ("unrestricted", (3, 5, 2)), ("soft", (3, 3, 3)), ("soft", (2, 3, 4))])
def test_joining_one_after_the_other_is_joining_at_once(layerless, make_set, labels, examples):
    learner, params = layerless
    sets = [make_set(seed, passes=2, examples=count, labels=labels) for seed, count in enumerate(examples)]
    at_once, recipe = merge(sets, "join", params)
    data, constants = merge(sets[:2], "join", params)
    two = Distilled(data, constants, sets[0].card)
    later, again = merge([two, sets[2]], "join", params, weights=[2, 1])
    assert again == recipe and later.examples == at_once.examples
    assert_close(unroll(learner, again, params, later), unroll(learner, recipe, params, at_once))
    if len(set(examples)) > 1:
        alike, _ = merge([two, sets[2]], "join", params)
        moved = [np.abs(a - b).max() for a, b in zip(*(jax.tree.leaves(unroll(learner, recipe, params, x)) for x in (alike, at_once)), strict=True)]
        assert max(moved) > 1e-4, "with equal weights the last set would count as much as both before"


@pytest.mark.parametrize("rows", [(1, 1), (2, 0), (0, 2)])
def test_gains_go_with_their_steps(tiny, make_set, rows):
    learner, params = tiny
    sets = [make_set(seed, passes=2, gains=count) for seed, count in enumerate(rows, 1)]
    expected = params
    for each in sets:
        expected = unroll(learner, each.recipe, expected, each.data)
    data, recipe = merge(sets, "concatenate", params)
    assert_close(unroll(learner, recipe, params, data), expected)
    assert data.gains.shape[0] == data.steps
    joined, _ = merge(sets, "join", params)
    both = [np.ones((2, joined.gains.shape[1])) if s.data.gains is None else np.broadcast_to(s.data.gains, (2, joined.gains.shape[1])) for s in sets]
    np.testing.assert_allclose(np.broadcast_to(joined.gains, both[0].shape), np.mean(both, axis=0), rtol=1e-6)
    assert joined.gains.shape[0] == max(rows)
    same, _ = merge([sets[0], replace(sets[1], data=sets[1].data.replace(gains=sets[0].data.gains))], "interleave", params)
    assert (0 if same.gains is None else same.gains.shape[0]) == (rows[0] if rows[0] < 2 else same.steps)


@pytest.mark.parametrize("moves, groups", [((2, 3), (4, 4)), ((0, 2), (4, 1)), ((1, 0), (1, 4))])
def test_each_set_moves_words_by_its_own_scores(tiny, make_set, moves, groups):
    """One set after the other: the first one's moves, then the second one's, as if the word table itself went on from where the first left it."""
    learner, params = tiny
    learner = replace(learner, start="fixed")
    lengths = (4, 5)
    sets = [make_set(seed, moves=count, groups=group, length=length) for seed, (count, group, length) in enumerate(zip(moves, groups, lengths, strict=True))]
    data, recipe = merge(sets, "concatenate", params)
    assert data.word_scores.shape == (sum(moves), 11) and data.word_shares.shape == (*data.mask.shape, sum(moves))
    words = np.random.default_rng(4).standard_normal((11, 8)).astype(np.float32)
    expected = {"body": params["body"], "head": learner.init_head()}
    table = words
    for each in sets:
        trained = unroll(learner, each.recipe, with_moves({name: expected[name] for name in ("body", "head")}, each.data), each.data)
        expected = trained
        if each.data.word_scores is not None:
            table = table + np.asarray(each.data.word_scores).T @ np.asarray(trained["moves"])
    found = train(learner, recipe, Start(params["body"], words), data)
    assert_close({name: found[name] for name in ("body", "head")}, {name: expected[name] for name in ("body", "head")})
    np.testing.assert_allclose(moved_words(found, words), table, atol=1e-5)
    joined, _ = merge(sets, "join", params)
    assert joined.word_shares.shape == (1, 6, 5, sum(moves))


def test_gains_of_steps_that_fill_up_are_one(tiny, make_set):
    _, params = tiny
    data, recipe = merge([make_set(1, passes=1, gains=1), make_set(2, passes=1, batches=2, gains=1), make_set(3, passes=2, gains=2)], "concatenate", params)
    missing = data.steps - 5
    assert missing > 0 and recipe.order == "learned" and data.gains.shape[0] == data.steps
    np.testing.assert_array_equal(data.gains[-missing:], 1)


def test_classes_are_matched_by_name(layerless, make_set):
    learner, params = layerless
    first, second = make_set(1, passes=1), make_set(2, passes=1)
    turned = replace(
        second, data=second.data.replace(labels=second.data.labels[..., ::-1]), card=second.card | {"label_names": ["c", "b", "a"]}
    )
    ours, other = (merge([first, each], "concatenate", params)[0].labels for each in (second, turned))
    np.testing.assert_array_equal(ours, other)
    assert not np.array_equal(second.data.labels, turned.data.labels)


def test_different_tasks_side_by_side(layerless, make_set):
    learner, params = layerless
    sets = [make_set(1, names=("a", "b"), passes=1), make_set(2, names=("b", "c"), passes=1)]
    union, headed = united_classes(sets), headed_classes(sets, ["x", "y"])
    assert union.names == ("a", "b", "c") and headed.names == ("a", "b", "b", "c")
    data, recipe = merge(sets, "interleave", params, union)
    np.testing.assert_array_equal(data.labels[1][:, 0], 0)
    np.testing.assert_array_equal(data.labels[1][:, 1:], sets[1].data.labels[0])
    # A head of its own learns from its own set alone; the encoder from both.
    data, recipe = merge(sets, "concatenate", params, headed)
    many = replace(learner, head=HeadConfig("mean", 4, 0.3), task=headed.task)
    began = {"body": params["body"], "head": init_head(jax.random.key(2), many.head, 8)}
    moved = unroll(many, recipe, began, data.replace(rates=data.rates[:1], embeddings=data.embeddings[:1], mask=data.mask[:1], labels=data.labels[:1]))
    np.testing.assert_array_equal(moved["head"]["out"]["kernel"][:, 2:], began["head"]["out"]["kernel"][:, 2:])
    alone = {"body": params["body"], "head": jax.tree.map(lambda x: x[..., :2], began["head"])}
    expected = unroll(replace(learner, head=HeadConfig("mean", 2, 0.3)), sets[0].recipe, alone, sets[0].data)
    np.testing.assert_allclose(moved["head"]["out"]["kernel"][:, :2], expected["head"]["out"]["kernel"], atol=1e-6)
    assert_close(moved["body"], expected["body"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base_model": {"name": "other", "fingerprint": "g"}}, "other weights"),
        ({"head": {"kind": "bert", "classes": 3, "deviation": 0.3, "start": "zero", "seed": 0}}, "the head's kind"),
        ({"task": {"name": "multilabel"}}, "labels of other kinds"),
        ({"label_names": ["a", "b", "d"]}, "config.merge.how to union"),
        ({"preprocessing": {"pairs": True}}, "pairs"),
    ],
)
def test_sets_that_do_not_fit(make_set, change, message):
    first, second = make_set(1), make_set(2)
    check_sets([first, second], ["one", "two"])
    with pytest.raises(UserError, match=message):
        check_sets([first, replace(second, card=second.card | change)], ["one", "two"])
    with pytest.raises(UserError, match="inner optimizer"):
        check_sets([first, replace(second, recipe=replace(second.recipe, optimizer="adam"))], ["one", "two"])


def test_numbers_counted_from_other_means_are_named(make_set):
    tasks = ({"task": {"name": "regression", "mean": mean, "deviation": 2.0}} for mean in (1.0, 1.5))
    first, second = (replace(one, card=one.card | task) for one, task in zip((make_set(1), make_set(2)), tasks, strict=True))
    check_sets([first, first], ["one", "two"])
    with pytest.raises(UserError, match=r"one and two count their labels from other means .*\(1 ± 2 and 1.5 ± 2"):
        check_sets([first, second], ["one", "two"])


def test_directions_that_one_set_lacks_are_zero(tiny, make_set):
    _, params = tiny
    data, recipe = merge([make_set(1, directions=True), make_set(2, examples=2, directions=False)], "join", params)
    assert data.directions.shape == (1, 5, 2, 8) and np.abs(data.directions[:, :3]).max() > 0
    np.testing.assert_array_equal(data.directions[:, 3:], 0)
