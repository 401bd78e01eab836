"""results.json: merging, percentages, and what may not get in."""

from pathlib import Path

import pytest

from ddllm.errors import UserError
from ddllm.report.results import REQUIRED, add_lists, add_rows, merge_rows, read_results, summarise


def row(name: str, mean: float, **extra):
    return {"name": name, "examples_per_class": None, "accuracy_mean": mean, "accuracy_std": 0.0, "runs": 1, "seconds": 1.0, **extra}


def test_rows_are_replaced_by_name_head_and_size():
    rows = merge_rows(
        [], [row("distilled", 0.6, head="zero", examples_per_class=1), row("distilled", 0.5, head="redrawn", examples_per_class=1)]
    )
    assert [entry["percent_of_full"] for entry in rows] == [None, None]
    rows = merge_rows(rows, [row("full", 0.8), row("distilled", 0.7, head="zero", examples_per_class=1)])
    assert [(entry["name"], entry["accuracy_mean"]) for entry in rows] == [("distilled", 0.7), ("distilled", 0.5), ("full", 0.8)]
    assert [entry["percent_of_full"] for entry in rows] == [87.5, 62.5, 100.0]
    rows = merge_rows(rows, [row("distilled", 0.76, head="zero", examples_per_class=5), row("full", 0.5)])
    assert [entry["percent_of_full"] for entry in rows] == [140.0, 100.0, 100.0, 152.0]


@pytest.mark.parametrize("mean", [78.8, -0.1, float("nan")])
def test_accuracies_are_fractions(mean: float):
    with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
        merge_rows([], [row("full", mean)])


def test_another_figure_stands_in_the_place_of_accuracy():
    def scored(name: str, *pearson: float):
        given = row(name, 0.0) | summarise([{"pearson": value, "spearman": 0.5} for value in pearson], "pearson")
        return {key: value for key, value in given.items() if not key.startswith("accuracy")}

    rows = merge_rows([], [scored("full", 0.8), scored("random", -0.1, 0.3)])
    assert rows[1]["metric"] == "pearson" and rows[1]["runs"] == 2 and rows[1]["pearson_std"] == pytest.approx(0.2 * 2**0.5)
    assert [entry["percent_of_full"] for entry in rows] == [100.0, 12.5]
    with pytest.raises(ValueError, match="not in \\[-1, 1\\]"):
        merge_rows([], [scored("full", -1.5)])


def test_incomplete_row_is_refused():
    incomplete = row("full", 0.5)
    del incomplete["runs"]
    with pytest.raises(ValueError, match="lacks runs"):
        merge_rows([], [incomplete])


def test_file_has_the_promised_form(tmp_path: Path):
    path = tmp_path / "results.json"
    add_rows(path, [row("full", 0.8, note="all texts")], {"seed": 0}, {"cpu": "old"})
    add_rows(path, [row("random", 0.4)], {"seed": 0}, {"cpu": "new"})
    results = read_results(path)
    assert list(results) == ["config", "rows", "environment"]
    assert results["config"] == {"seed": 0} and results["environment"] == {"cpu": "new"}
    assert [entry["percent_of_full"] for entry in results["rows"]] == [100.0, 50.0]
    assert all(set(REQUIRED) <= set(entry) for entry in results["rows"])
    assert results["rows"][0]["note"] == "all texts"


def test_lists_stand_beside_the_rows_one_for_each_distilled_set(tmp_path: Path):
    path = tmp_path / "results.json"
    for name, change in (("mine", -1.0), ("theirs", -9.0), ("mine", -2.0)):
        add_lists(path, name, {"robustness": [{"variation": "rates halved", "change": change}]}, {"seed": 0}, {})
    results = add_rows(path, [row("full", 0.8)], {"seed": 0}, {})
    assert results == read_results(path) and list(results) == ["config", "rows", "environment", "robustness"]
    assert [(entry["name"], entry["change"]) for entry in results["robustness"]] == [("theirs", -9.0), ("mine", -2.0)]
    assert len(results["rows"]) == 1


def test_broken_file_is_named(tmp_path: Path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="results.json holds no results"):
        read_results(tmp_path / "results.json")
