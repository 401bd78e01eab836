"""PyTorch trains on a folder as JAX does: the same logits, for every option of a recipe and every family."""

import hashlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from ddllm.artefact.base import describe_base, drawn_parts
from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.artefact.schema import SCHEMA
from ddllm.distill.dataset import DistilledData, Recipe, group_names
from ddllm.distill.gains import count_gains
from ddllm.models.heads import HeadConfig, init_head
from ddllm.models.learner import Learner
from ddllm.models.multi_head import MultiHead
from ddllm.models.pretrained import load_pretrained
from ddllm.models.tasks import Classification, MultiLabel, Regression
from ddllm.use import train_distilled

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
NAMES = ("bad", "so so", "good")


@pytest.fixture
def checkpoint(make_torch_model, tmp_path, tiny_model):
    """checkpoint(family) -> a random model with a tokenizer that knows the tiny corpus's words."""
    import shutil

    def make(family="bert", auto="AutoModelForSequenceClassification"):
        folder = tmp_path / "model"
        make_torch_model(family, auto, layer_norm_eps=1e-6, **({"pad_token_id": 1} if family == "roberta" else {})).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tiny_model / name, folder / name)
        return load_pretrained(str(folder))

    return make


def make_folder(folder, pretrained, head="mean", start="zero", task=None, rates="layer", recipe=None, parts=(), storage="float32", scale=1.0, rate=-3.0):
    """A folder of two inner batches of three examples, random in all that its recipe has."""
    rng = np.random.default_rng(3)
    recipe, task = recipe or Recipe("unrestricted", "sgd", 2), task or Classification()
    outputs = {Regression: lambda: 1, MultiHead: lambda: sum(task.sizes)}.get(type(task), lambda: 3)()
    learner = Learner(pretrained.config, HeadConfig(head, outputs, 0.3), start, 5, task)
    encoder, shape = pretrained.config, (2, 3, 7)
    drawn = init_head(jax.random.key(1), learner.head, encoder.hidden, pretrained.pooler)
    groups = len(group_names({"body": pretrained.body, "head": drawn} | ({"moves": 0} if "word_scores" in parts else {}), rates))
    steps = 2 * recipe.passes
    mask = np.ones(shape, np.float32)
    mask[:, 1, 5:] = 0
    small = any(name in recipe.optimizer for name in ("adam", "nesterov"))
    sizes = {
        "attention": (2, 3, encoder.layers, encoder.heads, 7, 7)[: 6 if "all rows" in parts else 5],
        "features": (2, 3, encoder.hidden),
        "directions": (2, 3, encoder.layers, encoder.hidden),
        "momentum": (steps,),
        "order": (steps, 2),
        "gains": (steps if "gains of each step" in parts else 1, count_gains(pretrained.body)),
        "word_scores": (2, len(pretrained.words)),
        "word_shares": (*shape, 2),
    }
    more = {name: rng.standard_normal(sizes[name]).astype(np.float32) for name in parts if name in sizes}
    if "word_scores" in parts:
        more["word_scores"][:, ::3] = 0
    if "types" in parts:
        more["types"] = np.broadcast_to((np.arange(7) > 3).astype(np.float32), shape)
    data = DistilledData(
        (scale * rng.standard_normal((*shape, encoder.hidden))).astype(np.float32),
        mask,
        rng.standard_normal((2, 3, outputs)).astype(np.float32),
        rng.normal(-6 if small else rate, 0.5, (steps, groups)).astype(np.float32),
        head=jax.tree.map(np.asarray, drawn) if start == "learned" else None,
        **more,
    )
    names = (*NAMES, *NAMES)[:outputs]
    base = describe_base(pretrained, learner, min(12, encoder.positions), "types" in parts)
    save_distilled(folder, data, recipe, names, storage, drawn=drawn_parts(learner, pretrained), **base)
    return folder


def compare(folder, pretrained, atol=1e-4):
    """Both trainings, and that they agree on texts; hands on the model."""
    from ddllm.pytorch import train

    texts = ["the good plot", "a very dull and boring film", "rich", "a good plot and a dull film " * 9]  # the last one is cut
    trained = load_distilled(folder).train()
    pairs = trained.distilled.pairs
    model, tokenizer = train(folder)
    second = [text.split()[-1] for text in texts]
    tokens = tokenizer(texts, second if pairs else None, padding=True, truncation=True, return_tensors="pt")
    if pretrained.config.token_types < 2:
        tokens.pop("token_type_ids", None)
    with torch.no_grad():
        found = model(**tokens).logits.numpy()
    exported = trained.learner.task
    expected = trained.logits(list(zip(texts, second, strict=True)) if pairs else texts)
    if isinstance(exported, Regression):
        expected = expected * exported.deviation + exported.mean
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    start = {"body": pretrained.body}
    moved = max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (start["body"], trained.params["body"])), strict=True))
    assert moved > 1e-3, "training changed nothing, so that agreeing would say nothing"
    return model


