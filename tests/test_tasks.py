"""Every kind of task from its file to predictions: the outer loss falls, rows have the task's figures, and the folder gives them again."""

import json

import jax
import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

import ddllm
from ddllm.artefact.base import describe_base
from ddllm.artefact.folder import save_distilled
from ddllm.artefact.schema import SCHEMA
from ddllm.config import default_config
from ddllm.distill.plan import first_data, recipe_of
from ddllm.errors import UserError
from ddllm.prompt.examples import distilled_examples
from ddllm.report.analyses import markdown_analyses
from ddllm.report.results import read_results
from ddllm.report.table import markdown_table
from ddllm.runtime.metrics import read_metrics
from ddllm.runtime.storage import read_json
from ddllm.stages import analyse, distill, evaluate, finetune, look, open_run, privacy, report, select

# Words that the tiny model knows.
GOOD, BAD = "good great fine lovely warm".split(), "bad dull awful flat cold".split()
OTHER = "the a plot actor scene story is was and very with".split()
LABELS = ("bad", "film", "good")


def draw_pair(rng):
    """Two sentences of which only the second tells their class; one class is more than twice as frequent."""
    praised = bool(rng.random() < 0.7)
    first, second = (
        [*rng.choice(OTHER, rng.integers(1, 3)), rng.choice(words)] for words in ((GOOD, BAD)[rng.integers(2)], GOOD if praised else BAD)
    )
    return {"text": " ".join(first), "text_pair": " ".join(second), "label": "praised" if praised else "blamed"}


def draw_number(rng):
    """A sentence whose label grows with the number of good words in it."""
    good = int(rng.integers(0, 4))
    words = [*rng.choice(GOOD, good), *rng.choice(BAD, 3 - good), *rng.choice(OTHER, 3)]
    return {"text": " ".join(rng.permutation(words)), "label": 100 + 2.5 * good}


def draw_set(rng):
    """A sentence with none to three of three labels, each told by a word."""
    present = [name for name in LABELS if rng.random() < 0.5]
    words = {"bad": rng.choice(BAD), "film": "film", "good": rng.choice(GOOD)}
    text = [*(words[name] for name in present), *rng.choice(OTHER, 4)]
    return {"text": " ".join(rng.permutation(text)), "label": present}


# With these the tiny model learns where words are told apart by their embeddings.
POOLED = {"model__head": "mean", "distill__head": "zero", "distill__rates": "tensor", "distill__initial_rate": 0.5} | {
    "distill__rate_embeddings": 0.1,
    "distill__rate_rates": 0.05,
    "distill__second_moment": 0.99,
    "distill__outer_steps": 150,
    "distill__validate_every": 50,
}


@pytest.fixture
def make_run(tiny_model, tmp_path):
    """make(draw, **changes) -> a run on rows that `draw` gives, and the test rows."""

    def make(draw, **changes):
        rng, seen, splits = np.random.default_rng(5), set(), {"train": [], "test": []}
        for name, count in (("train", 160), ("test", 48)):
            while len(splits[name]) < count:
                row = draw(rng)
                if (key := (row["text"], row.get("text_pair"))) not in seen:
                    seen.add(key)
                    splits[name].append(row)
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in splits[name]))
        config = default_config()
        config.model.update({"name": str(tiny_model), "head_deviation": 0.3})
        config.data.update({"source": str(tmp_path), "length": 14})
        config.distill.update({"examples_per_class": 2, "batches": 2, "passes": 2, "length": 8, "initial": "real", "head": "fixed"})
        config.distill.update({"initial_rate": 0.1, "outer_steps": 60, "batch_size": 16, "validate_every": 20, "rate_embeddings": 0.05})
        config.evaluate.update({"heads": 2, "selection_draws": 1, "selection_rates": (0.1,), "selection_passes": (2,)})
        config.finetune.update({"epochs": 2.0, "rate": 3e-3, "validations": 2})
        config.runtime.update({"devices": 1, "compilation_cache": "", "tensorboard": False})
        for key, value in changes.items():
            section, name = key.split("__")
            config[section][name] = value
        return open_run(config, tmp_path / "run"), splits["test"]

    return make


