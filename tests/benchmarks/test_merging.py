"""Merging and tasks in turn as benchmarks: runs of a person's own commands, on sets of other runs, and tables of what they found."""

import json
from pathlib import Path

import pytest

from benchmarks import continual, heads, merging
from benchmarks.jobs import Base
from benchmarks.options import in_rounds
from ddllm.config import resolve
from ddllm.data.corpus import load_corpus
from ddllm.runtime.storage import write_json


@pytest.fixture
def base(tmp_path):
    return Base.below(tmp_path, "ag_news", "embedded", None)


def test_merged_are_the_halves_that_were_distilled_with_half_of_the_examples(base):
    jobs = {job.change: job for job in merging.plan(base, list(merging.WAYS), 4, 0, 90, smoke=False, build=False)}
    assert list(jobs) == list(merging.ROWS)
    halves = [jobs[name].member for name in merging.HALF]
    assert {half.config.distill.examples_per_class for half in halves} == {2} and jobs["whole"].member.config.distill.examples_per_class == 4
    assert len({half.config.data.source for half in halves}) == 2 and halves[0].config.distill.teacher == ""
    for way in merging.WAYS:
        config = jobs[way].member.config
        assert list(config.merge.sets) == [str(half.folder / "distilled") for half in halves] and jobs[way].member.stages == ["merge", "evaluate"]
        assert config.merge.outer_steps == 30
    assert len({job.member.folder for job in jobs.values()}) == len(jobs)
    assert [[job.change for job in together] for together in in_rounds(list(jobs.values()))] == [["whole", *merging.HALF], list(merging.WAYS)]
    smoke = merging.plan(base, ["join"], 4, 0, 90, smoke=True, build=False)
    assert smoke[0].member.folder != jobs["whole"].member.folder and smoke[0].member.config.distill.outer_steps == 4


def test_the_share_of_the_whole(base):
    common = {"dataset": "d", "model": "m", "examples_per_class": 2, "outer_steps": 9, "examples": 4, "inner_steps": 2, "floats": 1000}
    rows = [common | {"way": "whole", "test": {"0": 0.8, "1": 0.9}}, common | {"way": "join", "test": {"0": 0.8, "1": 0.87}}]
    assert "| side by side in the same inner batches | 83.5 ± 4.9 (2) | 98.2 | 4 | 2 | 1,000 |" in merging.markdown(rows)


def test_tasks_in_turn_are_one_run_of_each_seed(base):
    job = continual.plan(base, ("finetune", "joint"), 3, 90, "tokens", 5, 4000, smoke=False)
    config = job.member.config
    assert job.member.stages == ["continual"] and config.seed == 3 and config.distill.outer_steps == 90
    assert tuple(config.continual.methods) == ("finetune", "joint") and config.continual.memory <= 100_000
    assert not config.distill.direction_labels and config.distill.examples_per_class == 5 and config.distill.initial == "herding"
    assert (config.data.limit_train, config.data.limit_validation, config.data.limit_test) == (4000, 400, 1000)
    for several in (None, continual.Sequence(("a", "b"), ())):
        config = continual.plan(base, ("recipe",), 3, 90, "int8", 1, 0, False, several).member.config
        assert not config.distill.gains and config.distill.direction_labels == (several is None)  # what a memory of 100 KB has room for
    common = {"dataset": "d", "model": "m", "storage": "tokens", "examples_per_class": 5, "after": 2, "tasks": 2, "bytes": 70, "note": "n"}
    figures = {"average": 0.5, "forgetting": 0.25, "transfer": -0.25}
    rows = [common | {"method": name, "values": {"0": {"accuracy": value, **figures}}} for name, value in (("finetune", 0.4), ("joint", 0.8))]
    assert "| finetune | 40.0 (1) | 50.0 | 50.0 | 25.0 | -25.0 | 70 |" in continual.markdown(rows)


