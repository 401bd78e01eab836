"""Several processes joined by jax.distributed on this machine: the same results as one, one end for all, a sentence for every mistake."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest

from ddllm.artefact.folder import load_distilled
from ddllm.main import main
from ddllm.report.results import read_results
from ddllm.runtime.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def arguments(small_runs, tiny_model, tmp_path):
    """make(workdir, mode, **overrides) -> command line of a small run in this folder of tmp_path."""
    make = small_runs(
        "distill",
        model__name=tiny_model,
        data__length=8,  # one padded length, so that little is compiled
        distill__length=6,
        distill__initial="k_centers",  # by features that processes compute together
        distill__outer_steps=9,
        distill__validate_every=3,
        distill__checkpoint_every=3,
        finetune__batch_size=8,
        finetune__epochs=0.5,
        evaluate__heads=2,
        evaluate__head_texts=30,
        evaluate__selections="('k_centers',)",
        evaluate__selection_draws=2,
        evaluate__selection_rates="(0.1,)",
        runtime__join_timeout=60,
    )
    return lambda workdir, mode="distill", **overrides: make(tmp_path / workdir, mode, **overrides)


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(tmp_path):
    """start(line, …) -> processes of one run, with as many devices each, a command line for each of them."""
    started = []

    def start(*lines, devices=1):
        coordinator = f"localhost:{free_port()}"
        common = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        common |= {"MPLCONFIGDIR": matplotlib.get_cachedir()}  # its list of fonts takes seconds
        common |= {"JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(len(lines))}
        for number, line in enumerate(lines):
            command = [sys.executable, "-m", "ddllm.main", *line]
            environment = common | {"JAX_PROCESS_ID": str(number)}
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-len(lines) :]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(processes, seconds=300):
    """(status, standard error) of each."""
    errors = [process.communicate(timeout=seconds)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def assert_same(first, second):
    one, other = (load_distilled(folder / "distilled") for folder in (first, second))
    parts = [jax.tree.leaves((data.embeddings, data.labels, data.rates, data.head)) for data in (one.data, other.data)]
    for ours, theirs in zip(*parts, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert one.card["validation_accuracy"] == other.card["validation_accuracy"]
    return one.data


def forget_the_end(folder):
    shutil.rmtree(folder / "checkpoints" / "9")
    shutil.rmtree(folder / "distilled")


def test_two_processes_give_what_one_gives_and_continue_each_other(arguments, start, tmp_path):
    two, one, devices = (tmp_path / name for name in ("two", "one", "devices"))
    # A head and labels that processes compute together before the first step.
    probed = {"distill__head": "learned", "distill__probe_texts": 40, "distill__initial_labels": "model"}
    results = finish(start(*[arguments(two, mode="all", **probed)] * 2))
    assert [status for status, _ in results] == [0, 0], results
    assert "distill 9/9" in results[0][1] and "distill" not in results[1][1]
    # Process 1 has written its tokens, and nothing else anywhere.
    assert {path.suffix for path in (tmp_path / "cache" / "ddllm").rglob("*") if path.is_file()} == {".safetensors"}
    assert {"results.json", "results.md", "distilled", "curve.png"} <= {path.name for path in two.iterdir()}
    assert len([line for line in read_metrics(two / "metrics.jsonl") if line["stage"] == "distill"]) == 9
    assert main(arguments(one, mode="select,distill", runtime__devices=1, **probed)) == 0
    assert main(arguments(devices, runtime__devices=2, **probed)) == 0
    assert_same(two, devices)
    learned = assert_same(two, one)
    assert not np.allclose(learned.labels, np.round(learned.labels), atol=1e-3), "nothing was learned that could differ"
    assert np.abs(learned.head["out"]["kernel"]).max() > 1e-2, "no head was probed"
    selected = [next(row for row in read_results(folder / "results.json")["rows"] if row["name"] == "k_centers") for folder in (two, one)]
    ours, theirs = ([row["note"], row["runs"], row["accuracy_mean"], row["accuracy_std"]] for row in selected)
    assert ours == theirs
    # Each goes on from the other's checkpoint of step 6.
    again = shutil.copytree(two, tmp_path / "again")
    forget_the_end(again)
    assert main(arguments(again, runtime__devices=1, **probed)) == 0
    assert_same(again, one)
    forget_the_end(one)
    results = finish(start(*[arguments(one, **probed)] * 2))
    assert [status for status, _ in results] == [0, 0], results
    assert_same(two, one)


def test_two_processes_whose_devices_share_parameters_give_what_one_gives(arguments, start, tmp_path):
    shared, one = tmp_path / "shared", tmp_path / "one"
    # Fine-tuned models are kept too, in pieces on both devices: the run's own and those that teach.
    taught = {"distill__teacher": "brief", "distill__brief_teachers": 2, "distill__brief_epochs": 0.5, "runtime__shard": 2}
    results = finish(start(*[arguments(shared, mode="prepare,finetune,distill,evaluate", **taught)] * 2, devices=2))
    assert [status for status, _ in results] == [0, 0], results
    alone = taught | {"runtime__shard": 1, "runtime__devices": 2}
    assert main(arguments(one, mode="prepare,finetune,distill,evaluate", **alone)) == 0
    assert_same(shared, one)
    rows = [[(row["name"], row["accuracy_mean"]) for row in read_results(folder / "results.json")["rows"]] for folder in (shared, one)]
    assert rows[0] == rows[1]
    forget_the_end(shared)  # and it goes on from pieces that were put together
    results = finish(start(*[arguments(shared, **taught)] * 2, devices=2))
    assert [status for status, _ in results] == [0, 0], results
    assert_same(shared, one)


def test_processes_with_too_few_devices_for_a_copy_say_so(arguments, start):
    results = finish(start(*[arguments("run", runtime__shard=2)] * 2), 60)
    assert [status for status, _ in results] == [2, 2], results
    assert "each of the 2 processes has 1 of the devices" in results[0][1]


def test_a_mistake_on_one_process_ends_both_with_its_sentence(arguments, start, tmp_path):
    results = finish(start(arguments("run"), arguments("run", data__source=tmp_path / "nowhere.csv")), 60)
    assert [status for status, _ in results] == [2, 2], results
    assert "the configuration differs from that of process 0" in results[0][1] and "process 1 on" in results[0][1]
    assert not any("Traceback" in error for _, error in results), results[0][1]


def test_a_killed_process_ends_the_other(arguments, start, tmp_path):
    line = arguments(
        "run", distill__outer_steps=100_000, distill__validate_every=50_000, runtime__silence_timeout=3, runtime__tensorboard=False
    )
    first, second = start(line, line)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "checkpoints" / "6").exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    _, error = first.communicate(timeout=30)
    assert first.returncode == 1 and "The same command goes on from the last checkpoint" in error and "Traceback" not in error, error


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")):
            monkeypatch.delenv(name)


def test_processes_that_do_not_meet(arguments, start, tmp_path, capsys, monkeypatch):
    port = free_port()
    settings = {"runtime__processes": 2, "runtime__join_timeout": 2, "runtime__coordinator": f"localhost:{port}"}
    assert main(arguments("run", **settings, runtime__process=1)) == 2
    assert f"process 1 cannot reach process 0 at localhost:{port}" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        settings["runtime__coordinator"] = f"localhost:{taken.getsockname()[1]}"
        assert main(arguments("run", **settings, runtime__process=0)) == 2
        assert "cannot listen at port" in capsys.readouterr().err
    monkeypatch.setenv("JAX_NUM_PROCESSES", "abc")
    assert main(arguments("run")) == 2
    assert "JAX_NUM_PROCESSES is 'abc', which is not a whole number" in capsys.readouterr().err
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    assert not (tmp_path / "run").exists()
    (status, error) = finish([start(arguments("run", runtime__processes=3, runtime__join_timeout=2))[0]], 60)[0]
    assert status == 2 and error.endswith("each with its own config.runtime.process.\n") and error.count("\n") == 1
