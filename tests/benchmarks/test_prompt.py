"""Sources of prompts as a benchmark: runs that share their test texts, and a table of what they reach."""

import json
import shlex

import numpy as np
import pytest

from benchmarks import prompt
from benchmarks.jobs import Base
from ddllm.report.results import summarise
from ddllm.runtime.storage import write_json


@pytest.fixture
def planned(tmp_path):
    """The runs of two seeds, with a file of texts, by their sources."""
    base = Base.below(tmp_path, "sst2", "embedded", None)
    files = {"dilm": tmp_path / "sst2_dpc5.jsonl", "text": tmp_path / "text.jsonl"}
    return prompt.plan(base, ["none", "random", "k_centers", "dilm", "distilled", "soft", "text"], files, [1, 2], [0, 3], 90, "gpt2", (), 50, 4, smoke=False)


def test_every_source_is_asked_on_the_same_texts(planned, tmp_path):
    assert [job.change for job in planned] == ["none", "random", "k_centers", "dilm", "", "distilled", "", "distilled", "soft", "text"]
    assert len({job.member.folder for job in planned}) == len(planned)
    asked = [job for job in planned if job.change]
    assert {(job.member.config.prompt.texts, job.member.config.prompt.seed) for job in asked} == {(50, 0)}
    assert {(job.member.config.prompt.model, job.member.config.prompt.per_class) for job in asked} == {("gpt2", (1, 2))}
    # As many runs behind every figure: draws times orders.
    runs = {job.change: job.member.config.prompt.seeds * job.member.config.prompt.orders for job in asked}
    drawn = ("random", "k_centers", "dilm", "text")
    assert {name: runs[name] for name in drawn} == dict.fromkeys(drawn, 8) and runs["distilled"] == 4
    made, scored = planned[4:6]
    assert made.member.config.distill.outer_steps == 90 and made.member.config.distill.examples_per_class == 2 and not made.member.config.distill.teacher
    assert f"--distilled={made.member.folder / 'distilled'}" in scored.member.line
    soft, text = planned[-2:]
    assert soft.member.config.prompt.soft_tokens == 16 and soft.member.config.prompt.soft_seeds == 2 and soft.member.config.prompt.examples == ()
    assert text.member.config.prompt.examples == (str(tmp_path / "text.jsonl"),)


def test_figures_are_entered_without_the_folders_of_one_machine(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt, "JSON", tmp_path / "PROMPTS.json")
    monkeypatch.setattr(prompt, "MARKDOWN", tmp_path / "PROMPTS.md")
    rng, rows, runs = np.random.default_rng(0), [], []
    common = {"texts": 50, "how": "as told", "texts_in_test": 0, "seconds": 1.0}
    for job in planned:
        kind, found = job.change, []
        called = "sst2_dpc5" if kind == "dilm" else kind
        for name, count in [("no examples", 0), *([(called, 1), (called, 2)] if kind not in ("none", "soft", "") else [])]:
            scores = [{"accuracy": value, "uncalibrated": value, "unanswered": 0.0} for value in rng.random(4)]
            runs += [score["accuracy"] for score in scores] if (name, count) == ("distilled", 2) else []
            found.append({"variation": name, "examples_per_class": count, "model": "gpt2", **summarise(scores), **common})
        job.member.folder.mkdir(parents=True, exist_ok=True)
        environment = {"backend": "cpu", "devices": ["cpu"], "cpu": "a core"}
        write_json(job.member.folder / "results.json", {"config": job.member.config.to_dict(), "environment": environment, "rows": [], "prompt": found})
        prompt.enter(rows, job)
        prompt.enter(rows, job)  # again, as after a second start
    assert len(rows) == 1 + 2 * 5
    distilled = next(row for row in rows if (row["source"], row["examples_per_class"]) == ("distilled", 2))
    assert sorted(distilled["test"]) == ["0", "3"] and distilled["settings"]["distill.outer_steps"] == 90
    mean, deviation, number = prompt.pool(list(distilled["test"].values()))
    np.testing.assert_allclose((mean, deviation, number), (np.mean(runs), np.std(runs, ddof=1), 8))
    prompt.write(rows)
    assert str(tmp_path) not in (tmp_path / "PROMPTS.json").read_text()
    written = json.loads((tmp_path / "PROMPTS.json").read_text())["rows"]
    assert [row["source"] for row in written] == ["no examples", *(name for name in ("random", "k_centers", "dilm", "distilled", "text") for _ in (1, 2))]
    assert all(shlex.split(row["command"])[:3] == ["python", "-m", "ddllm.main"] for row in written)
    table = (tmp_path / "PROMPTS.md").read_text()
    assert "## sst2, 50 test texts, gpt2; encoder embedded" in table and "| examples per class | none | 1 | 2 |" in table
    assert f"± {100 * deviation:.1f} (8) |\n" in table


def test_a_model_that_is_asked_as_well_has_a_table_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt, "JSON", tmp_path / "PROMPTS.json")
    monkeypatch.setattr(prompt, "MARKDOWN", tmp_path / "PROMPTS.md")
    (other := tmp_path / "other.gguf").touch()
    (soft,) = prompt.plan(Base.below(tmp_path, "sst2", "embedded", None), ["soft"], {}, [1], [0], 90, "embedded", (str(other),), 50, 4, smoke=False)
    assert soft.member.config.prompt.transfer == (str(other),) and "-embedded+other.gguf-" in soft.member.folder.name
    score = summarise([{"accuracy": 0.75, "uncalibrated": 0.75, "unanswered": 0.0}])
    common = {"texts": 50, "how": "as told", "texts_in_test": 0, "seconds": 1.0, "examples_per_class": None, **score}
    asked = [("no examples", "SmolLM2-135M"), ("soft prompt, as text", "SmolLM2-135M"), ("no examples", "other"), ("soft prompt, as text", "other")]
    found = [{"variation": name, "model": model, **common} for name, model in [*asked, ("soft prompt", "SmolLM2-135M")]]
    soft.member.folder.mkdir(parents=True)
    environment = {"backend": "cpu", "devices": ["cpu"], "cpu": "a core"}
    write_json(soft.member.folder / "results.json", {"config": soft.member.config.to_dict(), "environment": environment, "rows": [], "prompt": found})
    prompt.enter(rows := [], soft)
    prompt.write(rows)
    assert str(tmp_path) not in (tmp_path / "PROMPTS.json").read_text()
    one, two = (tmp_path / "PROMPTS.md").read_text().split("## ")[1:]
    assert one.startswith("sst2, 50 test texts, embedded;") and "| soft prompt | 75.0 |" in one and "| the nearest tokens of soft prompts | 75.0 |" in one
    assert two.startswith("sst2, 50 test texts, other.gguf;") and two.count("75.0") == 1
    assert "| the nearest tokens of soft prompts, learned for embedded | 75.0 |" in two


def test_what_is_no_text_is_refused(tmp_path, capsys):
    assert prompt.main(["--text", str(tmp_path)]) == 2 and "has no text.jsonl" in capsys.readouterr().err
    assert prompt.main(["--sources", "text"]) == 2 and "--sources has no 'text'" in capsys.readouterr().err
