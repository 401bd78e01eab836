"""Saving: transformers opens it and computes the same, we read it back, and nothing else is ever lost."""

import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.models.encoder import encode
from ddllm.models.heads import HeadConfig, apply_head, init_head
from ddllm.models.pretrained import load_pretrained
from ddllm.models.save import save_pretrained

LABELS = ("bad", "so so", "gut ü")


@pytest.fixture
def source(make_torch_model, tmp_path):
    """source(family) -> a loaded tiny checkpoint with a tokenizer's file beside it."""

    def make(family="bert", auto="AutoModelForSequenceClassification"):
        make_torch_model(family, auto).save_pretrained(tmp_path / "source")
        (tmp_path / "source" / "vocab.txt").write_text("[PAD]\nword\n")
        (tmp_path / "source" / "README.md").write_text("not a part of the model")
        return load_pretrained(str(tmp_path / "source"))

    return make


def perturb(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf + 0.1 * rng.normal(size=leaf.shape), np.float32), tree)


def draw_params(checkpoint, kind):
    head = init_head(jax.random.key(0), HeadConfig(kind, 3), checkpoint.config.hidden, checkpoint.pooler)
    return perturb({"body": checkpoint.body, "head": head}), perturb(checkpoint.words, 1)


def compute_logits(params, words, config, kind, ids, mask, types):
    mask = mask.astype(np.float32)
    hidden = jax.jit(encode, static_argnums=1)(params["body"], config, words[ids], mask, types)
    return np.asarray(hidden), np.asarray(apply_head(params["head"], HeadConfig(kind, 3), hidden, mask))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet"])
def test_transformers_opens_what_is_saved(source, make_texts, run_torch, tmp_path, family, record_property):
    transformers = pytest.importorskip("transformers")
    checkpoint = source(family, "AutoModel")
    kind = checkpoint.config.family
    params, words = draw_params(checkpoint, kind)
    target = tmp_path / "deep" / "target"
    save_pretrained(target, checkpoint, jax.tree.map(jax.numpy.asarray, params), words, HeadConfig(kind, 3), LABELS)

    opened = transformers.AutoModelForSequenceClassification.from_pretrained(target, output_loading_info=True)
    model, info = opened[0].eval(), opened[1]
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(model).__name__.endswith("ForSequenceClassification")
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["gut ü"] == 2
    assert model.config.problem_type == "single_label_classification"
    ids, mask, types = make_texts(checkpoint.config, 4, 7)
    types = types if checkpoint.config.token_types else None
    _, expected = run_torch(model, ids, mask, types)
    _, logits = compute_logits(params, words, checkpoint.config, kind, ids, mask, types)
    record_property("max_abs_error", float(np.abs(logits - expected).max()))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)

    again = load_pretrained(str(target))
    assert again.config == checkpoint.config and again.fingerprint != checkpoint.fingerprint
    jax.tree.map(np.testing.assert_array_equal, {"body": again.body, "head": again.head}, params)
    np.testing.assert_array_equal(again.words, words)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_mean_head_becomes_one_more_layer(source, make_texts, run_torch, tmp_path, family, record_property):
    transformers = pytest.importorskip("transformers")
    checkpoint = source(family)
    params, words = draw_params(checkpoint, "mean")
    save_pretrained(tmp_path / "target", checkpoint, params, words, HeadConfig("mean", 3), LABELS)

    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "target", output_loading_info=True)
    model, info = opened[0].eval(), opened[1]
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert model.config.num_hidden_layers == checkpoint.config.layers + 1
    ids, mask, types = make_texts(checkpoint.config, 4, 7)
    types = types if checkpoint.config.token_types else None
    _, expected = run_torch(model, ids, mask, types)
    _, logits = compute_logits(params, words, checkpoint.config, "mean", ids, mask, types)
    record_property("max_abs_error", float(np.abs(logits - expected).max()))
    assert np.abs(logits).max() > 0.3
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)

    again = load_pretrained(str(tmp_path / "target"))
    assert again.config == checkpoint.config and set(again.head) == {"out"}
    jax.tree.map(np.testing.assert_array_equal, {"body": again.body, "head": again.head}, params)
    jax.tree.map(np.testing.assert_array_equal, again.pooler, checkpoint.pooler)
    (tmp_path / "target" / "classifier_head.safetensors").unlink()
    with pytest.raises(UserError, match="lacks classifier_head.safetensors"):
        load_pretrained(str(tmp_path / "target"))


