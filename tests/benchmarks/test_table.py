"""The table of results: which runs it asks for, what a finished run enters, and when figures are thrown away."""

import shlex
import statistics

import pytest

from benchmarks import options, table
from benchmarks.jobs import Base, plan_jobs
from ddllm.config import resolve
from ddllm.distill.teacher import briefly
from ddllm.errors import UserError
from ddllm.main import main as command
from ddllm.main import parse
from ddllm.members import FINISHED
from ddllm.report.results import add_rows
from ddllm.runtime.storage import read_json, write_json

ENVIRONMENT = {"texts": {"rows": {"train": 90, "validation": 9, "test": 30}}, "cpu": "some", "backend": "cpu"}


@pytest.fixture
def jobs(tmp_path):
    """make(seeds, names, …) -> the runs of one data set with one encoder, by their kind, examples per class and first seed."""

    def make(seeds=(0, 1), names=("full", "random", "herding", "distilled"), per_class=(1, 5), model="embedded", changes=()):
        made = plan_jobs(["sst2"], [model], list(names), list(per_class), list(seeds), None, tmp_path / "work", changes)
        return {(job.kind, job.per_class, job.seeds[0]): job for job in made}

    return make


def finish(job, rows, **changes):
    """As if the run had ended with these rows."""
    config = resolve(job.member.config)
    for key, value in changes.items():
        config["distill"][key] = value
    common = {"examples_per_class": job.per_class, "accuracy_std": 0.0, "runs": 1, "seconds": 1.0}
    job.member.folder.mkdir(parents=True, exist_ok=True)
    (job.member.folder / "results.json").unlink(missing_ok=True)
    add_rows(job.member.folder / "results.json", [common | row for row in rows], config, ENVIRONMENT)
    write_json(job.member.folder / "member.json", {"status": FINISHED, "seconds": 1.0, "error": "", "stages": job.member.stages})


def cell_of(cells, name, per_class):
    [cell] = [cell for cell in cells if (cell["name"], cell["examples_per_class"]) == (name, per_class)]
    return cell


def test_runs_are_those_that_the_cells_need(jobs):
    made = jobs()
    assert list(made) == [
        *[("full", None, 0), ("teachers", None, 0), ("distilled", 1, 0), ("select", 1, 0), ("distilled", 5, 0), ("select", 5, 0)],
        *[("full", None, 1), ("teachers", None, 1), ("distilled", 1, 1), ("distilled", 5, 1)],
    ]
    distilled, teachers = made["distilled", 5, 1].member, made["teachers", None, 1].member
    assert distilled.config.distill.teacher == str(teachers.folder)
    # They are what the recipe makes by itself where its command is given alone, as a cell's command has it.
    alone = parse(shlex.split(made["distilled", 5, 1].command)[3:]).config
    assert alone.distill.teacher == "brief" and resolve(briefly(alone).finetune) == resolve(teachers.config.finetune)
    assert alone.seed == teachers.config.seed == 1 and teachers.stages == ["prepare", "finetune"]
    assert distilled.config.seed == 1 and distilled.config.distill.examples_per_class == 5
    select = made["select", 5, 0].member
    assert tuple(select.config.evaluate.selections) == ("random", "herding") and select.config.evaluate.selection_draws == 2
    assert len({job.member.folder for job in made.values()}) == len(made)
    # A published recipe has no teacher, and so needs no run on full data; on the embedded encoder it has been tuned.
    [peer] = jobs(seeds=(0,), names=("maekawa2023",), per_class=(1,), model="org/other").values()
    assert not peer.member.config.distill.teacher and peer.member.config.distill.attention_weight == 100
    [peer] = jobs(seeds=(0,), names=("maekawa2023",), per_class=(1,)).values()
    assert peer.member.config.distill.attention_weight == 1 and "--config.distill.initial=real" in peer.command
    assert peer.member.config.distill.outer_steps == distilled.config.distill.outer_steps


