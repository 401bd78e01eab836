"""The tables of a sweep and its figure, from results written by hand."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from ddllm.config import default_config
from ddllm.members import Member
from ddllm.report.results import add_rows
from ddllm.report.sweep import report_sweep
from ddllm.report.sweep_plot import series_of, varied_number

KEY = "distill.examples_per_class"


@pytest.fixture
def make(tmp_path):
    """make(values, means) -> a member with a row of each name in its results."""

    def make(values, **means):
        member = Member(values, tmp_path / "-".join(values.values()), [], default_config(), [])
        common = {"examples_per_class": None, "accuracy_std": 0.02, "runs": 3, "seconds": 1.0}
        rows = [common | {"name": name, "accuracy_mean": mean} for name, mean in means.items()]
        if rows:
            member.folder.mkdir()
            add_rows(member.folder / "results.json", rows, {"data": {}}, {})
        return member

    return make


def test_every_row_of_the_members_is_there(make, tmp_path):
    full = {"full": 0.9}
    members = [make({KEY: "1"}, **full, random=0.5, distilled=0.8), make({KEY: "10"}, **full, random=0.7, distilled=0.85), make({KEY: "100"})]
    console = Console(file=io.StringIO(), width=100)
    assert report_sweep(tmp_path, members, False, console) == 0
    told = (tmp_path / "sweep.md").read_text()
    assert f"| training data | {KEY}=1 | {KEY}=10 | {KEY}=100 |" in told
    assert "| full | 90.0 ± 2.0 (3) | 90.0 ± 2.0 (3) | – |" in told and "| random real examples | 50.0 ± 2.0 (3) | 70.0 ± 2.0 (3) | – |" in told
    shown = console.file.getvalue()
    assert "random real examples" in shown and "sweep.png" in shown
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "sweep.json").read_text())["members"]
    assert kept[0]["rows"]["random real examples"] == {"name": "random", "mean": 0.5, "std": 0.02, "runs": 3} and kept[2]["rows"] == {}
    assert kept[0]["accuracy_mean"] == 0.8 and kept[2]["accuracy_mean"] is None


def test_where_no_number_varies_nothing_is_drawn(make, tmp_path):
    assert report_sweep(tmp_path, [make({"distill.head": "zero"}, distilled=0.8), make({"distill.head": "fixed"}, distilled=0.8)], False) == 0
    assert not (tmp_path / "sweep.png").exists() and "training data" not in (tmp_path / "sweep.md").read_text()


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([{"a": "1"}, {"a": "2"}], "a"),
        ([{"a": "1e-3", "seed": "0"}, {"a": "1", "seed": "0"}], "a"),
        ([{"a": "1"}], None),
        ([{"a": "1"}, {"a": "one"}], None),
        ([{"a": "1", "b": "2"}, {"a": "2", "b": "2"}], None),
        ([{"seed": "0"}, {"seed": "1"}], None),
        ([{"a": "1"}, {"a": "nan"}], None),
    ],
)
def test_which_number_varies(values, key):
    assert varied_number([{"values": each} for each in values]) == key


def test_seeds_are_runs_of_one_point():
    def row(value, seed, mean):
        return {"values": {"a": value, "seed": seed}, "rows": {"distilled": {"name": "distilled", "mean": mean, "std": 0.3, "runs": 2}}}

    rows = [row("10", "0", 0.5), row("2", "0", 0.7), row("2", "1", 0.9), {"values": {"a": "3", "seed": "0"}, "rows": {}}]
    places, means, deviations = series_of(rows, "a", "distilled")
    np.testing.assert_allclose([places, means, deviations], [[2, 10], [0.8, 0.5], [np.std([0.7, 0.9], ddof=1), 0.3]])
