"""A run's folder as the stages leave it, written by hand: several kinds of rows, an attack in every text, and nothing that takes long."""

import json

import numpy as np
import pytest

from ddllm.artefact.folder import save_distilled
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.report.results import add_lists, add_rows
from ddllm.runtime.storage import write_json

ATTACK = "<script>document.title = 'run'</script><img src=\"https://example.invalid/x.png\"> & \"quoted\""


def make_row(name, mean, **more):
    row = {"name": name, "examples_per_class": 3, "accuracy_mean": mean, "accuracy_std": 0.0, "runs": 1, "seconds": 0.2, "inner_steps": 4}
    return row | more


def make_look(shown=6, tokens=3):
    rng = np.random.default_rng(0)
    words = ["moving", "dull", "film", "##ly", "<b>", "clever"]

    def position(number):
        near = float(rng.uniform())
        picked = [words[(number + place) % len(words)] for place in range(tokens)]
        return {"tokens": picked, "cosines": [round(0.3 + near / 2 - 0.05 * place, 4) for place in range(tokens)], "near": near, "length": 1.1}

    examples = [
        {
            "number": number + 1,
            "batch": number // 2 + 1,
            "label": ("fresh", "rotten")[number % 2],
            "group": number % 2,
            "values": [{"name": "fresh", "value": 1.2 * (1 - number % 2)}, {"name": "rotten", "value": float(number % 2)}],
            "text": "moving dull film",
            "positions": [position(place + number) for place in range(12)],
            "nearest": [{"text": ATTACK if number == 2 else f"a real text, number {number}", "label": "fresh", "cosine": 0.9}],
        }
        for number in range(shown)
    ]
    real = [[float(x), float(y), int(group)] for x, y, group in zip(*rng.standard_normal((2, 80)), rng.integers(2, size=80), strict=True)]
    distilled = [[float(number), 1.0, number % 2, number + 1] for number in range(shown)]
    chart = {"real": real, "distilled": distilled, "groups": ["fresh", "rotten"], "explained": [0.4, 0.2]}
    facts = {"tokens": tokens, "total": shown, "shown": shown, "low": 0.2, "high": 0.8, "labels": ["fresh", "rotten"], "groups": []}
    beside = [{"name": "length, median", "learned": 1.234, "table": 1.5}, {"name": "cosine with the nearest token, least", "learned": 0.3, "table": None}]
    moves = [
        {"name": name, "with": [{"word": "moving", "score": 0.5}, {"word": "<b>", "score": 0.25}], "against": [{"word": "dull", "score": -0.4}]}
        for name in ("fresh", "rotten")
    ]
    return facts | {"examples": examples, "beside": beside, "words": moves, "map": chart}


@pytest.fixture
def make_folder(tmp_path):
    """make(name, accuracy, **distill) -> folder of a run that has been through every stage."""

    def make(name="run", accuracy=0.79, **distill):
        folder = tmp_path / name
        folder.mkdir()
        config = {"data": {"source": ATTACK}, "model": {"name": "bert"}, "distill": {"rates": "layer", "length": 12, **distill}}
        environment = {"texts": {"rows": {"test": 400}}, "figures": ["accuracy"], "data": ATTACK, "model": "embedded", "jax": "0.10"}
        rows = [
            make_row("full", 0.84, examples_per_class=None, seconds=240.0),
            make_row("random", 0.54, accuracy_std=0.08, runs=3, note=f"rate 0.1 {ATTACK}"),
            make_row("distilled", accuracy, head="zero", floats=1000),
            make_row("distilled, redrawn heads", accuracy - 0.01, accuracy_std=0.011, runs=20, head="redrawn"),
        ]
        add_rows(folder / "results.json", rows, config, environment)
        variations = [
            {"variation": name, "accuracy_mean": mean, "accuracy_std": 0.0, "runs": 1, "change": change, "note": ""}
            for name, mean, change in (("as the recipe says", 0.79, 0.0), ("examples shuffled", 0.71, -8.0), ("twice", 0.8, 1.0))
        ]
        figures = {"auc": 0.53, "auc_low": 0.5, "auc_high": 0.56, "tpr_at_1_percent_fpr": 0.02, "tpr_at_0.1_percent_fpr": None, "members": 300, "others": 300}
        lists = {
            "robustness": variations,
            "privacy": [{"attack": "loss, distilled", **figures, "note": "trained by its recipe"}],
            "trials": [{"examples": ATTACK[:30], "accuracy_mean": 0.61, "orders": [1, 2], "calibrated": True, "note": "SmolLM"}],
        }
        add_lists(folder / "results.json", "distilled", lists, config, environment)
        lines = [{"stage": "distill", "step": step, "loss": 0.7 - step / 200} for step in range(1, 41)]
        lines += [{"stage": "distill", "step": step, "validation_accuracy": 0.6 + step / 400} for step in (20, 40)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "commands.txt").write_text(f"2026-01-01 10:00:00 python -m ddllm.main --config=x.py --config.data.source={ATTACK}\n")
        rng = np.random.default_rng(1)
        shape = rng.standard_normal((3, 2, 12, 8)), np.ones((3, 2, 12)), rng.standard_normal((3, 2, 2)), rng.standard_normal((3, 8)) - 3
        arrays = [part.astype(np.float32) for part in shape]
        head = {"kind": "mean", "classes": 2, "deviation": 0.02, "start": "zero", "seed": 0}
        card = {"base_model": {"name": ATTACK, "fingerprint": "0", "hidden": 8}, "head": head, "config": config, "preprocessing": {"text_length": 48}}
        save_distilled(folder / "distilled", DistilledData(*arrays), Recipe("unrestricted"), ("fresh", "rotten"), **card)
        write_json(folder / "look.json", make_look())
        return folder

    return make
