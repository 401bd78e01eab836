"""Away from the recipe: what each variation changes, other encoders, and the rows that come out."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled
from ddllm.distill.dataset import DistilledData, Recipe, actual_rates, group_names, raw_rates
from ddllm.errors import UserError
from ddllm.evaluate import variations as v
from ddllm.evaluate.robustness import prepare_other
from ddllm.evaluate.transfer import carry_over, carry_rates, carry_scores, fit_map, shared_tokens
from ddllm.models.tasks import Classification, MultiLabel, Regression
from ddllm.report.analyses import markdown_analyses
from ddllm.report.results import read_results
from ddllm.stages import robustness


@pytest.fixture
def data() -> DistilledData:
    """Three batches of two examples, two passes; each array names its place."""
    rng = np.random.default_rng(0)
    mask = np.ones((3, 2, 4), np.float32)
    mask[:, :, 3] = 0
    rates = raw_rates(jnp.asarray(rng.uniform(0.1, 1, (6, 2)), jnp.float32))
    labels = jnp.asarray(np.tile(np.eye(2, dtype=np.float32)[::-1], (3, 1, 1)))
    embeddings = jnp.asarray(rng.standard_normal((3, 2, 4, 5)), jnp.float32)
    return DistilledData(embeddings, jnp.asarray(mask), labels, rates, momentum=jnp.arange(6.0))


def total(data):
    return np.asarray(actual_rates(data)).sum(axis=0)


def test_the_parameters_go_as_far_as_before(data):
    """The linear scaling rule: sums of rates stay, however the examples are grouped."""
    together, single = v.one_batch(data), v.single_examples(data)
    summed = v.sum_steps(together, 3)
    assert together.embeddings.shape == (1, 6, 4, 5) and summed.rates.shape == (2, 2) and single.embeddings.shape == (6, 1, 4, 5)
    for changed in (together, single, summed):
        np.testing.assert_allclose(total(changed), total(data), rtol=1e-5)
        np.testing.assert_array_equal(changed.embeddings.reshape(6, 4, 5), data.embeddings.reshape(6, 4, 5))
    np.testing.assert_allclose(actual_rates(single)[::2] * 2, actual_rates(data), rtol=1e-5)
    np.testing.assert_array_equal(single.momentum, np.repeat(np.arange(6.0), 2))
    np.testing.assert_array_equal(summed.momentum, [1, 4])
    again = v.twice(data)
    np.testing.assert_allclose(total(again), 2 * total(data), rtol=1e-6)
    np.testing.assert_array_equal(again.rates[6:], data.rates)


def test_shares_in_word_scores_go_with_their_examples(data):
    shares = jnp.arange(3 * 2 * 4 * 2.0).reshape(3, 2, 4, 2)
    scored = data.replace(word_scores=jnp.ones((2, 9)), word_shares=shares)
    for change, shape in ((v.one_batch, (1, 6, 4, 2)), (v.single_examples, (6, 1, 4, 2)), (v.twice, (3, 2, 4, 2))):
        np.testing.assert_array_equal(change(scored).word_shares, shares.reshape(shape))
        np.testing.assert_array_equal(change(scored).word_scores, scored.word_scores)
    np.testing.assert_array_equal(v.reorder(scored, np.array([2, 0, 1])).word_shares, shares[np.array([2, 0, 1])])


def test_gains_go_with_their_steps(data):
    same, each = (data.replace(gains=jnp.arange(rows * 3.0).reshape(rows, 3)) for rows in (1, 6))
    for change in (v.twice, v.single_examples, lambda x: v.sum_steps(x, 3)):
        np.testing.assert_array_equal(change(same).gains, same.gains)
    np.testing.assert_array_equal(v.twice(each).gains, np.tile(each.gains, (2, 1)))
    np.testing.assert_array_equal(v.single_examples(each).gains, np.repeat(each.gains, 2, axis=0))
    np.testing.assert_allclose(v.sum_steps(each, 3).gains, np.asarray(each.gains).reshape(2, 3, 3).mean(axis=1))
    assert v.constant("one rate", same, Recipe("unrestricted", passes=2), (0.1,)).candidates["rate 0.1"].gains is None


def test_types_and_auxiliary_labels_go_with_their_examples(data):
    place = np.arange(6.0).reshape(3, 2)
    full = data.replace(types=np.tile(place[..., None], 4), features=np.tile(place[..., None], 5))
    for changed, expected in (
        (v.reorder(full, np.array([2, 0, 1])), place[[2, 0, 1]]),
        (v.one_batch(full), place.reshape(1, 6)),
        (v.single_examples(full), place.reshape(6, 1)),
    ):
        np.testing.assert_array_equal(changed.types[..., 3], expected)
        np.testing.assert_array_equal(changed.features[..., 4], expected)


def test_each_variation_changes_something_and_fits_its_recipe(data):
    made = {variation.name: variation for variation in v.vary(data, Recipe("soft", "learned_momentum", 2), 2, (1e-3, 1e-2))}
    assert len(made) == 14
    for name, variation in made.items():
        for changed in variation.candidates.values():
            drawn = variation.draw(changed, jax.random.key(3)) if variation.draw else changed
            assert drawn.rates.shape[0] == drawn.embeddings.shape[0] * variation.recipe.passes
            assert (drawn.momentum is None) == (variation.recipe.optimizer != "learned_momentum")
            same = variation.recipe == Recipe("soft", "learned_momentum", 2) and jax.tree.all(
                jax.tree.map(lambda a, b: a.shape == b.shape and bool((a == b).all()), drawn, data)
            )
            assert same == (name == v.BASE), name
    dropped = made["positions dropped"].draw(data, jax.random.key(0)).mask
    assert (dropped <= data.mask).all() and (dropped[..., 0] == 1).all()
    reversed_ = made["batches reversed"].candidates[""]
    np.testing.assert_array_equal(reversed_.embeddings[0], data.embeddings[2])
    np.testing.assert_array_equal(reversed_.rates, data.rates)
    # Where there is one batch of one example, neither order nor batches can be other ones.
    single = jax.tree.map(lambda x: x[:1, :1] if x.ndim > 2 else x[:2], data)
    few = {variation.name for variation in v.vary(single, Recipe("soft", "sgd", 2), 2, (1e-3,))}
    assert not any("batch" in name or "example" in name for name in few) and "rates halved" in few


def test_hard_labels_are_those_that_examples_were_dealt_for(data):
    made = v.vary_labels(data, Recipe("soft"), Classification())
    hard = made[1].candidates[""]
    assert made[1].recipe.labels == "hard" and "another one for 6 of 6" in made[1].how
    np.testing.assert_array_equal(hard.labels, np.tile(np.eye(2), (3, 1, 1)))
    assert len(v.vary_labels(data, Recipe("hard"), Classification())) == 1
    for task in (Regression(), MultiLabel()):
        (only,) = v.vary_labels(data, Recipe("unrestricted"), task)
        assert only.how == f"unrestricted labels, which {task.name} has no hard ones to hold against"


def test_rates_go_to_layers_of_the_same_depth(tiny):
    params = tiny[1]
    layers = params["body"]["layers"]
    deeper = {**params, "body": {**params["body"], "layers": {f"{index:02d}": layers["00"] for index in range(4)}}}
    by_layer = jnp.asarray([[1.0, 2.0, 3.0, 4.0]])  # embeddings, two layers, head
    np.testing.assert_array_equal(carry_rates(by_layer, params, deeper), [[1, 2, 2, 3, 3, 4]])
    names, others = (list(group_names(tree, "tensor")) for tree in (params, deeper))
    carried = carry_rates(jnp.arange(len(names), dtype=jnp.float32)[None], params, deeper)[0]
    for layer, source in (("01", "00"), ("02", "01")):
        at = others.index(f"body.layers.{layer}.attention.qkv.kernel")
        assert carried[at] == names.index(f"body.layers.{source}.attention.qkv.kernel")
    bare = {**params, "head": {"out": params["head"]["out"], "dense": params["head"]["out"]}}
    carried = carry_rates(jnp.arange(len(names), dtype=jnp.float32)[None], params, bare)[0]
    assert carried[list(group_names(bare, "tensor")).index("head.dense.kernel")] == pytest.approx(np.mean(np.arange(len(names))))


def test_a_linear_map_is_found_again():
    rng = np.random.default_rng(1)
    source, matrix = rng.standard_normal((40, 5)), rng.standard_normal((5, 3))
    found, offset, explained = fit_map(source, source @ matrix + 2)
    np.testing.assert_allclose(found, matrix, atol=1e-10)
    np.testing.assert_allclose(offset, 2, atol=1e-10)
    assert explained == pytest.approx(1)
    assert 0 < fit_map(source, rng.standard_normal((40, 3)))[2] < 0.7


def test_tokens_are_the_same_however_words_are_marked(tmp_path):
    from tokenizers import Tokenizer, models

    for name, tokens, special in (
        ("pieces", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "##s", "good"], ("[PAD]", "[UNK]", "[CLS]", "[SEP]")),
        ("bytes", ["<s>", "</s>", "<unk>", "<pad>", "\u0120good", "s", "good", "\u0120film"], ("<pad>", "<unk>", "<s>", "</s>")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=special[1])).save(
            str(folder / "tokenizer.json")
        )
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    ours, theirs = shared_tokens(tmp_path / "pieces", tmp_path / "bytes")
    assert dict(zip(ours.tolist(), theirs.tolist(), strict=True)) == {0: 3, 1: 2, 2: 0, 3: 1, 4: 7, 5: 5, 6: 4}
    scores = carry_scores(np.stack([np.arange(1.0, 8.0), -np.arange(1.0, 8.0)]), ours, theirs, vocabulary=8)
    np.testing.assert_array_equal(scores[0], [3, 4, 2, 1, 7, 6, 0, 5])
    np.testing.assert_array_equal(scores[1], -scores[0])


def test_the_stage(distilled_run, make_model, tmp_path):
    same_size, narrow = make_model(16, 3, 1), make_model(8, 1, 2)
    run = replace(distilled_run, config=distilled_run.config.copy_and_resolve_references())
    run.config.evaluate.transfer = (str(same_size), str(narrow))
    run._prepared = replace(distilled_run.prepared, config=run.config)
    robustness(run)
    results = read_results(run.workdir.results)
    rows = {row["variation"]: row for row in results["robustness"]}
    base = rows[v.BASE]
    distilled = load_distilled(run.workdir.distilled)
    assert base["change"] == 0 and base["runs"] == 1
    assert len({row["accuracy_mean"] for row in rows.values()}) > 3
    assert rows["examples dealt anew"]["runs"] == rows["positions dropped"]["runs"] == 2 and rows["rates halved"]["runs"] == 1
    assert "of rate 0.001, rate 0.03, chosen on validation" in rows["Adam"]["note"]
    for row in rows.values():
        assert row["name"] == "distilled" and row["change"] == pytest.approx(100 * (row["accuracy_mean"] - base["accuracy_mean"]), abs=0.01)
    on = [name for name in rows if name.startswith("on ")]
    assert on == [f"on {same_size}", f"on {same_size}, mapped", f"on {narrow}, mapped"], "both are called tiny"
    assert " shared tokens" in rows[on[2]]["note"]
    assert f"| {v.BASE} | {100 * base['accuracy_mean']:.1f} | +0.0 |" in markdown_analyses(results)
    foreign = shutil.copytree(narrow, tmp_path / "foreign")
    content = json.loads((foreign / "tokenizer.json").read_text())
    content["model"]["vocab"] = {key if key.startswith("[") else f"{key}s": index for key, index in content["model"]["vocab"].items()}
    (foreign / "tokenizer.json").write_text(json.dumps(content))
    other = prepare_other(run.prepared, str(foreign), tmp_path)
    with pytest.raises(UserError, match="share only 4 tokens, but a map between their word tables needs at least 17"):
        carry_over(run.prepared, other, distilled.data, distilled.recipe)
    run.config.evaluate.transfer = (str(same_size), str(foreign))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddllm.evaluate.robustness.score_variations", lambda *_: pytest.fail("trained before the last encoder was looked at"))
        with pytest.raises(UserError, match="share only 4 tokens"):
            robustness(run)
