"""Coordinate search: it never loses, resumes, and keeps texts fluent where that counts."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from ddllm.data.batches import BatchStream
from ddllm.data.tokens import load_tokenizer
from ddllm.distill.gradients import Mixed
from ddllm.distill.outer_step import OuterStep
from ddllm.models.scoring import real_loss
from ddllm.runtime.loop import Diverged
from ddllm.runtime.metrics import Metrics
from ddllm.text.distilled_text import FREE, frame_of, make_text, read_texts
from ddllm.text.fluency import Bigrams, Causal
from ddllm.text.learn import Desk, plan_texts
from ddllm.text.likelihood import open_language_model
from ddllm.text.search import Search, exchange, search


def test_a_search_never_loses_and_goes_on_where_it_was_stopped(prepared, tmp_path):
    def desk(name):
        return Desk(tmp_path / name, lambda: Metrics(tmp_path / f"{name}.jsonl"))

    whole = []
    text = search(prepared, None, desk("whole"), whole.append)
    losses = [float(state.loss) for state in whole]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    # The loss is that of the very text: trained on anew, outside the search.
    planned, data, recipe = plan_texts(prepared)
    batch = BatchStream(prepared.tokens.train, 32, prepared.config.seed, prepared.buckets).batch(0)
    made = make_text(planned, whole[-1].ids, data, recipe)
    step = OuterStep(prepared.learner, recipe, prepared.start, data, Mixed(), optax.sgd(1.0), prepared.mesh)
    params = step.train({"embeddings": made.data.embeddings}, jax.random.key(prepared.config.seed))
    assert float(real_loss(params, prepared.learner, prepared.start.words, batch)[0]) == pytest.approx(losses[-1], rel=1e-5)

    def stop(state):
        if int(state.step) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(prepared, None, desk("broken"), stop)
    rest = []
    again = search(prepared, None, desk("broken"), rest.append)
    assert len(rest) < len(whole) and [float(state.loss) for state in rest] == losses[-len(rest) :]
    np.testing.assert_array_equal(text.ids, again.ids)


def test_a_loss_that_is_not_a_number_is_the_highest(prepared, tmp_path, monkeypatch):
    found = []
    search(prepared, None, Desk(tmp_path, lambda: Metrics(None)), found.append)
    real = Search.losses

    def losses(self, texts):
        values = real(self, texts)
        return np.where(np.arange(len(values)) == 0, np.nan, values) if len(texts) > 1 else values

    monkeypatch.setattr(Search, "losses", losses)
    again = []
    search(prepared, None, Desk(tmp_path / "again", lambda: Metrics(None)), again.append)
    assert float(again[-1].loss) < float(again[0].loss) + 1e-9 and np.isfinite(float(again[-1].loss))
    assert any(int(np.sum(np.asarray(one.ids) != np.asarray(other.ids))) for one, other in zip(again, again[1:], strict=False))


def test_training_that_leads_to_no_numbers_ends_the_search(prepared, tmp_path):
    config = prepared.config.copy_and_resolve_references()
    config.distill.initial_rate = 1e30
    with pytest.raises(Diverged, match="not finite.*config.distill.initial_rate"):
        search(replace(prepared, config=config), None, Desk(tmp_path, lambda: Metrics(None)))


def test_without_another_token_a_text_stays(prepared, tmp_path):
    config = prepared.config.copy_and_resolve_references()
    config.text.words, config.text.rounds = str(tmp_path / "words.txt"), 2
    (tmp_path / "words.txt").write_text("film")
    states = []
    search(replace(prepared, config=config), None, Desk(tmp_path, lambda: Metrics(None)), states.append)
    assert len(states) == 2 and len({float(state.loss) for state in states}) == 1
    np.testing.assert_array_equal(states[0].ids, states[1].ids)


def test_fluency_is_that_of_a_language_model(prepared, tmp_path):
    size = len(prepared.pretrained.words)
    bigrams = Bigrams.of(prepared.tokens.train, size)
    for token in (2, 7):
        assert np.exp(bigrams.log_next(token)).sum() == pytest.approx(1)
        assert bigrams.log_next(token)[9] == pytest.approx(bigrams.log_previous(9)[token])
    planned, data, _ = plan_texts(prepared)
    frame = frame_of(planned, data.mask)
    ids = np.where(frame == FREE, 5, frame)
    before, gains = bigrams.surprise(ids, data.mask), bigrams.gains(ids, data.mask)
    for place, token in ((1, 20), (9, 30), (5, 8)):
        after = bigrams.surprise(exchange(ids, [(place, token)]), data.mask)
        assert before - after == pytest.approx(gains[place, token], abs=1e-5)
    assert np.abs(gains).max() > 0.01


def test_a_weight_on_fluency_makes_texts_more_fluent(prepared, tmp_path):
    config = prepared.config.copy_and_resolve_references()
    config.text.fluency_weight, config.text.rounds = 10.0, 3
    states = []
    weighted = replace(prepared, config=config)
    search(weighted, None, Desk(tmp_path / "fluent", lambda: Metrics(None)), states.append)
    bigrams = Bigrams.of(prepared.tokens.train, len(prepared.pretrained.words))
    _, data, _ = plan_texts(weighted)
    surprise = [bigrams.surprise(np.asarray(state.ids), data.mask) for state in states]
    assert surprise == sorted(surprise, reverse=True) and surprise[-1] < surprise[0]


def test_a_causal_model_has_the_last_word(prepared, make_decoder, tmp_path):
    config = prepared.config.copy_and_resolve_references()
    config.text.fluency_weight, config.text.fluency_model, config.text.fluency_candidates, config.text.rounds = 5.0, str(make_decoder()), 12, 3
    weighted, states = replace(prepared, config=config), []
    search(weighted, None, Desk(tmp_path / "causal", lambda: Metrics(None)), states.append)
    planned, data, recipe = plan_texts(weighted)
    tokenizer = load_tokenizer(prepared.pretrained.folder)
    causal = Causal(open_language_model(config.text.fluency_model), tokenizer)
    surprises = causal.surprises([np.asarray(state.ids) for state in states], data.mask)
    assert surprises[-1] < surprises[0]
    # What is lowered is the loss of the text and its surprise: both anew, outside the search.
    losses, _ = causal.model.losses(read_texts(tokenizer, np.asarray(states[-1].ids), data.mask))
    assert surprises[-1] == pytest.approx(losses.sum() / data.mask.sum())
    frame, batch = frame_of(planned, data.mask), BatchStream(prepared.tokens.train, 32, config.seed, prepared.buckets).batch(0)
    size = len(prepared.pretrained.words)
    work = Search(planned, data, recipe, frame, np.arange(size) > 3, batch, Bigrams.of(prepared.tokens.train, size), causal)
    plain = Search(planned, data, recipe, frame, np.arange(size) > 3, batch)
    ids = np.asarray(states[-1].ids)
    assert float(states[-1].loss) == pytest.approx(float(plain.losses([ids])[0]) + 5 * surprises[-1], rel=1e-5)
    # Of the looked-at exchanges those are tried whose estimated loss and surprise are lowest; with a great weight, the most fluent ones.
    work.fluency = 1e6
    work.looked_at, work.candidates = 12, 12
    everything = work.promising(ids, 0)
    work.candidates = 4
    chosen = work.promising(ids, 0)
    fluent = causal.surprises([exchange(ids, [each]) for each in everything], data.mask)
    assert len(everything) == 12 and chosen == [everything[place] for place in np.argsort(fluent, kind="stable")[:4]]
