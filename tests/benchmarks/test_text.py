"""The table of texts: which runs it asks for, in which order, and what their rows enter."""

import json

import pytest

from benchmarks import text
from benchmarks.entries import settings_of
from benchmarks.jobs import Base
from benchmarks.options import in_rounds
from benchmarks.readability import Reader, file_of
from ddllm.config import resolve
from ddllm.main import parse
from ddllm.report.results import add_rows
from ddllm.runtime.storage import write_json
from ddllm.text.judge import measure
from ddllm.text.stage import folder_name

ENVIRONMENT = {"texts": {"rows": {"train": 90, "validation": 9, "test": 30}}, "cpu": "some", "backend": "cpu"}


@pytest.fixture
def parts(tmp_path):
    """The parts of two routes and one other model, by their runs' folders below the work folder."""
    (tmp_path / "data" / "dilm_synthetic").mkdir(parents=True)
    (tmp_path / "data" / "dilm_synthetic" / "sst2_dpc5.jsonl").touch()
    base, other = (Base.below(tmp_path / "work", "sst2", model, tmp_path / "data") for model in ("embedded", "org/other"))
    changes = ["--config.text.whole_words=True", "--config.distill.outer_steps=7"]
    made = [text.plan(base, [other], list(text.NAMES), [5, 10], ["search", "splice"], seed, [0, 1], changes) for seed in (0, 1)]
    return {str(part.job.member.folder.relative_to(tmp_path / "work")): part for seed in made for part in seed}


def finish(part, *rows):
    """As if the run had ended with these rows."""
    common = {"examples_per_class": part.job.per_class, "accuracy_std": 0.0, "runs": 1, "seconds": 1.0, "texts": 30}
    part.job.member.folder.mkdir(parents=True)
    write_json(part.job.member.folder / "config.json", resolve(part.job.member.config))
    add_rows(part.job.member.folder / "results.json", [common | row for row in rows], resolve(part.job.member.config), ENVIRONMENT)


def test_runs_come_after_those_that_they_need(parts):
    names = list(parts)
    assert names[:4] == ["sst2-embedded/full-seed0", "sst2-embedded/select-5-seed0+1", "sst2-org-other/select-5-seed0+1", "sst2-embedded/dilm-5-seed0"]
    assert "sst2-org-other/dilm-5-seed0" in names and "sst2-embedded/dilm-10-seed0" not in names, "there is no such file"
    for route in ("search", "splice"):
        order = [names.index(f"sst2-embedded/{kind}-10-seed1") for kind in ("distilled", f"text-{route}", f"as-text-{route}")]
        assert order == sorted(order) and f"sst2-org-other/as-text-{route}-10-seed1" in names
    learned, read = parts["sst2-embedded/text-search-5-seed1"].job.member, parts["sst2-org-other/as-text-search-5-seed1"].job.member
    assert learned.config.text.whole_words and learned.config.distill.outer_steps == 7 and learned.stages == ["text"]
    assert f"--distilled={parts['sst2-embedded/distilled-5-seed1'].job.member.folder}/distilled" in learned.line
    assert f"--distilled={learned.folder}/text/search/text.jsonl" in read.line and read.config.model.name == "org/other"


def test_several_at_a_time_go_in_rounds(parts):
    rounds = [sorted(job.kind for job in jobs if job.seeds[0] == 0 and job.per_class in (None, 5)) for jobs in in_rounds([part.job for part in parts.values()])]
    scored = ["as-text-search", "as-text-search", "as-text-splice", "as-text-splice"]
    assert rounds == [["dilm", "dilm", "full", "select", "select"], ["distilled"], ["text-search", "text-splice"], scored]


def test_other_models_have_options_of_their_own_and_a_folder_is_called_by_its_name(tmp_path):
    (tmp_path / "models" / "other").mkdir(parents=True)
    away = Base.below(tmp_path / "work", "sst2", str(tmp_path / "models" / "other"), None, ("--config.model.head=mean", "--config.data.length=48"))
    made = text.plan(Base.below(tmp_path / "work", "sst2", "embedded", None), [away], ["text", "k_centers"], [5], ["splice"], 0, [0], [], taught=False)
    jobs = [part.job for part in made if part.job.member.folder.parent.name == "sst2-other"]
    assert [job.kind for job in jobs] == ["select", "as-text-splice-untaught"]
    for job in jobs:
        config = job.member.config
        assert (config.model.head, config.data.length, config.model.name) == ("mean", 48, str(tmp_path / "models" / "other"))
        assert settings_of(resolve(config), job.kind)["model.name"] == "other"
        assert job.model == "other" and "configs/sst2.py:model=other,examples=5" in job.command and str(tmp_path) not in job.command


