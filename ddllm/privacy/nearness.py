"""How near distilled examples come to single training texts, in features and in words, beside held-out texts and beside real examples.

A training text may be near because texts of its kind are: what counts is how much nearer training texts are than as many test texts, and how near a text that
nobody trained on is to both. Words are those of the nearest tokens of a distilled example; runs of them are compared by rolling hashes.
"""

from typing import Any

import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.prepare import Prepared
from ddllm.select.nearest import distilled_features, nearest_rows
from ddllm.text.projection import nearest

Row = dict[str, Any]
RUNS = (2, 3, 4)  # lengths of the runs of tokens that are looked for
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no token's part of a hash is lost


def compare_nearness(prepared: Prepared, distilled: Distilled, texts: int, seed: int) -> list[Row]:
    """The list "nearness".

    Args:
        prepared: data and model.
        distilled: the distilled data set.
        texts: at most so many training texts, and as many test texts, are compared with at equal numbers.
        seed: of what is drawn.

    Returns:
        Rows {"measure", "examples", "nearest" (to any training text, mean over examples), "highest" (the greatest of these), "train", "test" (means of
        the nearest among equally many training and test texts), "note"}, for distilled examples, as many random training texts, and as many held-out ones.
    """
    tokens = prepared.tokens
    rng = np.random.default_rng([seed, 47])
    count = distilled.data.examples
    held, drawn = rng.permutation(len(tokens.test)), rng.permutation(len(tokens.train))
    # Held-out texts that are looked up must not be among those looked in, and neither must random training ones, but in "nearest".
    fresh, test = held[:count], held[count:][:texts]
    chosen, train = drawn[:count], drawn[count:][: len(test)]
    test = test[: len(train)]
    if not len(test):
        return []
    table_nD = prepared.features
    held_nD = prepared.features_of(tokens.test.take(np.concatenate([fresh, test])), "test")
    fresh_nD, test_nD = held_nD[: len(fresh)], held_nD[len(fresh) :]
    queries = {
        "distilled": distilled_features(prepared.learner.encoder, prepared.start, distilled.data),
        "random training texts": table_nD[chosen],
        "held-out texts": fresh_nD,
    }
    near = [feature_row(name, found_ED, table_nD, table_nD[train], test_nD) for name, found_ED in queries.items()]
    words = {
        "distilled": token_rows(prepared, distilled),
        "random training texts": strip(tokens.train.ids[chosen], tokens.train.lengths[chosen]),
        "held-out texts": strip(tokens.test.ids[fresh], tokens.test.lengths[fresh]),
    }
    corpora = [
        strip(split.ids[rows], split.lengths[rows])
        for split, rows in ((tokens.train, np.arange(len(tokens.train))), (tokens.train, train), (tokens.test, test))
    ]
    return near + [run_row(name, found, length, corpora) for length in RUNS for name, found in words.items()]


def feature_row(name: str, queries_ED: np.ndarray, all_nD: np.ndarray, train_mD: np.ndarray, test_mD: np.ndarray) -> Row:
    """Cosines of features."""
    nearest_E, train_E, test_E = (nearest_rows(queries_ED, table, 1)[1][:, 0] for table in (all_nD, train_mD, test_mD))
    note = f"the nearest of {len(all_nD):,} training texts, and of {len(train_mD):,} training and {len(test_mD):,} test texts"
    return _row(f"cosine of features, {name}", nearest_E, train_E, test_E, note)


def run_row(name: str, examples: list[np.ndarray], length: int, corpora: list[list[np.ndarray]]) -> Row:
    """Shares of the runs of so many tokens that occur in any training text, and among equally many training and test texts."""
    everywhere, train, test = (shared_runs(examples, corpus, length) for corpus in corpora)
    note = "share of an example's runs of tokens that occur in a text; special tokens left out, distilled examples by their nearest tokens"
    return _row(f"runs of {length} tokens, {name}", everywhere, train, test, note)


def _row(measure: str, nearest_E: np.ndarray, train_E: np.ndarray, test_E: np.ndarray, note: str) -> Row:
    means = {"nearest": nearest_E, "train": train_E, "test": test_E}
    figures = {key: float(values.mean()) if len(values) else None for key, values in means.items()}
    highest = float(nearest_E.max()) if len(nearest_E) else None
    return {"measure": measure, "examples": len(nearest_E), **figures, "highest": highest, "note": note}


def shared_runs(examples: list[np.ndarray], texts: list[np.ndarray], length: int) -> np.ndarray:
    """For each example that is long enough the share [E'] of its runs of `length` tokens that occur in any of the texts."""
    known = hash_runs(texts, length)
    hashes = [hash_runs([example], length) for example in examples]
    return np.array([np.isin(found, known).mean() for found in hashes if len(found)])


def hash_runs(texts: list[np.ndarray], length: int) -> np.ndarray:
    """A 64-bit number for every run of `length` tokens within a text."""
    ids = np.concatenate([np.concatenate(texts), np.zeros(length, np.int64)]) if texts else np.zeros(length, np.int64)
    sizes = np.array([len(text) for text in texts], np.int64)
    ends = np.repeat(np.cumsum(sizes), sizes)
    total = int(sizes.sum())
    inside = np.arange(total) + length <= ends
    hashes = np.zeros(total, np.uint64)
    for offset in range(length):
        hashes = (hashes ^ (ids[offset : offset + total].astype(np.uint64) + np.uint64(1))) * FACTOR
        hashes ^= hashes >> np.uint64(29)
    return hashes[inside]


def strip(ids_nT: np.ndarray, lengths_n: np.ndarray) -> list[np.ndarray]:
    """Rows of tokens without padding and without the special ones at both ends."""
    return [row[1 : max(length - 1, 1)].astype(np.int64) for row, length in zip(ids_nT, lengths_n, strict=True)]


def token_rows(prepared: Prepared, distilled: Distilled) -> list[np.ndarray]:
    """The nearest tokens of each example's used positions, special ones left out."""
    from ddllm.data.tokens import load_tokenizer

    data, words_VD = distilled.data, np.asarray(prepared.pretrained.words)
    embeddings_ETD = np.asarray(data.embeddings).reshape(-1, *data.embeddings.shape[2:])
    mask_ET = np.asarray(data.mask).reshape(-1, data.mask.shape[2]) > 0
    ids_P = np.asarray(nearest(embeddings_ETD[mask_ET], words_VD).ids)[:, 0]
    special = np.array(load_tokenizer(prepared.pretrained.folder).all_special_ids)
    rows = np.split(ids_P, np.cumsum(mask_ET.sum(axis=1))[:-1])
    return [row[~np.isin(row, special)].astype(np.int64) for row in rows]
