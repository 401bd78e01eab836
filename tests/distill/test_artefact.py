"""The exported folder comes back whole, or says in one sentence why not."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from ddllm.distill.artefact import ARRAYS, RECIPE, load_distilled, save_distilled
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
        (lambda arrays, card: arrays["rates"].fill(np.nan), "rates .* not finite"),
    ],
)
def test_arrays_that_cannot_be_meant(folder, change, message):
    path, _ = folder
    rewrite(path, change)
    with pytest.raises(UserError, match=message):
        load_distilled(path)
