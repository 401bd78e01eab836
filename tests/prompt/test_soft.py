"""Soft prompts: scores against transformers' inputs_embeds, learning that helps and goes on after a stop, and prompts that are kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.data.splits import Split
from ddllm.errors import UserError
from ddllm.prompt.sequences import arrange
from ddllm.prompt.soft import learn_or_load, load_soft_model, score_texts
from ddllm.prompt.templates import Template
from ddllm.runtime.metrics import Metrics

TEMPLATE = Template("Review : {text} Sentiment : {label}", ("positive", "very negative", "negative"))
SPLIT = Split(["a good film", "the dull story", "was the plot very bad", "lovely"] * 2, np.array([0, 2, 2, 0] * 2, np.int32))


@pytest.fixture(scope="module")
def soft(make_decoder):
    return load_soft_model(str(make_decoder("llama")), TEMPLATE)


def test_scores_are_those_of_transformers(soft):
    import torch
    from transformers import AutoModelForCausalLM

    model, folder = soft
    prompt = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    questions = [model.question(text) for text in SPLIT.texts[:3]]
    found = score_texts(model, jnp.asarray(prompt), questions, 2)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    for row, question in zip(found, questions, strict=True):
        for score, continuation in zip(row, TEMPLATE.continuations, strict=True):
            before, ids = (model.tokenizer(text)["input_ids"] for text in (question, question + continuation))
            inputs = torch.cat([torch.tensor(prompt), theirs.get_input_embeddings()(torch.tensor(ids))])[None]
            with torch.no_grad():
                log_TV = torch.log_softmax(theirs(inputs_embeds=inputs).logits[0], dim=-1)
            wanted = sum(float(log_TV[3 + place - 1, ids[place]]) for place in range(len(before), len(ids)))
            assert score == pytest.approx(wanted, abs=1e-4)


def test_a_text_may_reach_to_the_last_position(make_decoder):
    model, _ = load_soft_model(str(make_decoder("gpt2")), TEMPLATE)
    prompt = jnp.zeros((10, 16))
    words = next(count for count in range(128, 0, -1) if longest(model, "film " * count) == model.config.positions - 10)
    assert np.isfinite(score_texts(model, prompt, [model.question("film " * words)], 2)).all()
    with pytest.raises(UserError, match="does not fit"):
        score_texts(model, prompt, [model.question("film " * (words + 1))], 2)


def longest(model, text):
    """Tokens of the longest sequence of a question."""
    return max(len(ids) for ids in arrange(model.tokenizer, [model.question(text)], TEMPLATE.continuations).ids)


class Stopped(Exception):
    pass


def test_learning_goes_on_after_a_stop(soft, tmp_path, monkeypatch):
    model, folder = soft
    config = default_config().prompt
    config.update({"soft_tokens": 2, "soft_steps": 24, "soft_batch_size": 4, "soft_rate": 0.1, "soft_validations": 2, "soft_validation_texts": 4})
    figures = []

    class Kept(Metrics):
        def write(self, step, values, stage):
            figures.append((step, values["loss"]))
            if stop == step:
                raise Stopped
            super().write(step, values, stage)

    def learn(place):
        return learn_or_load(config, model, place, folder, (SPLIT, SPLIT), 0, lambda: Kept(None))

    stop = 0
    whole = learn(tmp_path / "whole")
    losses = [loss for _, loss in figures]
    assert len(losses) == 24 and np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    figures.clear()
    stop = 17
    with pytest.raises(Stopped):
        learn(tmp_path / "broken")
    stop = 0
    figures.clear()
    np.testing.assert_array_equal(learn(tmp_path / "broken"), whole)
    assert 1 < figures[0][0] < 17
    figures.clear()
    np.testing.assert_array_equal(learn(tmp_path / "whole"), whole)
    assert not figures, "a prompt that is there was learned again"
    config.soft_tokens = 120
    with pytest.raises(UserError, match="does not fit"):
        learn(tmp_path / "long")
