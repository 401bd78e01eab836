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


@pytest.mark.parametrize(
    "name, line, told",
    [
        ("ablations", "--outer-steps 300,600", "--outer-steps is '300,600', but must be a whole number from 1 on."),
        ("continual", "--texts 100,200", "--texts is '100,200', but must be a whole number from 0 on."),
        ("continual", "--storage int8,tokens", "--storage is int8,tokens, but must be one of"),
        ("heads", "--outer-steps 0", "--outer-steps is '0', but must be a whole number from 1 on."),
        ("merging", "--per-class 2,4", "--per-class is '2,4', but must be a whole number from 2 on."),
        ("robustness", "--per-class 1,5", "--per-class is '1,5', but must be a whole number from 1 on."),
        ("text", "--outer-steps 1,2", "--outer-steps is '1,2', but must be a whole number from 0 on."),
        ("table", "--minutes -5", "--minutes is -5, but must be at least 0."),
        ("table", "--minutes nan", "--minutes is nan, but must be at least 0."),
        ("table", "--seeds 0,1,0", "--seeds has 0 2 times; leave it there once."),
        ("table", "--datasets sst2,sst2", "--datasets has sst2 2 times; leave it there once."),
        ("table", "--models embedded,", "--models is 'embedded,', where a name is empty; name each model."),
        ("table", "--name full", "'--name' is not understood (did you mean --names?); see --help."),
        ("projection", "--repetitions 0", "--repetitions is '0', but must be a whole number from 1 on."),
        ("projection", "--queries 32,many", "--queries is '32,many', but must be whole numbers from 1 on, such as 1,5,10."),
        ("projection", "--neighbours 40000", "--neighbours has 40000, but the table has 30522 rows."),
    ],
)
def test_refuses_what_it_would_not_do(name, line, told, monkeypatch, capsys):
    monkeypatch.setattr(options, "run_members", None)  # nothing may be started
    assert import_module(f"benchmarks.{name}").main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ddllm: {told}") and error.count("\n") == 1
