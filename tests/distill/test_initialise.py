"""First values: the right examples in the right places."""

from dataclasses import replace

import numpy as np
import pytest

from ddllm.data.tokens import TokenSplit
from ddllm.distill.dataset import Recipe, actual_rates, group_names, learned_parts
from ddllm.distill.initialise import assemble, deal_labels, noise_data, noise_types, pick_examples, real_data, real_types
from ddllm.errors import UserError

RNG = np.random.default_rng(0)
WORDS = RNG.standard_normal((40, 6)).astype(np.float32) * 0.3 + 0.1


def make_split() -> TokenSplit:
    lengths = np.tile(np.arange(2, 10), 3).astype(np.int32)
    ids = np.zeros((24, 9), np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = RNG.integers(1, 40, length)
    return TokenSplit(ids, lengths, np.repeat(np.arange(3, dtype=np.int32), 8))


def test_noise_has_the_words_scale():
    embeddings, mask = noise_data(WORDS, (2, 50, 40), np.random.default_rng(1))
    assert embeddings.shape == (2, 50, 40, 6) and embeddings.dtype == np.float32 and mask.all()
    np.testing.assert_allclose(embeddings.mean((0, 1, 2)), WORDS.mean(0), atol=0.02)
    np.testing.assert_allclose(embeddings.std((0, 1, 2)), WORDS.std(0), rtol=0.05)


@pytest.mark.parametrize("batches, per_class", [(1, 1), (2, 2), (2, 4), (3, 3)])
def test_examples_stand_beside_their_labels(batches, per_class):
    split = make_split()
    picked = pick_examples(split, 3, per_class, np.random.default_rng(2))
    embeddings, mask = real_data(WORDS, split, picked, batches, 7)
    labels = deal_labels(3, per_class, batches)
    assert embeddings.shape == (batches, 3 * per_class // batches, 7, 6)
    seen = set()
    for batch in range(batches):
        assert sorted(np.bincount(labels[batch])) == [per_class // batches] * 3
        for place, label in enumerate(labels[batch]):
            used = int(mask[batch, place].sum())
            match = [
                row
                for row in np.flatnonzero(split.labels == label)
                if min(split.lengths[row], 7) == used and np.array_equal(WORDS[split.ids[row, :used]], embeddings[batch, place, :used])
            ]
            assert match, "this example is none of its class"
            seen.add(match[0])
    assert len(seen) == 3 * per_class


def test_long_texts_are_preferred_and_short_ones_padded():
    split = make_split()
    picked = pick_examples(split, 3, 2, np.random.default_rng(0), at_least=8)
    assert all((split.lengths[rows] >= 8).all() for rows in picked)
    longest = pick_examples(split, 3, 2, np.random.default_rng(0), at_least=100)
    assert all(sorted(split.lengths[rows]) == [8, 9] for rows in longest)
    embeddings, mask = real_data(WORDS, split, picked, 1, 12)
    assert embeddings.shape[2] == 12 and not mask[..., 9:].any()


def test_too_few_texts_of_a_class():
    with pytest.raises(UserError, match="class 0 has 8 training texts.*asks for 9"):
        pick_examples(make_split(), 3, 9, np.random.default_rng(0))


@pytest.mark.parametrize("kind, parts", [("hard", {"embeddings", "rates"}), ("soft", {"embeddings", "rates", "labels"})])
def test_assembled_data(kind, parts):
    embeddings, mask = noise_data(WORDS, (2, 6, 4), np.random.default_rng(1))
    data = assemble(embeddings, mask, classes=3, per_class=4, passes=3, kind=kind, groups=5, rate=0.02)
    assert data.examples == 12 and data.steps == 6
    assert data.floats == 12 * 4 * 6 + 12 * 3 + 6 * 5
    np.testing.assert_allclose(actual_rates(data), 0.02, rtol=1e-5)
    assert set(learned_parts(data, Recipe(kind))) == parts


def test_pairs_keep_their_token_types_and_are_not_cut():
    split = make_split()
    assert real_types(split, [np.array([0])], 1, 4) is None
    types = (np.arange(9) >= 2).astype(np.int32) * (np.arange(9) < split.lengths[:, None])
    split = replace(split, types=types)
    picked = pick_examples(split, 3, 2, np.random.default_rng(0), at_most=5)
    assert all((split.lengths[rows] <= 5).all() for rows in picked)
    shortest = pick_examples(split, 3, 2, np.random.default_rng(0), at_most=2)
    assert all(sorted(split.lengths[rows]) == [2, 3] for rows in shortest)
    made = real_types(split, picked, 2, 12)
    assert made.shape == (2, 3, 12) and made.dtype == np.float32
    for batch in range(2):
        for place in range(3):
            np.testing.assert_array_equal(made[batch, place, :9], types[picked[place][batch]])
    assert not made[..., 9:].any() and noise_types((1, 2, 5)).tolist() == [[[0, 0, 1, 1, 1]] * 2]


def test_groups_of_rates():
    params = {"body": {"embeddings": {"norm": {"scale": 0}}, "layers": {"01": {"up": 0}, "00": {"up": 0}}}, "head": {"out": 0}}
    assert group_names(params, "step") == ("all",)
    assert group_names(params, "layer") == ("embeddings", "00", "01", "head")
    assert group_names(params, "tensor") == ("body.embeddings.norm.scale", "body.layers.00.up", "body.layers.01.up", "head.out")