def test_distillations_take_as_many_outer_steps_as_are_asked_for(tmp_path):
    line = ["--datasets=sst2", "--per-class=5", "--seeds=0", f"--work={tmp_path}", "--names=full,random,distilled,maekawa2023,no_gains"]
    planned = {steps: {job.kind: job for job in table.plan([*line, *more])[1]} for steps, more in {0: [], 7: ["--outer-steps=7"]}.items()}
    assert set(planned[7]) == set(planned[0]) == {"full", "teachers", "distilled", "maekawa2023", "no_gains", "select"}
    for kind, job in planned[7].items():
        learned = kind not in ("full", "teachers", "select")
        assert (job.member.config.distill.outer_steps == 7) == learned == ("--config.distill.outer_steps=7" in job.command)
        # Not in the folder of a distillation that has others.
        assert (job.member.folder != planned[0][kind].member.folder) == learned
    with pytest.raises(UserError, match="--outer-steps is 'some', but must be a whole number"):
        table.plan([*line, "--outer-steps=some"])


def test_further_selections_are_runs_of_their_own(jobs):
    [alone] = jobs(seeds=(0,), names=("random",), per_class=(1,)).values()
    line = ["--datasets=sst2", "--per-class=1", "--seeds=0", f"--work={alone.member.folder.parents[1]}"]
    _, planned = table.plan([*line, "--names=random,k_means,gradient_norm"])
    assert [tuple(job.member.config.evaluate.selections) for job in planned] == [("random",), ("k_means",), ("gradient_norm",)]
    # So that the figures of those that a table has anyway stay, and their run with them.
    assert {job.kind for job in planned} == {"select"} and planned[0].member.folder == alone.member.folder
    assert len({job.member.folder for job in planned}) == 3


def test_what_others_submit_is_a_row(tmp_path):
    line = ["--datasets=sst2", "--seeds=0,1", "--names=", f"--work={tmp_path}", "--submissions=dilm=a/texts.jsonl,theirs=b"]
    _, jobs = table.plan(line)
    assert [(job.kind, job.change, job.seeds) for job in jobs] == [("submitted", "dilm", (0,)), ("submitted", "theirs", (0,))]
    texts, folder = jobs
    assert {"--distilled=a/texts.jsonl", "--name=dilm", "--mode=evaluate"} <= set(texts.member.line) and texts.member.stages == ["evaluate"]
    redrawn = {"accuracy_mean": 0.7, "accuracy_std": 0.05, "runs": 20, "head": "redrawn", "texts": 20}
    finish(texts, [redrawn | {"name": "dilm", "examples_per_class": 5, "sets": 20}])
    own = {"name": "theirs", "examples_per_class": None, "accuracy_mean": 0.75, "head": "zero", "texts": 30}
    finish(folder, [own, redrawn | {"name": "theirs, redrawn heads", "examples_per_class": None}])
    cells: list[dict] = []
    for job in jobs:
        table.enter(cells, job)
    assert cell_of(cells, "dilm", 5)["redrawn_std"] == 0.05 and cell_of(cells, "theirs", None)["accuracy_mean"] == 0.75
    assert not any(key.startswith("distill") for key in cells[0]["settings"])
    shown = table.markdown(cells, {"note": "", "figures": []})
    assert "| dilm (submitted) | 70.0 (1), on 20 test texts / [70.0 ± 5.0, on 20] |" in shown
    assert "| theirs (submitted) | 75.0 (1) / [70.0 ± 5.0, on 20] |" in shown
    for given, message in (("dilm", "form NAME=FILE"), ("random=a", "another row is called"), ("a=b,a=c", "another row is called")):
        with pytest.raises(UserError, match=message):
            table.plan([*line[:-1], f"--submissions={given}"])
    with pytest.raises(UserError, match="are of one data set"):
        table.plan(["--submissions=a=b"])