SHORT = ("sgd", 2)
OPTIONS = {
    "zero head, rates per array": {"rates": "tensor"},
    "own head, fixed, one rate": {"head": "bert", "start": "fixed", "rates": "step"},
    "own head, zero": {"head": "bert", "parts": ("directions",)},
    "learned head, hard labels, momentum": {"start": "learned", "head": "bert", "recipe": Recipe("hard", "momentum", 2)},
    "soft labels, learned momentum and order": {
        "start": "fixed",
        "recipe": Recipe("soft", "learned_momentum", 2, "learned"),
        "parts": ("momentum", "order"),
    },
    "nesterov, attention of the first row": {
        "start": "fixed",
        "recipe": Recipe("unrestricted", "nesterov", 2, attention_weight=2.0),
        "parts": ("attention",),
    },
    "adam, attention of all rows, features": {
        "start": "fixed",
        "recipe": Recipe("soft", "adam", 2, attention_weight=2.0, feature_weight=0.3),
        "parts": ("attention", "all rows", "features"),
    },
    "adamw, pairs": {"start": "fixed", "recipe": Recipe("hard", "adamw(weight_decay=0.1, b1=0.8)", 2), "parts": ("types",)},
    "sets of labels, 8 bits": {"start": "fixed", "task": MultiLabel(), "recipe": Recipe("soft", "sgd(momentum=0.5)", 2), "storage": "int8"},
    "word scores": {"rates": "tensor", "parts": ("directions", "word_scores", "word_shares"), "scale": 0.2},
    "word scores, a rate for each layer, 8 bits": {"parts": ("gains", "directions", "word_scores", "word_shares"), "storage": "int8", "scale": 0.2},
    "word scores, one rate, momentum": {
        "start": "fixed",
        "rates": "step",
        "recipe": Recipe("hard", "momentum", 2),
        "parts": ("word_scores", "word_shares"),
        "scale": 0.2,
        "rate": -4.0,
    },
    "gains, 16 bits": {"rates": "tensor", "parts": ("directions", "gains"), "storage": "float16"},
    "gains of each step": {"start": "fixed", "recipe": Recipe("hard", "momentum", 2), "parts": ("gains", "gains of each step")},
    "heads": {"head": "bert", "start": "fixed", "task": MultiHead(("x", "y"), (2, 3))},
    "numbers, 16 bits": {"start": "fixed", "task": Regression(2.0, 0.5), "storage": "bfloat16"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(checkpoint, tmp_path, name):
    pretrained = checkpoint()
    compare(make_folder(tmp_path / "folder", pretrained, **OPTIONS[name]), pretrained)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("deviation", [1e-5, 1e6])
def test_numbers_of_any_unit(checkpoint, tmp_path, family, deviation):
    """In PyTorch and in what is saved, errors are as small a part of the labels' deviation."""
    pretrained = checkpoint(family)
    folder = make_folder(tmp_path / "folder", pretrained, start="fixed", task=Regression(3 * deviation, deviation))
    compare(folder, pretrained, 5e-4 * deviation)
    trained = load_distilled(folder).train()
    trained.save(tmp_path / "saved")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    texts = ["the good plot", "a dull film"]
    found = model(**trained.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=family == "bert")).logits.detach().numpy()
    np.testing.assert_allclose(found[:, 0], trained.predict(texts), rtol=0, atol=5e-4 * deviation)


@pytest.mark.parametrize("family, head", [("roberta", "mean"), ("roberta", "own"), ("distilbert", "mean"), ("distilbert", "own"), ("mpnet", "own")])
def test_every_family(checkpoint, tmp_path, family, head):
    pretrained = checkpoint(family)
    options = {"head": family if head == "own" else "mean", "start": "fixed", "rates": "tensor", "parts": ("directions", "gains")}
    compare(make_folder(tmp_path / "folder", pretrained, **options), pretrained)


def test_the_mean_of_an_mpnet_is_refused(checkpoint, tmp_path, capsys):
    from ddllm.pytorch import train

    folder = make_folder(tmp_path / "folder", checkpoint("mpnet"))
    with pytest.raises(ValueError, match="cannot pool the mean of an MPNet"):
        train(folder)
    assert "from train_pytorch import" not in (folder / "README.md").read_text()
    load_distilled(folder).train().save(tmp_path / "saved")
    assert "transformers cannot run the head" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_base_that_ddllm_saved_with_mean_pooling(checkpoint, tmp_path, family):
    from ddllm.pytorch import train

    first = checkpoint(family)
    load_distilled(make_folder(tmp_path / "first", first)).train().save(tmp_path / "base")
    base = load_pretrained(str(tmp_path / "base"))
    assert base.config.layers == first.config.layers
    for head in ("mean", family):
        folder = make_folder(tmp_path / head, base, head=head, start="fixed" if head == "mean" else "zero", rates="tensor")
        model = compare(folder, base)
        assert model.config.num_hidden_layers == base.config.layers + (head == "mean") and not hasattr(model.config, "ddllm_layers")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="give its folder as model"):
        train(folder, loaded)


