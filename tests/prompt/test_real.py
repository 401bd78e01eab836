"""SmolLM2-135M out of its package: converted once, kept, and able to tell praise from blame."""

from importlib.util import find_spec

import numpy as np
import pytest

from ddllm.data.splits import Split
from ddllm.prompt.cache import Answers
from ddllm.prompt.causal import open_causal
from ddllm.prompt.decoders import PACKAGE, convert_gguf, find_embedded_decoder
from ddllm.prompt.scoring import make_questions, score_prefix
from ddllm.prompt.templates import Example, make_template


def test_smollm2(tmp_path):
    for package in (PACKAGE, "gguf", "accelerate"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    model = open_causal("embedded", 8, Answers(tmp_path / "answers.jsonl"))
    template = make_template("sst2", ("negative", "positive"))
    prefix = template.prefix([Example("i hated every minute of it .", 0), Example("a moving , funny film .", 1)])
    texts = ["the best film of the year .", "boring and far too long .", "wonderful acting .", "a complete waste of time .", "dull .", "i loved it ."]
    questions = make_questions(template, Split(texts, np.array([1, 0, 1, 0, 0, 1], np.int32)), 0, 0, ("N/A", ""))
    assert score_prefix(model, questions, prefix)["accuracy"] >= 5 / 6
    folder = convert_gguf(find_embedded_decoder())
    assert {file.name for file in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
