"""Every route to text, from the command to its folder, on a tiny model and corpus: real rows of the word table, and what is learned for them."""

import json
import logging

import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled
from ddllm.distill import memory
from ddllm.main import main
from ddllm.models.pretrained import load_pretrained
from ddllm.runtime.metrics import read_metrics
from ddllm.text.checks import ROUTE_NAMES
from ddllm.text.distilled_text import FREE, frame_of, make_text, read_again
from ddllm.text.learn import plan_texts


@pytest.fixture(scope="module")
def all_routes(make_line, tmp_path_factory):
    """A working directory in which every route has been gone."""
    workdir = tmp_path_factory.mktemp("text") / "run"
    beside = {"distill__direction_labels": True, "distill__gains": True}
    assert main(make_line(workdir, "distill,text", text__route=",".join(ROUTE_NAMES), **beside, runtime__devices=2)) == 0
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
    # Labels of the body and gains are no text: a projection alone keeps what the distilled set has.
    assert (data.directions is not None) == (data.gains is not None) == (route == "project")
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


def test_each_set_has_its_own_text(all_routes, make_line, tmp_path, capsys):
    sets = [all_routes / "text" / route for route in ("splice", "straight_through")]
    line = make_line(tmp_path / "run", "text", text__route="project")
    for one in sets:
        assert main([*line, f"--distilled={one}"]) == 0
        ours, theirs = load_distilled(tmp_path / "run" / "text" / f"{one.name}-set" / "project").data, load_distilled(one).data
        np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["name"] for row in rows if not row["name"].endswith("heads")} == {f"{one.name}, projected" for one in sets}
    capsys.readouterr()
    assert main([*line, f"--distilled={sets[0]}", f"--name={sets[1].name}"]) == 2
    assert "another distilled data set for the text straight_through-set/project" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"distill__order": "learned", "distill__batches": 2},
        {"distill__inner_optimizer": "learned_momentum"},
        {"distill__robust": "('examples','passes')"},
        {"distill__head": "learned", "distill__probe_texts": 20, "distill__initial_labels": "model", "distill__pool": 1},
    ],
)
def test_sentences_are_spliced_by_any_recipe(make_line, tmp_path, changes):
    assert main(make_line(tmp_path / "run", text__route="splice", **changes)) == 0
    assert (tmp_path / "run" / "bodies").exists() == ("distill__pool" in changes)
    card = load_distilled(tmp_path / "run" / "text" / "splice").card
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["distillation_seconds"] for row in rows} == {card["distillation_seconds"]} and card["distillation_seconds"] > 0


def test_a_pool_larger_than_a_class(all_routes, make_line, tiny_corpus, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = {name: [json.loads(line) for line in (tiny_corpus / f"{name}.jsonl").read_text().splitlines()] for name in ("train", "test")}
    rows["train"] = [row for row in rows["train"] if row["label"] == "negative"] + [row for row in rows["train"] if row["label"] == "positive"][:6]
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    monkeypatch.setenv("HOME", str(all_routes))
    line = make_line(tmp_path / "run", text__route="splice,project", text__start="~/text/splice", text__pool=50, data__source=folder)
    assert main(line) == 0
    told = " ".join(capsys.readouterr().err.split())
    least = int(told.split("the class positive has ")[1].split()[0])
    assert 2 <= least <= 6 and f"fewer than config.text.pool=50: sentences are chosen from {least} of each class" in told
    assert "config.text.start counts for the other routes alone" in told
    few = {"text__route": "splice", "text__pool": 50, "data__source": folder, "distill__examples_per_class": 20}
    for number, initial in enumerate(("real", "noise")):
        assert main(make_line(tmp_path / str(number), **few, distill__initial=initial)) == 2
        assert f"the class 'positive' has {least} training texts, but config.distill.examples_per_class" in " ".join(capsys.readouterr().err.split())


def test_texts_of_two_sets_keep_their_figures_apart(all_routes, make_line, tmp_path):
    line = make_line(tmp_path / "run", "text", text__route="relearn")
    for name in ("one", "two"):
        assert main([*line, f"--distilled={all_routes / 'text' / 'splice'}", f"--name={name}"]) == 0
    stages = [each["stage"] for each in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert stages.count("text relearn of one") == stages.count("text relearn of two") > 0


@pytest.mark.parametrize("route", ["mixture", "search"])
def test_memory_is_accounted_for_before_a_route_starts(route, make_line, tmp_path, capsys, caplog, monkeypatch):
    line = make_line(tmp_path / "run", text__route=route)
    with monkeypatch.context() as patch:
        patch.setattr(memory, "free_memory", lambda device: 10)
        patch.setattr(memory, "METHODS", {"mixed": memory.METHODS["mixed"]})  # others are compiled only for what the sentence says
        assert main(line) == 2
    assert "but only 0.0 GB are free" in capsys.readouterr().err.splitlines()[-1]
    with caplog.at_level(logging.DEBUG, "jax"):  # of the threads that compile too, which `jax.log_compiles` does not reach
        assert main(line) == 0
    assert "an outer step needs" in capsys.readouterr().err
    compiled = [record.getMessage() for record in caplog.records if "XLA compilation" in record.getMessage()]
    assert len([message for message in compiled if "jit(begin)" in message]) == 1, "the account was of another program than ran"


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
    ranked = {"text__route": "search", "text__fluency_weight": 1.0, "text__fluency_model": "embedded"}
    for number, (changes, message) in enumerate(
        [
            ({"text__route": "straightthrough"}, "did you mean straight_through?"),
            ({"text__pull": 1.5}, "must lie between 0 and 1"),
            ({"text__metric": "cosin"}, "did you mean cosine?"),
            ({"text__final_temperature": 2.0}, "make it lower"),
            ({"text__fluency_weight": 0.1}, "only the route search counts fluency"),
            ({"text__fluency_model": "embedded"}, "say how much fluency counts"),
            ({**ranked, "text__fluency_candidates": 2}, "fewer than config.text.candidates"),
            ({"text__start": tmp_path / "nowhere"}, "there is no such folder"),
            ({"text__start": tmp_path / "plain"}, "is not a distilled data set"),
            ({"text__route": "relearn"}, "run --mode=distill first"),
            ({"text__route": "splice", "text__pool": 1}, "config.text.pool is 1"),
            ({"distill__length": 2}, "has no room for text"),
            ({"text__route": "splice", "text__start": tmp_path / "plain"}, "begins with real sentences"),
            ({"text__route": "mixture", "text__passes": 2, "distill__passes": 3, "distill__segments": 3}, "with config.text.passes=2, config.distill.seg"),
        ]
    ):
        assert main(make_line(tmp_path / str(number), **changes)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("ddllm: ") and message in error