def learn(run):
    """Distil and evaluate; returns the row "distilled", after checking that the outer loss has fallen."""
    distill(run)
    losses = [line["loss"] for line in read_metrics(run.workdir.metrics) if line["stage"] == "distill"]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:5])
    select(run)
    evaluate(run)
    rows = {row["name"]: row for row in read_results(run.workdir.results)["rows"]}
    for name in ("random", "k_centers", "herding"):
        assert rows[name]["examples_per_class"] == rows["distilled"]["examples_per_class"], name
        assert rows[name].get("metric") == rows["distilled"].get("metric")
    return next(row for row in read_results(run.workdir.results)["rows"] if row["name"] == "distilled")


def test_pairs(make_run, tmp_path):
    run, rows = make_run(draw_pair, data__pair_column="text_pair", **POOLED)
    row = learn(run)
    trained = ddllm.train(run.workdir.distilled)
    types = trained.distilled.data.types
    assert types.shape == (2, 2, 8) and set(np.unique(types)) == {0, 1} and trained.distilled.card["schema"] == SCHEMA
    predicted = trained.predict([(row["text"], row["text_pair"]) for row in rows], batch_size=7)
    names = [row["label"] for row in rows]
    assert np.mean([one == other for one, other in zip(predicted, names, strict=True)]) == pytest.approx(row["accuracy_mean"])
    assert row["accuracy_mean"] > 0.75 and row["f1_macro_mean"] == pytest.approx(f1_score(names, predicted, average="macro"))
    # In prompts the second text stands where the second type is.
    for example, kinds in zip(distilled_examples(run.prepared, trained.distilled), types.reshape(-1, types.shape[-1]), strict=True):
        assert example.text and bool(example.pair) == (kinds == 1).any()
    # One class is much larger, so that the table has both.
    assert "| accuracy, % | macro F1, % |" in markdown_table(read_results(run.workdir.results))
    # Types reach the inner loop: without them another model comes out.
    plain = trained.distilled.data.replace(types=None)
    other = ddllm.use.train_small(trained.learner, trained.distilled.recipe, run.prepared.start, jax.tree.map(np.asarray, plain))
    assert np.abs(other["head"]["out"]["kernel"] - trained.params["head"]["out"]["kernel"]).max() > 1e-3
    for texts, wanted in ((["one", "two"], "for pairs of texts"), ([("a", "b"), "c"], "for pairs of texts")):
        with pytest.raises(UserError, match=wanted):
            trained.predict(texts)


