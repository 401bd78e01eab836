"""Shadow sets: the attack finds a leak that is planted and nothing where there is none, and the stage goes on where it was stopped."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ddllm.artefact.export import export_distilled
from ddllm.config import default_config
from ddllm.data.batches import BatchStream
from ddllm.distill.plan import first_data, recipe_of
from ddllm.errors import UserError
from ddllm.merge.relearn import as_distilled
from ddllm.privacy.lira import attack_by_shadows
from ddllm.privacy.membership import choose_victims
from ddllm.privacy.shadows import Shadows, distil_shadows, make_halves, of_half, plan_shadows, pool_texts
from ddllm.report.results import read_results
from ddllm.runtime.metrics import read_metrics
from ddllm.stages import open_run, privacy, report

WORDS = "the a film plot actor scene story is was and very with good bad warm dull".split()


@pytest.fixture(scope="module")
def noisy_corpus(tmp_path_factory):
    """Texts with labels by chance: whoever knows a text's label has seen it."""
    rng, folder, seen = np.random.default_rng(5), tmp_path_factory.mktemp("noisy"), set()
    for name, rows in (("train", 150), ("test", 80)):
        lines = []
        while len(lines) < rows:
            text = " ".join(rng.choice(WORDS, rng.integers(5, 10)))
            if text not in seen:
                seen.add(text)
                lines.append(json.dumps({"text": text, "label": ("negative", "positive")[len(lines) % 2]}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def make_run(make_model, noisy_corpus, tmp_path):
    model = str(make_model(16, 1))

    def make(folder="run", **changes):
        config = default_config()
        config.model.update({"name": model, "head": "mean", "head_deviation": 0.3})
        config.data.update({"source": str(noisy_corpus), "length": 12})
        config.distill.update({"examples_per_class": 4, "length": 12, "initial": "real", "head": "zero", "labels": "hard", "initial_rate": 0.3})
        config.distill.update({"outer_steps": 4, "validate_every": 4, "checkpoint_every": 1, "batch_size": 8})
        config.finetune.update({"epochs": 0.2, "batch_size": 8, "validations": 1, "checkpoints": 1})
        config.privacy.update({"resamples": 200, "heads": 2})
        config.evaluate.update({"selection_rates": (0.1,), "selection_passes": (1,)})
        config.runtime.update({"devices": 1, "compilation_cache": "", "tensorboard": False})
        for key, value in changes.items():
            section, name = key.split("__")
            config[section][name] = value
        return open_run(config, tmp_path / folder)

    return make


def attack_first_data(run, shadows):
    """Rows of the attack where sets are what they are before the first outer step."""
    prepared, pool = run.prepared, pool_texts(run.prepared)
    inside = make_halves(pool.labels, shadows // 2, 0)
    sets = [as_distilled(of_half(prepared, pool.take(np.flatnonzero(half)), number)) for number, half in enumerate(inside, 1)]
    victims = choose_victims(prepared, 500, 0)
    return {row["attack"]: row for row in attack_by_shadows(prepared, as_distilled(prepared), victims, Shadows(sets, inside, 0))}


def test_a_planted_leak_is_found(make_run):
    """Sets that are nearly all of their own texts as they stand, trained on until labels by chance are remembered."""
    rows = attack_first_data(make_run(distill__examples_per_class=50, distill__passes=300), 6)
    for name in ("LiRA, shadow sets in turn", "LiRA offline, shadow sets in turn"):
        assert rows[name]["auc"] > 0.65 and rows[name]["auc_low"] > 0.6
        assert rows[name]["members"] + rows[name]["others"] == 160
    for name in ("LiRA, distilled", "LiRA offline, distilled"):  # most of its members are in the run's own set
        assert rows[name]["auc_low"] > 0.5 and (rows[name]["members"], rows[name]["others"]) == (80, 80)


def test_sets_that_hold_nothing_give_nothing_away(make_run):
    rows = attack_first_data(make_run(distill__initial="noise", distill__passes=20), 6)
    assert len(rows) == 5
    for name, row in rows.items():
        assert row["auc_low"] < 0.51 and row["auc_high"] > 0.49
        assert abs(row["auc"] - 0.5) < (0.06 if "in turn" in name else 0.12)


def test_the_stage_goes_on_where_it_was_stopped(make_run, monkeypatch, capsys):
    run = make_run(privacy__shadows=4, privacy__shadow_steps=3)
    prepared, recipe = run.prepared, recipe_of(run.config.distill)
    export_distilled(run.workdir.distilled, prepared, first_data(prepared), recipe, distillation_seconds=600.0)
    calls, batch = [], BatchStream.batch

    def stop(stream, step):
        calls.append(step)
        if len(calls) == 9:  # the last step of the third shadow
            raise KeyboardInterrupt
        return batch(stream, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "batch", stop)
        with pytest.raises(KeyboardInterrupt):
            privacy(run)
    told = " ".join(capsys.readouterr().err.split())
    assert "shadow sets: 4 distillations of 3 outer steps" in told
    assert "took 10.0 minutes for 4: about 7.5 minutes for each, 30.0 for the 4 to come" in told
    folder = run.workdir.shadows / "3-steps"
    assert [path.name for path in sorted(folder.glob("*/distilled"))] == ["distilled"] * 2 and (folder / "3" / "work").is_dir()
    before = [line for line in read_metrics(run.workdir.metrics) if line["stage"].startswith("shadow")]
    assert [(line["stage"], line["step"]) for line in before if line["stage"] == "shadow-3"] == [("shadow-3", 1), ("shadow-3", 2)]
    kept = {path: path.read_bytes() for path in folder.glob("[12]/distilled/*")}
    privacy(run)
    assert "and 2 of them are there" in capsys.readouterr().err
    after = [line for line in read_metrics(run.workdir.metrics) if line["stage"].startswith("shadow")]
    assert after[: len(before)] == before and len(after) == 12 and not list(folder.glob("*/work"))
    assert kept == {path: path.read_bytes() for path in folder.glob("[12]/distilled/*")}
    rows = read_results(run.workdir.results)["privacy"]
    found = [row["attack"] for row in rows if "of 3 outer steps" in row["note"]]
    assert found == [
        *("LiRA, distilled", "LiRA offline, distilled"),
        *(f"{name}, shadow sets in turn" for name in ("confidence", "LiRA", "LiRA offline")),
    ]
    report(run)
    assert "LiRA offline, shadow sets in turn" in (run.workdir.path / "report.html").read_text()
    assert "| TPR, 0.1 % FPR |" in (run.workdir.path / "results.md").read_text()
    # Another question in the same folder finds the sets, and does not ask anew what does not depend on it.
    run.workdir.close()
    fewer = make_run(privacy__shadows=2, privacy__shadow_steps=3)
    with monkeypatch.context() as patch:
        patch.setattr("ddllm.privacy.audit.attack_distilled", stop)
        privacy(fewer)
    again = read_results(fewer.workdir.results)["privacy"]
    assert [row["attack"] for row in again if "of 3 outer steps" in row["note"]] == ["LiRA, distilled", "LiRA offline, distilled"]
    assert [row for row in again if "outer steps" not in row["note"]] == [row for row in rows if "outer steps" not in row["note"]]


def test_a_teacher_sees_the_half_alone(make_run, monkeypatch):
    run, seen = make_run(distill__teacher="full", privacy__shadows=2, privacy__shadow_steps=1), []
    monkeypatch.setattr("ddllm.distill.teacher.finetune", partial(watch, seen))
    pool = pool_texts(run.prepared)
    shadows = distil_shadows(run.prepared, run.workdir.shadows, run.metrics)
    assert [len(texts) for texts in seen] == shadows.inside.sum(axis=1).tolist() and shadows.outer_steps == 1
    for texts, inside in zip(seen, shadows.inside, strict=True):
        np.testing.assert_array_equal(texts.ids, pool.ids[inside])
    first, second = shadows.sets
    assert first.data.embeddings.shape == second.data.embeddings.shape and (first.data.embeddings != second.data.embeddings).any()


def test_brief_teachers_of_a_shadow_see_its_half_alone(make_run, monkeypatch):
    run, seen = make_run(distill__teacher="brief", distill__brief_teachers=2, privacy__shadows=2, privacy__shadow_steps=1), []
    monkeypatch.setattr("ddllm.distill.teacher.finetune", partial(watch, seen))
    shadows = distil_shadows(run.prepared, run.workdir.shadows, run.metrics)
    assert [len(texts) for texts in seen] == np.repeat(shadows.inside.sum(axis=1), 2).tolist()


def watch(seen, prepared, *arguments):
    from ddllm.evaluate.finetune import finetune

    seen.append(prepared.tokens.train)
    return finetune(prepared, *arguments)


def test_too_few_texts_are_a_sentence(make_run):
    run = make_run(distill__examples_per_class=60, privacy__shadows=2)
    with pytest.raises(UserError, match=r"half of the 215 training and test texts, with 53 of the rarest class, but .*examples_per_class is 60"):
        plan_shadows(run.prepared, run.workdir.shadows, None)
    fewer = make_run("other", distill__examples_per_class=50, privacy__shadows=2)
    plan_shadows(replace(run.prepared, config=fewer.config), run.workdir.shadows, None)