def test_an_older_repository_on_the_hub(checkpoint, tmp_path, monkeypatch):
    """One with pytorch_model.bin alone: both read it."""
    import fnmatch
    import shutil

    import huggingface_hub
    from safetensors.torch import load_file

    repository, cache = checkpoint().folder, tmp_path / "cache"
    torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    (repository / "model.safetensors").unlink()

    def download(name, revision=None, allow_patterns=(), ignore_patterns=()):
        cache.mkdir(exist_ok=True)
        for file in repository.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    base = load_pretrained("owner/old")
    folder = make_folder(tmp_path / "folder", base)
    shutil.rmtree(cache)
    from ddllm.pytorch import train

    texts = ["the good plot"]
    model, tokenizer = train(folder)
    found = model(**tokenizer(texts, return_tensors="pt")).logits.detach().numpy()
    np.testing.assert_allclose(found, load_distilled(folder).train().logits(texts), rtol=0, atol=1e-4)


def test_a_loaded_model_is_trained_in_place(checkpoint, tmp_path):
    from ddllm.pytorch import train

    pretrained = checkpoint()
    options = {"head": "bert", "start": "fixed", "parts": ("attention",), "recipe": Recipe("hard")}
    folder = make_folder(tmp_path / "folder", pretrained, **options)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(pretrained.folder)
    model, tokenizer = train(folder, loaded)
    texts = ["the good plot", "a dull and boring film " * 9]
    found = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.detach().numpy()
    assert model is loaded
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.label2id == {name: index for index, name in enumerate(NAMES)}
    assert model.config.problem_type == "single_label_classification"
    np.testing.assert_allclose(found, load_distilled(folder).train().logits(texts), rtol=0, atol=1e-4)


def test_a_loaded_model_without_a_name_has_the_tokenizer_of_the_base(checkpoint, tmp_path):
    from ddllm.pytorch import train

    pretrained = checkpoint()
    folder = make_folder(tmp_path / "folder", pretrained)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(pretrained.folder, id2label=dict(enumerate("abc")))

    def nameless():
        config = transformers.BertConfig.from_dict({key: value for key, value in loaded.config.to_dict().items() if key != "_name_or_path"})
        model = transformers.BertForSequenceClassification(config)
        model.load_state_dict(loaded.state_dict())
        assert not model.name_or_path
        return model

    model, tokenizer = train(folder, nameless())
    assert tokenizer.model_max_length == 12 and list(model.config.id2label.values()) == ["a", "b", "c"]  # somebody's own names stay
    for file in pretrained.folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer for the loaded model.*give the folder of .* as model instead"):
        train(folder, nameless())


def test_a_loaded_model_is_trained_where_it_lies(checkpoint, tmp_path, monkeypatch):
    """On a device without numbers, since tests have no other: everything meets there, or PyTorch refuses."""
    from transformers import masking_utils

    from ddllm import pytorch

    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *args, **kwargs: False)  # it looks at a number
    monkeypatch.setattr(pytorch, "fold_mean", lambda model, mean: None)  # so does this
    pretrained = checkpoint()
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(pretrained.folder, num_labels=3, attn_implementation="eager")
    for name, options in (("own", {"head": "bert", "parts": ("gains", "directions")}), ("mean", {"recipe": Recipe("hard", "adam", 2, "shuffled")})):
        folder = make_folder(tmp_path / name, pretrained, **{"start": "fixed", **options})
        model, _ = pytorch.train(folder, loaded.to("meta"))
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="not float32"):
        pytorch.train(folder, loaded.to(torch.bfloat16))