def test_texts_can_be_learned_without_a_teacher_and_without_a_distilled_set(parts, tmp_path):
    base = Base.below(tmp_path / "work", "sst2", "embedded", tmp_path / "data")
    alone = text.plan(base, [], ["text", "dilm"], [5], ["search"], 0, [0], [], taught=False)
    folders = [str(part.job.member.folder.relative_to(tmp_path / "work" / "sst2-embedded")) for part in alone]
    assert folders == ["dilm-5-seed0", "text-search-untaught-5-seed0", "as-text-search-untaught-5-seed0"]
    learned = alone[1].job.member
    assert learned.config.distill.teacher == "" and not any(part.startswith("--distilled") for part in learned.line)
    assert parts["sst2-embedded/text-search-5-seed0"].job.member.config.distill.teacher.endswith("full-seed0")


def test_a_route_may_keep_labels_of_the_body(tmp_path):
    base, cells = Base.below(tmp_path / "work", "sst2", "embedded", tmp_path / "data"), []
    both = text.plan(base, [], ["text"], [5], ["search", "search+auxiliary"], 0, [0], [], taught=False)
    for part, figure in zip(both, (0.6, 0.55, 0.8, 0.65), strict=True):
        finish(part, {"name": list(part.names)[-1], "accuracy_mean": figure})
        text.enter(cells, part)
    assert [part.job.member.config.text.auxiliary for part in both] == [False, False, True, False]
    assert both[3].job.member.line[-2] == f"--distilled={both[2].job.member.folder}/text/search/text.jsonl"
    lines = text.markdown(cells).splitlines()[-4:]
    assert [line.split(" |")[0].removeprefix("| ") for line in lines] == [
        "our text (search)",
        "our text (search), as plain text",
        "our text (search) with directions",
        "our text (search) with directions, as plain text",
    ]


def test_a_plain_text_has_the_settings_that_it_was_made_with(parts):
    cells, made = [], parts["sst2-embedded/text-search-5-seed0"]
    finish(made, {"name": "text (search)", "accuracy_mean": 0.6, "head": "zero"})
    write_json(made.job.member.folder / "config.json", resolve(made.job.member.config))
    scored = parts["sst2-embedded/as-text-search-5-seed0"]
    finish(scored, {"name": "plain_text", "accuracy_mean": 0.65})
    for part in (made, scored):
        text.enter(cells, part)
    learned, plain = (next(cell for cell in cells if cell["protocol"] == protocol)["settings"] for protocol in (text.LEARNED, text.TUNED))
    assert plain["distill.outer_steps"] == learned["distill.outer_steps"] == 7 and plain["text.route"] == "search"
    dilm = parts["sst2-embedded/dilm-5-seed0"]
    finish(dilm, {"name": "dilm", "accuracy_mean": 0.6, "accuracies": [0.5, 0.7], "sets": 2})
    text.enter(cells, dilm)
    assert not any(key.startswith(("distill.outer", "distill.gains", "text.")) for key in cells[-1]["settings"])


def test_what_is_projected_is_one_cell_whether_routes_have_gains(tmp_path):
    base, cells = Base.below(tmp_path / "work", "sst2", "embedded", tmp_path / "data"), []
    for seed, route in ((0, "search"), (1, "search+gains")):
        *_, part, _ = text.plan(base, [], ["projected", "text"], [5], [route], seed, [0, 1], [], taught=False)
        finish(part, {"name": next(iter(part.names)), "accuracy_mean": 0.5 + seed / 10, "head": "zero"})
        text.enter(cells, part)
    [cell] = [cell for cell in cells if cell["name"] == "projected"]
    assert cell["values"] == {"0": 0.5, "1": 0.6}


