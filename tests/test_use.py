"""A distilled folder becomes the same classifier that the run evaluated, in one call."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import ddllm
from ddllm.artefact.base import describe_base
from ddllm.artefact.card import render_card
from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.evaluate.compute import count_by_xla
from ddllm.evaluate.storage import vary_storage
from ddllm.merge.sets import HEADS, merge_sets
from ddllm.models.pretrained import load_pretrained
from ddllm.prepare import prepare
from ddllm.stages import distill, evaluate, load_scored, open_run, privacy
from ddllm.text.look import rate_groups
from ddllm.text.look_words import look_at_words


@pytest.fixture(scope="module")
def run(tiny_model, tiny_corpus, tmp_path_factory):
    config = default_config()
    config.model.name, config.model.head_deviation = str(tiny_model), 0.3
    config.data.source, config.data.length = str(tiny_corpus), 12
    config.distill.update(
        {"length": 6, "passes": 3, "initial": "real", "head": "zero", "initial_rate": 0.1, "outer_steps": 30, "batch_size": 8}
    )
    config.distill.update({"attention_labels": "cls", "feature_labels": True, "feature_weight": 0.1, "direction_labels": True, "gains": True})
    config.distill.update({"word_scores": True, "rates": "tensor"})
    config.evaluate.update({"heads": 1, "selections": (), "selection_draws": 1})
    config.runtime.update({"devices": 1, "compilation_cache": "", "tensorboard": False})
    opened = open_run(config, tmp_path_factory.mktemp("use") / "run")
    distill(opened)
    evaluate(opened)
    return opened


def test_reaches_what_the_run_reported(run, tiny_corpus, tmp_path):
    trained = ddllm.train(run.workdir.distilled)
    lines = [json.loads(line) for line in (tiny_corpus / "test.jsonl").read_text().splitlines()]
    predicted = trained.predict([line["text"] for line in lines], batch_size=7)
    accuracy = np.mean([name == line["label"] for name, line in zip(predicted, lines, strict=True)])
    rows = {row["name"]: row for row in json.loads(run.workdir.results.read_text())["rows"]}
    assert accuracy == pytest.approx(rows["distilled"]["accuracy_mean"]) and len(set(predicted)) == 2
    assert trained.predict([]) == []
    with pytest.raises(UserError, match="give a list of texts"):
        trained.predict("a fine film")
    trained.tokenizer.add_tokens("unheard")
    with pytest.raises(UserError, match="one of the texts has a token of number .* word table has"):
        trained.predict(["unheard of"])
    trained.save(tmp_path / "saved")
    saved = load_pretrained(str(tmp_path / "saved"))
    np.testing.assert_array_equal(saved.head["out"]["kernel"], trained.params["head"]["out"]["kernel"])
    moved = np.any(saved.words != trained.pretrained.words, axis=1)
    np.testing.assert_array_equal(moved, np.any(trained.distilled.data.word_scores != 0, axis=0))
    assert 0 < moved.sum() < len(moved), "words of the training texts move, and no others"


def test_what_else_is_made_of_a_set_with_every_part(run):
    """Its operations, its bytes, its groups of rates, and the words that it moves."""
    distilled = ddllm.load_distilled(run.workdir.distilled)
    assert count_by_xla(run.prepared, distilled) > 0
    rows = {variation.name: variation.more["bytes"] for variation in vary_storage(distilled.data, distilled.recipe)}
    stored = distilled.data.floats * 4 + -(-distilled.data.word_scores.shape[1] // 8)
    assert rows["float32"] == stored and rows["8 bits"] < rows["float16"] < 0.6 * stored
    groups = rate_groups(run.prepared, distilled.data)
    assert groups[-1] == "moves" and len(groups) == distilled.data.rates.shape[1]
    told = look_at_words(distilled, str)
    assert [move["name"] for move in told] == list(distilled.label_names) and all(move["with"] and move["against"] for move in told)


@pytest.mark.parametrize("seed", [-1, 2**31, 10**20])
def test_refuses_seeds_that_cannot_be_drawn_from(run, seed):
    with pytest.raises(UserError, match=f"the seed is {seed}, but must be between 0 and 2147483647"):
        ddllm.train(run.workdir.distilled, seed=seed)


def test_refuses_other_weights(run, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "other")
    content = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(content | {"note": 1}))
    with pytest.raises(UserError, match="other weights"):
        ddllm.train(run.workdir.distilled, model=str(tmp_path / "other"))
    distilled, pretrained = ddllm.load_distilled(run.workdir.distilled), load_pretrained(str(tiny_model))
    distilled.check_base(pretrained)
    one_layer = distilled.data.replace(attention=distilled.data.attention[:, :, :1])
    with pytest.raises(UserError, match="attention labels for 1 layers"):
        replace(distilled, data=one_layer).check_base(pretrained)
    assert np.any(distilled.data.gains != 1)
    with pytest.raises(UserError, match="scores of .* words, but"):
        replace(distilled, data=distilled.data.replace(word_scores=distilled.data.word_scores[:, 1:])).check_base(pretrained)
    fewer = distilled.data.replace(gains=distilled.data.gains[:, 1:])
    with pytest.raises(UserError, match="gains, but .* has .* channels"):
        replace(distilled, data=fewer).check_base(pretrained)


def test_refuses_what_does_not_fit_the_encoder(run, tiny_model):
    distilled, pretrained = ddllm.load_distilled(run.workdir.distilled), load_pretrained(str(tiny_model))
    seven = distilled.data.replace(rates=np.tile(distilled.data.rates[:, :1], (1, 7)))
    with pytest.raises(UserError, match="7 rates in a step, but .* may have 1, 5 or "):
        replace(distilled, data=seven).check_base(pretrained)
    longer = distilled.card | {"preprocessing": distilled.card["preprocessing"] | {"text_length": 10**12}}
    with pytest.raises(UserError, match="texts of 1000000000000 positions, but .* has 24"):
        replace(distilled, card=longer).check_base(pretrained)


def test_a_local_model_is_found_from_any_directory(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    card = describe_base(load_pretrained(tiny_model.name), run.prepared.learner, 12)
    monkeypatch.chdir(tmp_path)
    assert load_pretrained(card["base_model"]["name"]).fingerprint == run.prepared.pretrained.fingerprint
    shown = render_card(ddllm.load_distilled(run.workdir.distilled).card | card, 1000)
    assert 'train(".", model="FOLDER_OF_THE_ENCODER")' in shown and f"for {tiny_model.name}\n" in shown


def test_a_head_of_another_family_is_refused(run, tmp_path):
    config = run.config.copy_and_resolve_references()
    config.model.head = "distilbert"
    with pytest.raises(UserError, match="config.model.head is 'distilbert', but .* is of the family bert"):
        prepare(config, tmp_path)
    distilled = ddllm.load_distilled(run.workdir.distilled)
    other = replace(distilled, card=distilled.card | {"head": distilled.card["head"] | {"kind": "distilbert"}})
    with pytest.raises(UserError, match="a head of the family distilbert, but .* is of the family bert"):
        other.train()


def make_heads(run, folder, names):
    """The run's data set twice, in heads of these names: both have the same classes."""
    distilled, pretrained = ddllm.load_distilled(run.workdir.distilled), run.prepared.pretrained
    merge_sets([distilled, distilled], list(names), "join", pretrained, HEADS, heads=names).save(folder, pretrained)
    return folder


def test_of_heads_with_the_same_classes_the_one_called_as_the_corpus_is_scored(run, tmp_path):
    name = run.prepared.tokens.name
    called = make_heads(run, tmp_path / "called", ("films", name))
    prepared, _ = load_scored(replace(run, distilled=called))
    assert prepared.learner.task.heads == ("films", name) and prepared.learner.task.active == 1
    with pytest.raises(UserError, match=f"several heads with the classes negative, positive .films, plays., and none is called {name}"):
        load_scored(replace(run, distilled=make_heads(run, tmp_path / "neither", ("films", "plays"))))
    with pytest.raises(UserError, match="a head for each of 2 tasks"):
        privacy(replace(run, distilled=called))


def test_heads_with_the_same_classes_are_saved(run, tmp_path):
    trained = ddllm.train(make_heads(run, tmp_path / "heads", ("films", "plays")))
    trained.save(tmp_path / "saved")
    names = json.loads((tmp_path / "saved" / "config.json").read_text())["id2label"]
    assert list(names.values()) == ["films: negative", "films: positive", "plays: negative", "plays: positive"]
    np.testing.assert_array_equal(load_pretrained(str(tmp_path / "saved")).head["out"]["kernel"], trained.params["head"]["out"]["kernel"])
