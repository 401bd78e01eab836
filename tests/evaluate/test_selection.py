"""Selections of real examples: one compiled pass serves all recipes, the best on validation is tested, and rows say what was done."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ddllm.select.features
from ddllm.config import default_config
from ddllm.distill.dataset import Recipe
from ddllm.distill.inner_loop import train
from ddllm.distill.plan import first_data
from ddllm.errors import UserError
from ddllm.evaluate.selection import evaluate_selection, pick_for_seeds, selection_row, train_pass, train_passes
from ddllm.evaluate.small import head_key
from ddllm.prepare import prepare


@pytest.fixture(scope="module")
def prepared(tiny_model, tiny_corpus, tmp_path_factory):
    config = default_config()
    config.model.name, config.model.head, config.model.head_deviation = str(tiny_model), "mean", 0.3
    config.data.source, config.data.length, config.distill.length = str(tiny_corpus), 12, 6
    config.distill.examples_per_class = config.distill.batches = 2
    config.evaluate.update({"selection_rates": (0.3, 1e-6), "selection_passes": (6, 1), "head_texts": 40})
    config.runtime.devices = 2
    return prepare(config, tmp_path_factory.mktemp("tokens"))


def test_short_trainings_lie_on_the_way_of_long_ones(prepared):
    learner = replace(prepared.learner, start="redrawn")
    data = evaluate_selection(prepared, "random", 2, 2, [0]).data
    key = head_key(prepared, 3)
    way = dict(train_passes(learner, prepared.start, prepared.mesh, data, key, [1, 3]))
    assert list(way) == [1, 3]
    whole = data.replace(rates=np.tile(data.rates, (3, 1)))
    trained = jax.jit(train, static_argnums=(0, 1))(learner, Recipe("hard", passes=3), prepared.start, whole, key)
    for a, b, c in zip(*map(jax.tree.leaves, (way[3], trained, way[1])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert not np.allclose(a, c, atol=1e-5)


def test_rows_have_the_recipe_that_is_best_on_validation(prepared):
    train_pass.clear_cache()  # of what other tests compiled
    rows = {}
    for name in ("random", "k_centers", "herding"):
        selection = evaluate_selection(prepared, name, 2, 2, [0, 5])
        rows[name] = row = selection_row(prepared, selection)
        # At the lower rate nothing is learned.
        assert selection.rate == 0.3 and selection.passes in (1, 6)
        assert selection.validation > 0.5
        assert row["name"] == name and row["runs"] == 2 and row["head"] == "redrawn"
        assert row["examples_per_class"] == 2 and row["examples"] == 4 and row["inner_steps"] == 2 * selection.passes
        assert (
            row["accuracy_mean"] == pytest.approx(np.mean([score["accuracy"] for score in selection.scores]))
            and row["texts"] == 40
            and row["seconds"] > 0
        )
        assert f"SGD rate 0.3 of 1e-06, 0.3 and {selection.passes} of 1, 6 passes" in row["note"]
        assert ("the same texts in every run" in row["note"]) == (name != "random")
        assert evaluate_selection(prepared, name, 2, 2, [5]).data.examples == 4
    assert train_pass._cache_size() == 1, "more than one program was compiled"


def test_draws_have_texts_of_their_own_where_the_method_is_random(prepared):
    for name, same in (("random", False), ("k_means", False), ("k_centers", True)):
        picked = pick_for_seeds(prepared, name, 5, [0, 1, 2])
        assert list(picked) == [0, 1, 2]
        for rows in picked.values():
            assert all((prepared.tokens.train.labels[chosen] == label).all() for label, chosen in enumerate(rows))
        alike = [np.array_equal(np.stack(picked[0]), np.stack(picked[seed])) for seed in (1, 2)]
        assert alike == [same] * 2, name
        again = pick_for_seeds(prepared, name, 5, [2])
        np.testing.assert_array_equal(np.stack(again[2]), np.stack(picked[2]))


def test_features_are_computed_once_for_all_selections_and_starts(prepared, monkeypatch):
    features = prepared.features

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("ddllm.prepare.compute_features", refuse)
    assert prepared.features is features and ddllm.select.features.compute_features is not refuse
    np.testing.assert_array_equal(prepare(prepared.config, prepared.cache).features, features)


def test_distillation_starts_from_what_a_method_chooses(prepared):
    train = prepared.tokens.train
    firsts = {}
    for initial in ("real", "k_centers", "k_means", "herding"):
        config = prepared.config.copy_and_resolve_references()
        config.distill.initial = initial
        data = first_data(replace(prepared, config=config))
        firsts[initial] = data.embeddings
        assert data.embeddings.shape == (2, 2, 6, 16)
        assert data.mask.all(), "a text shorter than the distilled length was chosen"
    assert not np.array_equal(firsts["real"], firsts["k_centers"]) and not np.array_equal(firsts["herding"], firsts["k_centers"])
    long = np.flatnonzero((train.labels == 0) & (train.lengths >= 6))
    distances = np.linalg.norm(prepared.features[long] - prepared.features[long].mean(axis=0), axis=1)
    ids = train.ids[long[np.argmin(distances)], :6]
    np.testing.assert_array_equal(firsts["k_centers"][0, 0], prepared.pretrained.words[ids])


def test_more_examples_than_there_are(prepared):
    with pytest.raises(UserError, match="but config.distill.examples_per_class asks for 1000 of them"):
        evaluate_selection(prepared, "herding", 1000, 1, [0])
