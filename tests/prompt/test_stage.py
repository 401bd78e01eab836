"""The stage from end to end: every source of examples, several models, soft prompts and their text, in results.json and in the report."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import ddllm.prompt.examples
from ddllm.artefact.base import describe_base
from ddllm.artefact.folder import save_distilled
from ddllm.config import default_config
from ddllm.distill.plan import first_data, recipe_of
from ddllm.errors import UserError
from ddllm.main import parse
from ddllm.report.results import read_results
from ddllm.stages import open_run, prompt, report
from ddllm.text.distilled_text import FREE, frame_of, make_text, save_text


@pytest.fixture
def make_run(tiny_model, make_decoder, tiny_corpus, tmp_path):
    """make(folder, **changes of config.prompt) -> run."""
    decoder = str(make_decoder())

    def make(folder="run", **changes):
        config = default_config()
        config.model.update({"name": str(tiny_model), "head": "mean"})
        config.data.update({"source": str(tiny_corpus), "length": 12})
        config.distill.update({"examples_per_class": 2, "length": 6, "initial": "real", "head": "zero"})
        config.runtime.update({"devices": 1, "compilation_cache": "", "tensorboard": False})
        config.prompt.update({"model": decoder, "template": "Review : {text} Sentiment : {label}", "separator": " ", "texts": 12})
        config.prompt.update({"per_class": (1, 3), "seeds": 2, "orders": 2, "examples": ("random", "k_centers"), **changes})
        return open_run(config, tmp_path / folder)

    return make


def test_the_stage(make_run, make_decoder, tmp_path, capsys):
    file = tmp_path / "theirs.jsonl"
    rows = [{"text": text, "label": label, "set": number} for number in (0, 1) for text, label in (("good film", "positive"), ("dull", "negative"))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    soft = {"soft_tokens": 3, "soft_steps": 4, "soft_batch_size": 2, "soft_seeds": 2, "soft_validations": 1, "soft_validation_texts": 4}
    other = make_decoder("llama", 1)
    run = make_run(examples=("distilled", "text", "random", "k_centers", str(file)), transfer=(str(other),), **soft)
    prepared, data = run.prepared, first_data(run.prepared)
    base = describe_base(prepared.pretrained, prepared.learner, 12)
    noisy = np.asarray(data.embeddings) + 0.05 * np.random.default_rng(0).standard_normal(data.embeddings.shape).astype(np.float32)
    save_distilled(run.workdir.distilled, data.replace(embeddings=jnp.asarray(noisy)), recipe_of(run.config.distill), prepared.tokens.label_names, **base)
    written = run.workdir.path / "text" / "project" / "text.jsonl"
    written.parent.mkdir(parents=True)
    written.write_text(file.read_text())
    prompt(run)
    found = read_results(run.workdir.results)["prompt"]
    ours = [row for row in found if row["model"] == found[0]["model"]]
    runs = {(row["variation"], row["examples_per_class"]): row["runs"] for row in ours}
    assert runs == {
        ("no examples", 0): 1,
        ("distilled", 1): 4,
        ("text, project", 1): 4,
        ("random", 1): 4,
        ("random", 3): 4,
        ("k_centers", 1): 2,  # two examples have two orders
        ("k_centers", 3): 4,
        ("theirs", 1): 4,
        ("soft prompt, as text", None): 2,
        ("soft prompt", None): 2,
    }
    assert {row["model"] for row in found} == {found[0]["model"], other.name} and len(found) == 2 * len(ours) - 1
    assert all(0 <= row["accuracy_mean"] <= 1 and row["texts"] == 12 and row["texts_seed"] == 0 for row in found)
    begun = json.loads((run.workdir.prompt / "prompts.json").read_text())
    assert [len(row["runs"]) for row in begun] == [row["runs"] for row in ours[:-1]]
    assert sorted(begun[1]["runs"][0].split("Review : ")[1:])[0].endswith(("Sentiment : negative ", "Sentiment : positive "))
    report(run)
    shown = capsys.readouterr()
    assert "Prompts: distilled" in shown.out and "12 test texts drawn with seed 0" in " ".join(shown.out.split())
    assert "distilled has fewer than 3 examples" in shown.err and "soft prompt, as text" in (run.workdir.path / "results.md").read_text()
    # A second start asks nothing again, and other prompts may be tried in the same folder.
    size = (run.workdir.prompt / "answers.jsonl").stat().st_size
    run.workdir.close()
    again = make_run(per_class=(1,), texts=12)
    prompt(again)
    assert (again.workdir.prompt / "answers.jsonl").stat().st_size == size
    rows = {(row["variation"], row["examples_per_class"]): row["accuracy_mean"] for row in read_results(again.workdir.results)["prompt"]}
    old = {(row["variation"], row["examples_per_class"]): row["accuracy_mean"] for row in ours}
    assert rows == {key: old[key] for key in rows} and len(rows) == 3


def test_examples_that_are_test_texts_are_told(make_run, tiny_corpus, tmp_path):
    test = [json.loads(line) for line in (tiny_corpus / "test.jsonl").read_text().splitlines()]
    file = tmp_path / "mixed.jsonl"
    one_of_each = [next(row for row in test if row["label"] == label) for label in ("negative", "positive")]
    own = [{"text": "dull dull plot", "label": "negative"}, {"text": "good good plot", "label": "positive"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*one_of_each, *own]))
    run = make_run(examples=(str(file),), per_class=(2,), orders=1, texts=4)
    prompt(run)
    none, mixed = read_results(run.workdir.results)["prompt"]
    assert none["texts_in_test"] == 0 and "test split" not in none["note"]
    assert mixed["texts_in_test"] == 2 and mixed["note"] == "the same examples in every run, in other orders; 2 of its texts occur in the test split"


def test_a_named_set_stands_in_prompts_by_its_own_texts(make_run, tmp_path):
    run = make_run(examples=("text",), per_class=(1,), texts=4)
    run.distilled, run.name = tmp_path, "other one"
    for folder, word in (("project", "own"), ("other-one/relearn", "theirs")):
        written = run.workdir.path / "text" / folder / "text.jsonl"
        written.parent.mkdir(parents=True)
        written.write_text("".join(json.dumps({"text": word, "label": label}) + "\n" for label in ("negative", "positive")))
    prompt(run)
    begun = json.loads((run.workdir.prompt / "prompts.json").read_text())
    shown = [text for row in begun for text in row["runs"]]
    assert any("theirs" in text for text in shown) and not any("own" in text for text in shown)


def test_a_text_stands_in_prompts_as_it_was_written(make_run, tmp_path, monkeypatch):
    run = make_run(examples=("distilled",), per_class=(1,), texts=4)
    data = first_data(run.prepared)
    frame = frame_of(run.prepared, data.mask)
    text = make_text(run.prepared, np.where(frame == FREE, 5, frame), data, recipe_of(run.config.distill))
    save_text(tmp_path / "text", run.prepared, text, route="project")
    monkeypatch.setattr(ddllm.prompt.examples, "distilled_examples", None)  # its embeddings are not asked
    run.distilled, run.name = tmp_path / "text", "written"
    prompt(run)
    begun = json.loads((run.workdir.prompt / "prompts.json").read_text())
    assert "Review : great" in begun[1]["runs"][0]


def test_all_of_a_set_are_the_same_examples_in_every_run(make_run, tmp_path):
    file = tmp_path / "four.jsonl"
    file.write_text("".join(json.dumps({"text": f"{word} film", "label": label}) + "\n" for label in ("negative", "positive") for word in ("a", "the")))
    run = make_run(examples=(str(file),), per_class=(1, 2), texts=4)
    prompt(run)
    notes = {row["examples_per_class"]: row["note"] for row in read_results(run.workdir.results)["prompt"] if row["variation"] == "four"}
    assert "the same examples in every run" not in notes[1] and "the same examples in every run" in notes[2]


def test_what_is_missing(make_run, tiny_corpus, tmp_path):
    for name, changes, message in (
        ("a", {"examples": ("distilled",)}, "run --mode=distill first"),
        ("b", {"examples": ("text",)}, "run --mode=text first"),
        ("c", {"examples": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ("d", {"model": str(tmp_path / "none")}, "does not exist"),
        ("e", {"label_words": ("good",)}, "has 1 words"),
    ):
        with pytest.raises(UserError, match=message):
            prompt(make_run(name, **changes))


def test_the_command_knows_the_stage(tmp_path):
    line = ["--config=configs/quickstart.py", "--config.prompt.per_class=(1,)"]
    assert "prompt" not in parse(line).stages and parse([*line, "--mode=prompt"]).stages == ["prompt"]
    assert "prompt" in parse([*line, "--config.evaluate.prompt=True"]).stages