@pytest.mark.parametrize("task", [Classification(), MultiHead(("x", "y"), (1, 2))])
def test_a_shuffled_order_deals_every_example_once_and_in_its_class(checkpoint, tmp_path, task):
    from ddllm.pytorch import _feed, read

    folder = make_folder(tmp_path / "folder", checkpoint(), recipe=Recipe("hard", "sgd", 4, "shuffled"), start="redrawn", task=task)
    card, arrays = read(folder)
    arrays["embeddings"][..., 0, 0] = torch.arange(6.0).reshape(2, 3)
    torch.manual_seed(0)
    fed = np.array([batch["embeddings"][:, 0, 0].tolist() for batch in _feed(arrays, card["recipe"], card)])
    assert fed.shape == (8, 3) and all(sorted(fed[step : step + 2].ravel()) == list(range(6)) for step in (0, 2, 4, 6))
    assert (fed % 3 == np.arange(3)).all() and len({tuple(row) for row in fed}) > 2


def test_what_it_refuses(checkpoint, tmp_path):
    from ddllm.pytorch import train

    pretrained = checkpoint()
    folder = make_folder(tmp_path / "folder", pretrained)

    def message(change=lambda card: None, **options):
        make_folder(folder, pretrained, **options)
        card = json.loads((folder / "recipe.json").read_text())
        change(card)
        (folder / "recipe.json").write_text(json.dumps(card))
        with pytest.raises(ValueError) as caught:
            train(folder)
        return str(caught.value)

    assert "scale_by_lion" in message(recipe=Recipe("hard", "scale_by_lion(b1=0.9)", 2))
    assert "newer ddllm" in message(lambda card: card.update(schema=SCHEMA + 1))
    assert "is for ranking, which is not known here" in message(lambda card: card.update(task={"name": "ranking"}))
    assert "a head of the family distilbert, but the model is of the family bert" in message(head="distilbert")
    assert "changed or damaged" in message(lambda card: card["files"].update({"distilled.safetensors": "0"}))
    assert "other weights" in message(lambda card: card["base_model"].update(fingerprint="0"))
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(pretrained.folder, num_labels=2, ignore_mismatched_sizes=True)
    make_folder(folder, pretrained)
    with pytest.raises(ValueError, match="2 classes, but the data set has 3"):
        train(folder, loaded)
    assert "no model folder ./nowhere" in message(lambda card: card["base_model"].update(name="./nowhere"))


def test_says_once_that_products_were_rounded(checkpoint, tmp_path):
    from ddllm.pytorch import train

    folder = make_folder(tmp_path / "folder", checkpoint())
    card = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(card | {"products": "bfloat16"}))
    with pytest.warns(UserWarning) as caught:
        train(folder)
    assert ["bfloat16 products" in str(one.message) for one in caught].count(True) == 1


def test_outputs_of_heads_are_called_by_head_and_class(checkpoint, tmp_path):
    from ddllm.pytorch import train

    folder = make_folder(tmp_path / "folder", checkpoint(), task=MultiHead(("x", "y"), (2, 3)))
    model, _ = train(folder)
    load_distilled(folder).train().save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert list(model.config.id2label.values()) == list(saved["id2label"].values()) == ["x: bad", "x: so so", "y: good", "y: bad", "y: so so"]
    assert model.config.problem_type == saved["problem_type"] == "multi_label_classification"


def test_the_real_encoder(embedded, tmp_path):
    """MiniLM, its rates per array, its labels for every layer, and mean pooling as a further layer: the same logits, and so the same predictions."""
    pretrained = load_pretrained("embedded")
    assert pretrained.config.layers == 6
    options = {"rates": "tensor", "parts": ("directions", "gains"), "storage": "float16", "scale": 0.05, "rate": -6.0}
    model = compare(make_folder(tmp_path / "folder", pretrained, **options), pretrained)
    assert model.config.num_hidden_layers == 7


