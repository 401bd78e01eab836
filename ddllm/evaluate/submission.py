"""Another's distilled texts, scored under the protocol of docs/PROTOCOL.md: hands on one row of the results.

A file holds texts with hard or soft labels, perhaps several sets of them (one for each run of the method that made them). Texts know no recipe: SGD at one
constant rate, for some number of passes, both chosen on validation texts for all sets together. Every set is trained on from heads of its own.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.config import suggest
from ddllm.data.files import MissingColumn, Table, read_file
from ddllm.data.labels import are_numbers, check_unicode, filled_rows
from ddllm.data.splits import Split
from ddllm.data.tokens import TokenSplit, load_tokenizer, tokenize_texts
from ddllm.distill.dataset import DistilledData, Recipe, raw_rate
from ddllm.distill.initialise import fit
from ddllm.errors import UserError
from ddllm.evaluate.robustness import choose
from ddllm.evaluate.small import head_keys, of_texts, score_heads, small_row, training_seconds
from ddllm.models.products import in_products
from ddllm.models.scoring import Scorer
from ddllm.models.task import AS_THEY_STAND
from ddllm.models.tasks import Classification
from ddllm.prepare import Prepared
from ddllm.report.results import mean_figure
from ddllm.runtime.progress import Progress, say

TEXT, PAIR, LABEL, SOFT, SET = "text", "text_pair", "label", "label_probabilities", "set"


@dataclass(frozen=True)
class TextSet:
    """Texts that are trained on together.

    Attributes:
        texts: n of them.
        labels: probabilities [n, C] in the order of the label names; one-hot rows for hard labels.
        pairs: the second texts, where the corpus is one of pairs.
    """

    texts: list[str]
    labels: np.ndarray
    pairs: list[str] | None = None


def check_submitted(prepared: Prepared) -> None:
    """Raise `UserError` where texts of others cannot be scored, because the protocol is about classes."""
    task, name = prepared.learner.task, prepared.tokens.name
    if not task.one_class:
        raise UserError(
            f"files of texts are scored for classification alone, but the task of {name} is {task.name}; give a distilled folder."
        )


def read_sets(path: Path, label_names: tuple[str, ...], pairs: bool = False) -> list[TextSet]:
    """Read a file with the columns text and label or label_probabilities, and perhaps text_pair and set.

    Args:
        path: JSONL, or another format that data/files.py reads; in those without lists, probabilities are written as JSON has lists.
        label_names: the corpus's class names; integer labels are positions among them.
        pairs: whether the corpus is one of pairs, so that there are second texts.

    Raises:
        UserError: the file or a column is missing, a text is no string, a label is not among the names, or probabilities are none.
    """
    inputs = _read_texts(path, pairs)
    filled = sum(1 for _ in filled_rows(inputs))
    if not filled or filled < len(inputs.texts):
        raise UserError(f"{path} has {len(inputs.texts) - filled} rows without text; remove them." if filled else f"{path} has no texts.")
    texts = [_text(value, TEXT, row, path) for row, value in enumerate(inputs.texts, 1)]
    seconds = None if inputs.pairs is None else [_text(value, PAIR, row, path) for row, value in enumerate(inputs.pairs, 1)]
    hard, soft = _column(path, LABEL), _column(path, SOFT)
    if hard is not None and soft is not None:
        say(f"  {path} has both {LABEL!r} and {SOFT!r}; the latter are taken.")
    elif hard is not None and isinstance(_listed(hard[0], label_names), list):
        soft = hard
    if soft is not None:
        labels = np.stack([_probabilities(value, row, path, label_names) for row, value in enumerate(soft, 1)])
    elif hard is not None:
        places = np.array([_position(value, row, path, label_names) for row, value in enumerate(hard, 1)], np.int32)
        labels = Classification().store(places, len(label_names), "hard")
    else:
        raise UserError(
            f"{path} needs one of the columns {LABEL!r} (class names or numbers) and {SOFT!r} (lists, in the order {', '.join(label_names)})."
        )
    split = Split(texts, labels.argmax(axis=1).astype(np.int32), seconds)
    keys = _column(path, SET) or [None] * len(split)
    for row, key in enumerate(keys, 1):
        if not (key is None or isinstance(key, (str, int)) or (isinstance(key, float) and key.is_integer())):
            raise UserError(f"{path}, row {row}: the {SET} {key!r} is neither a name nor a whole number.")
    return [
        TextSet(part.texts, labels[rows], part.pairs)
        for rows in (np.flatnonzero([found == key for found in keys]) for key in dict.fromkeys(keys))
        for part in (split.take(rows),)
    ]


def evaluate_submission(
    prepared: Prepared, sets: list[TextSet], name: str, rates: tuple[float, ...], passes: tuple[int, ...], batch_size: int
) -> dict[str, Any]:
    """Test accuracy after training on each set from redrawn heads.

    Args:
        prepared: data, model and configuration.
        sets: one or more.
        name: of the row.
        rates, passes: what is tried on validation texts.
        batch_size: texts in an inner batch.

    Returns:
        A row of the results; mean and deviation are over all trainings: at least config.evaluate.heads of them, each set equally often.
    """
    config, start = prepared.config.evaluate, prepared.start
    learner = replace(prepared.learner, start="redrawn")
    tokenizer = load_tokenizer(prepared.pretrained.folder)
    tokens = [_tokenize(tokenizer, made, prepared.config.data.length) for made in sets]
    arrays = arrange_sets(np.asarray(prepared.pretrained.words), tokens, [made.labels for made in sets], batch_size)
    known = count_known(tokens, prepared.tokens.test)
    keys = head_keys(prepared, len(sets) * math.ceil(config.heads / len(sets)))
    tuned_on = min(len(keys), max(config.selection_draws, 1))
    validation = prepared.scorer(prepared.tokens.validation, config.tuning_texts)
    test = prepared.scorer(prepared.tokens.test, config.head_texts)
    recipes = {f"rate {rate:g} for {count} passes": (rate, count) for count in passes for rate in rates}
    tries = len(recipes) * tuned_on if len(recipes) > 1 else 0
    with Progress(tries + len(keys), f"evaluate: {name}") as progress:

        def train_and_score(chosen: tuple[float, int], scorer: Scorer, keys: list[jax.Array]) -> list[dict[str, float]]:
            scores = []
            for index, key in enumerate(keys):
                data, recipe = with_recipe(arrays[index % len(sets)], *chosen)
                scores += score_heads(learner, recipe, start, data, scorer, [key], progress)
            return scores

        tried, chosen = choose(recipes, lambda recipe: mean_figure(train_and_score(recipe, validation, keys[:tuned_on]), prepared.metric))
        scores = train_and_score(chosen, test, keys)
    data, recipe = with_recipe(arrays[0], *chosen)
    note = f"texts in {len(sets)} sets" if len(sets) > 1 else "texts"
    tried = tried or f"rate {chosen[0]:g} for {chosen[1]} passes"
    note += f", heads redrawn from N(0, {learner.head.deviation:g}²), SGD {tried}"
    note += in_products(learner.encoder.products) + of_texts(test.texts, len(prepared.tokens.test))
    if known:
        note += f"; {known} of its texts occur in the test split"
    row = small_row(
        name,
        scores,
        data,
        prepared.classes,
        training_seconds(learner, recipe, start, data),
        prepared.metric,
        head="redrawn",
        texts=test.texts,
        note=note,
    )
    sizes = {len(made.texts) for made in sets}
    counts = {int(count) for made in sets for count in np.bincount(made.labels.argmax(axis=1), minlength=prepared.classes)}
    return row | {
        "examples": sizes.pop() if len(sizes) == 1 else None,
        "examples_per_class": counts.pop() if len(counts) == 1 else None,
        "floats": None,
        "sets": len(sets),
        "texts_in_test": known,
        "rate": chosen[0],
        "passes": chosen[1],
    }


def arrange_sets(words_VD: np.ndarray, tokens: list[TokenSplit], labels: list[np.ndarray], batch_size: int) -> list[DistilledData]:
    """The sets as arrays of one shape, so that one program serves all: the same number of inner batches, filled up from each set's beginning.

    Args:
        words_VD: word table.
        tokens: the sets' texts.
        labels: of each set, [n, C].
        batch_size: most examples N in an inner batch.
    """
    longest = max(int(split.lengths.max()) for split in tokens)
    most = max(len(split) for split in tokens)
    batches = math.ceil(most / batch_size)
    size = math.ceil(most / batches)
    return [_arrange(words_VD, split, rows, batches, size, longest) for split, rows in zip(tokens, labels, strict=True)]


def count_known(tokens: list[TokenSplit], test: TokenSplit) -> int:
    """How many texts of the sets are texts of the test split, as the tokenizer sees them."""
    present = {row[:length].tobytes() for row, length in zip(test.ids, test.lengths, strict=True)}
    return sum(row[:length].tobytes() in present for split in tokens for row, length in zip(split.ids, split.lengths, strict=True))


def with_recipe(data: DistilledData, rate: float, passes: int) -> tuple[DistilledData, Recipe]:
    """The data with one constant rate for so many passes."""
    rates = jnp.full((data.embeddings.shape[0] * passes, 1), raw_rate(rate), jnp.float32)
    return data.replace(rates=rates), Recipe(AS_THEY_STAND, "sgd", passes)


def _arrange(words_VD: np.ndarray, split: TokenSplit, labels: np.ndarray, batches: int, size: int, length: int) -> DistilledData:
    # Spread over the batches, so that a file in the order of its classes does not give batches of one class.
    rows = np.resize(np.arange(len(split)), batches * size).reshape(size, batches).T
    ids = fit(split.ids[rows], length)
    types = None if split.types is None else fit(split.types[rows], length).astype(np.float32)
    mask = (np.arange(length) < split.lengths[rows][..., None]).astype(np.float32)
    rates = np.zeros((batches, 1), np.float32)
    arrays = DistilledData(words_VD[ids].astype(np.float32), mask, labels[rows].astype(np.float32), rates, types=types)
    return jax.tree.map(jnp.asarray, arrays)


def _tokenize(tokenizer: Any, made: TextSet, length: int) -> TokenSplit:
    return tokenize_texts(tokenizer, Split(made.texts, made.labels.argmax(axis=1).astype(np.int32), made.pairs), length)[0]


def _read_texts(path: Path, pairs: bool) -> Table:
    try:
        return read_file(path, TEXT, TEXT, PAIR if pairs else "")
    except MissingColumn as missing:
        wanted = f"{TEXT!r} and, since the corpus is one of pairs, {PAIR!r}" if pairs else f"{TEXT!r}"
        raise UserError(f"{missing.told}; a file of texts has its texts in {wanted}, so rename the column.") from None


def _column(path: Path, name: str) -> list[Any] | None:
    try:
        return read_file(path, TEXT, name).labels
    except MissingColumn:
        return None


def _text(value: Any, column: str, row: int, path: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}, row {row}: the {column} {value!r} is not a string ({type(value).__name__}); put it in quotation marks.")
    check_unicode(value, column, row, str(path))
    return value.strip()


def _listed(value: Any, label_names: tuple[str, ...]) -> Any:
    """A list, where a string says one, as it does in CSV; else the value itself."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value not in label_names:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _position(value: Any, row: int, path: Path, label_names: tuple[str, ...]) -> int:
    """Place of a hard label among the names. Classes that are called by numbers are meant by them."""
    numbers = are_numbers(label_names)
    if value is None or value == "" or value != value:
        raise UserError(f"{path}, row {row}: there is no {LABEL}; remove the row or give it one.")
    if isinstance(value, int) and not numbers and 0 <= value < len(label_names):
        return int(value)
    if isinstance(value, str) or (isinstance(value, int) and numbers):
        name = str(value) if isinstance(value, str) else str(int(value))
        if name in label_names:
            return label_names.index(name)
    close = suggest(value, label_names) if isinstance(value, str) else ""
    meant = "a name" if numbers else f"a name, or its number from 0 to {len(label_names) - 1}"
    quoted = ", without quotation marks" if isinstance(value, str) and value.isdecimal() and not numbers else ""
    raise UserError(f"{path}, row {row}: the {LABEL} {value!r}{close} is none of the classes {', '.join(label_names)}; give {meant}{quoted}.")


def _probabilities(value: Any, row: int, path: Path, label_names: tuple[str, ...]) -> np.ndarray:
    try:
        found = np.array(_listed(value, ()), np.float64)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.shape != (len(label_names),) or not np.all(found >= 0) or abs(found.sum() - 1) > 1e-3:
        raise UserError(
            f"{path}, row {row}: {SOFT} is {value!r}, but must be {len(label_names)} numbers that are not negative and sum to 1, in the order "
            f"{', '.join(label_names)}."
        )
    return found.astype(np.float32)
