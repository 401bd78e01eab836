"""What the command does with a folder: describe, train, verify, and a sentence for what cannot be meant."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ddllm
from ddllm.artefact.commands import train_to
from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.artefact.verify import verify_distilled
from ddllm.errors import ScoreDiffers, UserError
from ddllm.main import exit_status, main, parse
from ddllm.models.pretrained import load_pretrained
from ddllm.stages import load_scored, verify

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"


def test_describe(run, capsys):
    assert main(["--mode=describe", f"--distilled={run.workdir.distilled}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("2 of 6 positions, 16 numbers each", "negative, positive", "mean, zero", "embeddings as float16", "48 test texts"):
        assert part in shown, shown


def test_train_in_one_call(run, tiny_corpus, tmp_path):
    lines = [json.loads(line) for line in (tiny_corpus / "test.jsonl").read_text().splitlines()]
    trained = ddllm.load(run.workdir.distilled).train()
    accuracy = np.mean([name == line["label"] for name, line in zip(trained.predict([line["text"] for line in lines]), lines, strict=True)])
    card = load_distilled(run.workdir.distilled).card
    assert accuracy == pytest.approx(card["scores"][0]["mean"])
    assert {"data", "model", "distill", "evaluate", "seed"} <= card["config"].keys() and not {"prompt", "runtime"} & card["config"].keys()
    saved = train_to(run.workdir.distilled, tmp_path / "model")
    np.testing.assert_array_equal(load_pretrained(str(tmp_path / "model")).head["out"]["kernel"], saved.params["head"]["out"]["kernel"])


def test_verify(run, capsys, tmp_path):
    verify(run)
    assert "verified: accuracy" in capsys.readouterr().err
    prepared, distilled = load_scored(run)
    stated = distilled.card["scores"][0]
    stated["mean"] -= 0.0019
    verify_distilled(prepared, distilled, "it")
    stated["mean"] -= 0.0002
    with pytest.raises(ScoreDiffers, match=r"0.21 points away \(0.20 are allowed\)"):
        verify_distilled(prepared, distilled, "it")
    stated["deviation"] = 1e9
    with pytest.raises(ScoreDiffers):  # a single run has none
        verify_distilled(prepared, distilled, "it")
    stated |= {"deviation": 0.01, "runs": 2}
    stated["corpus"] = "another"
    assert "other ones than the card's 48" in verify_distilled(prepared, distilled, "it")
    distilled.card["scores"] = []
    with pytest.raises(UserError, match="no test score"):
        verify_distilled(prepared, distilled, "it")


def test_a_folder_that_does_not_keep_its_word_ends_with_one(run, capsys, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(run.workdir.distilled, folder)
    distilled = load_distilled(folder)
    card = {key: value for key, value in distilled.card.items() if key in ("base_model", "head", "products", "preprocessing")}
    save_distilled(folder, distilled.data.replace(labels=-distilled.data.labels), distilled.recipe, distilled.label_names, **card)
    text = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(text | {"scores": distilled.card["scores"]}))
    config = tmp_path / "config.py"
    config.write_text(
        "import json\nfrom ddllm.config import default_config\n\ndef get_config():\n    config = default_config()\n"
        f"    config.update(json.loads({(run.workdir.config).read_text()!r}))\n    return config\n"
    )
    assert main([f"--config={config}", f"--workdir={tmp_path / 'run'}", "--mode=verify", f"--distilled={folder}"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ddllm: accuracy") and "points away" in error


def test_verify_with_the_folder_alone(run, tmp_path, capsys, monkeypatch):
    """Its card has the configuration; nothing is left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    line = ["--mode=verify", f"--distilled={run.workdir.distilled}", "--config.runtime.compilation_cache="]
    assert main(line) == 0
    assert "verified: accuracy" in capsys.readouterr().err
    assert not any((tmp_path / "scratch").iterdir())
    folder = tmp_path / "moved"
    shutil.copytree(run.workdir.distilled, folder)
    kept = json.loads((folder / "recipe.json").read_text())
    kept["config"]["data"]["source"] = str(tmp_path / "nowhere")

    def told(change, *more):
        (folder / "recipe.json").write_text(json.dumps(kept | change))
        assert main(["--mode=verify", f"--distilled={folder}", *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "nowhere, where its card has it; give its place here as --config.data.source=PATH" in told({})
    assert "config.data.sauce is not a key" in told({}, "--config.data.sauce=x")
    assert "has no configuration; give the one that it was distilled with as --config" in told({"config": {}})
    assert "data.colour in the configuration of" in told({"config": {"data": {"colour": 1}}})
    assert "distill.length in the configuration of" in told({"config": {"distill": {"length": "long"}}})
    base = kept["base_model"] | {"name": str(tmp_path / "no model")}
    line = [f"--config.data.source={run.config.data.source}", "--config.runtime.compilation_cache="]
    assert "give its place here as --config.model.name=PATH" in told({"base_model": base}, *line)
    (folder / "recipe.json").write_text(json.dumps(kept))
    assert main(["--mode=verify", f"--distilled={folder}", f"--workdir={tmp_path / 'kept'}", *line]) == 0
    assert (tmp_path / "kept" / "config.json").is_file()


def test_folders_at_home(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(run.workdir.path.parent))
    home = f"~/{run.workdir.path.name}"
    assert ddllm.load(f"{home}/distilled").label_names == ("negative", "positive")
    assert main(["--mode=describe", f"--distilled={home}/distilled"]) == 0
    capsys.readouterr()
    assert main(["--mode=describe", f"--distilled={home}"]) == 2
    error = capsys.readouterr().err
    assert "is not a distilled data set" in error and f"give {run.workdir.distilled}." in error
    command = parse([f"--config={QUICKSTART}", "--mode=merge", f"--sets={home}/distilled,~/b"])
    assert command.config.merge.sets == (str(run.workdir.distilled), str(run.workdir.path.parent / "b"))
    command = parse([f"--config={QUICKSTART}", "--mode=evaluate", f"--distilled={home}/distilled"])
    assert (command.distilled, command.name) == (str(run.workdir.distilled), run.workdir.path.name)


def test_sentences_about_names_with_line_breaks_are_one_line(capsys):
    def fail():
        raise UserError("it has the classes a\nb, c\r\nd.")

    assert exit_status(fail, "") == 2
    assert capsys.readouterr().err == "ddllm: it has the classes a b, c d.\n"


@pytest.mark.parametrize(
    "line, message",
    [
        (["--mode=train"], "needs --distilled"),
        (["--mode=train", "--distilled=x"], "needs --out"),
        (["--mode=describe", "--distilled=nowhere"], "nowhere is not a distilled data set"),
        (["--mode", "describe", "--distilled=x", "--out=y"], "--out has no meaning"),
        (["--mode=describe", "--distilled=x", "--config=configs/quickstart.py"], "needs no configuration"),
        (["--mode=push", "--distilled=x"], "needs --repo"),
        (["--mode=train", "--distilled=x", "--out=y", "--seed=many"], "many"),
        (["--mode=train", "--distilled=x", "--out=y", "extra"], "'extra' is not understood"),
    ],
)
def test_bad_command_lines(line, message, capsys):
    assert main(line) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
