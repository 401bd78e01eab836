"""What the tables' commands read alike reaches every run of every one of them."""

import json
from importlib import import_module

import pytest

from benchmarks import options
from benchmarks.jobs import DATASETS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of a few texts for each data set."""
    folder = tmp_path_factory.mktemp("data")
    for number, dataset in enumerate(DATASETS):
        (folder / dataset).mkdir()
        for part, count in (("train", 40), ("validation", 8), ("test", 8)):
            rows = [json.dumps({"text": f"{part} text {row} of {dataset}", "label": row % (2 + 2 * number)}) for row in range(count)]
            (folder / dataset / f"{part}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["table", "ablations", "merging", "continual", "heads", "robustness", "text"])
@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_products_are_those_of_every_run(name, products, data, tmp_path, monkeypatch):
    module, planned = import_module(f"benchmarks.{name}"), []

    def keep(options, jobs, finished, table):
        planned.extend(jobs)
        return 0

    monkeypatch.setattr(options, "work_through", keep)
    monkeypatch.setattr(module, "work_through", keep, raising=False)
    monkeypatch.setattr(module, "JSON", tmp_path / "rows.json")
    monkeypatch.setattr(module, "MARKDOWN", tmp_path / "rows.md")
    assert module.main(["--products", products, "--seeds", "0", "--data", str(data), "--work", str(tmp_path / "work")]) == 0
    assert planned and {job.member.config.model.products for job in planned} == {products}
