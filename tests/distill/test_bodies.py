"""Bodies to start from: made once, drawn by the key, of one shape, and unknown to evaluation."""

import json
import shutil

import jax
import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.distill.bodies import check_shape, gather_bodies, pool_seconds
from ddllm.errors import UserError
from ddllm.models.learner import Start
from ddllm.models.pretrained import load_pretrained
from ddllm.prepare import prepare
from ddllm.runtime.metrics import Metrics, read_metrics


def other_start(step) -> Start:
    """Parameters that give another loss than the step's own."""
    return Start(*jax.tree.map(lambda x: 1.5 * np.asarray(x), (step.start.body, step.start.words)))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 2)])
def test_a_step_starts_from_the_body_that_its_key_draws(layerless, make_step, make_batch, sizes):
    plain, state = make_step(layerless, sizes)[:2]
    step = make_step(layerless, sizes, others=(other_start(plain),))[0]
    seen = set()
    for seed in range(6):
        key = jax.random.key(seed)
        own, found = (float(made.gradient(state.learned, make_batch(), key)[0]) for made in (plain, step))
        drawn = step.draw_start(key)
        moved = not np.allclose(drawn.body["embeddings"]["norm"]["scale"], plain.start.body["embeddings"]["norm"]["scale"])
        assert (abs(found - own) > 1e-4) == moved
        seen.add(moved)
        # What is validated starts from the pretrained body.
        jax.tree.map(np.testing.assert_array_equal, step.train(state.learned, key), plain.train(state.learned, key))
    assert seen == {True, False}
    assert step.begin._cache_size() == 1 and step.measure._cache_size() == 1, "a body needed programs of its own"


def test_they_are_made_once_and_gathered_again(tiny_model, tiny_corpus, tmp_path):
    config = default_config()
    config.model.name, config.model.head = str(tiny_model), "mean"
    config.data.update({"source": str(tiny_corpus), "length": 12})
    config.distill.update({"length": 6, "bodies": (str(tiny_model),), "pool": 2, "pool_steps": 8, "batch_size": 8})
    config.finetune.update({"rate": 3e-3, "batch_size": 8})
    config.runtime.devices = 1
    prepared = prepare(config, tmp_path / "tokens")

    def gather():
        return gather_bodies(prepared, tmp_path / "bodies", lambda: Metrics(tmp_path / "metrics.jsonl"))

    bodies = gather()
    assert len(bodies) == 3
    jax.tree.map(np.testing.assert_array_equal, bodies[0].body, prepared.pretrained.body)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [max(line["step"] for line in lines if line["stage"] == f"body-{number}") for number in range(2)] == [4, 8]
    kernels = [start.body["layers"]["00"]["feed_forward"]["up"]["kernel"] for start in (prepared.pretrained, *bodies[1:])]
    assert all(np.abs(kernels[a] - kernels[b]).max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))
    assert all(isinstance(leaf, np.ndarray) for start in bodies for leaf in jax.tree.leaves(start.body))
    for one, other in zip(bodies, gather(), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert read_metrics(tmp_path / "metrics.jsonl") == lines
    ends = [max(line["elapsed"] for line in lines if line["stage"] == f"body-{number}") for number in range(2)]
    assert pool_seconds(Metrics(tmp_path / "metrics.jsonl"), 2) == sum(ends) > 0


def test_another_shape_or_vocabulary_is_refused(tiny_model, tmp_path):
    pretrained = load_pretrained(str(tiny_model))
    check_shape(pretrained, pretrained)
    shutil.copytree(tiny_model, tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(content | {"num_attention_heads": 4}))
    with pytest.raises(UserError, match="cannot stand in for .* it has heads 4 instead of 2; give checkpoints"):
        check_shape(pretrained, load_pretrained(str(tmp_path / "model")))
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    tokenizer = (tmp_path / "model" / "tokenizer.json").read_text()
    (tmp_path / "model" / "tokenizer.json").write_text(tokenizer.replace('"plot"', '"yarn"'))
    with pytest.raises(UserError, match="another vocabulary in its tokenizer"):
        check_shape(pretrained, load_pretrained(str(tmp_path / "model")))