def test_seeds_of_another_recipe_are_not_averaged(base, tmp_path):
    rows = []
    for seed, gains in ((0, True), (1, False)):
        job = continual.plan(base, ("recipe", "joint"), seed, 90, "int8", 1, 0, smoke=False)
        config = resolve(job.member.config)
        config["distill"]["gains"] = gains
        measured = {f"{name}_mean": 0.5 for name in continual.MEASURES} | {"tasks": 2, "bytes": 7, "seconds": 1.0, "texts": 9, "note": "n"}
        environment = {"cpu": "some", "backend": "cpu"}
        job.member.folder.mkdir(parents=True)
        found = [measured | {"method": name, "after": 2} for name in ("recipe", "joint")]
        write_json(job.member.folder / "results.json", {"config": config, "environment": environment, "rows": [], "continual": found})
        continual.enter(rows, job)
    assert {row["method"]: sorted(row["values"]) for row in rows} == {"recipe": ["1"], "joint": ["0", "1"]}


def test_data_sets_in_turn_are_read_from_folders_alike(tmp_path, capsys):
    rows = [{"text": f"a film {number}", "label": number % 2} for number in range(60)]
    for part, some in (("train", rows[:40]), ("validation", rows[40:50]), ("test", rows[50:])):
        (tmp_path / "data" / "sst2").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "sst2" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    base = Base.below(tmp_path, "rotten_tomatoes", "embedded", tmp_path / "data")
    sequence = continual.put_in_sequence(base, ["rotten_tomatoes", "sst2"])
    job = continual.plan(base, ("recipe", "joint"), 0, 90, "tokens", 5, 4000, False, sequence)
    assert job.dataset == "rotten_tomatoes, sst2" and not job.command.count(str(tmp_path))
    config = job.member.config
    folders = [Path(part) for part in config.continual.tasks.split("|")]
    assert config.data.source == str(folders[0]) and config.data.limit_train == 4000
    for folder in folders:
        with config.data.unlocked():
            config.data.source = str(folder)
        corpus = load_corpus(config.data)
        assert corpus.label_names == ("negative", "positive") and len(corpus.test) >= 10
    assert corpus.test.texts == [row["text"] for row in rows[50:]] and corpus.test.labels.tolist() == [0, 1] * 5
    assert continual.main(["--sequence", "sst2"]) == 2 and "sst2 alone" in capsys.readouterr().err


def test_heads_are_scored_on_every_task_by_one_model(tmp_path, capsys):
    base = Base.below(tmp_path, "sst2", "embedded", None)
    jobs = {job.change: job for job in heads.plan(base, ["sst2", "ag_news"], list(heads.WAYS), 1, 0, 90, smoke=False, build=False)}
    own = [jobs[f"own, scored on {task}"].member for task in ("sst2", "ag_news")]
    assert len({job.member.folder for job in jobs.values()}) == len(jobs) == 2 + 3 * len(heads.WAYS)
    assert {job.member.config.data.length for job in jobs.values()} == {64} and {member.config.distill.outer_steps for member in own} == {90}
    for way in heads.WAYS:
        merged = jobs[way].member
        assert merged.stages == ["merge"] and merged.config.merge.how == "heads"
        assert list(merged.config.merge.sets) == [str(member.folder / "distilled") for member in own]
        for task, made in zip(("sst2", "ag_news"), own, strict=True):
            scored = jobs[f"{way}, scored on {task}"].member
            assert scored.config.data.source == made.config.data.source and f"--distilled={merged.folder / 'distilled'}" in scored.line
    sources = [member.config.data.source for member in own]
    assert jobs["relearn"].member.config.merge.tasks.split("|") == sources and not jobs["join"].member.config.merge.tasks
    common = {"tasks": "a, b", "model": "m", "examples_per_class": 1, "outer_steps": 9, "inner_steps": 2}
    figures = {("own", "a"): (0.8, 50), ("own", "b"): (0.9, 70), ("join", "a"): (0.79, 110)}
    rows = [common | {"way": way, "task": task, "test": {"0": value}, "floats": size} for (way, task), (value, size) in figures.items()]
    table = heads.markdown(rows)
    assert "| each task's own set | 80.0 (1) | 90.0 (1) | 2 | 120 |" in table
    assert "| side by side in the same inner batches | 79.0 (1) [-1.0] | – | 2 | 110 |" in table
    assert heads.main(["--datasets", "sst2"]) == 2 and "sst2 alone; name two or more" in capsys.readouterr().err
