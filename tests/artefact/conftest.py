"""A folder from a run: real texts as they are, disturbed labels, on a tiny encoder with mean pooling."""

import numpy as np
import pytest

from ddllm.artefact.export import export_distilled
from ddllm.config import default_config
from ddllm.distill.plan import first_data, recipe_of
from ddllm.stages import evaluate, open_run


@pytest.fixture(scope="module")
def run(make_model, tiny_corpus, tmp_path_factory):
    config = default_config()
    config.model.update({"name": str(make_model(16, 1)), "head": "mean", "head_deviation": 0.3})
    config.data.update({"source": str(tiny_corpus), "length": 12})
    config.distill.update({"passes": 2, "length": 6, "initial": "real", "head": "zero", "initial_rate": 0.5, "storage": "float16"})
    config.evaluate.update({"heads": 2, "selections": (), "head_texts": 20})
    config.runtime.update({"devices": 1, "compilation_cache": "", "tensorboard": False})
    opened = open_run(config, tmp_path_factory.mktemp("artefact") / "run")
    data = first_data(opened.prepared)
    data = data.replace(labels=data.labels + np.random.default_rng(0).normal(0, 0.1, data.labels.shape).astype(np.float32))
    export_distilled(opened.workdir.distilled, opened.prepared, data, recipe_of(config.distill))
    evaluate(opened)
    return opened
