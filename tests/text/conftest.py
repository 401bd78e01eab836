"""A small run that distils text, and what it prepares."""

from pathlib import Path

import pytest

from ddllm.main import parse
from ddllm.stages import open_run

QUICKSTART = str(Path(__file__).resolve().parents[2] / "configs" / "quickstart.py")


@pytest.fixture(scope="session")
def shallow_model(make_model):
    """A model of one layer."""
    return make_model(16, 1)


@pytest.fixture(scope="session")
def make_line(shallow_model, tiny_corpus):
    """make(workdir, mode, **overrides) -> command line of a small run."""

    def make(workdir, mode="text", **overrides):
        values = {
            "model.name": shallow_model,
            "model.head_deviation": 0.3,
            "data.source": tiny_corpus,
            "data.test": "test",
            "data.length": 12,
            "distill.length": 7,
            "distill.batches": 1,
            "distill.examples_per_class": 2,
            "distill.passes": 1,
            "distill.initial": "real",
            "distill.head": "redrawn",
            "distill.outer_steps": 4,
            "distill.batch_size": 8,
            "distill.validate_every": 2,
            "distill.checkpoint_every": 3,
            "distill.rate_embeddings": 0.1,
            "evaluate.heads": 1,
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


@pytest.fixture(scope="session")
def prepared(make_line, tmp_path_factory):
    """Data and model of the small run."""
    command = parse(make_line(tmp_path_factory.mktemp("prepared") / "run"))
    with (run := open_run(command.config, command.folder)).workdir:
        return run.prepared
