"""The command from end to end on a tiny model and corpus: results, resumption bit for bit, and a sentence for every mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optax
import pytest

import ddllm
from ddllm.artefact.folder import load_distilled
from ddllm.data.corpus import load_corpus
from ddllm.main import exit_status, main, parse
from ddllm.models.figures import standard_error
from ddllm.runtime.metrics import read_metrics
from ddllm.runtime.workdir import SCALE

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")


@pytest.fixture
def arguments(small_runs, tiny_model, tmp_path):
    """make(**overrides) -> command line of a small run in tmp_path/run."""
    make = small_runs(
        "all",
        model__name=tiny_model,
        distill__length=6,
        distill__outer_steps=12,
        distill__validate_every=4,
        distill__checkpoint_every=3,
        finetune__batch_size=8,
        evaluate__heads=3,
        evaluate__head_texts=30,
        evaluate__selection_draws=2,
        evaluate__selection_rates="(0.1,0.01)",
        runtime__devices=1,
    )
    return lambda workdir=None, **overrides: make(workdir or tmp_path / "run", **overrides)


# Enough for the tiny model to learn its tiny task.
LEARNING = {
    "distill.outer_steps": 200,
    "distill.validate_every": 40,
    "distill.rate_embeddings": 0.1,
    "distill.initial_rate": 0.5,
    "finetune.epochs": 5,
    "finetune.rate": 3e-3,
}


def test_the_whole_job(arguments, tmp_path, capsys):
    assert main(arguments(**LEARNING)) == 0
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["full", "random", "k_centers", "distilled", "distilled, redrawn heads"]
    for row in rows.values():
        assert {"name", "examples_per_class", "accuracy_mean", "accuracy_std", "runs", "seconds", "percent_of_full"} <= set(row)
        assert 0 <= row["accuracy_mean"] <= 1 and row["seconds"] > 0
    assert rows["full"]["examples_per_class"] is None and rows["full"]["percent_of_full"] == 100
    assert rows["distilled"]["runs"] == 1 and rows["distilled"]["accuracy_std"] == 0
    assert rows["distilled, redrawn heads"]["runs"] == 3 and rows["random"]["runs"] == 2
    assert rows["distilled"]["accuracy_mean"] > 0.8 > rows["random"]["accuracy_mean"]
    assert rows["distilled"]["percent_of_full"] == pytest.approx(
        100 * rows["distilled"]["accuracy_mean"] / rows["full"]["accuracy_mean"], abs=0.01
    )
    assert results["config"]["distill"]["outer_steps"] == 200 and results["environment"]["devices"] >= 1
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG") and "distilled" in (run / "results.md").read_text()
    assert any((run / "events").rglob("events.out.tfevents*"))
    distilled = load_distilled(run / "distilled")
    assert distilled.label_names == ("negative", "positive") and distilled.data.embeddings.shape == (3, 2, 6, 16)
    lines = read_metrics(run / "metrics.jsonl")
    validated = [line["validation_accuracy"] for line in lines if line["stage"] == "distill" and "validation_accuracy" in line]
    assert len(validated) == 5 and distilled.card["validation_accuracy"] == pytest.approx(max(validated))
    assert "distilled" in capsys.readouterr().out
    # A second start of the same command does nothing again.
    before = (run / "metrics.jsonl").read_bytes()
    assert main(arguments(mode="distill,finetune", **LEARNING)) == 0
    assert (run / "metrics.jsonl").read_bytes() == before
    again = json.loads((run / "results.json").read_text())["rows"]
    assert again[0]["accuracy_mean"] == rows["full"]["accuracy_mean"]


@pytest.mark.parametrize(
    "head, labels, initial", [("redrawn", "hard", "noise"), ("learned", "soft", "herding"), ("fixed", "unrestricted", "file")]
)
def test_other_recipes(arguments, tiny_corpus, tmp_path, head, labels, initial):
    initial = tiny_corpus / "train.jsonl" if initial == "file" else initial
    overrides = {"distill.head": head, "distill.labels": labels, "distill.initial": initial, "distill.passes": 2, "model.head": "bert"}
    overrides["evaluate.selections"] = "('random',)"
    if head == "redrawn":  # on two heads' devices, two to each copy of the parameters
        overrides |= {"distill.heads": 2, "runtime.devices": 4, "runtime.shard": 2}
    if head == "learned":
        overrides |= {"distill.choose": "one_standard_error", "distill.validate_every": 1}
    if head == "fixed":
        overrides |= {"distill.attention_labels": "all", "distill.attention_weight": 3.0, "distill.feature_labels": True}
    assert main(arguments(mode="distill,evaluate", **overrides)) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    found = {row["name"]: row for row in rows}
    assert found["distilled"]["inner_steps"] == 6 and found["distilled"]["head"] == head
    assert ("distilled, redrawn heads" in found) == (head != "redrawn")
    distilled = load_distilled(tmp_path / "run" / "distilled")
    assert (distilled.data.head is not None) == (head == "learned")
    if head == "learned":
        lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "validation_accuracy" in line]
        validated = np.array([line["validation_accuracy"] for line in lines])
        error = standard_error("accuracy", validated.max(), len(load_corpus(parse(arguments(**overrides)).config.data).validation))
        kept = np.flatnonzero(validated >= validated.max() - error)[-1]
        assert len(validated) == 12 and distilled.card["outer_step"] == kept + 1
        assert distilled.card["validation_accuracy"] == pytest.approx(validated[kept])
    if head != "redrawn":
        validation = load_corpus(parse(arguments(**overrides)).config.data).validation
        logits = ddllm.train(tmp_path / "run" / "distilled").logits(validation.texts)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, np.asarray(validation.labels))
        assert distilled.card["validation_loss"] == pytest.approx(float(losses.mean()), rel=1e-3)
    assert distilled.card["validation_loss"] > 0
    assert (distilled.data.attention is not None) == (head == "fixed") and distilled.recipe.attention_weight == (
        3 if head == "fixed" else 1
    )


def test_other_inner_loops(arguments, tmp_path, capsys):
    overrides = {
        "distill.passes": 2,
        "distill.inner_optimizer": "learned_momentum",
        "distill.order": "learned",
        "distill.truncate": 2,
        "distill.window": "random",
        "evaluate.heads": 2,
        "evaluate.selections": "()",
    }
    assert main(arguments(mode="distill", **overrides)) == 0
    distilled = load_distilled(tmp_path / "run" / "distilled")
    assert distilled.recipe.order == "learned" and distilled.data.order.shape == (6, 3) and distilled.data.momentum.shape == (6,)
    assert len(set(distilled.data.momentum[1:].tolist())) == 5, "momentum was not learned at every step"
    overrides |= {
        "distill.inner_optimizer": "scale_by_rms(decay=0.5)",
        "distill.order": "shuffled",
        "distill.window": "last",
        "workdir": tmp_path / "b",
    }
    assert main(arguments(mode="distill,evaluate", **overrides)) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "b" / "results.json").read_text())["rows"]}
    assert rows["distilled"]["runs"] == 2 and "orders redrawn" in rows["distilled"]["note"]
    assert load_distilled(tmp_path / "b" / "distilled").recipe.optimizer == "scale_by_rms(decay=0.5)"
    overrides |= {"distill.inner_optimizer": "radam", "workdir": tmp_path / "c"}
    assert main(arguments(mode="distill", **overrides)) == 2
    assert "config.distill.inner_optimizer is 'radam', whose derivative is not finite" in capsys.readouterr().err


def start(line):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-m", "ddllm.main", *line], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_killed_and_started_again_gives_the_same_bits(arguments, tmp_path, stage):
    overrides = {
        "distill.outer_steps": 400,
        "distill.validate_every": 50,
        "distill.checkpoint_every": 7,
        "distill.average": 0.9,
        "distill.head": "redrawn",
        "finetune.epochs": 20,
        "finetune.checkpoints": 40,
        "runtime.tensorboard": "False",
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(arguments(workdir=whole, mode=stage, **overrides))
    assert process.wait(300) == 0, process.stderr.read().decode()
    checkpoints = broken / ("checkpoints" if stage == "distill" else "finetune/seed-0")
    kills = 0
    for _ in range(2):
        process = start(arguments(workdir=broken, mode=stage, **overrides))
        known = {path.name for path in checkpoints.glob("[0-9]*")}
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            if {path.name for path in checkpoints.glob("[0-9]*")} - known:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
    assert kills, "the run was over before it could be killed"
    process = start(arguments(workdir=broken, mode=stage, **overrides))
    assert process.wait(300) == 0, process.stderr.read().decode()

    def figures(folder):
        return [
            {key: value for key, value in line.items() if key not in ("time", "elapsed")} for line in read_metrics(folder / "metrics.jsonl")
        ]

    assert figures(whole) == figures(broken) and len(figures(whole)) >= 300
    if stage == "distill":
        name = Path("distilled/distilled.safetensors")
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    else:
        row, other = (json.loads((folder / "results.json").read_text())["rows"][0] for folder in (whole, broken))
        assert row["accuracy_mean"] == other["accuracy_mean"]


def test_divergence_stops_the_run(arguments, tmp_path, capsys):
    line = arguments(mode="distill", distill__outer_steps=6, distill__checkpoint_every=1, distill__initial_rate=1e30)
    assert main(line) == 2
    message = capsys.readouterr().err
    assert "distill stopped at step 1" in message and "config.distill.initial_rate" in message and "Traceback" not in message
    assert not (tmp_path / "run" / "distilled").exists()


def edit_model(folder, tmp_path, change):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def drop_tensor(folder):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")


def test_bad_models(arguments, tiny_model, tmp_path, capsys):
    def message(**overrides):
        assert main(arguments(mode="prepare", **overrides)) == 2
        return capsys.readouterr().err

    assert "config.json" in message(model__name=edit_model(tiny_model, tmp_path / "a", lambda f: (f / "config.json").unlink()))
    assert "encoder.layer.1.output.dense.weight" in message(
        model__name=edit_model(tiny_model, tmp_path / "b", drop_tensor), workdir=tmp_path / "r2"
    )
    other = edit_model(tiny_model, tmp_path / "c", lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'))
    assert "roberta" in message(model__name=other, workdir=tmp_path / "r3")
    assert "24 positions" in message(data__length=25, workdir=tmp_path / "r4")
    strange = message(model__name=edit_model(tiny_model, tmp_path / "d", renumber("plot", 99)), workdir=tmp_path / "r5")
    assert "has a token of number 99 in the tokenizer of" in strange and "word table has 32 rows" in strange


def renumber(word, number):
    """A change of a model's folder: its tokenizer has another number for a word, or one more word."""

    def change(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"][word] = number
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return change


def test_bad_first_examples(arguments, tiny_model, tmp_path, capsys):
    model = edit_model(tiny_model, tmp_path / "model", renumber("shiny", 99))

    def message(*texts):
        rows = [{"text": text, "label": label} for text, label in texts]
        (tmp_path / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides = {"model__name": model, "distill__initial": tmp_path / "first.jsonl", "distill__examples_per_class": 1, "distill__batches": 1}
        assert main(arguments(mode="distill", **overrides)) == 2
        return " ".join(capsys.readouterr().err.split())

    few = message(("a good film", "positive"))
    file = tmp_path / "first.jsonl"
    assert f"config.distill.initial: the class 'negative' has 0 texts in {file}, but" in few and "ask for fewer or add some to the file" in few
    strange = message(("a good film", "positive"), ("a shiny film", "negative"))
    assert f"config.distill.initial: {file} has a token of number 99 in the tokenizer of {model}" in strange


def test_bad_data(arguments, tmp_path, capsys):
    def message(lines, **overrides):
        folder = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name in ("train", "test"):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main(arguments(mode="prepare", data__source=folder, workdir=folder / "run", **overrides)) == 2
        error = capsys.readouterr().err
        assert error.startswith("ddllm: ") and error.count("\n") == 1 and "Traceback" not in error
        return error

    good = [{"text": f"good film {n}", "label": "x"} for n in range(9)] + [{"text": f"bad film {n}", "label": "y"} for n in range(9)]
    assert "did you mean text?" in message(good, data__text_column="texts")
    assert "class" in message(good[:9])
    assert "no text in any" in message([{**line, "text": "  "} for line in good])
    assert "'y'" in message(good, data__label_names="('x','z')")
    assert main(arguments(mode="prepare", data__source=tmp_path / "nowhere.csv", workdir=tmp_path / "r")) == 2
    assert "nowhere.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, message",
    [
        ([], "which configuration?"),
        (["--config=configs/quikstart.py"], "did you mean configs/quickstart.py?"),
        (["--config", "configs/quikstart.py"], "did you mean configs/quickstart.py?"),
        ([f"--config={QUICKSTART}", "--config.distill.outersteps=3"], "did you mean distill.outer_steps?"),
        ([f"--config={QUICKSTART}", "--config.distil.outer_steps=3"], "did you mean distill.outer_steps?"),
        ([f"--config={QUICKSTART}", "--config.distill.outer_steps=many"], "many"),
        ([f"--config={QUICKSTART}", "--config.distill.outer_steps=0"], "must be greater than 0"),
        ([f"--config={QUICKSTART}", "--config.distill.head=zeroes"], "did you mean zero?"),
        ([f"--config={QUICKSTART}", "--config.distill.batches=2"], "does not divide"),
        ([f"--config={QUICKSTART}", "--config.distill.inner_optimizer=adm"], "did you mean adam?"),
        ([f"--config={QUICKSTART}", "--config.distill.heads=4"], "is the same head every time"),
        ([f"--config={QUICKSTART}", "--mode=distil"], "did you mean distill?"),
        ([f"--config={QUICKSTART}", "--wrkdir=x"], "workdir"),
        ([f"--config={QUICKSTART}", "extra"], "'extra' is not understood"),
        ([f"--config={QUICKSTART}:smok"], "did you mean smoke?"),
        ([f"--config={QUICKSTART}:examples=many"], "not a whole number"),
    ],
)
def test_bad_command_lines(line, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    line = line if any(part.startswith("--wrkdir") for part in line) else [*line, f"--workdir={tmp_path / 'run'}"] if line else line
    assert main(line) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_of_another_run(arguments, tmp_path, capsys):
    assert main(arguments(mode="prepare", distill__outer_steps=11)) == 0
    assert main(arguments(mode="distill")) == 0
    assert main(arguments(mode="prepare", distill__outer_steps=13)) == 2
    assert "distill.outer_steps is 12 there and 13 here" in capsys.readouterr().err
    assert main(arguments(tmp_path / "other", mode="evaluate")) == 2
    assert "--mode=distill first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"distill.teacher": "nowhere"}, "there is none in nowhere/finetune"),
        ({"distill.initial": "nowhere.jsonl"}, "config.distill.initial: there is no file nowhere.jsonl"),
        ({"distill.examples_per_class": 999}, "the class 'negative' has"),
    ],
)
def test_mistakes_do_not_cost_a_fine_tuning(arguments, tmp_path, capsys, overrides, message):
    assert main(arguments(**overrides)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run" / "finetune").exists()
    # The same folder takes the command without the mistake.
    assert main(arguments(mode="prepare")) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(a=None:", "config.py, line 1: SyntaxError: invalid syntax; correct it there."),
        ("import nothere_at_all", "config.py, line 1: ModuleNotFoundError: No module named 'nothere_at_all'; correct it there."),
        ("x = 1", "has no attribute 'get_config'"),
        ("def get_config():\n    return {}", "get_config in {path} must return what ddllm.config.default_config() gives"),
        ("c.distill.outer_steps = 'x'", "config.py, line 4: TypeError: Could not override field 'outer_steps'"),
        ("c.distill.outer_step = 3", "config.py, line 4: outer_step is not a key (did you mean outer_steps?); all keys are listed in ddllm/config.py."),
        ("c.data.length = foo", "config.py, line 4: NameError: name 'foo' is not defined; correct it there."),
    ],
)
def test_mistakes_in_a_configuration_file(tmp_path, content, message):
    path = tmp_path / "config.py"
    body = f"from ddllm.config import default_config\ndef get_config():\n    c = default_config()\n    {content}\n    return c\n"
    path.write_text(body if content.startswith("c.") else content)
    # In a process of its own, as the command is: the library that runs such files remembers the last one.
    found = subprocess.run([sys.executable, "-m", "ddllm.main", f"--config={path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and message.format(path=path) in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["quickstart", "quickstart_long", "ag_news", "imdb", "rotten_tomatoes", "sst2"])
def test_every_configuration_and_its_variants(name):
    path = ROOT / "configs" / f"{name}.py"
    config, names, workdir, *_ = parse([f"--config={path}"])
    assert workdir == Path("runs") / name and names == ["prepare", "finetune", "select", "distill", "evaluate", "report"]
    assert path.read_text().count(f"--config configs/{name}.py") == 1
    small, _, other, *_ = parse([f"--config={path}:model=org/some-model,examples=6,smoke"])
    assert small.model.name == "org/some-model" and small.distill.examples_per_class == 6 and small.distill.outer_steps == 4
    assert other.name == f"{name}-some-model-examples6-smoke"
    assert config.distill.outer_steps > 100


def test_recipes_change_how_and_never_how_much():
    path = ROOT / "configs" / "sst2.py"
    configs = [
        parse([f"--config={path}:model=embedded,examples=5{recipe}"]).config for recipe in ("", ",recipe=ddllm", ",recipe=maekawa2023")
    ]
    ours, named, peer = (config.distill.to_dict() for config in configs)
    assert ours == named and ours["teacher"] == "brief" and peer["teacher"] == ""
    assert (peer["batches"], peer["attention_labels"], peer["head"]) == (5, "cls", "redrawn")
    same = {key for key in ours if ours[key] == peer[key]}
    assert {"examples_per_class", "length", "outer_steps", "batch_size"} <= same


def test_importing_is_quick():
    code = "import time, sys; t = time.time(); import ddllm, ddllm.main; print(time.time() - t, 'transformers' in sys.modules)"
    seconds, loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    assert loaded == "False" and np.isfinite(float(seconds))


def test_the_command_knows_the_stages():
    from ddllm.main import STAGE_NAMES
    from ddllm.stages import STAGES

    assert tuple(STAGES) == STAGE_NAMES


def test_clearing_up_that_fails_is_still_an_interrupt(capsys):
    def stopped(error):
        try:
            raise error
        finally:
            raise RuntimeError("cannot join thread before it is started")

    assert exit_status(lambda: stopped(KeyboardInterrupt()), "it goes on") == 130
    assert capsys.readouterr().err == "\nddllm: interrupted; it goes on.\n"
    with pytest.raises(RuntimeError):
        exit_status(lambda: stopped(ValueError()), "it goes on")


def test_half_a_fine_tuning_teaches_nothing(arguments, tmp_path, capsys, monkeypatch):
    def interrupt(prepared, state):
        raise KeyboardInterrupt

    lines = {
        "of this run": arguments(**{"mode": "distill", "distill.teacher": "full"}),
        "of another": arguments(tmp_path / "other", **{"mode": "distill", "distill.teacher": str(tmp_path / "run")}),
        "of crossed texts": arguments(tmp_path / "crossed", **{"mode": "distill", "distill.teacher": str(tmp_path / "run"), "distill.crossed": 0.5}),
    }
    for line in lines.values():
        assert main(line) == 2 and "there is none in" in capsys.readouterr().err
    begin = [*arguments(**{"mode": "finetune", "distill.teacher": "full"})]
    with monkeypatch.context() as patch:
        patch.setattr("ddllm.stages.score_finetuned", interrupt)
        assert main(begin) == 130
    capsys.readouterr()
    for line in lines.values():
        assert main(line) == 2
        assert f"begun in {tmp_path / 'run'}, but has not come to its end" in " ".join(capsys.readouterr().err.split())
    assert main(begin) == 0
    for line in lines.values():
        assert main(line) == 0
    cards = [json.loads((tmp_path / name / "distilled" / "recipe.json").read_text()) for name in ("run", "other", "crossed")]
    own, other, crossed = (card["files"]["distilled.safetensors"] for card in cards)
    assert own == other != crossed


def test_files_that_change_under_one_name_are_noticed(arguments, tiny_corpus, make_model, tmp_path, capsys):
    corpus, model = tmp_path / "corpus", tmp_path / "model"
    shutil.copytree(tiny_corpus, corpus)
    shutil.copytree(make_model(16, 1), model)
    line = arguments(**{"mode": "distill,evaluate", "data.source": corpus, "model.name": model})
    assert main(line) == 0
    kept = {name: (tmp_path / "run" / name).read_bytes() for name in ("results.json", "distilled/recipe.json")}
    text = (corpus / "train.jsonl").read_text()
    (corpus / "train.jsonl").write_text(text.replace("negative", "@").replace("positive", "negative").replace("@", "positive"))
    capsys.readouterr()
    assert main(line) == 2 and "begun with another corpus" in capsys.readouterr().err
    (corpus / "train.jsonl").write_text(text)
    shutil.rmtree(model)
    shutil.copytree(make_model(16, 1, 5), model)
    assert main(line) == 2 and "begun with another pretrained model" in capsys.readouterr().err
    assert kept == {name: (tmp_path / "run" / name).read_bytes() for name in kept}


def test_a_teacher_has_this_runs_classes_in_their_order(arguments, tmp_path, capsys):
    turned = {"data.label_names": "('positive','negative')"}
    assert main(arguments(tmp_path / "teacher", **{"mode": "finetune", **turned})) == 0
    taught = {"mode": "distill", "distill.teacher": tmp_path / "teacher"}
    capsys.readouterr()
    assert main(arguments(tmp_path / "one", **taught)) == 2
    assert "fine-tuned with another list of classes or head than this run" in " ".join(capsys.readouterr().err.split())
    assert main(arguments(tmp_path / "other", **taught, **turned)) == 0


def test_a_teacher_of_numbers_has_this_runs_mean_and_deviation(arguments, tiny_corpus, tmp_path, capsys):
    for name, low, high in (("cheap", 1.5, 2.5), ("dear", 1000.5, 3000.5)):
        shutil.copytree(tiny_corpus, tmp_path / name)
        for path in (tmp_path / name).iterdir():
            path.write_text(path.read_text().replace('"negative"', str(low)).replace('"positive"', str(high)))
    assert main(arguments(tmp_path / "teacher", **{"mode": "finetune", "data.source": tmp_path / "cheap"})) == 0
    taught = {"mode": "distill", "distill.teacher": tmp_path / "teacher", "distill.examples_per_class": 2, "distill.batches": 1}
    origin = tmp_path / "teacher" / "origin.json"
    noted = json.loads(origin.read_text())
    for known in (noted, {what: value for what, value in noted.items() if what != SCALE}):  # older versions did not note it
        origin.write_text(json.dumps(known))
        capsys.readouterr()
        assert main(arguments(tmp_path / "one", **taught, **{"data.source": tmp_path / "dear"})) == 2
        assert "fine-tuned with another mean or deviation of the labels than this run has" in " ".join(capsys.readouterr().err.split())
        assert main(arguments(tmp_path / f"other{len(known)}", **taught, **{"data.source": tmp_path / "cheap"})) == 0


def test_what_a_distillation_is_begun_with_goes_on_with_it(arguments, make_model, tmp_path, monkeypatch, capsys):
    """First examples, another body and another run's teacher: half a distillation is refused with others, and goes on where it is not known what they were."""
    first, body, teacher = tmp_path / "first.jsonl", tmp_path / "body", tmp_path / "teacher"
    monkeypatch.setenv("HOME", str(tmp_path))
    begun = '{"text": "good plot", "label": "positive"}\n{"text": "bad plot", "label": "negative"}\n'
    first.write_text(begun)
    shutil.copytree(make_model(16, 2), body)
    assert main(arguments(teacher, mode="finetune")) == 0
    few = {"distill.examples_per_class": 1, "distill.batches": 1}
    named = {"distill.initial": "~/first.jsonl", "distill.bodies": "('~/body',)", "distill.teacher": "~/teacher"}
    line = arguments(**{"mode": "distill", **named, **few})
    assert main(line) == 0
    whole = load_distilled(tmp_path / "run" / "distilled").data.embeddings

    def halve():
        shutil.rmtree(tmp_path / "run" / "distilled")
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")

    def refuse(what):
        capsys.readouterr()
        assert main(line) == 2 and f"begun with another {what}:" in " ".join(capsys.readouterr().err.split())

    first.write_text(begun.replace("plot", "film"))
    refuse("file of first examples, ~/first.jsonl")
    first.write_text(begun)
    halve()
    shutil.move(body, tmp_path / "kept")
    shutil.copytree(make_model(16, 2, 7), body)
    refuse("body, ~/body")
    shutil.rmtree(body)
    shutil.move(tmp_path / "kept", body)
    shutil.move(teacher, tmp_path / "kept")
    assert main(arguments(teacher, **{"mode": "finetune", "finetune.rate": 1e-3})) == 0
    refuse("fine-tuned model in ~/teacher")
    shutil.rmtree(teacher)
    shutil.move(tmp_path / "kept", teacher)
    assert main(line) == 0
    np.testing.assert_array_equal(load_distilled(tmp_path / "run" / "distilled").data.embeddings, whole)
    halve()
    origin = tmp_path / "run" / "origin.json"
    origin.write_text(json.dumps({what: value for what, value in json.loads(origin.read_text()).items() if "~" not in what}))
    assert main(line) == 0


def test_several_teachers_give_their_mean_opinion(arguments, tmp_path, capsys):
    for seed in (1, 2):
        assert main(arguments(tmp_path / f"teacher{seed}", **{"mode": "finetune", "seed": seed})) == 0
    folders = [str(tmp_path / f"teacher{seed}") for seed in (1, 2)]
    learned = {}
    for name, teacher in {"one": folders[0], "other": folders[1], "both": " | ".join(folders), "turned": "|".join(folders[::-1])}.items():
        assert main(arguments(tmp_path / name, **{"mode": "distill", "distill.teacher": teacher})) == 0
        learned[name] = load_distilled(tmp_path / name / "distilled").data.embeddings
    apart = {name: np.abs(values - learned["both"]).max() for name, values in learned.items()}
    assert apart["turned"] < 1e-5 < 1e-3 < min(apart["one"], apart["other"])
    capsys.readouterr()
    assert main(arguments(tmp_path / "run", **{"mode": "distill", "distill.teacher": f"{folders[0]}|{tmp_path / 'nowhere'}"})) == 2
    assert f"there is none in {tmp_path / 'nowhere'}" in " ".join(capsys.readouterr().err.split())


def test_brief_teachers_are_made_on_the_way(arguments, tmp_path, capsys, monkeypatch):
    """One command, that may be killed while they are made; another run's folder that holds the same models teaches the same."""
    from ddllm.evaluate.finetune import finetune

    made = []

    def stop_before_the_second(prepared, seed, *rest):
        if seed != prepared.config.seed:
            raise KeyboardInterrupt
        return finetune(prepared, seed, *rest)

    line = arguments(**{"mode": "distill", "distill.teacher": "brief", "distill.brief_teachers": 2, "distill.brief_epochs": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr("ddllm.distill.teacher.finetune", stop_before_the_second)
        assert main(line) == 130
    assert not (tmp_path / "run" / "distilled").exists()
    assert main(line) == 0
    assert sorted(path.name for path in (tmp_path / "run" / "teachers").iterdir()) == ["seed-0", "seed-1"]
    assert not (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "finetune").exists()
    brief = {"finetune.epochs": 0.5, "finetune.seeds": 2, "finetune.validations": 1, "finetune.checkpoints": 2}
    assert main(arguments(tmp_path / "teachers", **{"mode": "finetune", **brief})) == 0
    assert main(arguments(tmp_path / "one", **{"mode": "finetune", **brief, "finetune.seeds": 1})) == 0
    for name in ("teachers", "one"):
        assert main(arguments(tmp_path / f"by-{name}", **{"mode": "distill", "distill.teacher": tmp_path / name})) == 0
        made.append(load_distilled(tmp_path / f"by-{name}" / "distilled").data.embeddings)
    own = load_distilled(tmp_path / "run" / "distilled").data.embeddings
    np.testing.assert_array_equal(own, made[0])
    assert np.abs(own - made[1]).max() > 1e-4
    capsys.readouterr()
    for wrong in ({"distill.brief_teachers": 0}, {"distill.brief_epochs": -1.0}, {"distill.teacher": "breif"}):
        assert main(arguments(tmp_path / "wrong", **{"mode": "distill", **wrong})) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "must be greater than 0" in said or "there is none in breif/finetune" in said


def test_a_set_from_another_split_says_so(arguments, tmp_path, capsys):
    assert main(arguments(mode="distill,evaluate")) == 0
    given = f"--distilled={tmp_path / 'run' / 'distilled'}"
    assert main([*arguments(tmp_path / "same", mode="evaluate"), given]) == 0
    assert main([*arguments(tmp_path / "other", **{"mode": "evaluate", "data.test": "", "data.test_size": 30, "data.seed": 3}), given]) == 0
    assert "may be among the test texts" in capsys.readouterr().err
    notes = [[row["note"] for row in json.loads((tmp_path / name / "results.json").read_text())["rows"]] for name in ("same", "other")]
    assert ["another corpus or split" in note for note in notes[0]] == [False] * len(notes[0])
    assert ["another corpus or split" in note for note in notes[1]] == [True] * len(notes[1])
    # So does what was merged of such a set and of the run's own, also where that is merged once more, and learned again on the run's own texts.
    assert main(arguments(tmp_path / "there", **{"mode": "distill", "data.seed": 4})) == 0
    run, there, mixed = (tmp_path / name / "distilled" for name in ("run", "there", "mixed"))
    for name, sets, how in (("own", (run, run), "join"), ("mixed", (run, there), "join"), ("again", (mixed, run), "relearn")):
        line = arguments(tmp_path / name, **{"mode": "merge,evaluate", "merge.how": how, "merge.order": "interleave"})
        assert main([*line, f"--sets={','.join(map(str, sets))}"]) == 0
        note = json.loads((tmp_path / name / "results.json").read_text())["rows"][0]["note"]
        assert ("another corpus or split" in note) == (name != "own")
    assert main([*arguments(tmp_path / "attack", **{"mode": "privacy", "data.seed": 4}), given]) == 2
    assert "which texts the data set was distilled from is not known here" in " ".join(capsys.readouterr().err.split())


def test_a_teacher_of_another_split_says_so(arguments, tmp_path, capsys):
    held_out = {"data.test": "", "data.test_size": 30}
    for name, values in (("same", held_out), ("other", {})):
        assert main(arguments(tmp_path / name, **{"mode": "finetune", **values})) == 0
    capsys.readouterr()
    notes = {}
    for name in ("same", "other"):
        taught = {"mode": "distill,evaluate", "distill.teacher": tmp_path / name, **held_out}
        assert main(arguments(tmp_path / f"by-{name}", **taught)) == 0
        told = f"the model in {tmp_path / name} was fine-tuned on another corpus, split or length than this run's"
        assert (told in " ".join(capsys.readouterr().err.split())) == (name == "other")
        notes[name] = [row["note"] for row in json.loads((tmp_path / f"by-{name}" / "results.json").read_text())["rows"]]
    assert not any("its teacher learned from another corpus" in note for note in notes["same"])
    assert all("its teacher learned from another corpus or split" in note for note in notes["other"])
    assert "its teacher learned from another corpus" in (tmp_path / "by-other" / "distilled" / "README.md").read_text()
    # The folder knows it for good: where it is merged, and after the teacher is gone.
    shutil.rmtree(tmp_path / "other")
    assert main(arguments(tmp_path / "by-other", **{**taught, "mode": "distill"})) == 0
    assert len(load_distilled(tmp_path / "by-other" / "distilled").texts) == 2
    sets = ",".join(str(tmp_path / f"by-{name}" / "distilled") for name in ("same", "other"))
    assert main([*arguments(tmp_path / "merged", **{"mode": "merge,evaluate", **held_out}), f"--sets={sets}"]) == 0
    assert "its teacher learned from another" in json.loads((tmp_path / "merged" / "results.json").read_text())["rows"][0]["note"]
