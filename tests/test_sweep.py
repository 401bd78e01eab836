"""A sweep on the tiny model: interrupted and started again, with a member that fails, and a table of all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from ddllm.members import FAILED, SHARE, WAITING, _share_out, last_sentence, run_member, run_members, take_over
from ddllm.sweep import main, plan

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"


@pytest.fixture
def line(tiny_model, tiny_corpus, tmp_path, monkeypatch):
    """Command line of a sweep in tmp_path/sweep of small runs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    values = {
        "model.name": tiny_model,
        "data.source": tiny_corpus,
        "data.test": "test",
        "data.length": 8,  # one padded length, so that little is compiled
        "distill.length": 6,
        "distill.outer_steps": 40,
        "distill.batch_size": 8,
        "distill.validate_every": 40,
        "distill.checkpoint_every": 4,
        "evaluate.heads": 2,
        "evaluate.selections": "('random',)",
        "evaluate.selection_passes": "(1,)",
        "evaluate.selection_draws": 2,
        "evaluate.selection_rates": "(0.1,)",
        "runtime.compilation_cache": "",
        "runtime.tensorboard": False,
    }
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    return [QUICKSTART, "--mode=distill,evaluate", f"--workdir={tmp_path / 'sweep'}", *overrides]


def starts(folder):
    return {path.parent.name: len(path.read_text().splitlines()) for path in folder.glob("*/commands.txt")}


