"""How readable texts are: figures against their definitions, beside real sentences, in the results of a run."""

import json
import math

import numpy as np
import pytest

from ddllm.errors import UserError
from ddllm.main import main
from ddllm.text.grammar import PACKAGE, mistakes
from ddllm.text.judge import as_read, judge_texts, measure, real_sets
from ddllm.text.likelihood import open_language_model

FIGURES = {"perplexity", "nll_per_word", "distinct_1", "distinct_2", "repeated_4"}


@pytest.fixture(scope="module")
def judge(make_decoder):
    return open_language_model(str(make_decoder()))


def test_figures_are_of_all_texts_together(judge):
    texts = ["a good film, a good film", "the plot", "dull !"]
    losses, tokens = judge.losses(["a good film, a good film", "the plot", "dull!"])
    figures = measure([texts], judge)
    assert figures["perplexity"] == pytest.approx(math.exp(losses.sum() / tokens.sum()))
    assert figures["nll_per_word"] == pytest.approx(losses.sum() / (7 + 2 + 2))
    assert figures["distinct_2"] == pytest.approx(6 / 8) and figures["repeated_4"] == 0
    # Sets share the likelihood, and each has repetitions of its own.
    apart = measure([texts, ["a good film a good film", "a film"]], judge)
    assert apart["distinct_2"] == pytest.approx((6 / 8 + 4 / 6) / 2) and apart["perplexity"] != pytest.approx(figures["perplexity"])
    assert measure([[*texts, " "], [""]], judge) == figures
    for empty in ([], [[]], [["a film"], []], [[" "]]):
        with pytest.raises(UserError, match="no text to judge"):
            measure(empty, judge)


def test_real_sentences_stand_beside(prepared, judge):
    sets = real_sets(prepared, 4)
    assert len(sets) == 50 and {len(texts) for texts in sets} == {4} and len({tuple(texts) for texts in sets}) == 50
    found = judge_texts(prepared, [["good film"] * 4], judge)
    alone = measure([["good film"] * 4], judge)
    assert {name: found[name] for name in alone} == alone and FIGURES <= set(alone)
    assert found["distinct_2_real"] == pytest.approx(np.mean([measure([texts], judge)["distinct_2"] for texts in sets]))
    assert found["distinct_2_real"] > found["distinct_2"] == 1 / 4 and found["judge"] == judge.name
    assert as_read(prepared, ["GOOD  nonsenseword film"]) == ["film"], "as the encoder's vocabulary has it"


def test_a_checker_of_grammar_where_it_is_installed():
    pytest.importorskip(PACKAGE)
    good, bad = "This is a test of the film.", "This is an test of the the film."
    assert mistakes([good]) == 0 and mistakes([bad]) == pytest.approx(100 * 2 / 9) and mistakes([good, bad]) == pytest.approx(100 * 2 / 17)


def test_a_run_records_what_the_judge_says(make_line, make_decoder, tmp_path, capsys):
    folder = make_decoder("llama", 1)
    assert main(make_line(tmp_path / "run", text__route="splice", text__judge=folder)) == 0
    [row] = [row for row in json.loads((tmp_path / "run" / "results.json").read_text())["rows"] if row["name"] == "text (splice)"]
    assert {f"{name}{end}" for name in FIGURES for end in ("", "_real")} <= set(row) and row["judge"] == folder.name and not row["judge_took_part"]
    texts = [json.loads(line)["text"] for line in (tmp_path / "run" / "text" / "splice" / "text.jsonl").read_text().splitlines()]
    assert row["perplexity"] == pytest.approx(measure([texts], open_language_model(str(folder)))["perplexity"])
    assert f"times that of real sentences ({row['perplexity_real']:.0f})" in row["note"]
    # The same run may be judged by another model, or by none.
    other = make_decoder("gpt2", 2)
    assert main(make_line(tmp_path / "run", text__route="splice", text__judge=other)) == 0
    [again] = [row for row in json.loads((tmp_path / "run" / "results.json").read_text())["rows"] if row["name"] == "text (splice)"]
    assert again["accuracy_mean"] == row["accuracy_mean"] and again["perplexity"] != row["perplexity"]
    assert main(make_line(tmp_path / "other", text__judge=tmp_path / "nowhere")) == 2
    assert "does not exist" in capsys.readouterr().err
