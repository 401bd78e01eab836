"""The loss of whole texts against transformers' own, and what cannot be scored."""

from importlib.util import find_spec

import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.prompt.decoders import PACKAGE
from ddllm.text.likelihood import LanguageModel, open_language_model

TEXTS = ["a good film", "the plot", "lovely actor was the dull story negative", "film"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_is_that_of_transformers(make_decoder, family):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_decoder(family)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    wanted, counts = [], []
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            wanted.append(float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1))
        counts.append(ids.shape[1] - 1)
    for size in (1, 3, 16):
        losses, tokens = open_language_model(str(folder)).losses(TEXTS) if size == 16 else LanguageModel("tiny", folder, size).losses(TEXTS)
        np.testing.assert_allclose(losses, wanted, atol=1e-4)
        assert tokens.tolist() == counts
    assert np.std(np.array(wanted) / counts) > 0.1


def test_a_text_is_scored_once(make_decoder, monkeypatch):
    model = open_language_model(str(make_decoder()))
    first, _ = model.losses(TEXTS)
    monkeypatch.setattr(LanguageModel, "_load", lambda self: pytest.fail("the model was asked again"))
    again, _ = model.losses([*reversed(TEXTS), TEXTS[0]])
    np.testing.assert_array_equal(again, [*first[::-1], first[0]])


def test_what_cannot_be_scored(make_decoder, tmp_path):
    model = open_language_model(str(make_decoder()))
    for text in ("", "  "):
        with pytest.raises(UserError, match="has no token for the language model"):
            model.losses(["a film", text])
    with pytest.raises(UserError, match="does not fit the 128 positions"):
        model.losses(["film " * 200])
    with pytest.raises(UserError, match="there is no GGUF file"):
        open_language_model(str(tmp_path / "model.gguf"))


def test_smollm2_knows_a_sentence_from_its_words():
    for package in (PACKAGE, "gguf", "accelerate"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    model = open_language_model("embedded")
    sentence = "this is one of the best films that i have seen in a long time."
    shuffled = "time best a have films one the is seen of long this that in i."
    losses, tokens = model.losses([sentence, shuffled])
    fluent, salad = np.exp(losses / tokens)
    assert fluent < 100 < 5 * fluent < salad
