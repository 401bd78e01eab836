"""A run with a distilled data set that was never distilled (real texts, disturbed labels), for everything that is done with one afterwards."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.artefact.base import describe_base
from ddllm.artefact.folder import save_distilled
from ddllm.config import default_config, resolve
from ddllm.distill.plan import first_data, recipe_of
from ddllm.stages import Run, open_run


@pytest.fixture(scope="session")
def tiny_config(make_model, tiny_corpus):
    """A configuration of few short steps on an encoder of one layer."""
    config = default_config()
    config.model.update({"name": str(make_model(16, 1)), "head": "mean", "head_deviation": 0.3})
    config.data.update({"source": str(tiny_corpus), "length": 12})
    config.distill.update({"examples_per_class": 2, "batches": 2, "length": 6, "initial": "real", "head": "zero", "rates": "layer"})
    config.distill.update({"initial_rate": 0.3})
    config.evaluate.update({"heads": 2, "variation_draws": 2, "adam_rates": (1e-3, 3e-2), "tuning_texts": 16})
    config.runtime.update({"devices": 1, "compilation_cache": "", "tensorboard": False})
    return config


@pytest.fixture(scope="session")
def distilled_run(tiny_config, tmp_path_factory) -> Run:
    run = open_run(tiny_config, tmp_path_factory.mktemp("distilled") / "run")
    prepared, data = run.prepared, first_data(run.prepared)
    labels = np.random.default_rng(3).uniform(-0.1, 0.1, data.labels.shape).astype(np.float32)
    save_distilled(
        run.workdir.distilled,
        data.replace(labels=jnp.asarray(data.labels + labels)),
        recipe_of(run.config.distill),
        prepared.tokens.label_names,
        **describe_base(prepared.pretrained, prepared.learner, run.config.data.length),
        distillation_seconds=30.0,
        config=resolve(run.config),
    )
    return run
