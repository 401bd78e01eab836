"""The exported folder comes back whole, or says in one sentence why not."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save

import ddllm
from ddllm.artefact.folder import TORCH, add_scores, load_distilled, read_recipe, save_distilled
from ddllm.artefact.rows import PARQUET, TEXT
from ddllm.artefact.schema import ARRAYS, RECIPE, SCHEMA
from ddllm.config import default_config, resolve
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.errors import UserError

BASE = {
    "base_model": {"name": "embedded", "fingerprint": "0", "hidden": 4},
    "head": {"kind": "mean", "classes": 2, "deviation": 0.02, "start": "learned", "seed": 0},
    "preprocessing": {"tokenizer": "embedded", "text_length": 12},
}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    head = {"out": {"kernel": rng.standard_normal((4, 2)).astype(np.float32), "bias": np.zeros(2, np.float32)}}
    embeddings, labels, rates = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 3, 4), (2, 2, 2), (4, 1)))
    data = DistilledData(embeddings, np.ones((2, 2, 3), np.float32), labels, rates, head=head)
    save_distilled(tmp_path / "out", data, Recipe("soft", "sgd", 2), ("bad", "good"), **BASE, note="kept")
    return tmp_path / "out", data


def rewrite(path, change):
    """Change recipe.json or the arrays and mend the checksum, as a careless person with good intentions would."""
    import hashlib

    arrays = load_file(path / ARRAYS)
    card = json.loads((path / RECIPE).read_text())
    change(arrays, card)
    content = save(arrays)
    (path / ARRAYS).write_bytes(content)
    card["files"][ARRAYS] = hashlib.sha256(content).hexdigest()
    (path / RECIPE).write_text(json.dumps(card))


def test_comes_back_whole(folder):
    path, data = folder
    loaded = load_distilled(path)
    jax.tree.map(np.testing.assert_array_equal, loaded.data, data)
    assert loaded.recipe == Recipe("soft", "sgd", 2)
    assert loaded.label_names == ("bad", "good") and loaded.card["note"] == "kept"
    np.testing.assert_allclose(loaded.card["learning_rates"], np.log1p(np.exp(data.rates)), rtol=1e-5)


def test_momentum_and_order_come_back(folder):
    path, data = folder
    rng = np.random.default_rng(1)
    order, momentum = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 2), (4,)))
    fuller = data.replace(order=order, momentum=momentum)
    recipe = Recipe("soft", "learned_momentum", 2, "learned")
    save_distilled(path, fuller, recipe, ("bad", "good"), **BASE)
    loaded = load_distilled(path)
    jax.tree.map(np.testing.assert_array_equal, loaded.data, fuller)
    assert loaded.recipe == recipe and fuller.floats == data.floats + 8 + 4
    np.testing.assert_allclose(loaded.card["momentum"], 1 / (1 + np.exp(-momentum)), rtol=1e-5)
    np.testing.assert_allclose(np.sum(loaded.card["batch_shares"], axis=1), 1, rtol=1e-5)
    for change, message in (
        (lambda arrays, card: arrays.update(order=order[:, :1].copy()), "do not fit"),
        (lambda arrays, card: (arrays.update(order=order), arrays.pop("momentum")), "do not fit"),
        (lambda arrays, card: arrays.update(momentum=np.full(4, np.inf, np.float32)), "momentum .* not finite"),
        (lambda arrays, card: arrays.update(momentum=momentum, colour=momentum), "colour"),
    ):
        rewrite(path, change)
        with pytest.raises(UserError, match=message):
            load_distilled(path)


@pytest.mark.parametrize("keys", [(3,), (3, 3)])
def test_auxiliary_labels_come_back(folder, keys):
    path, data = folder
    rng = np.random.default_rng(1)
    attention = rng.standard_normal((2, 2, 5, 2, *keys), np.float32)
    mask = np.ones((2, 2, 3), np.float32)
    mask[0, 0, 1:] = 0
    fuller = data.replace(attention=attention, features=rng.standard_normal((2, 2, 4), np.float32), mask=mask)
    fuller = fuller.replace(directions=rng.standard_normal((2, 2, 5, 4), np.float32), gains=rng.standard_normal((1, 9), np.float32))
    scores = rng.standard_normal((3, 20), np.float32) * (np.arange(20) % 3 > 0)
    fuller = fuller.replace(word_scores=scores, word_shares=rng.standard_normal((*fuller.mask.shape, 3), np.float32))
    recipe = Recipe("soft", "sgd", 2, attention_weight=7.0, feature_weight=0.5)
    save_distilled(path, fuller, recipe, ("bad", "good"), **BASE)
    loaded = load_distilled(path)
    jax.tree.map(np.testing.assert_array_equal, loaded.data, fuller)
    assert loaded.recipe == recipe and loaded.card["schema"] == SCHEMA
    assert fuller.floats == data.replace(mask=mask).floats + 9 + 16 + 80 + 3 * 13 + 3 * 10 + 10 * (1 + 3 * 3 if len(keys) == 1 else 1 + 3 * 9)
    for name, changed in (
        ("attention", attention[:, :, :, :, :2].copy()),
        ("attention", attention[:, :1].copy()),
        ("features", np.zeros((2, 2, 3), np.float32)),
        ("directions", np.zeros((2, 2, 5, 3), np.float32)),
        ("gains", np.ones((3, 9), np.float32)),
        ("word_shares", np.ones((2, 2, 3, 2), np.float32)),
    ):
        rewrite(path, lambda arrays, card, name=name, changed=changed: arrays.update({name: changed}))
        with pytest.raises(UserError, match="do not fit"):
            load_distilled(path)
        save_distilled(path, fuller, recipe, ("bad", "good"), **BASE)
    for change in ({"word_scores.words": np.zeros(3, np.uint8)}, {"word_scores.vocabulary": np.int32([2**31 - 1])}, {"word_scores": scores[0].copy()}):
        rewrite(path, lambda arrays, card, change=change: arrays.update(change))
        with pytest.raises(UserError, match="is incomplete .*scores of the shape .* do not fit the words"):
            load_distilled(path)
        save_distilled(path, fuller, recipe, ("bad", "good"), **BASE)
    rewrite(path, lambda arrays, card: (arrays.pop("word_shares"), None))
    with pytest.raises(UserError, match="do not fit"):
        load_distilled(path)
    save_distilled(path, fuller, recipe, ("bad", "good"), **BASE)
    rewrite(path, lambda arrays, card: card["recipe"].update(attention_weight="7"))
    with pytest.raises(UserError, match="do not fit"):
        load_distilled(path)


def test_pairs_and_other_tasks_come_back(folder):
    path, data = folder
    types = np.broadcast_to(np.float32([0, 1, 1]), data.mask.shape)
    task = {"name": "regression", "mean": 1.0, "deviation": 2.0}
    card = BASE | {"preprocessing": {"text_length": 12, "pairs": True}, "task": task}
    save_distilled(path, data.replace(types=types), Recipe("hard", "sgd", 2), ("bad", "good"), **card)
    loaded = load_distilled(path)
    np.testing.assert_array_equal(loaded.data.types, types)
    assert loaded.card["schema"] == SCHEMA and loaded.data.floats == data.floats and loaded.card["task"] == task
    rewrite(path, lambda arrays, card: arrays.update(types=types[:1].copy()))
    with pytest.raises(UserError, match="do not fit"):
        load_distilled(path)


def write_old(path, schema, change):
    """A folder as ddllm wrote it in an earlier schema."""
    arrays = load_file(path / ARRAYS)
    card = {
        "schema": schema,
        "sha256": hashlib.sha256((path / ARRAYS).read_bytes()).hexdigest(),
        "label_names": ["bad", "good"],
        "batches": 2,
        "recipe": {"labels": "soft", "optimizer": "sgd", "passes": 2},
        **json.loads(json.dumps(BASE)),
    }
    change(arrays, card)
    for file in path.iterdir():
        file.unlink()
    content = save(arrays, metadata={"format": "ddllm"})
    (path / ARRAYS).write_bytes(content)
    (path / RECIPE).write_text(json.dumps(card | {"sha256": hashlib.sha256(content).hexdigest()}))


def test_folders_of_earlier_schemas(folder):
    path, data = folder
    content = (path / ARRAYS).read_bytes()

    def old(schema, change=lambda arrays, card: None):
        (path / ARRAYS).write_bytes(content)
        write_old(path, schema, change)
        return load_distilled(path)

    first = old(1)
    jax.tree.map(np.testing.assert_array_equal, first.data, data)
    assert first.recipe == Recipe("soft", "sgd", 2, "fixed") and not first.pairs
    assert first.card["schema"] == SCHEMA and first.card["storage"] == "float32" and first.card["task"] == {"name": "classification"}
    assert first.card["scores"] == [] and list(first.card["files"]) == [ARRAYS] and "sha256" not in first.card
    assert old(2, lambda arrays, card: card["recipe"].update(order="shuffled", optimizer="adamw(b1=0.8)")).recipe.order == "shuffled"

    def newer(arrays, card):
        arrays["features"] = np.zeros((2, 2, 4), np.float32)
        card["recipe"].update(order="fixed", feature_weight=0.5)
        card.update(task={"name": "regression", "mean": 1.0, "deviation": 2.0})
        card["preprocessing"]["pairs"] = True

    third = old(3, newer)
    gains = np.arange(5, dtype=np.float16)[None] / 3

    def halved(arrays, card):
        arrays.update(embeddings=arrays["embeddings"].astype(np.float16), gains=gains)
        card.update(storage="float16", scores=[], files={ARRAYS: hashlib.sha256(save(arrays, metadata={"format": "ddllm"})).hexdigest()})

    np.testing.assert_array_equal(old(5, halved).data.gains, gains.astype(np.float32))
    old(3, newer)
    assert third.recipe.feature_weight == 0.5 and third.pairs and third.card["task"]["deviation"] == 2
    (path / ARRAYS).write_bytes((path / ARRAYS).read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="checksum"):
        load_distilled(path)


def test_scores_stay_with_the_arrays(folder):
    path, data = folder
    score = {"name": "distilled", "figure": "accuracy", "mean": 0.876, "deviation": 0.0, "runs": 1, "texts": 1821, "head": "zero", "data": "a|b"}
    arrays = (path / ARRAYS).read_bytes()
    add_scores(path, [score])
    add_scores(path, [score | {"name": "distilled, redrawn heads", "runs": 3, "deviation": 0.012, "note": "x"}])
    card = (path / "README.md").read_text()
    assert "| distilled | accuracy | 87.6 | 1,821 | a\\|b |" in card and "87.6 ± 1.2 (3 runs)" in card
    assert (path / ARRAYS).read_bytes() == arrays and load_distilled(path).card["note"] == "kept"
    save_distilled(path, data, Recipe("soft", "sgd", 2), ("bad", "good"), **BASE)
    assert [kept["name"] for kept in load_distilled(path).card["scores"]] == ["distilled", "distilled, redrawn heads"]
    save_distilled(path, data.replace(labels=data.labels + 1), Recipe("soft", "sgd", 2), ("bad", "good"), **BASE)
    assert load_distilled(path).card["scores"] == []


def test_what_else_lies_there(folder):
    path, data = folder
    assert {entry.name for entry in path.iterdir()} == {ARRAYS, RECIPE, TEXT, PARQUET, TORCH, "README.md"}
    assert (path / TORCH).read_bytes() == Path(ddllm.__file__).with_name("pytorch.py").read_bytes()
    card = read_recipe(path)
    assert set(card["files"]) == {ARRAYS, TEXT, PARQUET, TORCH} and "softmax" in card["loss"] and card["versions"]["ddllm"] == ddllm.__version__
    for name in (TEXT, PARQUET, TORCH):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content + b" ")
        with pytest.raises(UserError, match=f"{name} was changed"):
            load_distilled(path)
        (path / name).unlink()  # nothing is learned from it
        load_distilled(path)
        (path / name).write_bytes(content)


def test_is_replaced_whole(folder):
    path, data = folder
    card = BASE | {"head": BASE["head"] | {"start": "zero"}}
    save_distilled(path, data.replace(head=None), Recipe("soft", "sgd", 2), ("bad", "good"), **card)
    assert load_distilled(path).data.head is None
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]


def test_what_is_not_ours_stays(folder):
    path, data = folder
    (path / "MODEL").mkdir()
    (path / "MODEL" / "config.json").write_text("{}")
    (path / "notes.txt").write_text("mine")
    before = {entry: entry.stat().st_mtime_ns for entry in path.iterdir()}
    save_distilled(path, data, Recipe("soft", "sgd", 2), ("bad", "good"), **BASE, note="kept")
    assert {entry: entry.stat().st_mtime_ns for entry in path.iterdir()} == before, "nothing had changed"
    save_distilled(path, data.replace(labels=data.labels + 1), Recipe("soft", "sgd", 2), ("bad", "good"), **BASE)
    np.testing.assert_array_equal(load_distilled(path).data.labels, data.labels + 1)
    assert (path / "MODEL" / "config.json").read_text() == "{}" and (path / "notes.txt").read_text() == "mine"
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]


def test_a_link_stays_one(folder, tmp_path):
    path, data = folder
    (tmp_path / "elsewhere").mkdir()
    place = path.rename(tmp_path / "elsewhere" / "set")
    path.symlink_to(place)
    save_distilled(path, data.replace(labels=data.labels + 1), Recipe("soft", "sgd", 2), ("bad", "good"), **BASE)
    assert path.is_symlink() and [entry.name for entry in place.parent.iterdir()] == ["set"]
    np.testing.assert_array_equal(load_distilled(place).data.labels, data.labels + 1)


def test_does_not_replace_other_folders(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something other"):
        save_distilled(tmp_path / "mine", folder[1], Recipe("soft", "sgd", 2), ("bad", "good"), **BASE)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_missing_and_damaged_files(folder, tmp_path):
    path, _ = folder
    with pytest.raises(UserError, match="has no distilled.safetensors"):
        load_distilled(tmp_path / "nowhere")
    content = bytearray((path / ARRAYS).read_bytes())
    content[-1] ^= 1
    (path / ARRAYS).write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        load_distilled(path)
    for text in ("{", "[" * 100_000):
        (path / RECIPE).write_text(text)
        with pytest.raises(UserError, match="not valid JSON"):
            load_distilled(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays, card: card.update(schema=99), "newer ddllm"),
        (lambda arrays, card: card.pop("schema"), "says no schema"),
        (lambda arrays, card: card.update(storage="int4"), "stored as 'int4'"),
        (lambda arrays, card: card.update(storage="float16"), "incomplete .*float32 are not stored as float16"),
        (lambda arrays, card: card["recipe"].update(labels="firm"), "labels .* are 'firm'"),
        (lambda arrays, card: card["files"].update({"../secret": "0"}), "no checksum"),
        (lambda arrays, card: arrays.pop("labels"), "incomplete"),
        (lambda arrays, card: arrays.update(labels=np.zeros((2, 2, 3), np.float32)), "do not fit"),
        (lambda arrays, card: card["recipe"].update(passes=3), "do not fit"),
        (lambda arrays, card: card["recipe"].update(colour="red"), "incomplete"),
        (lambda arrays, card: card["recipe"].update(order="random"), "order .* is 'random', but must be one of"),
        (lambda arrays, card: card["recipe"].update(optimizer="__import__('os').getpid()"), "inner optimizer .* named arguments"),
        (lambda arrays, card: card["recipe"].update(optimizer="learned_momentum"), "do not fit"),
        (lambda arrays, card: arrays["rates"].fill(np.nan), "rates .* not finite"),
        (lambda arrays, card: arrays["head.out.kernel"].fill(np.nan), "the head .* not finite"),
        (lambda arrays, card: arrays["mask"][1, 0].fill(0), "leaves an example no position"),
        (lambda arrays, card: arrays.update({name: arrays[name][:, :0].copy() for name in ("embeddings", "mask", "labels")}), "do not fit"),
        (lambda arrays, card: arrays.update({name: arrays[name][:, :, :0].copy() for name in ("embeddings", "mask")}), "do not fit"),
        (lambda arrays, card: [arrays.pop(f"head.out.{part}") for part in ("kernel", "bias")], "holds no arrays of a head, but .* must hold out.bias"),
        (lambda arrays, card: card["head"].update(start="zero"), r"holds out.bias \(2,\), out.kernel \(4, 2\), but by recipe.json it must hold no arrays"),
        (lambda arrays, card: arrays.update({"head.out.kernel": np.zeros((3, 2), np.float32)}), r"out.kernel \(3, 2\), but .* out.kernel \(4, 2\)"),
        (lambda arrays, card: arrays.update({"head.out": np.zeros(2, np.float32)}), r"holds out \(2,\), out.bias"),
        (lambda arrays, card: card["head"].update(kind="bert"), "must hold dense.bias"),
    ],
)
def test_arrays_that_cannot_be_meant(folder, change, message):
    path, _ = folder
    rewrite(path, change)
    with pytest.raises(UserError, match=message):
        load_distilled(path)


def drop(place):
    *outer, name = place.split(".")

    def change(arrays, card):
        for key in outer:
            card = card[key]
        del card[name]

    return change


SCORE = {"name": "distilled", "figure": "accuracy", "mean": 0.9, "deviation": 0.0, "runs": 1, "texts": 20}
HEADS = {"name": "multihead", "heads": ["x", "y"], "sizes": [1, 1]}


@pytest.mark.parametrize("place", ["label_names", "scores", "head", "head.kind", "base_model", "base_model.fingerprint", "preprocessing.text_length"])
def test_what_recipe_json_has_to_say(folder, place):
    path, _ = folder
    rewrite(path, drop(place))
    with pytest.raises(UserError, match=f"recipe.json says no {place}; get the folder again"):
        load_distilled(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label_names": "ab"}, "label_names .* is 'ab', but must be a list of names"),
        ({"label_names": ["good", "good"]}, "repeats a name: good, good"),
        ({"label_names": [0, 1]}, "must be a list of names"),
        ({"head": BASE["head"] | {"classes": 7}}, "2 label_names, but a head of 7 classes"),
        ({"head": BASE["head"] | {"colour": "red"}}, "says head.colour, which no head has"),
        ({"head": BASE["head"] | {"kind": "foo"}}, "head.kind .* is 'foo', but must be one of bert"),
        ({"head": BASE["head"] | {"start": "foo"}}, "head.start .* is 'foo', but must be one of redrawn"),
        ({"head": BASE["head"] | {"seed": 2**70}}, "head.seed .* must be a whole number of at most 32 bits"),
        ({"label_names": ["\ud800", "good"]}, "label_names .* must be a list of names"),
        ({"head": None}, "head in .* is None, but must be an object"),
        ({"base_model": BASE["base_model"] | {"name": 3}}, "base_model.name .* is 3"),
        ({"products": "foo"}, "products .* is 'foo', but must be one of float32"),
        ({"task": "x"}, "task .* is 'x', but must be an object"),
        ({"task": {"name": "ranking"}}, "not one of classification"),
        ({"task": {"name": "regression", "mean": "low"}}, "mean and deviation of the task .* must be numbers"),
        ({"task": HEADS | {"sizes": [1, 2]}}, "do not share out its 2 label_names"),
        ({"task": HEADS | {"heads": ["x", "x"]}}, "do not share out"),
        ({"scores": None}, "scores .* is None, but must be a list of objects"),
        ({"scores": [SCORE, {"name": "x"}]}, "score 2 of .* says no figure"),
        ({"scores": [SCORE | {"mean": "0.9"}]}, "mean in score 1 of .* is '0.9', but must be a finite number"),
        ({"scores": [SCORE | {"mean": float("nan")}]}, "mean in score 1 .* is nan, but must be a finite number"),
        ({"scores": [SCORE | {"deviation": float("inf")}]}, "deviation in score 1 .* is inf, but must be a finite number"),
        ({"recipe": {"labels": "soft", "optimizer": "sgd", "passes": 2.0}}, "recipe.passes .* is 2.0"),
        ({"learning_rates": [0.1]}, "learning_rates"),
        ({"preprocessing": "none"}, "no preprocessing"),
        ({"merged": {"sets": [{"sets": 1}, {"texts": "x"}]}}, "texts in set 2 of .* must be a list of objects"),
        ({"updated": {"texts": [{"corpus": "x"}]}}, "texts of set 1 of .* says no label_names"),
        ({"teachers": [{"label_names": ["x"]}]}, "texts of teacher 1 of .* says no corpus"),
    ],
)
def test_what_recipe_json_cannot_mean(folder, change, message):
    path, _ = folder
    rewrite(path, lambda arrays, card: card.update(change))
    with pytest.raises(UserError, match=message) as caught:
        load_distilled(path)
    assert str(caught.value).endswith("; get the folder again.")


def test_heads_may_have_classes_of_the_same_name(folder):
    path, _ = folder
    rewrite(path, lambda arrays, card: card.update(label_names=["good", "good"], task=HEADS))
    assert load_distilled(path).label_names == ("good", "good")


def test_a_shuffled_order_that_cannot_deal_its_examples(folder):
    path, data = folder
    three = {"labels": np.zeros((2, 2, 3), np.float32), "head": None}
    card = BASE | {"head": BASE["head"] | {"classes": 3, "start": "zero"}}
    given = data.replace(**three), Recipe("hard", "sgd", 2, "shuffled"), ("bad", "so so", "good")
    with pytest.raises(UserError, match="2 examples, which a shuffled order cannot deal over 3 classes"):
        save_distilled(path, *given, **card)
    assert load_distilled(path).label_names == ("bad", "good")
    save_distilled(path, *given, **card, task={"name": "multilabel"})  # sets of labels are dealt as they are
    rewrite(path, lambda arrays, card: card.pop("task"))
    with pytest.raises(UserError, match="cannot deal over 3 classes"):
        load_distilled(path)


def test_a_set_of_48_positions_is_small(tmp_path):
    """MiniLM's shapes, one example for each of two classes, gains and directions, in 16 bits: what lies beside the arrays is a tenth of them."""
    rng = np.random.default_rng(0)
    shapes = {"embeddings": (1, 2, 48, 384), "labels": (1, 2, 2), "rates": (2, 78), "gains": (1, 36_864), "directions": (1, 2, 6, 384)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    words = [str(number) * 5 for number in range(10, 58)]
    row = {"batch": 0, "label": "good", "label_values": [0.25, 0.5], "text": " ".join(words), "tokens": words, "scores": [0.9321] * 48}
    data, card = DistilledData(mask=np.ones((1, 2, 48), np.float32), **arrays), BASE | {"head": BASE["head"] | {"start": "zero"}}
    config = resolve(default_config())
    rows = [row | {"example": 0}, row | {"example": 1}]
    save_distilled(tmp_path, data, Recipe("unrestricted", "sgd", 2), ("bad", "good"), "float16", rows, **card, config=config)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes[ARRAYS] < 126_500 and sum(sizes.values()) - sizes[TORCH] < 142_000 and sum(sizes.values()) < 200_000
    assert sizes[RECIPE] < 8_200 and sizes[PARQUET] < 2_600
    lines = (tmp_path / RECIPE).read_text().splitlines()
    assert len(lines) == len(load_distilled(tmp_path).card) + 2  # a line for each entry
