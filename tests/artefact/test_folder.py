"""The exported folder comes back whole, or says in one sentence why not."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from ddllm.artefact.folder import ARRAYS, RECIPE, load_distilled, save_distilled
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    head = {"out": {"kernel": rng.standard_normal((4, 2)).astype(np.float32), "bias": np.zeros(2, np.float32)}}
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 3, 4), (2, 2, 3), (2, 2, 2), (4, 1))]
    data = DistilledData(*arrays, head=head)
    save_distilled(tmp_path / "out", data, Recipe("soft", "sgd", 2), ("bad", "good"), note="kept")
    return tmp_path / "out", data


def rewrite(path, change):
    """Change recipe.json or the arrays and mend the checksum, as a careless person with good intentions would."""
    import hashlib

    arrays = load_file(path / ARRAYS)
    card = json.loads((path / RECIPE).read_text())
    change(arrays, card)
    content = save(arrays)
    (path / ARRAYS).write_bytes(content)
    card["sha256"] = hashlib.sha256(content).hexdigest()
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
    save_distilled(path, fuller, recipe, ("bad", "good"))
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
    fuller = fuller.replace(directions=rng.standard_normal((2, 2, 5, 4), np.float32))
    recipe = Recipe("soft", "sgd", 2, attention_weight=7.0, feature_weight=0.5)
    save_distilled(path, fuller, recipe, ("bad", "good"))
    loaded = load_distilled(path)
    jax.tree.map(np.testing.assert_array_equal, loaded.data, fuller)
    assert loaded.recipe == recipe and loaded.card["schema"] == 3
    assert fuller.floats == data.replace(mask=mask).floats + 16 + 80 + 10 * (1 + 3 * 3 if len(keys) == 1 else 1 + 3 * 9)
    for name, changed in (
        ("attention", attention[:, :, :, :, :2].copy()),
        ("attention", attention[:, :1].copy()),
        ("features", np.zeros((2, 2, 3), np.float32)),
        ("directions", np.zeros((2, 2, 5, 3), np.float32)),
    ):
        rewrite(path, lambda arrays, card, name=name, changed=changed: arrays.update({name: changed}))
        with pytest.raises(UserError, match="do not fit"):
            load_distilled(path)
        save_distilled(path, fuller, recipe, ("bad", "good"))
    rewrite(path, lambda arrays, card: card["recipe"].update(attention_weight="7"))
    with pytest.raises(UserError, match="do not fit"):
        load_distilled(path)


def test_pairs_and_other_tasks_come_back(folder):
    path, data = folder
    types = np.broadcast_to(np.float32([0, 1, 1]), data.mask.shape)
    task = {"name": "regression", "mean": 1.0, "deviation": 2.0}
    save_distilled(path, data.replace(types=types), Recipe("hard", "sgd", 2), ("bad", "good"), preprocessing={"pairs": True}, task=task)
    loaded = load_distilled(path)
    np.testing.assert_array_equal(loaded.data.types, types)
    assert loaded.card["schema"] == 3 and loaded.data.floats == data.floats and loaded.card["task"] == task
    rewrite(path, lambda arrays, card: arrays.update(types=types[:1].copy()))
    with pytest.raises(UserError, match="do not fit"):
        load_distilled(path)


def test_is_of_the_lowest_schema_that_can_say_it(folder):
    path, data = folder

    def card(**recipe):
        save_distilled(path, data, Recipe("soft", **recipe, passes=2), ("bad", "good"))
        return json.loads((path / RECIPE).read_text())

    assert card()["schema"] == 1 and card()["recipe"] == {"labels": "soft", "optimizer": "sgd", "passes": 2}
    assert card(optimizer="adam")["schema"] == 1
    assert card(optimizer="adamw(b1=0.8)")["schema"] == 2 and load_distilled(path).recipe.optimizer == "adamw(b1=0.8)"
    assert card(order="shuffled")["schema"] == 2 and load_distilled(path).recipe.order == "shuffled"


def test_is_replaced_whole(folder):
    path, data = folder
    save_distilled(path, data.replace(head=None), Recipe("soft", "sgd", 2), ("bad", "good"))
    assert load_distilled(path).data.head is None
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]


def test_does_not_replace_other_folders(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something other"):
        save_distilled(tmp_path / "mine", folder[1], Recipe("soft", "sgd", 2), ("bad", "good"))
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
    (path / RECIPE).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_distilled(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays, card: card.update(schema=99), "newer ddllm"),
        (lambda arrays, card: arrays.pop("labels"), "incomplete"),
        (lambda arrays, card: arrays.update(labels=np.zeros((2, 2, 3), np.float32)), "do not fit"),
        (lambda arrays, card: card["recipe"].update(passes=3), "do not fit"),
        (lambda arrays, card: card["recipe"].update(colour="red"), "incomplete"),
        (lambda arrays, card: card["recipe"].update(order="random"), "order .* is 'random', but must be one of"),
        (lambda arrays, card: card["recipe"].update(optimizer="__import__('os').getpid()"), "inner optimizer .* named arguments"),
        (lambda arrays, card: card["recipe"].update(optimizer="learned_momentum"), "do not fit"),
        (lambda arrays, card: arrays["rates"].fill(np.nan), "rates .* not finite"),
    ],
)
def test_arrays_that_cannot_be_meant(folder, change, message):
    path, _ = folder
    rewrite(path, change)
    with pytest.raises(UserError, match=message):
        load_distilled(path)