def test_an_interrupted_sweep_goes_on_and_a_failure_stops_no_other(line, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    # Slow enough to be caught in the middle: the first member.
    line += ["--vary", "distill.initial_rate=0.05,1e30,0.1", "--vary", "seed=3"]
    first = sweep / "initial_rate=0.05,seed=3"
    process = subprocess.Popen(
        [sys.executable, "-m", "ddllm.sweep", *line],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (first / "checkpoints" / "4").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command does what is left" in error, error
    assert list(starts(sweep)) == [first.name] and json.loads((first / "member.json").read_text())["status"] == "waiting"

    assert main([*line, "--processes", "2"]) == 1
    assert starts(sweep) == {first.name: 2, "initial_rate=0.1,seed=3": 1, "initial_rate=1e30,seed=3": 1}
    table = json.loads((sweep / "sweep.json").read_text())
    assert table["varied"] == ["distill.initial_rate", "seed"]
    good, failed, other = table["members"]
    assert [row["status"] for row in table["members"]] == ["finished", "failed", "finished"]
    assert 0 <= good["accuracy_mean"] <= 1 and good["seconds"] > 0 and other["accuracy_mean"] is not None
    assert failed["error"].startswith("distill stopped at step 1") and failed["accuracy_mean"] is None
    lines = (sweep / "sweep.md").read_text().splitlines()
    assert lines[5] == "" and lines[6].startswith("| training data |")
    assert lines[3].startswith("| 1e30 | 3 | – | – |") and "distill stopped at step 1" in lines[3]
    assert f"{100 * good['accuracy_mean']:.1f}" in lines[2] and "finished" in capsys.readouterr().out
    assert "distill 40/40" in (first / "log.txt").read_text()

    # Nothing is repeated, until it is asked for; then the one that failed.
    assert main(line) == 1 and main([*line, "--member", "1"]) == 1 and main([*line, "--member", "0"]) == 0
    assert sum(starts(sweep).values()) == 4
    assert main([*line, "--retry", "--member", "1"]) == 2
    assert starts(sweep)["initial_rate=1e30,seed=3"] == 2 and sum(starts(sweep).values()) == 5
    assert main([*line, "--table"]) == 1

    # Members of another configuration are not taken for this one's.
    capsys.readouterr()
    assert main([*line, "--config.distill.outer_steps=41", "--table"]) == 2
    assert "distill.outer_steps is 40 there and 41 here" in capsys.readouterr().err


def test_fine_tuning_is_taken_over_where_nothing_it_depends_on_differs(line, tmp_path):
    sweep = tmp_path / "sweep"
    line = [part.replace("--mode=distill,evaluate", "--mode=finetune") for part in line] + ["--config.finetune.batch_size=8"]
    line += ["--config.distill.teacher=full"]
    assert main([*line, "--config.finetune.epochs=0.5", "--vary", "distill.passes=1,2"]) == 0
    one, other = sweep / "passes=1", sweep / "passes=2"
    rows = [json.loads((folder / "results.json").read_text())["rows"] for folder in (one, other)]
    assert rows[1][0].pop("seconds") == pytest.approx(rows[0][0].pop("seconds"), abs=1.0) and rows[0] == rows[1]
    # Seconds and all: training again would have taken others.
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    # It serves as a teacher, which has to be whole.
    taught = [part.replace("--mode=finetune", "--mode=distill") for part in line] + ["--config.finetune.epochs=0.5"]
    assert main([*taught, "--vary", "distill.passes=1,2,3", f"--workdir={sweep}"]) == 0
    # Parameters are chosen by the metric.
    _, _, members = plan([*line, "--config.finetune.epochs=0.5", "--vary", "evaluate.metric=f1_macro", f"--workdir={sweep}"])
    take_over(members[0], [*plan([*line, "--config.finetune.epochs=0.5", "--vary", "distill.passes=1"])[2], *members])
    assert not members[0].folder.exists()
    # Another seed is another fine-tuning.
    _, _, members = plan([*line, "--config.finetune.epochs=0.5", "--config.seed=5", "--vary", "distill.passes=4", f"--workdir={sweep}"])
    take_over(members[0], [*plan([*line, "--config.finetune.epochs=0.5", "--vary", "distill.passes=1"])[2], *members])
    assert not members[0].folder.exists()


def test_members_are_all_combinations_in_folders_named_by_their_values(tmp_path):
    line = [QUICKSTART, f"--workdir={tmp_path}", "--vary", "evaluate.selection_rates=(0.1,0.2),(0.3,)", "--vary=config.seed=0,1"]
    _, folder, members = plan(line)
    assert folder == tmp_path and len(members) == 4
    assert [member.folder.name for member in members[:2]] == ["selection_rates=-0.1,0.2-,seed=0", "selection_rates=-0.1,0.2-,seed=1"]
    assert members[1].config.evaluate.selection_rates == (0.1, 0.2) and members[1].config.seed == 1
    assert f"--workdir={members[1].folder}" in members[1].line and members[1].record()["status"] == "waiting"
    names = [member.folder.name for member in plan([QUICKSTART, "--vary=data.seed=0", "--vary=seed=1"])[2]]
    assert names == ["data.seed=0,seed=1"]


def test_arguments_of_a_configuration_vary_after_its_colon(tmp_path, capsys):
    def planned(*line):
        return plan([*line, f"--workdir={tmp_path}"])[2]

    one, five = planned(QUICKSTART, "--vary=examples=1,5", "--vary=seed=7", "--config.distill.passes=2")
    assert [(member.folder.name, member.values) for member in (one, five)] == [
        (f"examples={count},seed=7", {"examples": count, "seed": "7"}) for count in "15"
    ]
    assert five.line == [f"{QUICKSTART}:examples=5", "--config.distill.passes=2", "--config.seed=7", f"--workdir={five.folder}"]
    distill = five.config.distill
    assert (distill.examples_per_class, distill.batches, distill.passes, five.config.seed) == (5, 5, 2, 7)
    assert one.config.distill.batches == 1 and planned(QUICKSTART, "--vary=examples=6")[0].config.distill.batches == 3
    # Beside arguments that are the same for all, with a blank before the file, and of recipes that decide the inner batches.
    sst2 = str(ROOT / "configs" / "sst2.py")
    members = planned("--config", f"{sst2}:model=embedded", "--vary=recipe=ddllm,maekawa2023", "--vary=examples=1,5")
    assert members[3].line[:2] == ["--config", f"{sst2}:model=embedded,recipe=maekawa2023,examples=5"]
    assert [member.config.distill.batches for member in members] == [1, 1, 1, 5]
    # The table shows what varies.
    assert main([QUICKSTART, "--vary=examples=1,5", f"--workdir={tmp_path}", "--table"]) == 0
    assert json.loads((tmp_path / "sweep.json").read_text())["varied"] == ["examples"] and "| 5 | –" in (tmp_path / "sweep.md").read_text()
    assert "examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "signature, message",
    [("", "takes no arguments after a colon"), ("argument=''", "examples=1 and examples=2 are the same run")],
)
def test_a_configuration_that_takes_no_arguments(signature, message, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(f"from ddllm.config import default_config\n\ndef get_config({signature}):\n    return default_config()\n")
    assert main([f"--config={path}", "--vary=examples=1,2", f"--workdir={tmp_path / 'sweep'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--vary", "sead=0,1"], "did you mean seed?"),
        (["--vary", "seed=0,one"], "one"),
        (["--vary", "seed"], "it has the form KEY=VALUE,VALUE"),
        (["--vary", "seed=0,,1"], "it has the form KEY=VALUE,VALUE"),
        (["--vary", "seed=0,1,0"], "has the value 0 twice"),
        (["--vary", "seed=0", "--vary", "seed=1"], "given twice"),
        (["--vary", "distill.examples_per_class=3,4"], "with distill.examples_per_class=4: config.distill.batches is 3"),
        (["--vary", "distill.examples_per_class=3,4"], "--vary examples=… changes both"),
        (["--vary", "recipe=ddlm,sucholutsky"], "did you mean ddllm?"),
        (["--vary", "examples=1,many"], "not a whole number"),
        (["--vary", "examples=0,1"], "config.distill.examples_per_class is 0"),
        (["--vary", "seed=0", "--config.examples=5"], "quickstart.py:examples=5"),
        (["--vary", "smoke=1"], "takes no value"),
        (["--vary", "data.source=a/b,a:b"], "two members would share a folder"),
        ([], "what varies?"),
        (["--vary", "seed=0,1", "--member", "2"], "the 2 members are 0 to 1"),
        (["--vary", "seed=0,1", "--processes", "0"], "must be at least 1"),
        (["--vary", "seed=0,1", "--proceses=2"], "proceses"),
    ],
)
def test_mistakes_are_told_before_anything_starts(arguments, message, tmp_path, capsys):
    assert main([QUICKSTART, f"--workdir={tmp_path / 'sweep'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "sweep").exists()


def test_the_last_sentence_of_a_log():
    assert last_sentence("x\nddllm: it broke.\n\nTraceback\n") == "it broke."
    assert last_sentence("Traceback\nValueError: no\n\n") == "ValueError: no"
    assert os.linesep not in last_sentence("")


def test_members_share_out_gpus_and_their_memory(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [share["environment"] for share in _share_out(1)] == [{}]
    monkeypatch.setattr("ddllm.members.share_out", lambda processes: 60 // processes)
    assert [share["environment"] for share in _share_out(2)] == [{"CUDA_VISIBLE_DEVICES": number, SHARE: "30"} for number in "47"]
    three = [share["environment"] for share in _share_out(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in three] == ["4", "7", "4"]
    assert all(one["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" and float(one["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == 0.45 for one in three)


def test_hidden_gpus_are_shared_out_to_nobody(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [share["environment"]["CUDA_VISIBLE_DEVICES"] for share in _share_out(2)] == ["0", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert all(set(share["environment"]) == {SHARE} for share in _share_out(2))


@pytest.mark.parametrize(
    "number, sentence",
    [
        (signal.SIGKILL, "ended by SIGKILL (out of memory?); the same command goes on."),
        (signal.SIGSEGV, "ended by SIGSEGV; the same command goes on."),
    ],
)
def test_a_member_that_is_killed_is_told_and_goes_on(number, sentence, tmp_path, monkeypatch, capsys):
    python = tmp_path / "python"
    monkeypatch.setattr("ddllm.members.sys.executable", str(python))
    line = [QUICKSTART, f"--workdir={tmp_path / 'sweep'}", "--vary=seed=0,1", "--processes=2"]

    def start(program, *more):
        python.write_text(f"#!/bin/sh\ncase $* in *seed=1*) {program};; esac\n")
        python.chmod(0o755)
        status = main([*line, *more])
        return status, json.loads((tmp_path / "sweep" / "seed=1" / "member.json").read_text()), capsys.readouterr()

    status, record, said = start(f"kill -{int(number)} $$")
    assert status == 1 and record["status"] == WAITING and record["error"] == sentence
    assert f"seed=1: {sentence}" in said.out and f"waiting after 0 s {sentence}" in said.err and "seed=0: finished" in said.err
    assert f"waiting: {sentence}" in (tmp_path / "sweep" / "sweep.md").read_text()
    assert start("", "--table")[0] == 0  # there may be processes elsewhere that go on
    assert start(f"kill -{int(number)} $$", "--member=1")[0] == 128 + number
    # A person's interrupt needs no word, but the member has not finished.
    status, record, _ = start("exit 130")
    assert status == 1 and record["status"] == WAITING and record["error"] == ""
    status, record, _ = start("exit 0")
    assert status == 0 and record["status"] == "finished" and record["error"] == ""


def test_nothing_is_started_when_the_time_is_up(tmp_path):
    members = plan([QUICKSTART, f"--workdir={tmp_path / 'sweep'}", "--vary=seed=0,1,2"])[2]
    run_members(members, 2, False, until=time.monotonic())
    assert [member.record()["status"] for member in members] == [WAITING] * 3 and not any(member.folder.exists() for member in members)


def test_how_an_interrupted_member_ends_says_nothing_about_it(line, tmp_path, capsys):
    _, _, [member] = plan([*line, "--vary", "seed=3", "--workdir", str(tmp_path / "sweep")])
    stopping = Event()
    for status in (FAILED, WAITING):
        assert run_member(member, ["--config=nowhere.py"], {}, stopping=stopping) == 2
        record = member.record()
        assert record["status"] == status and bool(record["error"]) == (status == FAILED)
        stopping.set()
