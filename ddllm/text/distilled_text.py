"""Distilled text: a distilled data set whose embeddings are rows of the word table; hands on `DistilledText`, and its folder.

The folder is an ordinary distilled one, with text.jsonl beside it: a line for each example with the readable text, its label, the label that is trained on
and the token numbers. Anything that takes texts with labels takes that file too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import describe_base, drawn_parts
from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.artefact.rows import TEXT, plain_rows
from ddllm.artefact.schema import RECIPE
from ddllm.data.splits import Split
from ddllm.data.tokens import load_tokenizer, tokenize_texts
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.initialise import fit
from ddllm.errors import UserError
from ddllm.prepare import Prepared

FREE = -1  # in a frame: a position that any allowed token may take


@dataclass(frozen=True)
class DistilledText:
    """Texts that stand for a whole learning recipe.

    Attributes:
        ids: token numbers [M, N, T], those of the special tokens and of padding included.
        data: the arrays that are trained on; its embeddings are the word table's rows of `ids`.
        recipe: constants of learning from them.
        notes: what is known of how it was made, for its card and rows.
    """

    ids: np.ndarray
    data: DistilledData
    recipe: Recipe
    notes: dict[str, Any] = field(default_factory=dict)


def make_text(prepared: Prepared, ids: Any, data: DistilledData, recipe: Recipe, **notes: Any) -> DistilledText:
    """Texts of token numbers [M, N, T], with mask, labels, rates and everything else of `data`."""
    ids = np.asarray(ids, np.int32)
    words = np.asarray(prepared.pretrained.words, np.float32)
    data = jax.tree.map(np.asarray, data.replace(embeddings=words[ids]))
    return DistilledText(ids, data, recipe, notes)


def frame_of(prepared: Prepared, mask_MNT: Any) -> np.ndarray:
    """What the tokenizer puts around a text, int32 [M, N, T]: special tokens at the first and last used positions, padding behind them, else `FREE`.

    Raises:
        UserError: there are fewer positions than that takes, or texts come in pairs.
    """
    if prepared.config.data.pair_column:
        raise UserError("distilled text is made of single texts, but config.data.pair_column asks for pairs; leave the stage text out.")
    tokenizer = load_tokenizer(prepared.pretrained.folder)
    around = tokenizer("")["input_ids"]
    before, after = around[: len(around) // 2], around[len(around) // 2 :]
    used_MN = np.sum(np.asarray(mask_MNT) > 0, axis=-1)
    if used_MN.min() <= len(around):
        raise UserError(
            f"an example of {used_MN.min()} positions has no room for text beside {len(around)} special tokens; raise config.distill.length."
        )
    places = np.broadcast_to(np.arange(np.shape(mask_MNT)[-1]), np.shape(mask_MNT))
    frame = np.where(places < used_MN[..., None], FREE, tokenizer.pad_token_id or 0)
    for place, token in enumerate(before):
        frame[..., place] = token
    for back, token in enumerate(reversed(after)):
        frame = np.where(places == used_MN[..., None] - 1 - back, token, frame)
    return frame.astype(np.int32)


def read_texts(tokenizer: Any, ids_MNT: np.ndarray, mask_MNT: Any) -> list[str]:
    """The readable text of every example, batch after batch, without the space that byte-level tokens of a sentence's middle begin with."""
    rows, masks = ids_MNT.reshape(-1, ids_MNT.shape[-1]), np.asarray(mask_MNT).reshape(-1, ids_MNT.shape[-1])
    used = [row[mask > 0].tolist() for row, mask in zip(rows, masks, strict=True)]
    return [text.strip() for text in tokenizer.batch_decode(used, skip_special_tokens=True, clean_up_tokenization_spaces=False)]


def text_of(prepared: Prepared, text: DistilledText) -> list[str]:
    """The readable text of every example."""
    return read_texts(load_tokenizer(prepared.pretrained.folder), text.ids, text.data.mask)


