"""The card: a front matter that a hub understands, figures, and snippets that run as they stand."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from ddllm.artefact.card import known_to_torch, render_card
from ddllm.artefact.folder import FILES, read_recipe

ROOT = Path(__file__).resolve().parents[2]


def snippets(card):
    return re.findall(r"```(?:python)?\n(.*?)```", card, re.DOTALL)


def test_says_what_was_measured(run):
    text = (run.workdir.distilled / "README.md").read_text()
    rows = {row["name"]: row for row in json.loads(run.workdir.results.read_text())["rows"]}
    assert f"| distilled | accuracy | {100 * rows['distilled']['accuracy_mean']:.1f} | 48 |" in text
    redrawn = rows["distilled, redrawn heads"]
    assert f"{100 * redrawn['accuracy_mean']:.1f} ± {100 * redrawn['accuracy_std']:.1f} (2 runs) | 20 |" in text
    front = DatasetCard(text).data
    assert front.configs[0]["data_files"] == [{"split": "train", "path": "examples.parquet"}] and "dataset-distillation" in front.tags
    size = sum((run.workdir.distilled / name).stat().st_size for name in FILES)
    assert f" {size / 1000:.0f} kB in all" in text and size - (run.workdir.distilled / "README.md").stat().st_size > 4000
    scores = read_recipe(run.workdir.distilled)["scores"]
    assert scores[0]["corpus"] == run.prepared.tokens.fingerprint and scores[0]["head"] == "zero" and scores[1]["runs"] == 2


def test_names_from_a_corpus_stay_text(run):
    card = read_recipe(run.workdir.distilled) | {"label_names": ["<script>alert(1)</script>", "a|b\n# c"]}
    text = render_card(card, 1000)
    assert "<script>" not in text and "\n# c" not in text and r"\<script\>" in text


def test_what_cannot_work_is_left_out(run):
    card = read_recipe(run.workdir.distilled)
    assert card["transformers"] and render_card(card, 1000).count("```python") == 3
    unable = render_card(card | {"transformers": False}, 1000)
    assert "train_pytorch import" not in unable and "--mode=train" not in unable and "transformers cannot run its head" in unable
    lion = render_card(card | {"recipe": card["recipe"] | {"optimizer": "scale_by_lion(b1=0.9)"}}, 1000)
    assert "train_pytorch import" not in lion and "--mode=train" in lion and "does not know its inner optimizer, scale\\_by\\_lion(b1=0.9)." in lion


def test_the_card_knows_which_optimizers_pytorch_knows():
    pytest.importorskip("torch")
    from ddllm.pytorch import make_optimizer

    for text in ("sgd", "sgd(momentum=0.5)", "trace(decay=0.5, nesterov=True)", "nesterov", "learned_momentum", "adam(b1=0.8)", "adamw(weight_decay=0.1)"):
        assert known_to_torch(text) and make_optimizer(text)
    for text in ("scale_by_lion(b1=0.9)", "adam(weight_decay=0.1)", "rmsprop", "adamw(b1=0.8, mu_dtype='float32')"):
        assert not known_to_torch(text)
        with pytest.raises(ValueError, match="is not known"):
            make_optimizer(text)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_snippets_run_as_they_stand(run, tmp_path, number):
    pytest.importorskip("torch")
    folder = tmp_path / "folder"
    shutil.copytree(run.workdir.distilled, folder)
    base = read_recipe(folder)["base_model"]["name"]
    snippet = snippets((folder / "README.md").read_text())[number].replace("FOLDER_OF_THE_ENCODER", base).replace("one text to classify", "the good plot")
    if number == 2:
        command = [sys.executable, *snippet.split()[1:]]
    else:
        command = [sys.executable, "-c", snippet]
    environment = {"PYTHONPATH": f"{folder}:{ROOT}" if number in (1, 2) else str(folder), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": ""}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    if number == 0:
        assert set(json.loads(done.stdout.replace("'", '"'))) == {"negative", "positive"}
    elif number == 1:
        assert done.stdout.strip() in ("['negative']", "['positive']")
    elif number == 2:
        assert (tmp_path / "MODEL" / "model.safetensors").exists() and "the checkpoint is in ../MODEL" in done.stderr
    else:
        assert "'label': 'negative'" in done.stdout
