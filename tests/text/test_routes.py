"""Every route to text, from the command to its folder, on a tiny model and corpus: real rows of the word table, and what is learned for them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.distill.artefact import load_distilled
from ddllm.main import main
from ddllm.models.pretrained import load_pretrained
from ddllm.text.checks import ROUTE_NAMES

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")


@pytest.fixture(scope="module")
def make_line(tiny_model, tiny_corpus):
    """make(workdir, mode, **overrides) -> command line of a small run."""

    def make(workdir, mode="text", **overrides):
        values = {
            "model.name": tiny_model,
            "model.head_deviation": 0.3,
            "data.source": tiny_corpus,
            "data.test": "test",
            "data.length": 12,
            "distill.length": 7,
            "distill.batches": 1,
            "distill.examples_per_class": 2,
            "distill.passes": 2,
            "distill.initial": "real",
            "distill.outer_steps": 6,
            "distill.batch_size": 8,
            "distill.validate_every": 3,
            "distill.checkpoint_every": 3,
            "distill.rate_embeddings": 0.1,
            "evaluate.heads": 2,
            "text.rounds": 4,
            "text.candidates": 4,
            "text.k": 4,
            "text.pool": 6,
            "text.search_texts": 32,
            "runtime.devices": 1,
            "runtime.compilation_cache": "",
            "runtime.tensorboard": False,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        return [f"--config={QUICKSTART}", f"--workdir={workdir}", f"--mode={mode}", *(f"--config.{key}={value}" for key, value in values.items())]

    return make


@pytest.fixture(scope="module")
def all_routes(make_line, tmp_path_factory):
    """A working directory in which every route has been gone."""
    workdir = tmp_path_factory.mktemp("text") / "run"
    assert main(make_line(workdir, "distill,text", text__route=",".join(ROUTE_NAMES), distill__direction_labels=True)) == 0
    return workdir


@pytest.mark.parametrize("route", ROUTE_NAMES)
def test_every_route_gives_rows_of_the_table(all_routes, tiny_model, route):
    folder = all_routes / "text" / route
    distilled, lines = load_distilled(folder), [json.loads(line) for line in (folder / "text.jsonl").read_text().splitlines()]
    words, data = load_pretrained(str(tiny_model)).words, distilled.data
    assert len(lines) == data.examples == 4
    for line, embeddings, mask in zip(lines, data.embeddings.reshape(4, 7, -1), data.mask.reshape(4, 7), strict=True):
        used = mask > 0
        np.testing.assert_array_equal(embeddings[used], np.asarray(words)[line["ids"]])
        assert line["ids"][0] == 2 and line["ids"][-1] == 3 and not {0, 1, 2, 3} & set(line["ids"][1:-1])
        assert len(line["text"].split()) == len(line["ids"]) - 2 and line["label"] in ("negative", "positive")
    assert [line["label"] for line in lines] == 2 * ["negative"] + 2 * ["positive"]
    # Labels of the body are no text: a projection alone keeps what the distilled set has.
    assert (data.directions is not None) == (route == "project")
    rows = {row["name"]: row for row in json.loads((all_routes / "results.json").read_text())["rows"]}
    row = rows["projected" if route == "project" else f"text ({route})"]
    assert row["read_again"] == 1 and row["tokens"] == data.mask.sum() and 0 <= row["accuracy_mean"] <= 1
