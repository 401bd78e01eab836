"""Tasks in turn on a tiny model: measures by hand, memories within their bytes, and the stage from end to end, started twice."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled
from ddllm.continual.alone import as_batches
from ddllm.continual.ewc import anchor, fisher_diagonal
from ddllm.continual.exemplars import Exemplars, text_bytes
from ddllm.continual.lessons import Lesson, read_lessons
from ddllm.continual.measures import measure
from ddllm.data.several import keep_apart
from ddllm.data.tokens import TokenCorpus, TokenSplit
from ddllm.distill.dataset import actual_rates
from ddllm.main import main, parse
from ddllm.models.tasks import Classification
from ddllm.report.results import read_results
from ddllm.run import open_run
from ddllm.runtime.metrics import read_metrics

KINDS = {"warm": "warm lovely", "clever": "clever rich", "dull": "dull flat", "awful": "awful stupid"}


def test_measures_by_hand():
    first = measure([[0.9]])
    assert first == {"average": 0.9, "forgetting": 0.0, "transfer": 0.0}
    third = measure([[0.9], [0.95, 0.8], [0.5, 0.9, 0.7]])
    assert third["average"] == pytest.approx(0.7)
    assert third["forgetting"] == pytest.approx(((0.95 - 0.5) + (0.8 - 0.9)) / 2)
    assert third["transfer"] == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)


def make_lesson(columns, seen, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 9, rows).astype(np.int32)
    split = TokenSplit(rng.integers(5, 40, (rows, 8)).astype(np.int32), lengths, np.arange(rows, dtype=np.int32) % len(columns))
    corpus = TokenCorpus("corpus", tuple("ab"), split, split, split, {}, "f")
    return Lesson("lesson", corpus, np.array(columns), seen)


@pytest.mark.parametrize("method", ["random", "herding"])
def test_exemplars_share_their_bytes_over_the_classes(method):
    memory, budget = Exemplars(method, 50, 0), 200
    features = np.random.default_rng(1).standard_normal((60, 4))
    memory.learn(make_lesson([0, 1], 2), budget, lambda: features)
    before = {column: split.ids.tolist() for column, split in memory.kept.items()}
    assert 150 < memory.bytes <= budget
    memory.learn(make_lesson([2, 3], 4, seed=3), budget, lambda: features)
    assert set(memory.kept) == {0, 1, 2, 3} and 120 < memory.bytes <= budget
    for column, split in memory.kept.items():
        assert text_bytes(split, 50).sum() <= budget / 4 and set(split.labels.tolist()) == {column}
        if column < 2:  # the first chosen remain
            assert split.ids.tolist() == before[column][: len(split)] and len(split) < len(before[column])


def test_what_mattered_is_held(layerless):
    learner, params = layerless
    rng = np.random.default_rng(2)
    words = rng.standard_normal((50, 8)).astype(np.float32)
    split = TokenSplit(np.array([[7, 8, 9], [4, 5, 6]], np.int32), np.array([3, 3], np.int32), np.zeros(2, np.int32))
    prepared = SimpleNamespace(start=SimpleNamespace(words=words), buckets=(3,))
    fisher = fisher_diagonal(prepared, learner, params, split, 0)
    assert jax.tree.structure(fisher) == jax.tree.structure(params)
    assert float(fisher["head"]["out"]["kernel"].max()) > 0 and all(float(leaf.min()) >= 0 for leaf in jax.tree.leaves(fisher))
    penalty = anchor(fisher, params, 3.0)
    assert float(penalty.value(params, penalty.constants)) == 0
    moved = jax.tree.map(lambda x: x + 1.0, params)
    expected = 1.5 * sum(float(leaf.sum()) for leaf in jax.tree.leaves(fisher))
    assert float(penalty.value(moved, penalty.constants)) == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sentences of four classes, told by one of two words each."""
    rng = np.random.default_rng(4)
    folder, seen = tmp_path_factory.mktemp("corpus"), set()
    others = "the a film plot actor scene story is was and very with".split()
    for name, rows in (("train", 240), ("test", 60)):
        lines = []
        while len(lines) < rows:
            label = list(KINDS)[len(lines) % 4]
            text = " ".join(rng.permutation([*rng.choice(others, rng.integers(2, 6)), rng.choice(KINDS[label].split())]))
            if text not in seen:
                seen.add(text)
                lines.append(json.dumps({"text": text, "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def line(small_runs, make_model, corpus):
    """make(workdir, mode, **overrides) -> command line."""
    return small_runs(
        "continual,report",
        model__name=make_model(8, 1),
        data__source=corpus,
        data__length=8,  # one padded length, so that little is compiled
        distill__length=8,
        distill__examples_per_class=6,
        distill__batches=1,
        distill__passes=2,
        distill__outer_steps=20,
        distill__validate_every=10,
        distill__rate_embeddings=0.1,
        distill__initial="real",
        distill__head="zero",
        distill__initial_rate=0.3,
        finetune__epochs=5,
        finetune__rate=1e-2,
        finetune__batch_size=8,
        continual__tasks="warm,dull|clever,awful",
        continual__memory=1500,
        distill__gains=False,  # of an encoder as small as this one, more bytes than all else
        continual__way="join",
        continual__storage="tokens",
        continual__methods="('finetune','random','random_alone','distilled','recipe','update','joint')",
        runtime__devices=1,
        runtime__tensorboard=False,
    )


def test_stored_texts_become_batches_that_hold_each_of_them():
    texts = make_lesson([0, 1, 2], 3, rows=70).tokens.train
    words = np.random.default_rng(5).standard_normal((40, 4)).astype(np.float32)
    learner = SimpleNamespace(head=SimpleNamespace(classes=5), task=Classification())
    prepared = SimpleNamespace(pretrained=SimpleNamespace(words=words), learner=learner, config=SimpleNamespace(seed=0))
    data = as_batches(prepared, texts, 0.1)
    assert data.embeddings.shape == (3, 24, 8, 4) and data.labels.shape == (3, 24, 5)
    np.testing.assert_allclose(actual_rates(data), np.full((3, 1), 0.1), rtol=1e-6)
    lengths, labels = np.asarray(data.mask).sum(axis=-1).ravel(), np.asarray(data.labels).argmax(axis=-1).ravel()

    def listed(rows, lengths, labels):
        return {(tuple(row.tolist()), int(length), int(label)) for row, length, label in zip(rows, lengths, labels, strict=True)}

    batched = listed(np.asarray(data.embeddings).reshape(72, -1), lengths, labels)
    assert batched == listed(words[texts.ids].reshape(70, -1), texts.lengths, texts.labels)


def test_every_method_and_a_second_start(line, tmp_path, capsys):
    assert main(line(tmp_path)) == 0
    rows = {(row["method"], row["after"]): row for row in read_results(tmp_path / "results.json")["continual"]}
    assert len(rows) == 14 and all(0 <= row["average_mean"] <= 1 for row in rows.values())
    finetune, joint = rows["finetune", 2], rows["joint", 2]
    assert joint["accuracy_mean"] > 0.7 and joint["percent_of_joint"] == 100
    assert finetune["forgetting_mean"] > 0.5 and finetune["bytes"] == 0
    # Whatever is remembered of the first task is more than without a memory.
    assert rows["random", 2]["accuracy_mean"] > finetune["accuracy_mean"] < rows["distilled", 2]["accuracy_mean"]
    stored = rows["distilled", 2]["bytes"]
    assert rows["recipe", 2]["bytes"] == stored <= 1500 and rows["update", 2]["bytes"] <= 1600
    assert 0 < rows["random", 2]["bytes"] <= stored and rows["random_alone", 2]["bytes"] == rows["random", 2]["bytes"]
    # Texts alone are trained on from the start: more is left of the first task than where it was only replayed from, or not at all.
    assert rows["random_alone", 2]["forgetting_mean"] < finetune["forgetting_mean"] and rows["random_alone", 1]["accuracy_mean"] > 0.5
    assert {rows[method, 1]["accuracy_mean"] for method in ("finetune", "random", "distilled")} == {rows["joint", 1]["accuracy_mean"]}
    # What another method has fine-tuned or distilled before counts for all that learn from it.
    cards = [load_distilled(tmp_path / "continual" / "seed-0" / "sets" / str(number) / "distilled").card for number in (1, 2)]
    distilling = sum(card["distillation_seconds"] for card in cards)
    assert rows["recipe", 2]["seconds"] > distilling < rows["distilled", 2]["seconds"]
    first = max(line["elapsed"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["stage"] == "continual-first-1-0")
    assert all(rows[method, 1]["seconds"] > first for method in ("finetune", "random", "distilled", "joint"))
    out = capsys.readouterr().out
    assert "Tasks in turn" in out and "backward" in out and "| joint | 2 of 2 |" in (tmp_path / "results.md").read_text()
    # A second start finds the figures, and one that was killed in between finds the pieces.
    before = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "continual" / "seed-0" / "figures" / "recipe-2.json").unlink()
    assert main(line(tmp_path)) == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    again = {(row["method"], row["after"]): row for row in read_results(tmp_path / "results.json")["continual"]}
    assert again["recipe", 2]["accuracy_mean"] == rows["recipe", 2]["accuracy_mean"] and again["recipe", 2]["seconds"] > distilling


def test_corpora_in_turn_learn_from_nothing_that_another_tests_on(line, tmp_path, corpus, capsys):
    other = tmp_path / "other"
    other.mkdir()
    train, test = ([json.loads(row) for row in (corpus / f"{part}.jsonl").read_text().splitlines()] for part in ("train", "test"))
    tested = {row["text"] for row in test}
    # A third of the other corpus's training texts are what the first one tests on, under another class.
    leaked = [row | {"label": "odd"} for row in test[:30]]
    own = [{"text": f"{row['text']} film", "label": "even"} for row in train[:30]]
    for part, rows in (
        ("train", leaked + own + [row | {"label": "odd"} for row in train[30:60]]),
        ("test", [row | {"label": "odd"} for row in train[60:70]]),
    ):
        (other / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = open_run(parse(line(tmp_path / "run", **{"continual.tasks": f"{corpus}|{other}"})).config, tmp_path / "run")
    names, [first, second] = read_lessons(run.prepared, run.workdir.tokens)
    assert names == (*sorted(KINDS), "even", "odd") and (first.seen, second.seen) == (4, 6)
    assert len(second.tokens.train) + len(second.tokens.validation) == 60  # of 90, 30 are tested on
    assert len(first.tokens.train) + len(first.tokens.validation) == 230  # of 240, 10 are
    assert len(first.tokens.test) == len(tested) and first.tokens.fingerprint != run.prepared.tokens.fingerprint
    assert "30 texts left out that another task tests on" in capsys.readouterr().err
    assert [lesson.tokens for lesson in (first, second)] == keep_apart([first.tokens, second.tokens], "")  # nothing is left to take away


def test_mistakes_are_sentences(line, tmp_path, capsys):
    for number, (overrides, message) in enumerate(
        (
            ({"continual.tasks": "warm,dul|clever,awful"}, "did you mean dull?"),
            ({"continual.tasks": "warm|clever,awful"}, "single class 'warm'"),
            ({"continual.tasks": "warm,clever,dull,awful"}, "one task only"),
            ({"continual.tasks": "warm,dull|dull,awful"}, "twice"),
            ({"distill.initial": "noise"}, "is no text"),
            ({"continual.memory": 500}, "config.continual.memory is 500"),
            ({"continual.methods": "('herd',)"}, "did you mean herding?"),
            ({"continual.storage": "int88"}, "did you mean int8?"),
        )
    ):
        assert main(line(tmp_path / str(number), **overrides)) == 2
        error = capsys.readouterr().err.splitlines()
        assert message in error[-1] and not any("Traceback" in part for part in error)