def test_regression(make_run, tmp_path):
    run, rows = make_run(draw_number)
    finetune(run)
    row = learn(run)
    assert row["metric"] == "pearson" and "accuracy_mean" not in row and row["examples_per_class"] == 2
    results = read_results(run.workdir.results)
    full = results["rows"][0]
    assert row["percent_of_full"] == pytest.approx(100 * row["pearson_mean"] / full["pearson_mean"], abs=0.01)
    assert "| Pearson’s r, % | Spearman’s ρ, % |" in markdown_table(results)
    lines = [line for line in read_metrics(run.workdir.metrics) if "validation_pearson" in line]
    assert {line["stage"] for line in lines} == {"finetune", "distill"} and "absolute_error" in lines[0]
    trained = ddllm.train(run.workdir.distilled)
    labels, texts = [row["label"] for row in rows], [row["text"] for row in rows]
    predicted = trained.predict(texts)
    assert pearsonr(predicted, labels).statistic == pytest.approx(row["pearson_mean"], abs=1e-5) and row["pearson_mean"] > 0.8
    assert np.mean(predicted) == pytest.approx(np.mean(labels), abs=1), "predictions are not in the labels' units"
    analyse(run)
    results = read_results(run.workdir.results)
    assert [entry["variation"] for entry in results["labels"]] == ["as the recipe says"]
    assert results["storage"][0]["pearson_mean"] == pytest.approx(row["pearson_mean"]) and results["compute"][0]["metric"] == "pearson"
    assert "| embeddings | bytes | Pearson’s r, % | change, points |" in markdown_analyses(results)
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    trained.save(tmp_path / "saved")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    with torch.no_grad():
        logits = model(**trained.tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
    np.testing.assert_allclose(logits, predicted, atol=1e-4)


def test_sets_of_labels(make_run):
    changes = POOLED | {"distill__initial_rate": 0.5, "distill__order": "shuffled", "distill__examples_per_class": 8}
    run, rows = make_run(draw_set, **changes)
    row = learn(run)
    trained = ddllm.train(run.workdir.distilled)
    assert trained.distilled.label_names == LABELS and trained.distilled.data.labels.shape == (2, 4, 3)
    assert row["metric"] == "f1_micro" and row["examples_per_class"] == 8 and row["f1_micro_mean"] > 0.65
    predicted = trained.predict([row["text"] for row in rows])
    told = np.array([[name in names for name in LABELS] for names in predicted])
    truth = np.array([[name in row["label"] for name in LABELS] for row in rows])
    assert f1_score(truth, told, average="micro") > 0.65
    trained.save(run.workdir.path / "saved")
    assert json.loads((run.workdir.path / "saved" / "config.json").read_text())["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize(
    ("draw", "changes", "message"),
    [
        (draw_pair, {"data__pair_column": "second"}, "has no column 'second'.* set config.data.pair_column"),
        (
            draw_number,
            {"distill__labels": "soft"},
            "config.distill.labels is 'soft', which regression does not have; make it one of hard, unr",
        ),
        (draw_pair, {"evaluate__metric": "pearson"}, "config.evaluate.metric is 'pearson', which classification does not have"),
        (draw_pair, {"data__task": "regression"}, "row 1: the label '(praised|blamed)' is not a number, as regression needs"),
        (draw_set, {"data__label_names": ("good", "bad")}, r"the label 'film' is not among config.data.label_names: good, bad"),
        (draw_number, {"data__task": "multilabel"}, "row 1: the labels are no list but"),
        (
            draw_number,
            {"distill__head": "learned", "distill__probe_texts": 50},
            "asks for a logistic regression, which needs one class for each",
        ),
        (
            draw_number,
            {"evaluate__selections": ("random", "gradient_norm")},
            "selections has gradient_norm, which needs .* task is regression",
        ),
    ],
)
def test_what_cannot_be_meant(make_run, draw, changes, message):
    run, _ = make_run(draw, **changes)
    with pytest.raises(UserError, match=message):
        run.prepared  # noqa: B018


@pytest.mark.parametrize("draw, changes, groups", [
    (draw_pair, {"data__pair_column": "text_pair"}, ["blamed", "praised"]),
    (draw_number, {"data__task": "regression"}, ["real texts"]),
    (draw_set, {"data__task": "multilabel"}, ["real texts"]),
])
def test_every_task_is_looked_at(make_run, draw, changes, groups):
    run, _ = make_run(draw, report__tokens=3, privacy__heads=1, privacy__resamples=50, **changes)
    prepared, data = run.prepared, first_data(run.prepared)
    base = describe_base(prepared.pretrained, prepared.learner, run.config.data.length, bool(run.config.data.pair_column))
    save_distilled(run.workdir.distilled, data, recipe_of(run.config.distill), prepared.tokens.label_names, **base)
    look(run)
    privacy(run)
    report(run)
    found, results = read_json(run.workdir.look), read_results(run.workdir.results)
    assert found["map"]["groups"] == groups and all(len(position["tokens"]) == 3 for position in found["examples"][0]["positions"])
    example = found["examples"][0]
    if draw is draw_number:
        assert 95 < float(example["label"]) < 112 and 100 <= float(example["nearest"][0]["label"]) <= 107.5
    elif draw is draw_set:
        assert [value["name"] for value in example["values"]] == list(LABELS)
    else:
        assert "⏐" in example["nearest"][0]["text"]
    assert len(results["privacy"]) == 6 and all(0 <= row["auc"] <= 1 for row in results["privacy"])
    page = (run.workdir.path / "report.html").read_text()
    assert page.count("<article") == found["shown"] and "Membership inference" in page and 'id="rates"' in page