def test_rows_and_texts_of_a_given_set_have_its_name(tmp_path):
    base = Base.below(tmp_path / "work", "sst2", "embedded", tmp_path / "data")
    made = text.plan(base, [], ["distilled", "projected", "text"], [5], ["relearn", "search"], 0, [0], [], taught=False)
    _, relearn, plain, search, _ = made
    run, name = relearn.job.member, made[0].job.member.folder.name
    assert relearn.names == {f"{name}, projected": "projected", f"{name}, text (relearn)": "text"}
    assert search.names == {f"{name}, projected": "projected", "text (search)": "text"}
    file = run.folder / "text" / name / "relearn" / "text.jsonl"
    assert f"--distilled={file}" in plain.job.member.line
    assert file_of(relearn.job, f"{name}, text (relearn)") == file
    assert file_of(search.job, "text (search)") == search.job.member.folder / "text" / "search" / "text.jsonl"
    assert file_of(relearn.job, f"{name}, projected") == made[0].job.member.folder / "distilled"
    # As the stage calls them.
    command = parse(run.line)
    assert f"{command.name}, projected" in relearn.names and folder_name(command.name) == name
    cells = []
    finish(relearn, *({"name": row, "accuracy_mean": 0.6, "head": "zero"} for row in relearn.names))
    text.enter(cells, relearn)
    assert {cell["name"]: cell["values"] for cell in cells} == {"projected": {"0": 0.6}, "text": {"0": 0.6}}


def test_cells_keep_apart_what_is_trained_in_another_way(parts):
    cells = []

    def enter(name, *rows):
        finish(parts[name], *rows)
        text.enter(cells, parts[name])

    enter("sst2-embedded/full-seed0", {"name": "full", "accuracy_mean": 0.8})
    for seed, accuracy in ((0, 0.6), (1, 0.8)):
        own = {"name": "text (search)", "accuracy_mean": accuracy, "head": "zero", "tokens": 50, "read_again": 0.5}
        redrawn = {"name": "text (search), redrawn heads", "accuracy_mean": 0.5, "head": "redrawn"}
        again = {"name": "text (search), read again", "accuracy_mean": 0.55, "head": "zero"}
        projected = {"name": f"distilled-5-seed{seed}, projected", "accuracy_mean": 0.5, "head": "zero"}
        enter(f"sst2-embedded/text-search-5-seed{seed}", projected, own, redrawn, again)
    enter("sst2-embedded/text-splice-5-seed0", {"name": "distilled-5-seed0, projected", "accuracy_mean": 0.52, "head": "zero"})
    enter("sst2-embedded/as-text-search-5-seed0", {"name": "plain_text", "accuracy_mean": 0.65})
    enter("sst2-embedded/dilm-5-seed0", {"name": "dilm", "accuracy_mean": 0.6, "accuracies": [0.5, 0.7], "sets": 2})
    enter("sst2-embedded/select-5-seed0+1", *({"name": name, "accuracy_mean": 0.6, "accuracies": [0.5, 0.7]} for name in text.REAL))
    text.markdown(cells)  # before shares of full data are known
    found = {(cell["name"], cell["protocol"]): cell for cell in cells}
    assert len(found) == len(cells) == 7
    ours = found["text", text.LEARNED]
    assert ours["values"] == {"0": 0.6, "1": 0.8} and ours["again"] == {"0": 0.55, "1": 0.55} and ours["route"] == "search"
    assert ours["accuracy_mean"] == pytest.approx(0.7) and ours["runs"] == 2 and ours["redrawn_mean"] == 0.5 and ours["tokens"] == 50
    assert found["projected", text.LEARNED]["values"] == {"0": 0.52, "1": 0.5}, "a route is no setting of a projection"
    assert found["text", text.TUNED]["accuracy_mean"] == 0.65
    assert found["dilm", text.TUNED]["accuracy_std"] == pytest.approx(0.1414, abs=1e-3) and found["k_centers", text.TUNED]["runs"] == 2
    lines = text.markdown(cells)
    assert "| our text (search), from a teacher | 70.0 ± 14.1 (2) / [50.0 ± 0.0] |" in lines
    assert "| our text (search), from a teacher, as plain text | 65.0 (1) |" in lines
    assert "perplexity, × real" not in lines and "Accuracy against fluency" not in lines
    # Judged later: one cell has figures, the others go on without.
    figures = {"perplexity": 300.0, "nll_per_word": 6.0, "distinct_1": 0.9, "distinct_2": 0.95, "repeated_4": 0.01}
    real = {"perplexity": 100.0, "nll_per_word": 5.0, "distinct_1": 0.8, "distinct_2": 0.9, "repeated_4": 0.0}
    one = figures | {f"{name}_real": value for name, value in real.items()} | {"judge": "SomeLM", "texts": "mark", "judge_took_part": False}
    ours["fluency"] = {"0": one, "1": one | {"perplexity": 500.0, "judge_took_part": True}}
    lines = text.markdown(cells)
    assert "| training data | 5 per class | perplexity, × real |" in lines
    assert "| our text (search), from a teacher | 70.0 ± 14.1 (2) / [50.0 ± 0.0] | 4.0* |" in lines
    assert "| their nearest tokens, from a teacher | 51.0 ± 1.4 (2), crossed | – |" in lines
    assert "judged by SomeLM (*: took part in making the text)" in lines
    assert "| our text (search), from a teacher | 5 | 70.0 | 400 | 4.0* | 2.7 | 0.95 | 1.0 | – |" in lines
    assert "| any real sentences | 5 | – | 100 | 1.0 | 1.0 | 0.90 | 0.0 | – |" in lines


