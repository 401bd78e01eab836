"""The stage privacy: a set that was made of training texts gives them away, one that was not does not; and a second start goes on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.distill.dataset import raw_rate
from ddllm.errors import UserError
from ddllm.privacy.audit import audit
from ddllm.privacy.checks import validate_privacy
from ddllm.privacy.membership import attack_distilled, attack_full, choose_victims, text_losses
from ddllm.privacy.references import attack_random, train_references
from ddllm.report.results import read_results
from ddllm.stages import load_scored, privacy


def test_losses_are_in_the_order_of_the_texts(distilled_run):
    prepared, _ = load_scored(distilled_run)
    head = prepared.learner.init_head(jax.random.key(0), prepared.start.pooler)
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal(head["out"]["kernel"].shape), jnp.float32)
    params = {"body": prepared.start.body, "head": {**head, "out": {**head["out"], "kernel": kernel}}}
    split = prepared.tokens.test.take(np.arange(12))
    together = text_losses(prepared, prepared.learner, params, split)
    alone = [text_losses(prepared, prepared.learner, params, split.take(np.array([row])))[0] for row in range(12)]
    assert len(np.unique(split.lengths)) > 2 and np.ptp(together) > 0.1
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    # Attacks on another model's losses ask of the same texts, with the word table that was trained with it.
    victims = choose_victims(prepared, 20, 0)
    hard = victims.easy_m + 100, victims.easy_n
    rows, other = (attack_full(prepared, params, factor * prepared.start.words, victims, hard) for factor in (1, 2))
    names = ["loss, full data", "calibrated loss, full data", "difficulty-calibrated loss, full data"]
    assert [row["attack"] for row in rows] == names and rows != other
    assert rows[2]["auc"] == 1 > rows[1]["auc"]
    losses = [text_losses(prepared, prepared.learner, params, part) for part in (victims.members, victims.others)]
    assert rows[0]["auc"] == pytest.approx(np.mean(losses[0][:, None] < losses[1][None]))


def test_a_set_that_holds_its_members_gives_them_away(distilled_run):
    """Trained long on texts as they stand, with labels by chance, which can only be remembered: the more so, the lower the loss with just these labels."""
    prepared, distilled = load_scored(distilled_run)
    victims, train = choose_victims(prepared, 40, 0), prepared.tokens.train
    words, rows, rng = np.asarray(prepared.pretrained.words), victims.rows[:8], np.random.default_rng(0)
    labels, ids = rng.integers(2, size=8).astype(np.int32), train.ids[rows]
    mask = (np.arange(ids.shape[1])[None] < train.lengths[rows][:, None]).astype(np.float32)
    rates = np.full((200, distilled.data.rates.shape[1]), raw_rate(0.1), np.float32)
    one_hot = np.eye(2, dtype=np.float32)[labels]
    data = replace(distilled.data, embeddings=words[ids][None], mask=mask[None], labels=one_hot[None], rates=rates)
    leaky = replace(distilled, data=data, recipe=replace(distilled.recipe, passes=200))
    others = replace(victims.others, labels=rng.integers(2, size=len(victims.others)).astype(np.int32))

    def ask(told):
        members = replace(train.take(rows), labels=told)
        asked = replace(victims, members=members, others=others, rows=rows, easy_m=victims.easy_m[:8])
        return attack_distilled(prepared, leaky, asked, (asked.easy_m, asked.easy_n))[0]

    # Of labels by chance half are right anyway, so that perfect memory would come to 3/4.
    assert ask(labels)["auc"] > 0.68 and ask(labels)["auc_low"] > 0.55 and ask(1 - labels)["auc"] < 0.32


def test_the_stage(distilled_run, capsys):
    privacy(distilled_run)
    assert "no fully fine-tuned model" in capsys.readouterr().err
    results = read_results(distilled_run.workdir.results)
    found = {row["attack"]: row for row in results["privacy"]}
    assert list(found) == [
        *("loss, distilled", "calibrated loss, distilled", "difficulty-calibrated loss, distilled"),
        *("loss, random real examples", "calibrated loss, random real examples"),
        *(f"{name}, random real examples themselves" for name in ("loss", "difficulty-calibrated loss", "LiRA offline")),
    ]
    for row in found.values():
        assert 0 <= row["auc_low"] <= row["auc"] <= row["auc_high"] <= 1 and row["others"] == 48
        assert row["tpr_at_1_percent_fpr"] is None and row["note"].endswith("too few others for a false positive rate of 1 % or 0.1 %")
    near = {row["measure"]: row for row in results["nearness"]}
    real = near["cosine of features, random training texts"]
    assert real["nearest"] == pytest.approx(1) and near["cosine of features, held-out texts"]["nearest"] < 1
    # The distilled examples are training texts as they stand, and have all their words.
    assert near["runs of 2 tokens, distilled"]["nearest"] == 1 > near["runs of 2 tokens, held-out texts"]["nearest"]
    before = distilled_run.workdir.privacy.read_bytes()
    privacy(distilled_run)
    assert distilled_run.workdir.privacy.read_bytes() == before and read_results(distilled_run.workdir.results)["privacy"] == results["privacy"]


def test_real_examples_are_as_many_as_distilled_ones(distilled_run):
    prepared, distilled = load_scored(distilled_run)
    victims, data = choose_victims(prepared, 20, 0), distilled.data
    twice = data.replace(**{name: np.concatenate([array, array]) for name, array in data.batches.items()})
    for given in (data, twice):
        references = train_references(prepared, given, victims, 0.1, 1)
        assert {len(rows) for rows in references.picked} == {given.examples}
    assert twice.examples == 2 * data.examples


def test_where_no_other_training_text_is_left(distilled_run, capsys):
    prepared, distilled = load_scored(distilled_run)
    victims = choose_victims(prepared, 4, 0)
    references = train_references(prepared, distilled.data, victims, 0.1, 1)
    rows = attack_random(prepared, victims, replace(references, picked=[victims.rows] * len(references.picked)))
    assert rows and all("random real examples themselves" in row["attack"] for row in rows)
    assert "none is left to attack" in capsys.readouterr().err


def test_a_start_that_was_killed_goes_on(distilled_run, tmp_path, monkeypatch):
    prepared, distilled = load_scored(distilled_run)
    kept = tmp_path / "privacy.json"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ddllm.privacy.audit.compare_nearness", stop)
        with pytest.raises(KeyboardInterrupt):
            audit(prepared, distilled, [], None, kept)
        assert kept.exists()
    with monkeypatch.context() as patch:
        patch.setattr("ddllm.privacy.audit.attack_distilled", stop)  # is not called again
        whole = audit(prepared, distilled, [], None, kept)
        assert len(whole["privacy"]) == 8 and whole["nearness"]
        other = replace(distilled, card=distilled.card | {"files": {"distilled.safetensors": "another"}})
        with pytest.raises(KeyboardInterrupt):
            audit(prepared, other, [], None, kept)


def test_values_that_cannot_be_meant(tiny_config):
    config = tiny_config.copy_and_resolve_references()
    for key, value, message in (
        ("texts", 0, "config.privacy.texts is 0"),
        ("shadows", -2, "config.privacy.shadows is -2, but must be a whole number that is not negative"),
        ("shadow_steps", -1, "config.privacy.shadow_steps is -1"),
        ("shadows", 3, "config.privacy.shadows is 3, but shadow sets come in pairs"),
    ):
        asked = config.privacy.copy_and_resolve_references()
        asked[key] = value
        with pytest.raises(UserError, match=message):
            validate_privacy(asked)