def test_seeds_are_averaged_and_other_settings_begin_anew(jobs):
    made, cells = jobs(), []
    full = [{"name": "full", "examples_per_class": None, "accuracy_mean": value} for value in (0.8, 0.9)]
    for seed in (0, 1):
        finish(made["full", None, seed], [full[seed]])
        own = {"name": "distilled", "accuracy_mean": 0.7 + seed / 10, "head": "zero", "texts": 30}
        redrawn = {
            "name": "distilled, redrawn heads",
            "accuracy_mean": 0.6,
            "accuracy_std": 0.02,
            "runs": 5,
            "head": "redrawn",
            "texts": 20,
        }
        finish(made["distilled", 1, seed], [own, redrawn])
        table.enter(cells, made["full", None, seed])
        table.enter(cells, made["distilled", 1, seed])
    finish(made["select", 1, 0], [{"name": "random", "accuracy_mean": 0.5, "accuracies": [0.4, 0.6], "runs": 2, "texts": 20}])
    table.enter(cells, made["select", 1, 0])
    distilled = cell_of(cells, "distilled", 1)
    assert distilled["accuracy_mean"] == pytest.approx(0.75) and distilled["accuracy_std"] == pytest.approx(statistics.stdev([0.7, 0.8]))
    assert (distilled["runs"], distilled["seeds"], distilled["redrawn_mean"]) == (2, [0, 1], pytest.approx(0.6))
    assert cell_of(cells, "random", 1)["values"] == {"0": 0.4, "1": 0.6} and cell_of(cells, "full", None)["runs"] == 2
    assert distilled["settings"]["distill.teacher"] == "brief" and distilled["settings"]["distill.direction_labels"] is True
    table_text = table.markdown(cells, {"note": "", "figures": []})
    assert "50.0 ± 14.1 (2), on 20 test texts |" in table_text and "75.0 ± 7.1 (2), crossed, word scores, brief teachers / [60.0 ± 1.9, on 20]" in table_text
    # What a run does not depend on is no setting of its cells.
    assert cell_of(cells, "full", None)["settings"].keys() & {"finetune.rate", "distill.length"} == {"finetune.rate"}
    assert cell_of(cells, "random", 1)["settings"].keys() & {"finetune.rate", "distill.length"} == set()
    # Where its teachers were made is no setting; a teacher of another kind is one, and a number of steps.
    finish(made["distilled", 1, 1], [{"name": "distilled", "accuracy_mean": 0.8, "head": "zero"}], teacher="brief")
    table.enter(cells, made["distilled", 1, 1])
    assert cell_of(cells, "distilled", 1)["runs"] == 2
    finish(made["distilled", 1, 1], [{"name": "distilled", "accuracy_mean": 0.8, "head": "zero"}], teacher="elsewhere/full-seed1")
    table.enter(cells, made["distilled", 1, 1])
    assert cell_of(cells, "distilled", 1)["values"] == {"1": 0.8} and "distill.teacher" not in cell_of(cells, "distilled", 1)["settings"]
    finish(made["distilled", 1, 1], [{"name": "distilled", "accuracy_mean": 0.9, "head": "zero"}], outer_steps=7)
    table.enter(cells, made["distilled", 1, 1])
    assert cell_of(cells, "distilled", 1)["values"] == {"1": 0.9} and not cell_of(cells, "distilled", 1)["redrawn"]


def test_cells_say_what_they_do_not_share_with_the_others_of_their_section(jobs):
    made, cells = jobs(seeds=(0,), names=("full", "distilled")), []
    finish(made["full", None, 0], [{"name": "full", "examples_per_class": None, "accuracy_mean": 0.8}])
    for count, steps in ((1, 1800), (5, 600)):
        row = {"name": "distilled", "accuracy_mean": 0.76, "head": "zero", "distillation_seconds": 9.0}
        finish(made["distilled", count, 0], [row], outer_steps=steps)
    for job in made.values():
        table.enter(cells, job)  # which asks nothing of teachers
    text = table.markdown(cells, {"note": "", "figures": []})
    made_so = "outer steps, crossed, word scores, brief teachers"
    assert f"| distilled | 76.0 (1), 1,800 {made_so} | 76.0 (1), 600 {made_so} |" in text
    assert "| full: all texts | 80.0 (1) | 80.0 (1) |" in text
    # Of the same number of steps no cell says it, but each that its products were rounded.
    made = jobs(seeds=(0,), names=("full", "distilled"), changes=("--config.model.products=bfloat16",))
    finish(made["full", None, 0], [{"name": "full", "examples_per_class": None, "accuracy_mean": 0.8}])
    for count in (1, 5):
        finish(made["distilled", count, 0], [{"name": "distilled", "accuracy_mean": 0.7, "head": "zero", "distillation_seconds": 9.0}])
    for job in made.values():
        table.enter(cells, job)
    text = table.markdown(cells, {"note": "", "figures": []})
    told = "70.0 (1), crossed, word scores, brief teachers, in bfloat16"
    assert f"| distilled | {told} | {told} |" in text and "80.0 (1), in bfloat16" in text
    assert "--config.model.products=bfloat16" in cell_of(cells, "distilled", 1)["command"]