def read_again(prepared: Prepared, text: DistilledText) -> tuple[DistilledText, float]:
    """The text as a tokenizer makes it of what a person reads, and the share of examples that come back token for token.

    It differs where word pieces stand side by side that the tokenizer would have joined or cut in another way.
    """
    tokenizer, texts = load_tokenizer(prepared.pretrained.folder), text_of(prepared, text)
    length = text.ids.shape[-1]
    tokens, _ = tokenize_texts(tokenizer, Split.unlabelled(texts), length)
    shape = text.ids.shape[:2]
    ids = fit(tokens.ids.reshape(*shape, -1), length)
    mask = (np.arange(length) < tokens.lengths.reshape(*shape)[..., None]).astype(np.float32)
    same = np.all((ids == text.ids) | (np.asarray(text.data.mask) == 0), axis=-1) & np.all(mask == text.data.mask, axis=-1)
    return make_text(prepared, ids, text.data.replace(mask=mask), text.recipe, **text.notes), float(same.mean())


def save_text(folder: Path, prepared: Prepared, text: DistilledText, **card: Any) -> None:
    """Write the folder, whole or not at all; its rows have the text's own tokens, and their numbers as "ids".

    Raises:
        UserError: something else lies in the folder.
    """
    names, config = prepared.tokens.label_names, prepared.config
    base = describe_base(prepared.pretrained, prepared.learner, config.data.length)
    rows = plain_rows(text.data, text.recipe, names, base)
    tokenizer = load_tokenizer(prepared.pretrained.folder)
    for row, more in zip(rows, describe_examples(prepared, text), strict=True):
        row |= more | {"tokens": tokenizer.convert_ids_to_tokens(more["ids"]), "scores": [1.0] * len(more["ids"])}
    # Not in fewer bits, whatever config.distill.storage says: the embeddings are the word table's own rows.
    save_distilled(folder, text.data, text.recipe, names, rows=rows, drawn=drawn_parts(prepared.learner, prepared.pretrained), **base, **text.notes, **card)


def describe_examples(prepared: Prepared, text: DistilledText) -> list[dict[str, Any]]:
    """text.jsonl as rows: text, label, soft_label (what its loss compares the prediction with) and ids without padding."""
    task, names = prepared.learner.task, prepared.tokens.label_names
    labels = np.asarray(text.data.labels).reshape(-1, text.data.labels.shape[-1])
    targets = np.asarray(task.stored_targets(jnp.asarray(labels), text.recipe.labels))
    texts = text_of(prepared, text)
    rows, masks = (np.asarray(array).reshape(len(texts), -1) for array in (text.ids, text.data.mask))
    return [
        {"text": read, "label": label, "soft_label": [round(float(x), 6) for x in soft], "ids": row[mask > 0].tolist()}
        for read, label, soft, row, mask in zip(texts, task.tell_stored(labels, names, text.recipe.labels), targets, rows, masks, strict=True)
    ]


def is_whole(folder: Path) -> bool:
    """Whether `save_text` has ended there."""
    return (folder / RECIPE).is_file()


def load_text(folder: Path) -> DistilledText:
    """Open what `save_text` wrote.

    Raises:
        UserError: the folder is none of a distilled text, or was damaged.
    """
    distilled = load_distilled(folder)
    if not (folder / TEXT).is_file():
        raise UserError(f"{folder} has no {TEXT}, so it holds no text; give a folder that the stage text wrote.")
    try:
        rows = [json.loads(line)["ids"] for line in (folder / TEXT).read_text(encoding="utf-8").splitlines()]
        ids = _fill(rows, distilled.data.mask)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / TEXT} does not fit its folder ({error}); make the text again.") from None
    notes = {key: distilled.card[key] for key in ("route", "distillation_seconds") if key in distilled.card}
    return DistilledText(ids, distilled.data, distilled.recipe, notes)


def _fill(rows: Sequence[Sequence[int]], mask_MNT: np.ndarray) -> np.ndarray:
    mask = mask_MNT.reshape(-1, mask_MNT.shape[-1]) > 0
    if [len(row) for row in rows] != mask.sum(axis=-1).tolist():
        raise ValueError("other numbers of tokens")
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = [token for row in rows for token in row]
    return ids.reshape(mask_MNT.shape)