def test_texts_are_judged_where_runs_left_them(embedded, tiny_corpus, make_decoder, tmp_path):
    (tmp_path / "data" / "sst2").mkdir(parents=True)
    train, test = ((tiny_corpus / f"{part}.jsonl").read_text() for part in ("train", "test"))
    for part, rows in (("train", train), ("validation", "".join(train.splitlines(keepends=True)[:20])), ("test", test)):
        (tmp_path / "data" / "sst2" / f"{part}.jsonl").write_text(rows)
    (tmp_path / "data" / "dilm_synthetic").mkdir()
    theirs = [{"text": f"{word} film", "label": label, "set": number} for number in (0, 1) for label, word in (("positive", "good"), ("negative", "dull"))]
    (tmp_path / "data" / "dilm_synthetic" / "sst2_dpc1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in theirs))
    base = Base.below(tmp_path / "work", "sst2", "embedded", tmp_path / "data")
    parts = text.plan(base, [], ["text", "random", "dilm"], [1], ["search"], 0, [0, 1], [], taught=False)
    select, dilm, ours, plain = (part.job for part in parts)
    file = ours.member.folder / "text" / "search" / "text.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps({"text": line, "label": label}) + "\n" for line, label in (("a good plot", 1), ("a dull plot", 0))))
    folder = str(make_decoder())
    (ours.member.folder / "config.json").write_text(json.dumps({"text": {"fluency_model": folder}}))
    reader, cells = Reader(folder), [{}, {}, {}, {}]
    for cell, part, name in zip(cells, parts, ("random", "dilm", "text", "text"), strict=True):
        reader.enter({name: cell}, part.job, part.names)
    found = {part.job.kind: cell["fluency"] for part, cell in zip(parts, cells, strict=True)}
    assert list(found["select"]) == list(found["dilm"]) == ["all"] and list(found[ours.kind]) == ["0"]
    both = measure([["good film", "dull film"]] * 2, reader.judge)
    assert {name: found["dilm"]["all"][name] for name in both} == pytest.approx(both)
    assert found[ours.kind]["0"]["perplexity"] == found[plain.kind]["0"]["perplexity"] == measure([["a good plot", "a dull plot"]], reader.judge)["perplexity"]
    assert {kind: one["judge_took_part"] for kind, cell in found.items() for one in cell.values()} == {
        select.kind: False, dilm.kind: False, ours.kind: True, plain.kind: True
    }
    # What has not changed is not judged again; what has changed is.
    before = cells[2]["fluency"]["0"]
    reader.enter({"text": cells[2]}, ours, parts[2].names)
    assert cells[2]["fluency"]["0"] is before
    file.write_text(file.read_text().replace("plot", "story"))
    reader.enter({"text": cells[2]}, ours, parts[2].names)
    assert cells[2]["fluency"]["0"]["perplexity"] != before["perplexity"]