def test_the_command_writes_both_files_and_keeps_cells_whose_runs_are_gone(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "JSON", tmp_path / "TABLE.json")
    monkeypatch.setattr(table, "MARKDOWN", tmp_path / "TABLE.md")
    line = [*("--datasets", "sst2"), *("--names", "full,distilled"), *("--per-class", "1"), *("--seeds", "0"), "--only-table"]
    made = jobs(seeds=(0,), names=("full", "distilled"), per_class=(1,))
    finish(made["full", None, 0], [{"name": "full", "examples_per_class": None, "accuracy_mean": 0.8}])
    finish(made["distilled", 1, 0], [{"name": "distilled", "accuracy_mean": 0.76, "head": "zero"}])
    assert table.main([*line, "--work", str(tmp_path / "work")]) == 0
    first = read_json(tmp_path / "TABLE.json")
    assert cell_of(first["cells"], "distilled", 1)["percent_of_full"] == 95.0
    text = (tmp_path / "TABLE.md").read_text()
    assert "76.0 (1), 95.0 % of full" in text and "Published figures" in text
    assert table.main([*line, "--work", str(tmp_path / "empty")]) == 0
    assert read_json(tmp_path / "TABLE.json") == first


@pytest.mark.parametrize("processes", [1, 3])
def test_teachers_are_there_before_what_they_teach(jobs, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(table, "JSON", tmp_path / "TABLE.json")
    monkeypatch.setattr(table, "MARKDOWN", tmp_path / "TABLE.md")
    calls = []

    def run(members, at_once, retry, until):
        calls.append([member.values["kind"] for member in members])
        assert at_once == processes and not retry and until == float("inf")
        for job in jobs(names=("full", "distilled"), per_class=(1,)).values():
            if job.member.folder in [member.folder for member in members]:
                finish(job, [{"name": job.kind, "accuracy_mean": 0.8, "head": "zero"}])

    monkeypatch.setattr(options, "run_members", run)
    line = [*("--datasets", "sst2"), *("--names", "full,distilled"), *("--per-class", "1"), *("--seeds", "0,1"), "--processes", str(processes)]
    assert table.main([*line, "--work", str(tmp_path / "work")]) == 0
    assert calls == ([["full", "teachers"] * 2, ["distilled"] * 2] if processes > 1 else [["full"], ["teachers"], ["distilled"]] * 2)
    cells = read_json(tmp_path / "TABLE.json")["cells"]
    assert [cell_of(cells, *key)["values"] for key in (("full", None), ("distilled", 1))] == [{"0": 0.8, "1": 0.8}] * 2


def test_a_folder_of_other_options_is_not_taken_for_this_run(jobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "JSON", tmp_path / "TABLE.json")
    monkeypatch.setattr(table, "MARKDOWN", tmp_path / "TABLE.md")
    [full] = jobs(seeds=(0,), names=("full",), per_class=(1,)).values()
    finish(full, [{"name": "full", "examples_per_class": None, "accuracy_mean": 0.8}])
    kept, line = full.member.folder / "config.json", [*("--datasets", "sst2"), *("--names", "full"), *("--seeds", "0"), "--work", str(tmp_path / "work")]
    write_json(kept, resolve(full.member.config))
    assert table.main(line) == 0
    write_json(kept, {**resolve(full.member.config), "seed": 7})
    capsys.readouterr()
    assert table.main(line) == 2 and "seed is 7 there and 0 here" in capsys.readouterr().err
    assert table.main([*line, "--only-table"]) == 0


def test_models_of_two_owners_have_folders_of_their_own(jobs):
    folders = {job.member.folder for model in ("one/bert", "two/bert") for job in jobs(model=model).values()}
    assert len(folders) == 2 * len(jobs())


def test_the_deviation_over_redrawn_heads_is_that_of_all_trainings():
    groups = [[0.8, 0.84, 0.86], [0.7, 0.72]]
    made = table.pool([(statistics.fmean(values), statistics.stdev(values), len(values)) for values in groups])
    assert made == pytest.approx((statistics.fmean(sum(groups, [])), statistics.stdev(sum(groups, []))))
    assert table.pool([(0.8, 0.0, 1)]) == (0.8, 0.0)


def test_a_name_that_another_begins_with_is_not_that_other(tmp_path):
    base = Base.below(tmp_path, "sst2", "embedded", None)
    one, ten, taught = base.teachers(1), base.teachers(10), base.distilling("distilled", 1, 10)
    assert options.in_rounds([one, ten, taught]) == [[one, ten], [taught]]
    assert options.in_rounds([one, taught]) == [[one, taught]]


@pytest.mark.parametrize("processes", [1, 3])
def test_nothing_is_taught_by_a_run_that_failed(jobs, tmp_path, monkeypatch, capsys, processes):
    monkeypatch.setattr(table, "JSON", tmp_path / "TABLE.json")
    monkeypatch.setattr(table, "MARKDOWN", tmp_path / "TABLE.md")
    started = []

    def run(members, at_once, retry, until):
        for member in members:
            started.append((member.values["kind"], int(member.values["seed"])))
            failed = started[-1] == ("teachers", 0)
            member.folder.mkdir(parents=True, exist_ok=True)
            record = {"status": "failed" if failed else "finished", "seconds": 1.0, "error": "", "stages": member.stages}
            write_json(member.folder / "member.json", record)
        for job in jobs(names=("full", "distilled"), per_class=(1,)).values():
            if job.member.folder in [member.folder for member in members] and (job.kind, job.seeds) != ("teachers", (0,)):
                finish(job, [{"name": job.kind, "accuracy_mean": 0.8, "head": "zero"}])

    monkeypatch.setattr(options, "run_members", run)
    line = [*("--datasets", "sst2"), *("--names", "full,distilled"), *("--per-class", "1"), *("--seeds", "0,1"), "--processes", str(processes)]
    assert table.main([*line, "--work", str(tmp_path / "work")]) == 1
    assert sorted(started) == [("distilled", 1), ("full", 0), ("full", 1), ("teachers", 0), ("teachers", 1)]
    said = capsys.readouterr().err
    assert "kind=distilled examples=1 seed=0: not started, it needs" in said and "1 runs left, 1 failed" in said


def test_the_commands_of_the_table_are_commands(jobs, capsys):
    [full] = jobs(seeds=(0,), names=("full",), per_class=(1,)).values()
    assert command([*full.member.line, "--config.distill.outer_steps=0"]) == 2
    assert "config.distill.outer_steps is 0" in capsys.readouterr().err


def test_a_command_of_an_entry_can_be_pasted(tmp_path):
    base = Base.below(tmp_path, "rotten_tomatoes", "embedded", None)
    line = shlex.split(base.selecting(("random", "k_centers"), 1, (0, 1)).command)
    assert line[:3] == ["python", "-m", "ddllm.main"]
    config = parse(line[3:]).config
    assert config.data.source == "embedded" and config.evaluate.selections == ("random", "k_centers")


@pytest.mark.parametrize(
    "line, sentence",
    [
        (["--datasets", "sst"], "did you mean sst2"),
        (["--names", "destilled"], "did you mean distilled"),
        (["--per-class", "0,1"], "whole numbers from 1 on"),
        (["--seeds", "a"], "whole numbers from 0 on"),
        (["--data", "nowhere"], "is not a folder"),
        (["--minuts", "3"], "--minuts"),
        (["--processes", "0"], "at least 1"),
    ],
)
def test_mistakes_are_one_sentence(line, sentence, capsys):
    assert table.main(line) == 2
    captured = capsys.readouterr().err
    assert sentence in captured and captured.count("\n") == 1


def test_full_data_alone_is_a_table_with_one_column(jobs):
    made, cells = jobs(), []
    finish(made["full", None, 0], [{"name": "full", "examples_per_class": None, "accuracy_mean": 0.8}])
    table.enter(cells, made["full", None, 0])
    assert "| training data | accuracy |\n|---|---:|\n| full: all texts | 80.0 (1) |" in table.markdown(cells, {"note": "", "figures": []})
