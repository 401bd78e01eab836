"""Every route to text, from the command to its folder, on a tiny model and corpus: real rows of the word table, and what is learned for them."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.data.batches import BatchStream
from ddllm.distill.artefact import load_distilled
from ddllm.distill.dataset import learned_parts
from ddllm.distill.gradients import Mixed
from ddllm.distill.outer_step import OuterStep, initial_state
from ddllm.main import main, parse
from ddllm.models.pretrained import load_pretrained
from ddllm.models.scoring import real_loss
from ddllm.runtime.metrics import Metrics
from ddllm.stages import open_run
from ddllm.text.checks import ROUTE_NAMES
from ddllm.text.distilled_text import FREE, frame_of, make_text, read_again
from ddllm.text.learn import Desk, index_of, plan_texts
from ddllm.text.mixture import MIXTURE, Mixture
from ddllm.text.search import search
from ddllm.text.straight import StraightThrough

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")


@pytest.fixture(scope="module")
def shallow_model(make_model):
    """A model of one layer."""
    return make_model(16, 1)


@pytest.fixture(scope="module")
def make_line(shallow_model, tiny_corpus):
    """make(workdir, mode, **overrides) -> command line of a small run."""

    def make(workdir, mode="text", **overrides):
        values = {
            "model.name": shallow_model,
            "model.head_deviation": 0.3,
            "data.source": tiny_corpus,
            "data.test": "test",
            "data.length": 12,
            "distill.length": 7,
            "distill.batches": 1,
            "distill.examples_per_class": 2,
            "distill.passes": 1,
            "distill.initial": "real",
            "distill.head": "fixed",
            "distill.outer_steps": 4,
            "distill.batch_size": 8,
            "distill.validate_every": 2,
            "distill.checkpoint_every": 3,
            "distill.rate_embeddings": 0.1,
            "evaluate.heads": 1,
            "text.rounds": 4,
            "text.candidates": 4,
            "text.k": 4,
            "text.pool": 6,
            "text.search_texts": 32,
            "runtime.devices": 1,
            "runtime.compilation_cache": "",
            "runtime.tensorboard": False,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        return [f"--config={QUICKSTART}", f"--workdir={workdir}", f"--mode={mode}", *(f"--config.{key}={value}" for key, value in values.items())]

    return make


@pytest.fixture(scope="module")
def all_routes(make_line, tmp_path_factory):
    """A working directory in which every route has been gone."""
    workdir = tmp_path_factory.mktemp("text") / "run"
    assert main(make_line(workdir, "distill,text", text__route=",".join(ROUTE_NAMES), distill__direction_labels=True, runtime__devices=2)) == 0
    return workdir


@pytest.mark.parametrize("route", ROUTE_NAMES)
def test_every_route_gives_rows_of_the_table(all_routes, shallow_model, route):
    folder = all_routes / "text" / route
    distilled, lines = load_distilled(folder), [json.loads(line) for line in (folder / "text.jsonl").read_text().splitlines()]
    words, data = load_pretrained(str(shallow_model)).words, distilled.data
    assert len(lines) == data.examples == 4
    for line, embeddings, mask in zip(lines, data.embeddings.reshape(4, 7, -1), data.mask.reshape(4, 7), strict=True):
        used = mask > 0
        np.testing.assert_array_equal(embeddings[used], np.asarray(words)[line["ids"]])
        assert line["ids"][0] == 2 and line["ids"][-1] == 3 and not {0, 1, 2, 3} & set(line["ids"][1:-1])
        assert len(line["text"].split()) == len(line["ids"]) - 2 and line["label"] in ("negative", "positive")
    assert [line["label"] for line in lines] == 2 * ["negative"] + 2 * ["positive"]
    # Labels of the body are no text: a projection alone keeps what the distilled set has.
    assert (data.directions is not None) == (route == "project")
    rows = {row["name"]: row for row in json.loads((all_routes / "results.json").read_text())["rows"]}
    row = rows["projected" if route == "project" else f"text ({route})"]
    assert row["read_again"] == 1 and row["tokens"] == data.mask.sum() and 0 <= row["accuracy_mean"] <= 1


def test_a_text_is_the_start_of_another_route(all_routes, make_line, tmp_path):
    source = all_routes / "text" / "splice"
    assert main(make_line(tmp_path / "run", text__route="project", text__start=source, distill__examples_per_class=1)) == 0
    ours, theirs = load_distilled(tmp_path / "run" / "text" / "project"), load_distilled(source)
    for part in ("embeddings", "mask", "labels", "rates"):
        np.testing.assert_array_equal(getattr(ours.data, part), getattr(theirs.data, part))
    assert ours.recipe == theirs.recipe


@pytest.fixture(scope="module")
def prepared(make_line, tmp_path_factory):
    """Data and model of the small run."""
    command = parse(make_line(tmp_path_factory.mktemp("prepared") / "run"))
    with (run := open_run(command.config, command.folder)).workdir:
        return run.prepared


def test_straight_through_takes_the_gradient_at_the_rows(prepared):
    prepared, data, recipe = plan_texts(prepared)
    rng = np.random.default_rng(0)
    data = jax.tree.map(jnp.asarray, data.replace(embeddings=data.embeddings + 0.5 * rng.standard_normal(data.embeddings.shape)))
    frame = frame_of(prepared, data.mask)
    batch = BatchStream(prepared.tokens.train, 8, 0, prepared.buckets).batch(0)
    words, key = prepared.start.words, jax.random.key(3)

    def outer_step(data, **more):
        return OuterStep(prepared.learner, recipe, prepared.start, data, Mixed(), optax.sgd(1.0), prepared.mesh, **more)

    shaping = StraightThrough(index_of(prepared), frame, pull=0.0)
    step = outer_step(data, shaping=shaping, outer_steps=4)
    state = initial_state(learned_parts(data, recipe), step.optimizer, step.everywhere)
    moved, figures = step(state, batch, key)
    taken = np.asarray(state.learned["embeddings"] - moved.learned["embeddings"])
    rows = words[shaping.ids(data.embeddings)]
    assert float(jnp.abs(rows - data.embeddings).max()) > 0.1, "the embeddings were rows already"
    plain = outer_step(data)
    loss, _, gradient = plain.gradient(learned_parts(data.replace(embeddings=rows), recipe), batch, key)
    free = (frame == FREE)[..., None]
    assert float(figures["loss"]) == float(loss)
    np.testing.assert_allclose(taken, np.where(free, gradient["embeddings"], 0), atol=1e-6)
    assert np.abs(taken).max() > 1e-4 and not np.abs(taken * ~free).any()

    def outer_loss(embeddings):
        return float(real_loss(plain.train({"embeddings": embeddings}, key), prepared.learner, words, batch)[0])

    direction = np.where(free, taken, 0) / np.linalg.norm(taken)
    slope = (outer_loss(rows + 0.02 * direction) - outer_loss(rows - 0.02 * direction)) / 0.04
    assert slope == pytest.approx(np.linalg.norm(taken), rel=0.03)
    # The pull goes its share of the way, and a row is where it wants to be.
    pulling = replace(shaping, pull=0.5)
    settled = pulling.settle({"embeddings": data.embeddings}, words, jnp.asarray(0.5))["embeddings"]
    np.testing.assert_allclose(settled, 0.75 * data.embeddings + 0.25 * rows, atol=1e-5)
    np.testing.assert_allclose(pulling.settle({"embeddings": rows}, words, jnp.asarray(1.0))["embeddings"], rows, atol=1e-6)


def test_a_mixture_hardens_into_its_likeliest_token():
    rng = np.random.default_rng(1)
    words, candidates = jnp.asarray(rng.standard_normal((20, 5)), jnp.float32), rng.integers(4, 20, (1, 2, 3, 4))
    frame = np.full((1, 2, 3), FREE)
    frame[..., 0] = 2
    shaping = Mixture(candidates, frame, hot=1.0, cold=1e-3, gumbel=False)
    learned = {MIXTURE: jnp.asarray(rng.standard_normal((1, 2, 3, 4)), jnp.float32), "rates": jnp.zeros((1, 1))}
    early, late = (shaping.use(learned, words, jnp.asarray(progress), jax.random.key(0)) for progress in (0.0, 1.0))
    final = shaping.final(learned, words)
    assert set(late) == {"embeddings", "rates"} == set(final)
    np.testing.assert_allclose(late["embeddings"], final["embeddings"], atol=1e-5)
    assert float(jnp.abs(early["embeddings"] - final["embeddings"]).max()) > 0.1
    np.testing.assert_array_equal(early["embeddings"][..., 0, :], words[jnp.full((1, 2), 2)])


def test_a_search_never_loses_and_goes_on_where_it_was_stopped(prepared, tmp_path):
    def desk(name):
        return Desk(tmp_path / name, lambda: Metrics(tmp_path / f"{name}.jsonl"))

    whole = []
    text = search(prepared, None, desk("whole"), whole.append)
    losses = [float(state.loss) for state in whole]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    # The loss is that of the very text: trained on anew, outside the search.
    planned, data, recipe = plan_texts(prepared)
    batch = BatchStream(prepared.tokens.train, 32, prepared.config.seed, prepared.buckets).batch(0)
    made = make_text(planned, whole[-1].ids, data, recipe)
    step = OuterStep(prepared.learner, recipe, prepared.start, data, Mixed(), optax.sgd(1.0), prepared.mesh)
    params = step.train({"embeddings": made.data.embeddings}, jax.random.key(prepared.config.seed))
    assert float(real_loss(params, prepared.learner, prepared.start.words, batch)[0]) == pytest.approx(losses[-1], rel=1e-5)

    def stop(state):
        if int(state.step) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(prepared, None, desk("broken"), stop)
    rest = []
    again = search(prepared, None, desk("broken"), rest.append)
    assert len(rest) < len(whole) and [float(state.loss) for state in rest] == losses[-len(rest) :]
    np.testing.assert_array_equal(text.ids, again.ids)


def test_what_a_person_reads_is_tokenised_again(prepared):
    planned, data, recipe = plan_texts(prepared)
    frame = frame_of(planned, data.mask)
    ids = np.where(frame == FREE, 5, frame)
    text = make_text(planned, ids, data, recipe)
    again, share = read_again(planned, text)
    assert share == 1
    np.testing.assert_array_equal(again.ids[data.mask > 0], ids[data.mask > 0])
    ids[0, 0, 2] = 0  # padding is not read
    again, share = read_again(planned, make_text(planned, ids, data, recipe))
    assert share == 0.75 and again.data.mask[0, 0].sum() == data.mask[0, 0].sum() - 1


def test_mistakes_are_one_sentence(make_line, tiny_corpus, tmp_path, capsys):
    (tmp_path / "plain").mkdir()
    for number, (changes, message) in enumerate(
        [
            ({"text__route": "straightthrough"}, "did you mean straight_through?"),
            ({"text__pull": 1.5}, "must lie between 0 and 1"),
            ({"text__metric": "cosin"}, "did you mean cosine?"),
            ({"text__final_temperature": 2.0}, "make it lower"),
            ({"text__start": tmp_path / "nowhere"}, "there is no such folder"),
            ({"text__start": tmp_path / "plain"}, "is not a distilled data set"),
            ({"text__route": "relearn"}, "run --mode=distill first"),
            ({"text__route": "splice", "text__pool": 1}, "config.text.pool is 1"),
            ({"distill__length": 2}, "has no room for text"),
        ]
    ):
        assert main(make_line(tmp_path / str(number), **changes)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("ddllm: ") and message in error