def test_accuracies_of_the_real_encoder_are_the_same(embedded, tmp_path):
    """A set of real texts (MiniLM has no time to be distilled for here), and 200 test texts of other films."""
    from ddllm.data.embedded import LABEL_NAMES, read_embedded
    from ddllm.pytorch import train

    pretrained, tables = load_pretrained("embedded"), read_embedded(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained.folder)
    labels = np.array(tables["train"].labels)
    chosen = np.stack([np.flatnonzero(labels == number)[:16] for number in (0, 1)], 1).reshape(4, 8)
    texts = [tables["train"].texts[row] for row in chosen.ravel()]
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=24, return_tensors="np")
    ids, mask = (tokens[name].reshape(4, 8, 24) for name in ("input_ids", "attention_mask"))
    rates = np.tile(np.float32([-5.0] * 7 + [-0.5]), (8, 1))  # of the encoder's layers and the head
    data = DistilledData(pretrained.words[ids], mask.astype(np.float32), np.eye(2, dtype=np.float32)[labels[chosen]], rates)
    learner = Learner(pretrained.config, HeadConfig("mean", 2, 0.02), "zero", 0, Classification())
    folder = tmp_path / "folder"
    save_distilled(folder, data, Recipe("hard", "sgd", 2), LABEL_NAMES, "float16", **describe_base(pretrained, learner, 24))

    asked, names = tables["test"].texts[:200], np.array(LABEL_NAMES)[tables["test"].labels[:200]]
    by_jax = np.mean(np.array(load_distilled(folder).train().predict(asked)) == names)
    model, tokenizer = train(folder)
    with torch.no_grad():
        batches = [tokenizer(asked[at : at + 50], padding=True, truncation=True, return_tensors="pt") for at in range(0, 200, 50)]
        decided = torch.cat([model(**batch).logits.argmax(-1) for batch in batches]).tolist()
    by_torch = np.mean(np.array([model.config.id2label[number] for number in decided]) == names)
    assert by_jax > 0.6, "nothing was learned, so that agreeing would say nothing"
    assert abs(by_jax - by_torch) <= 0.001, (by_jax, by_torch)


def test_folders_that_are_none(checkpoint, tmp_path, monkeypatch):
    """One sentence for each, and never a training on what does not fit."""
    from safetensors.numpy import load, save

    from ddllm.pytorch import read

    folder = make_folder(tmp_path / "run" / "distilled", checkpoint())
    monkeypatch.setenv("HOME", str(tmp_path))
    read("~/run/distilled")
    kept, arrays = (folder / "recipe.json").read_text(), load((folder / "distilled.safetensors").read_bytes())

    def refused(where, message):
        with pytest.raises(ValueError, match=message) as caught:
            read(where)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "nowhere", "nowhere is not a distilled data set: it has no recipe.json; give the folder that ddllm wrote")
    refused("~/run", "it has no recipe.json; give .*run/distilled")
    for text in ("", "[]", "{", '{"schema": 5}', '{"schema": 5, "label_names": []}'):
        (folder / "recipe.json").write_text(text)
        refused(folder, "is not the recipe of a distilled data set")
    for change, message in (
        ({"task": {}}, "is not the recipe .*KeyError.'name'"),
        ({"recipe": []}, "is not the recipe"),
        ({"schema": "new"}, "is not the recipe"),
        ({"schema": 99}, "newer ddllm"),
        ({"storage": "float8"}, "newer ddllm .stored as float8, known are float32"),
    ):
        (folder / "recipe.json").write_text(json.dumps(json.loads(kept) | change))
        refused(folder, message)
    for changed in (
        {"mask": arrays["mask"][:, :1]},
        {"labels": arrays["labels"][..., :1]},
        {"rates": arrays["rates"][:1]},
        {"rates": arrays["rates"][0]},
        {"embeddings": arrays["embeddings"][0]},
        {"rates": None},
    ):
        content = save({name: np.ascontiguousarray(value) for name, value in (arrays | changed).items() if value is not None})
        (folder / "distilled.safetensors").write_bytes(content)
        card = json.loads(kept)
        card["files"]["distilled.safetensors"] = hashlib.sha256(content).hexdigest()
        (folder / "recipe.json").write_text(json.dumps(card))
        refused(folder, "do not fit together")


def test_imports_no_jax():
    code = "import sys, ddllm.pytorch; print([name for name in sys.modules if name.split('.')[0] in ('jax', 'flax', 'optax', 'ml_collections')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_checkpoints_of_both_run_in_a_pipeline(checkpoint, tmp_path):
    pretrained = checkpoint()
    folder = make_folder(tmp_path / "folder", pretrained)
    model = compare(folder, pretrained)
    trained = train_distilled(load_distilled(folder))
    trained.save(tmp_path / "jax")
    model.save_pretrained(tmp_path / "torch")
    trained.tokenizer.save_pretrained(tmp_path / "torch")
    texts = ["the good plot", "a dull film"]
    logits = trained.logits(texts)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for name in ("jax", "torch"):
        told = transformers.pipeline("text-classification", model=str(tmp_path / name), tokenizer=str(tmp_path / name), top_k=None, device="cpu")(texts)
        found = [[next(entry["score"] for entry in row if entry["label"] == label) for label in NAMES] for row in told]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
