"""A small run that distils text, and what it prepares."""

import pytest

from ddllm.main import parse
from ddllm.stages import open_run


@pytest.fixture(scope="session")
def shallow_model(make_model):
    """A model of one layer."""
    return make_model(16, 1)


@pytest.fixture(scope="session")
def make_line(small_runs, shallow_model):
    """make(workdir, mode, **overrides) -> command line of a small run."""
    return small_runs(
        "text",
        model__name=shallow_model,
        data__length=8,  # one padded length, so that little is compiled
        distill__length=7,
        distill__batches=1,
        distill__examples_per_class=2,
        distill__passes=1,
        distill__initial="real",
        distill__head="redrawn",
        distill__outer_steps=4,
        distill__validate_every=2,
        distill__checkpoint_every=3,
        distill__rate_embeddings=0.1,
        evaluate__heads=1,
        text__rounds=4,
        text__candidates=4,
        text__k=4,
        text__pool=6,
        text__search_texts=32,
        runtime__devices=1,
        runtime__tensorboard=False,
    )


@pytest.fixture(scope="session")
def prepared(make_line, tmp_path_factory):
    """Data and model of the small run."""
    command = parse(make_line(tmp_path_factory.mktemp("prepared") / "run"))
    with (run := open_run(command.config, command.folder)).workdir:
        return run.prepared
