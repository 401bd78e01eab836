"""Full-data fine-tuning learns, keeps the best validation, and decays what it should."""

import jax
import numpy as np
import optax
import pytest

from ddllm.config import default_config
from ddllm.evaluate.finetune import decayed, finetune, finetune_optimizer, full_row, score_finetuned
from ddllm.prepare import prepare
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.metrics import Metrics, read_metrics


def test_learns_and_keeps_the_best(tiny_model, tiny_corpus, tmp_path):
    config = default_config()
    config.model.name, config.model.head = str(tiny_model), "mean"
    config.data.source, config.data.length, config.distill.length = str(tiny_corpus), 12, 6
    config.finetune.update({"epochs": 6.0, "rate": 3e-3, "batch_size": 8, "validations": 5})
    config.runtime.shard = 2
    prepared = prepare(config, tmp_path / "tokens")
    metrics = Metrics(tmp_path / "metrics.jsonl")
    state, seconds = finetune(prepared, 0, Checkpoints(tmp_path / "c", 1), metrics)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    validated = [line for line in lines if "validation_accuracy" in line]
    assert len(validated) == 5 and validated[-1]["step"] == lines[-1]["step"]
    best = max(line["validation_accuracy"] for line in validated)
    assert float(state.best["accuracy"]) == np.float32(best)
    assert int(state.best["step"]) == max(line["step"] for line in validated if line["validation_accuracy"] == best)
    assert score_finetuned(prepared, state)["accuracy"] > 0.9
    assert seconds > 0 and set(state.params) == {"body", "head", "words"}
    up = state.params["body"]["layers"]["00"]["feed_forward"]["up"]["kernel"]
    assert up.shape == (16, 32) and up.sharding.shard_shape(up.shape) == (16, 16)
    # The pretrained parameters are still there, since none of them was given away to a step.
    np.testing.assert_array_equal(prepared.start.words, prepared.pretrained.words)
    assert not np.allclose(state.params["words"], prepared.pretrained.words)


def test_biases_and_norms_do_not_decay(tiny):
    _, params = tiny
    mask = decayed(params)
    assert mask["head"]["out"] == {"kernel": True, "bias": False}
    assert mask["body"]["embeddings"]["position"] is True and mask["body"]["embeddings"]["norm"] == {"scale": False, "bias": False}
    config = default_config().finetune
    config.weight_decay, config.rate, config.warmup = 1.0, 0.1, 0.0
    optimizer = finetune_optimizer(config, 10)
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["body"]["embeddings"]["norm"]["scale"], params["body"]["embeddings"]["norm"]["scale"])
    assert np.abs(moved["head"]["out"]["kernel"]).sum() < np.abs(params["head"]["out"]["kernel"]).sum()


def test_row():
    row = full_row([{"accuracy": 0.8, "f1_macro": 0.7}, {"accuracy": 0.9, "f1_macro": 0.7}], 3.0, 100, default_config().finetune)
    assert abs(row["accuracy_mean"] - 0.85) < 1e-12
    assert abs(row["accuracy_std"] - np.sqrt(0.005)) < 1e-12 and row["runs"] == 2
    assert row["f1_macro_mean"] == pytest.approx(0.7) and row["f1_macro_std"] == pytest.approx(0) and "metric" not in row
    single = full_row([{"pearson": -0.8}], 3.0, 100, default_config().finetune, "pearson", "bfloat16")
    assert single["note"].endswith("chosen on validation, matrix products in bfloat16") and row["note"].endswith("chosen on validation")
    assert single["pearson_std"] == 0.0 and single["metric"] == "pearson" and "accuracy_mean" not in single
