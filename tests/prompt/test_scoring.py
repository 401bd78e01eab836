"""Log-likelihoods of labels against transformers' own loss, calibration against its definition, and answers that are kept."""

import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.prompt.cache import Answers
from ddllm.prompt.causal import CausalModel, open_causal
from ddllm.prompt.evaluate import Prefixes, score_model
from ddllm.prompt.examples import orders_of
from ddllm.prompt.scoring import Questions, accuracy, calibrate, score_prefix
from ddllm.prompt.templates import Example, Template

PREFIX = "Review : a good film Sentiment : positive Review : the dull story Sentiment : negative "
TEXTS = ["Review : the film Sentiment :", "Review : lovely actor was the plot Sentiment :", "Review : a plot Sentiment :"]


def losses(folder, prompts, continuations):
    """Log-likelihoods by the model's own loss over the last tokens, one sequence at a time and without anything shared."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    scores = np.zeros((len(prompts), len(continuations)))
    for row, prompt in enumerate(prompts):
        for column, continuation in enumerate(continuations):
            ids = torch.tensor(tokenizer([prompt + continuation])["input_ids"])
            labels = ids.clone()
            labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
            with torch.no_grad():
                scores[row, column] = -float(model(input_ids=ids, labels=labels).loss) * int((labels != -100).sum())
    return scores


@pytest.mark.parametrize("family", ["gpt2", "llama", "openai-gpt", "mamba", "lfm2"])
@pytest.mark.parametrize("labels", [(" positive", " negative"), (" positive", " very positive", " very negative")])
def test_log_likelihoods(make_decoder, tmp_path, family, labels):
    folder = make_decoder(family)
    prompts = [PREFIX + text for text in TEXTS]
    wanted = losses(folder, prompts, labels)
    counted = []
    for size in (1, 2, 16):
        model = open_causal(str(folder), size, Answers(tmp_path / f"{size}.jsonl"))
        np.testing.assert_allclose(model.score(prompts, labels, counted.append), wanted, atol=1e-4)
    assert sum(counted) == 3 * len(prompts) and wanted.std() > 0.1


def test_answers_are_kept(make_decoder, tmp_path, monkeypatch):
    folder, path = make_decoder(), tmp_path / "answers.jsonl"
    prompts = [PREFIX + text for text in TEXTS]
    scores = open_causal(str(folder), 2, Answers(path)).score(prompts, (" positive", " negative"))
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(TEXTS)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:9])  # killed in the middle of a line
    again = open_causal(str(folder), 2, Answers(path))
    np.testing.assert_allclose(again.score(prompts, (" positive", " negative")), scores, atol=1e-5)
    assert path.read_bytes().count(b"\n") == 3
    monkeypatch.setattr(CausalModel, "_load", lambda self: pytest.fail("the model was asked again"))
    open_causal(str(folder), 2, Answers(path)).score(prompts, (" positive", " negative"))
    path.write_bytes(b"nonsense\n" + lines[0])
    with pytest.raises(UserError, match="line 1: this is no answer"):
        Answers(path)


def test_what_cannot_be_scored(make_decoder, tmp_path):
    model = open_causal(str(make_decoder()), 2, Answers(tmp_path / "a"))
    with pytest.raises(UserError, match="does not fit the 128 positions"):
        model.score(["film " * 200], (" positive",))
    with pytest.raises(UserError, match="no token for"):
        model.score(["film"], ("", " positive"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be read as a causal language model"):
        open_causal(str(tmp_path / "empty"), 2, Answers(tmp_path / "b")).score(["film"], (" good",))
    with pytest.raises(UserError, match="there is no GGUF file"):
        open_causal(str(tmp_path / "model.gguf"), 2, Answers(tmp_path / "c"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but no more")
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    with pytest.raises(UserError, match="cannot be (read as a GGUF|converted)"):
        open_causal(str(tmp_path / "model.gguf"), 2, Answers(tmp_path / "d"))


@pytest.mark.parametrize("family", ["xlnet", "bert"])
def test_a_model_that_looks_ahead_is_refused(make_decoder, tmp_path, family):
    with pytest.raises(UserError, match="holds a (XLNet|Bert)LMHeadModel, whose predictions of a token depend on the tokens behind it"):
        open_causal(str(make_decoder(family)), 2, Answers(tmp_path / "a")).score(["film"], (" positive", " negative"))


def test_calibration():
    rng = np.random.default_rng(0)
    scores, blanks = rng.standard_normal((6, 3)), 3 * rng.standard_normal((2, 3))
    p, p_blank = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (scores, blanks))
    wanted = (np.diag(1 / p_blank.mean(axis=0)) @ p.T).T
    np.testing.assert_allclose(np.exp(calibrate(scores, blanks)), wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-6)
    assert (calibrate(scores, blanks).argmax(1) != scores.argmax(1)).any()
    # One that says the same of every text has no opinion left, and no opinion is no right answer.
    assert accuracy(np.zeros((4, 2)), np.array([0, 0, 1, 1])) == 0 and accuracy(scores, scores.argmax(axis=1)) == 1


def test_orders_differ():
    examples = [Example(str(number), 0) for number in range(3)]
    orders = orders_of(examples, 99, 0)
    assert len({tuple(example.text for example in order) for order in orders}) == len(orders) == 6
    assert len(orders_of(examples, 4, 0)) == 4 and len(orders_of(examples[:1], 4, 0)) == 1


class Known:
    """A backend that gives the scores of a list, prompt by prompt."""

    name, how = "known", "as told"

    def __init__(self, scores, calibrated):
        self.scores, self.calibrated = scores, calibrated

    def score(self, prompts, continuations, done):
        done(len(prompts))
        return np.array(self.scores[: len(prompts)], np.float64)

    def close(self):
        pass


def test_texts_without_an_answer_are_counted_and_told(capsys):
    questions = Questions(Template("{text} {label}", ("no", "yes")), ["a", "b", "c", "d"], ["N/A"], np.array([0, 1, 1, 0]))
    prefixes = [Prefixes("no examples", 0, [""]), Prefixes("random", 1, ["x ", "y "], "theirs")]
    silent, config = [[-1, -1]] * 3 + [[0, -1]], default_config().prompt
    rows = score_model(config, Known(silent, False), questions, prefixes)
    assert [row["unanswered_mean"] for row in rows] == [0.75, 0.75] and rows[0]["accuracy_mean"] == 0.25
    assert rows[1]["note"] == "theirs; 75.0 % of its answers name no label and count as wrong" and rows[0]["note"].endswith("; " + rows[1]["note"][8:])
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("75 % of the answers name no label") == 1 and "config.prompt.answer_tokens" in said
    rows = score_model(config, Known([[0, -1], [-1, 0], [-1, 0], [-1, -1]], False), questions, prefixes)
    assert rows[1]["unanswered_mean"] == 0.25 and "25.0 %" in rows[1]["note"] and "%" not in capsys.readouterr().err
    rows = score_model(config, Known([[0, -1]] * 4, False), questions, prefixes)
    assert rows[1]["unanswered_mean"] == 0 and rows[1]["note"] == "theirs"
    # Of likeliest tokens without a label calibration would make one: the last blank prefers the first class.
    found = score_prefix(Known([[-5, -5], [-5, -5], [-5, -3], [-4, -5], [-1, -2]], True), questions, "")
    assert found == {"accuracy": 0.25, "uncalibrated": 0.5, "unanswered": 0.5}