@pytest.mark.parametrize("family, classes", [("bert", 15), ("mpnet", 3)])
def test_a_mean_head_that_no_layer_can_take_lies_beside_the_plain_model(source, tmp_path, family, classes):
    checkpoint = source(family)
    params, words = draw_params(checkpoint, "mean")
    names = [f"class {number}" for number in range(classes)]
    params["head"] = init_head(jax.random.key(0), HeadConfig("mean", classes), 16)
    save_pretrained(tmp_path / "target", checkpoint, params, words, HeadConfig("mean", classes), names)
    assert "Model" in json.loads((tmp_path / "target" / "config.json").read_text())["architectures"][0]
    again = load_pretrained(str(tmp_path / "target"))
    assert again.config == checkpoint.config
    jax.tree.map(np.testing.assert_array_equal, again.head, params["head"])


def test_what_else_is_written(source, tmp_path):
    checkpoint = source("bert")
    raw = json.loads((tmp_path / "source" / "config.json").read_text())
    raw |= {"torch_dtype": "float16", "num_labels": 7, "my own note": [1, 2], "hidden_dropout_prob": 0.25}
    (tmp_path / "source" / "config.json").write_text(json.dumps(raw))
    params, words = draw_params(checkpoint, "bert")
    save_pretrained(tmp_path / "target", checkpoint, params, words, HeadConfig("bert", 3), LABELS)
    names = {path.name for path in (tmp_path / "target").iterdir()}
    assert names == {"config.json", "model.safetensors", "vocab.txt", "ddllm.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}
    assert (tmp_path / "target" / "vocab.txt").read_text() == "[PAD]\nword\n"
    written = json.loads((tmp_path / "target" / "config.json").read_text())
    assert written["architectures"] == ["BertForSequenceClassification"] and written["dtype"] == "float32"
    assert written["my own note"] == [1, 2] and written["hidden_dropout_prob"] == 0.25
    assert "torch_dtype" not in written and "num_labels" not in written and "ddllm_head" not in written
    safe_open = pytest.importorskip("safetensors").safe_open
    with safe_open(tmp_path / "target" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_saved_model_is_replaced(source, tmp_path):
    checkpoint = source("bert")
    target = tmp_path / "target"
    target.mkdir()  # empty: fine
    for kind, seed in (("mean", 0), ("bert", 1)):
        params, words = draw_params(checkpoint, kind)
        words = perturb(words, seed)
        save_pretrained(target, checkpoint, params, words, HeadConfig(kind, 3), LABELS)
        np.testing.assert_array_equal(load_pretrained(str(target)).words, words)
    assert not (target / "classifier_head.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_a_model_is_never_replaced_by_what_is_trained_from_it(source, tmp_path):
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")
    save_pretrained(tmp_path / "base", checkpoint, params, words, HeadConfig("bert", 3), LABELS)
    (tmp_path / "link").symlink_to(tmp_path / "base")
    for name, target in (("base", "link"), ("link", "base"), ("base", "base")):
        base = load_pretrained(str(tmp_path / name))
        with pytest.raises(UserError, match="the model that training starts from lies there"):
            save_pretrained(tmp_path / target, base, params, words, HeadConfig("bert", 3), LABELS)
    assert load_pretrained(str(tmp_path / "base")).fingerprint == base.fingerprint


def test_models_of_others_are_left_alone(source, tmp_path, make_torch_model):
    """A foreign checkpoint, and what somebody has trained on from a saved one."""
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")
    make_torch_model("bert").save_pretrained(tmp_path / "foreign")
    save_pretrained(tmp_path / "changed", checkpoint, params, words, HeadConfig("bert", 3), LABELS)
    make_torch_model("bert").save_pretrained(tmp_path / "changed")
    for name in ("foreign", "changed"):
        before = load_pretrained(str(tmp_path / name)).fingerprint
        with pytest.raises(UserError, match="has not written, or that was changed since; remove that folder"):
            save_pretrained(tmp_path / name, checkpoint, params, words, HeadConfig("bert", 3), LABELS)
        assert load_pretrained(str(tmp_path / name)).fingerprint == before


def test_the_tokenizer_cuts_to_a_length(source, tmp_path):
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")
    for kept in ({}, {"tokenizer_class": "BertTokenizer", "model_max_length": 512}):
        if kept:
            (tmp_path / "source" / "tokenizer_config.json").write_text(json.dumps(kept))
        save_pretrained(tmp_path / "target", checkpoint, params, words, HeadConfig("bert", 3), LABELS, length=12)
        assert json.loads((tmp_path / "target" / "tokenizer_config.json").read_text()) == kept | {"model_max_length": 12}


def test_folders_with_other_things_are_left_alone(source, tmp_path):
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")

    def refuse(folder: Path, *words_of_message):
        before = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else folder.read_text()
        with pytest.raises(UserError) as caught:
            save_pretrained(folder, checkpoint, params, words, HeadConfig("bert", 3), LABELS)
        for word in words_of_message:
            assert word in str(caught.value)
        assert before == (sorted(path.name for path in folder.iterdir()) if folder.is_dir() else folder.read_text())

    shutil.copytree(tmp_path / "source", tmp_path / "other")
    refuse(tmp_path / "other", "README.md")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocab.txt").write_text("mine")
    refuse(tmp_path / "data", "vocab.txt")
    (tmp_path / "file").write_text("mine")
    refuse(tmp_path / "file", "is a file")


def test_a_save_that_fails_half_way_leaves_the_old_model(source, tmp_path):
    """Under a limit on file sizes, which stops the writing as a full disk does."""
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")
    target = tmp_path / "target"
    save_pretrained(target, checkpoint, params, words, HeadConfig("bert", 3), LABELS)
    before = load_pretrained(str(target)).fingerprint
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot save a model.*space"):
            save_pretrained(target, checkpoint, params, perturb(words), HeadConfig("bert", 3), LABELS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_pretrained(str(target)).fingerprint == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_a_place_that_cannot_be_written(source, tmp_path):
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot save a model"):
        save_pretrained(tmp_path / "file" / "target", checkpoint, params, words, HeadConfig("bert", 3), LABELS)


def test_parameters_that_do_not_fit(source, tmp_path):
    checkpoint = source("bert")
    params, words = draw_params(checkpoint, "bert")
    for changed, config, labels, message in (
        (params, HeadConfig("roberta", 3), LABELS, "roberta"),
        (params, HeadConfig("bert", 3), LABELS[:2], "3 classes"),
        (params, HeadConfig("bert", 3), ("a", "b", "a"), "distinct"),
        (params, HeadConfig("bert", 2), LABELS[:2], "out/kernel"),
    ):
        with pytest.raises(ValueError, match=message):
            save_pretrained(tmp_path / "target", checkpoint, changed, words, config, labels)
    with pytest.raises(ValueError, match="words"):
        save_pretrained(tmp_path / "target", checkpoint, params, words[:-1], HeadConfig("bert", 3), LABELS)
    words[3, 4] = np.nan
    with pytest.raises(UserError, match="words hold NaN"):
        save_pretrained(tmp_path / "target", checkpoint, params, words, HeadConfig("bert", 3), LABELS)
    assert not (tmp_path / "target").exists()
