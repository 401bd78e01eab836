"""Distilled examples beside real ones: the right tokens, texts and labels, and text that Markdown and the terminal take as text."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ddllm.artefact.folder import load_distilled
from ddllm.data.corpus import load_corpus
from ddllm.main import parse
from ddllm.select.nearest import distilled_features, principal_plane
from ddllm.stages import load_scored, look
from ddllm.text.look import label_values, look_at, markdown_look, plain, print_look
from ddllm.text.look_words import look_at_words


@pytest.fixture(scope="module")
def seen(distilled_run):
    return look_at(*load_scored(distilled_run))


def test_real_texts_are_found_again(distilled_run, seen):
    """The examples are beginnings of real texts (the labels alone were changed), and those that lie nearest are the nearest."""
    prepared, distilled = load_scored(distilled_run)
    corpus, data = load_corpus(distilled_run.config.data).train, distilled.data
    assert seen["total"] == seen["shown"] == 4 and len(seen["examples"]) == 4
    unit_nD, own_ED = (
        features / np.linalg.norm(features, axis=1, keepdims=True)
        for features in (prepared.features, distilled_features(prepared.learner.encoder, prepared.start, data))
    )
    for number, (example, mask) in enumerate(zip(seen["examples"], data.mask.reshape(-1, data.mask.shape[-1]), strict=True)):
        assert len(example["positions"]) == int(mask.sum())
        tokens = [position["tokens"][0] for position in example["positions"]]
        assert tokens[0] == "[CLS]"
        words = [token for token in tokens if token not in ("[CLS]", "[SEP]")]
        assert any(text.split()[: len(words)] == words for text in corpus.texts)
        cosines_n = unit_nD @ own_ED[number]
        order = np.argsort(-cosines_n, kind="stable")[:3]
        assert [near["text"] for near in example["nearest"]] == [corpus.texts[row] for row in order]
        np.testing.assert_allclose([near["cosine"] for near in example["nearest"]], cosines_n[order], atol=1e-5)
        names = ("negative", "positive")
        assert [near["label"] for near in example["nearest"]] == [names[corpus.labels[row]] for row in order]
        for position in example["positions"]:
            assert position["cosines"][0] == pytest.approx(1, abs=1e-4) and position["length"] == pytest.approx(1, abs=1e-3)
            assert position["cosines"] == sorted(position["cosines"], reverse=True)
        assert example["label"] == max(example["values"], key=lambda value: value["value"])["name"]
    assert set(seen["labels"]) == {"negative", "positive"} and seen["groups"] == ["embeddings", "00", "head"]


def test_what_was_learned_beside_the_tables(distilled_run, seen):
    """The embeddings are rows of the word table, so that both columns say the same of them."""
    prepared, distilled = load_scored(distilled_run)
    rows = {row["name"]: (row["learned"], row["table"]) for row in seen["beside"]}
    table, tables = np.asarray(prepared.pretrained.words), prepared.pretrained.body["embeddings"]
    used = distilled.data.mask.reshape(4, -1) > 0
    learned = distilled.data.embeddings.reshape(4, used.shape[1], -1)
    lengths = np.median(np.linalg.norm(learned[used], axis=1)), np.median(np.linalg.norm(table, axis=1))
    assert rows["length, median (beside it the whole word table's)"] == pytest.approx(lengths, rel=1e-3)
    assert all(rows[f"cosine with the nearest token, {name}"] == (pytest.approx(1, abs=1e-4), None) for name in ("median", "least", "greatest"))
    unit = learned / np.linalg.norm(learned, axis=-1, keepdims=True)
    for name, beside in (
        ("its position's row", np.asarray(tables["position"])[: used.shape[1]]),
        *((f"row {row} of the token types", np.asarray(tables["token_type"])[[row]]) for row in (0, 1)),
    ):
        cosines = (unit * (beside / np.linalg.norm(beside, axis=1, keepdims=True))[None]).sum(-1)[used]
        assert rows[f"cosine with {name}, mean"] == pytest.approx([cosines.mean()] * 2, abs=1e-3)
    told = markdown_look(seen, "title")
    mean = rows["cosine with its position's row, mean"][0]
    assert f"| cosine with its position's row, mean | {mean:.3f} |" in told


def test_words_that_go_farthest(distilled_run, seen):
    assert seen["words"] == []
    distilled = load_distilled(distilled_run.workdir.distilled)
    scores = np.zeros((2, 40), np.float32)
    scores[0, [3, 7, 9]], scores[1, 11] = (0.5, -0.25, 0.75), -1
    scored = replace(distilled, data=distilled.data.replace(word_scores=scores))
    told = look_at_words(scored, lambda index: f"<{index}>")
    assert [move["name"] for move in told] == ["negative", "positive"]
    assert told[0]["with"] == [{"word": "<9>", "score": 0.75}, {"word": "<3>", "score": 0.5}] and told[0]["against"] == [{"word": "<7>", "score": -0.25}]
    assert (told[1]["with"], told[1]["against"]) == ([], [{"word": "<11>", "score": -1.0}])
    assert [move["name"] for move in look_at_words(replace(scored, data=scored.data.replace(word_scores=scores[:1])), str)] == ["move 1"]
    shown = io.StringIO()
    print_look(seen | {"words": told}, Console(file=shown, width=200))
    assert "words that go with negative  <9> +0.75, <3> +0.50\n" in shown.getvalue()
    assert "| negative | \\<9\\> +0.75, \\<3\\> +0.50 | \\<7\\> -0.25 |" in markdown_look(seen | {"words": told}, "title")


def test_the_map_is_the_plane_of_real_features(seen):
    rng = np.random.default_rng(0)
    features, queries = rng.standard_normal((60, 5)) * [9, 4, 1, 1, 1] + 3, rng.standard_normal((4, 5))
    near, far, shares = principal_plane(features, queries, 0)
    centred = features - features.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(near), np.abs(centred @ axes[:2].T), atol=1e-9)
    np.testing.assert_allclose(np.abs(far), np.abs((queries - features.mean(0)) @ axes[:2].T), atol=1e-9)
    np.testing.assert_allclose(shares, (sizes**2 / (sizes**2).sum())[:2])
    assert [point[3] for point in seen["map"]["distilled"]] == [1, 2, 3, 4] and len(seen["map"]["real"]) == 144


def test_soft_labels_are_probabilities(distilled_run):
    distilled = load_distilled(distilled_run.workdir.distilled)
    soft = replace(distilled, recipe=replace(distilled.recipe, labels="soft"))
    np.testing.assert_allclose(label_values(soft).sum(axis=1), 1, rtol=1e-6)
    assert not np.allclose(label_values(distilled).sum(axis=1), 1, atol=1e-3)


def test_text_stays_text(seen):
    attack = "a | b\n# <script>alert(1)</script> [x](y) `z` *w* [bold]"
    assert "\n" not in plain(attack) and "\\<script\\>" in plain(attack) and "\\|" in plain(attack)
    changed = json.loads(json.dumps(seen))
    changed["examples"][0]["nearest"][0]["text"] = attack
    shown = io.StringIO()
    print_look(changed, Console(file=shown, width=200))
    assert "[bold]" in shown.getvalue() and "[x](y)" in shown.getvalue()
    told = markdown_look(changed, "title")
    assert told.count("\n#### Example") == 4 and "<script>" not in told and "\n# " not in told


def test_the_stage(distilled_run, capsys):
    look(distilled_run)
    folder = distilled_run.workdir.path
    assert json.loads((folder / "look.json").read_text())["shown"] == 4
    assert "Nearest real texts" in (folder / "look.md").read_text() and "Distilled beside real" in capsys.readouterr().out


def test_on_request():
    line = [f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'quickstart.py'}"]
    assert not {"look", "privacy"} & set(parse(line).stages)
    stages = parse([*line, "--config.evaluate.look=True", "--config.evaluate.privacy=True"]).stages
    assert stages[-3:] == ["look", "privacy", "report"]
