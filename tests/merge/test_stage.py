"""`--mode=merge` on a tiny model: every way gives a folder that evaluates like any other, learning again helps, and mistakes are sentences."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.corpora import write_corpus
from ddllm.artefact.base import describe_base
from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.data.corpus import load_corpus
from ddllm.distill.plan import first_data, recipe_of
from ddllm.errors import UserError
from ddllm.main import main, parse
from ddllm.merge.learn import check_parts
from ddllm.stages import open_run


@pytest.fixture(scope="module")
def line(small_runs, make_model):
    """make(workdir, mode, sets, **overrides) -> command line."""
    make = small_runs(
        "merge",
        model__name=make_model(8, 1),
        data__length=8,  # one padded length, so that little is compiled
        distill__length=6,
        distill__examples_per_class=2,
        distill__batches=1,
        distill__passes=2,
        distill__outer_steps=12,
        distill__validate_every=6,
        distill__rate_embeddings=0.1,
        distill__initial="real",
        distill__head="zero",
        distill__initial_rate=0.3,
        evaluate__heads=1,
        evaluate__head_texts=20,
        runtime__devices=1,
        runtime__tensorboard=False,
    )
    return lambda workdir, mode, sets=(), **overrides: make(workdir, mode, **overrides) + [f"--sets={','.join(map(str, sets))}"] * bool(sets)


@pytest.fixture(scope="module")
def sets(line, tmp_path_factory):
    """Folders of two sets of real texts, a third whose classes are others, and none of them distilled."""
    folders = []
    for number in range(3):
        folder = tmp_path_factory.mktemp("sets")
        run = open_run(parse(line(folder / "run", "prepare", seed=number, distill__length=5 + number)).config, folder / "run")
        names = ("negative", "positive") if number < 2 else ("dull", "clever")
        prepared = run.prepared
        card = describe_base(prepared.pretrained, prepared.learner, run.config.data.length)
        save_distilled(folder / f"set{number}", first_data(prepared), recipe_of(run.config.distill), names, **card)
        run.workdir.close()
        folders.append(folder / f"set{number}")
    return folders


def rows_of(folder):
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}


def test_merged_folders_are_like_any_other(line, sets, tmp_path):
    for how, examples, steps in (("interleave", 8, 4), ("concatenate", 8, 4), ("join", 8, 2), ("auto", 8, 2)):
        assert main(line(tmp_path / how, "merge", sets[:2], merge__how=how)) == 0
        merged = load_distilled(tmp_path / how / "distilled")
        assert (merged.data.examples, merged.data.steps) == (examples, steps) and merged.data.mask.shape[2] == 6
        assert [s["name"] for s in merged.card["merged"]["sets"]] == ["set0", "set1"]
    assert load_distilled(tmp_path / "join" / "distilled").recipe.order == "fixed"
    assert main(line(tmp_path / "asked", "merge", sets[:2], merge__order="interleave")) == 0
    assert load_distilled(tmp_path / "asked" / "distilled").data.steps == 4, "auto does as config.merge.order says"


def test_of_products_the_most_exact_are_the_merged_sets(line, sets, tmp_path, capsys):
    run = tmp_path / "rounded"
    assert main(line(run, "prepare,distill", distill__outer_steps=1, model__products="bfloat16")) == 0
    rounded = run / "distilled"
    assert main(line(tmp_path / "mixed", "merge", [rounded, sets[0]], merge__how="join", model__products="bfloat16")) == 0
    assert "in bfloat16 and float32; the merged one is trained in float32" in capsys.readouterr().err
    assert load_distilled(tmp_path / "mixed" / "distilled").card["products"] == "float32"
    assert main(line(tmp_path / "alike", "merge", [rounded, rounded], merge__how="join")) == 0
    assert load_distilled(tmp_path / "alike" / "distilled").card["products"] == "bfloat16"
    assert "matrix products" not in capsys.readouterr().err


def test_what_needs_no_texts_needs_no_corpus(line, sets, tmp_path):
    nowhere = {"data.source": tmp_path / "nowhere"}
    assert main(line(tmp_path / "auto", "merge", sets[:2], **nowhere)) == 0
    on_sets = {"merge.how": "relearn", "merge.learn_on": "sets", "merge.order": "join"}
    assert main(line(tmp_path / "again", "merge", sets[:2], **on_sets, **nowhere)) == 0
    rates = [load_distilled(tmp_path / name / "distilled").data.rates for name in ("auto", "again")]
    assert not np.allclose(*rates, atol=1e-4), "nothing was learned on the sets"


def test_sets_that_come_one_after_the_other_count_alike(line, sets, tmp_path):
    at_once, first, then = (tmp_path / name for name in ("at_once", "first", "then"))
    assert main(line(at_once, "merge", [*sets[:2], sets[0]], merge__how="join")) == 0
    assert main(line(first, "merge", sets[:2], merge__how="join")) == 0
    assert main(line(then, "merge", [first / "distilled", sets[0]], merge__how="join")) == 0
    one, other = load_distilled(at_once / "distilled"), load_distilled(then / "distilled")
    assert [s["sets"] for s in other.card["merged"]["sets"]] == [2, 1] and one.recipe == other.recipe
    for name in ("embeddings", "mask", "labels", "rates"):
        np.testing.assert_allclose(getattr(one.data, name), getattr(other.data, name), rtol=1e-5)


def test_learning_again(line, sets, tmp_path, capsys):
    joined = {"merge.order": "join", "merge.how": "relearn"}
    assert main(line(tmp_path / "texts", "merge,evaluate", sets[:2], **joined)) == 0
    assert rows_of(tmp_path / "texts")["distilled"]["accuracy_mean"] > 0.5
    first, learned = load_distilled(sets[0]).data, load_distilled(tmp_path / "texts" / "distilled").data
    np.testing.assert_array_equal(learned.embeddings[:, :2, :5], first.embeddings[:, :2])
    np.testing.assert_allclose(first.labels[0, :2].sum(axis=-1), 1)
    assert not np.allclose(learned.labels[0, :2], first.labels[0, :2]) and not np.allclose(learned.rates, first.rates, atol=1e-4)
    assert load_distilled(tmp_path / "texts" / "distilled").card["outer_step"] in (3, 6, 9, 12)
    # A second start of the same command does nothing again.
    before = (tmp_path / "texts" / "metrics.jsonl").read_bytes()
    assert main(line(tmp_path / "texts", "merge", sets[:2], **joined)) == 0
    assert (tmp_path / "texts" / "metrics.jsonl").read_bytes() == before
    # Nor does one with other sets go on with what was learned for these.
    capsys.readouterr()
    assert main(line(tmp_path / "texts", "merge", [sets[1], sets[0]], **joined)) == 2
    assert "merge.sets" in capsys.readouterr().err
    copies = [tmp_path / "copies" / one.name for one in sets[:2]]
    for one, copy in zip(sets, copies, strict=False):
        shutil.copytree(one, copy)
    assert main(line(tmp_path / "copied", "merge", copies, **joined)) == 0
    shutil.rmtree(copies[1])
    shutil.copytree(sets[0], copies[1])
    assert main(line(tmp_path / "copied", "merge", copies, **joined)) == 2
    assert "begun with another list of distilled data sets" in " ".join(capsys.readouterr().err.split())


def test_fewer_and_an_update(line, sets, tmp_path, capsys):
    assert main(line(tmp_path / "fewer", "merge", sets[:2], merge__how="fewer")) == 0
    fewer = load_distilled(tmp_path / "fewer" / "distilled").data
    assert fewer.mask.shape == (1, 2, 6) and fewer.steps == 2
    assert main(line(tmp_path / "many", "merge", sets[:2], merge__how="fewer", merge__examples_per_class=5)) == 2
    assert "have 4 examples of the class negative" in capsys.readouterr().err
    assert main(line(tmp_path / "grown", "merge", sets[2:], merge__how="update", merge__order="join")) == 0
    grown = load_distilled(tmp_path / "grown" / "distilled")
    assert grown.label_names == ("dull", "clever", "negative", "positive") and grown.data.mask.shape[:2] == (1, 8)


def test_only_parts_that_a_set_has_are_learned_again(line, sets, tmp_path, capsys):
    for number, (learn, told) in enumerate((("('order','attention')", "order, attention"), ("('rates','head')", "head"))):
        assert main(line(tmp_path / str(number), "merge", sets[:2], merge__how="relearn", merge__learn=learn)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{told} cannot be learned" in error and "config.merge.learn may have rates, labels, embeddings." in error
        assert not (tmp_path / str(number) / "distilled").exists()


def test_hard_labels_stay_beside_what_is_learned(make_set):
    hard = make_set(labels="hard", gains=1)
    check_parts(("rates", "labels"), hard.data, hard.recipe)
    with pytest.raises(UserError, match="labels cannot be learned.*may have rates, embeddings"):
        check_parts(("labels",), hard.data, hard.recipe)


def test_single_texts_are_not_updated_by_pairs(line, sets, tmp_path, capsys):
    (tmp_path / "pairs").mkdir()
    for name, rows in (("train", 40), ("test", 12)):
        words = [{"text": "a film", "other": f"good plot {number}", "label": ("negative", "positive")[number % 2]} for number in range(rows)]
        lines = [json.dumps(row | {"text": f"{row['text']} {name}"}) for row in words]
        (tmp_path / "pairs" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    pairs = {"data.source": tmp_path / "pairs", "data.pair_column": "other"}
    assert main(line(tmp_path / "run", "merge", sets[:1], merge__how="update", **pairs)) == 2
    assert "is for single texts, but the new texts are read as pairs of texts" in capsys.readouterr().err.splitlines()[-1]


def test_heads_learn_again_on_every_tasks_own_texts(line, sets, tmp_path, capsys):
    run = open_run(parse(line(tmp_path / "run", "prepare")).config, tmp_path / "run")
    corpus = load_corpus(run.config.data)
    run.workdir.close()
    folders = []
    for name, names in (("films", corpus.label_names), ("others", ("dull", "clever"))):
        folders.append(tmp_path / name)
        write_corpus(tmp_path / name, replace(corpus, label_names=names))
    # The same texts for both would be texts that the other one tests on: the second task's are longer by a word.
    for path in (tmp_path / "others").iterdir():
        path.write_text(path.read_text().replace('"text": "', '"text": "the '))
    tasks = {"merge.how": "heads", "merge.outer_steps": 60, "merge.learn": "('rates','labels','embeddings')", "merge.tasks": "|".join(map(str, folders))}
    tasks |= {"data.source": folders[0], "data.label_column": "label", "data.text_column": "text", "data.validation": "validation", "data.test": "test"}
    pair = [sets[0], sets[2]]
    assert main(line(tmp_path / "merged", "merge,evaluate", pair, **tasks)) == 0
    merged = load_distilled(tmp_path / "merged" / "distilled")
    assert merged.data.steps == 2 and merged.card["outer_step"] % 6 == 0 and merged.card["validation_accuracy"] > 0.7
    assert rows_of(tmp_path / "merged")["distilled"]["accuracy_mean"] > 0.6
    other = tasks | {"data.source": folders[1], "data.label_names": "('dull','clever')"}
    assert main(line(tmp_path / "second", "evaluate", **other) + [f"--distilled={tmp_path / 'merged' / 'distilled'}"]) == 0
    assert next(iter(rows_of(tmp_path / "second").values()))["accuracy_mean"] > 0.6
    capsys.readouterr()
    for number, (changes, message) in enumerate(
        (
            ({"merge.tasks": "|".join(map(str, folders[::-1]))}, "in the order of --sets"),
            ({"merge.tasks": str(folders[0])}, "1 corpora for 2 sets"),
            ({"distill.batch_size": 1}, "make it larger"),
            ({"merge.how": "union"}, "config.merge.how to heads"),
            ({"merge.tasks": "", "merge.learn_on": "texts"}, "config.merge.tasks"),
        )
    ):
        assert main(line(tmp_path / f"wrong{number}", "merge", pair, **(tasks | changes))) == 2
        error = capsys.readouterr().err.splitlines()
        assert message in error[-1] and not any("Traceback" in part for part in error)


def test_different_tasks(line, sets, tmp_path, capsys):
    assert main(line(tmp_path / "union", "merge", [sets[0], sets[2]], merge__how="union")) == 0
    union = load_distilled(tmp_path / "union" / "distilled")
    assert union.label_names == ("negative", "positive", "dull", "clever")
    assert main(line(tmp_path / "heads", "merge,evaluate", [sets[0], sets[2]], merge__how="heads", merge__learn_on="sets", merge__outer_steps=60)) == 0
    merged = load_distilled(tmp_path / "heads" / "distilled")
    assert merged.card["task"] == {"name": "multihead", "heads": ["set0", "set2"], "sizes": [2, 2]}
    assert not np.allclose(merged.data.rates, union.data.rates, atol=1e-4), "nothing was learned on the sets"
    assert rows_of(tmp_path / "heads")["distilled"]["accuracy_mean"] > 0.5
    import ddllm

    told = ddllm.train(tmp_path / "heads" / "distilled").predict(["a good film"])[0]
    assert list(told) == ["set0", "set2"] and told["set0"] in ("negative", "positive") and told["set2"] in ("dull", "clever")
    assert main(line(tmp_path / "h", "merge", [sets[0], sets[1], sets[0]])) == 0
    assert "set0 hold the same distilled data set, which counts twice" in capsys.readouterr().err
    for arguments, message in (
        (line(tmp_path / "a", "merge", [sets[0], sets[2]]), "set config.merge.how to union"),
        (line(tmp_path / "b", "merge", sets[:1]), "two distilled data sets or more"),
        (line(tmp_path / "c", "merge"), "give them as --sets A,B"),
        (line(tmp_path / "d", "merge", [tmp_path, sets[0]]), "is not a distilled data set"),
        (line(tmp_path / "e", "merge", sets[:2], merge__how="joyn"), "did you mean join?"),
        (line(tmp_path / "f", "evaluate", sets[:2]), "--mode=merge"),
        (line(tmp_path / "g", "distill,merge", sets[:2]), "leave one out"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
