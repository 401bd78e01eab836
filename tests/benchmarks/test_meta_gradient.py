"""The benchmark compares like with like, says what it has found, and refuses what it cannot measure."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from benchmarks import contestants, gradients, meta_gradient
from benchmarks.running import Contestant, reference_of
from benchmarks.workloads import LARGE, TRIAL, WORKLOADS, Workload, find_workload, make_problem

QUIET = Console(file=open(os.devnull, "w"))


@pytest.fixture
def problem(embedded):
    return make_problem(Workload("small", 2, 2, 6, 3))


@pytest.mark.parametrize("products, method, most", [("float32", "mixed", 1e-4), ("float32", "mixed+offload", 1e-4), ("bfloat16", "mixed", 0.1)])
def test_contestants_agree(problem, products, method, most):
    pytest.importorskip("torch")
    loss, gradients = contestants.ours(problem, method, products).run()
    peer_loss, peer_gradients = contestants.pytorch(problem, "double-backward", products).run()
    assert loss == pytest.approx(peer_loss, rel=most / 10)
    for part, expected in peer_gradients.items():
        assert np.linalg.norm(expected) > 1e-6
        assert np.linalg.norm(gradients[part] - expected) < most * np.linalg.norm(expected), part


def test_equal_seeds_give_equal_arrays(problem):
    again = make_problem(Workload("small", 2, 2, 6, 3))
    for part in ("embeddings", "labels", "rates", "ids", "targets"):
        np.testing.assert_array_equal(getattr(problem, part), getattr(again, part))


def test_methods_agree_in_float64():
    with jax.enable_x64(True):
        (loss, expected), (own_loss, found) = (contestants.ours(make_problem(TRIAL), one, contestants.DOUBLE).run() for one in ("direct", "mixed@2"))
    assert own_loss == pytest.approx(loss, rel=1e-14)
    for part, value in expected.items():
        assert found[part].dtype == np.float64
        assert np.linalg.norm(found[part] - value) < gradients.BARS["float64"] * np.linalg.norm(value), part


def test_measures_from_end_to_end(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(meta_gradient, "describe", lambda device: "a processor")
    asked = [("ours", "mixed"), ("pytorch", "double-backward"), ("limit", "products")]
    ours, peer = meta_gradient.measure("trial", asked, 1, "cpu", "float32", QUIET)
    assert (ours["method"], peer["method"]) == ("mixed", "double-backward")
    assert ours["is_default"] and not peer["is_default"]
    for row in (ours, peer):
        assert row["workload"] == "trial" and row["products"] == "float32"
        assert row["seconds"] > 0 and row["time_ratio_to_limit"] > 0
        # Though direct is not measured. An error of zero would be that of a method beside itself.
        assert row["reference"] == "direct" and 0 < row["gradient_error"] < 1e-5
    assert ours["time_ratio_to_torch"] == pytest.approx(ours["seconds"] / peer["seconds"]) and peer["time_ratio_to_torch"] == 1
    assert ours["predicted_bytes"] > 0 and ours["compile_seconds_warm"] > 0
    assert peer["predicted_bytes"] is peer["compile_seconds"] is peer["compile_seconds_warm"] is None


def test_reference_is_direct_where_it_fits():
    assert {workload.name: reference_of(workload.name) for workload in WORKLOADS} == {
        workload.name: "checkpointed" if workload.name in LARGE else "direct" for workload in WORKLOADS
    }


@pytest.mark.parametrize(
    "name, some, none",
    [
        ("A", ["checkpointed", "mixed-5", "mixed/0", "mixed+offload", "mixed@2"], "direct"),
        ("C", ["checkpointed", "mixed", "mixed/0", "mixed@2"], "mixed-1"),
        ("D1", ["checkpointed", "mixed"], "mixed+offload"),
        ("D32", ["mixed-8"], "mixed-4"),
        ("bert-base", ["direct"], "checkpointed"),
    ],
)
def test_variants_are_those_that_differ(name, some, none):
    found = gradients.variants(find_workload(name), "cpu")
    assert set(some) <= set(found) and none not in found
    assert "mixed@2" not in gradients.variants(find_workload(name), "gpu")


def given(folder: Path, workload: str, device: str, framework: str, method: str, products: str, shared: bool) -> Contestant:
    """A contestant that has ended; the gradient of "mixed" is off by 1e-7."""
    file = folder / f"{method}.npz"
    np.savez(file, labels=np.full(4, 1 + 1e-7 * (method == "mixed")))
    ended = Contestant(framework, method, products, None, file, loss=2.0)
    ended.await_first = ended.end = lambda: None
    return ended


def test_checks_gradients(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Contestant, "start", given)
    for module in (gradients, meta_gradient):
        monkeypatch.setattr(module, "describe", lambda device: "a processor")
    monkeypatch.setattr(gradients, "ROOT", tmp_path)
    monkeypatch.setattr(meta_gradient, "ROOT", tmp_path)
    monkeypatch.setattr(gradients, "RESULTS", tmp_path / "gradients.json")
    assert meta_gradient.main(["--check", "--workloads", "A,D1", "--methods", "checkpointed,mixed", "--products", "float32"]) == 0
    assert meta_gradient.main(["--check", "--workloads", "A", "--methods", "checkpointed,mixed"]) == 1
    assert capsys.readouterr().err == "A, float64: mixed gives another gradient (off by 1.0e-07).\n"
    rows = json.loads((tmp_path / "gradients.json").read_text())
    assert len(rows) == len({(row["workload"], row["products"], row["method"]) for row in rows}) == 6
    for row in rows:
        assert row["reference"] == "direct" and row["loss_error"] == 0
        assert row["gradient_error"] == pytest.approx(1e-7 if row["method"] == "mixed" else 0)


@pytest.mark.parametrize(
    "line, told",
    [
        ("--repetitions 0", "--repetitions is '0', but must be a whole number from 1 on."),
        ("--repetitions few", "--repetitions is 'few', but must be a whole number from 1 on."),
        ("--methods mixed,double-bakward", "--methods has no 'double-bakward' (did you mean double-backward?); it may have"),
        ("--workloads A,B,bert-bass", "--workloads has no 'bert-bass' (did you mean bert-base?); it may have"),
        ("--methods double-backward", "--methods is double-backward, of which none of ours is measured in A; add one of direct, checkpointed, mixed"),
        ("--workloads A,D1 --methods direct", "--methods is direct, of which none of ours is measured in D1; add one of mixed."),
        ("--products float64", "--products has no 'float64'"),
        ("--products float32,bfloat16", "--products is float32,bfloat16, but must be one of"),
        ("--check --products bfloat16", "--products has no 'bfloat16' (did you mean float64?); it may have float32, float64."),
        ("--check --methods double-backward", "--methods has no 'double-backward'"),
        ("--device tpu", "argument --device: invalid choice: 'tpu'"),
        ("--repetition 3", "'--repetition' is not understood (did you mean --repetitions?); see --help."),
    ],
)
def test_refuses_before_anything_is_compiled(line, told, monkeypatch, capsys):
    monkeypatch.setattr(meta_gradient, "describe", None)  # the first that starts a process
    assert meta_gradient.main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ddllm: {told}") and error.count("\n") == 1
