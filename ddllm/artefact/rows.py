"""A distilled data set in readable rows, one for each example: text.jsonl for people and a Parquet file for `datasets`.

A row's text is made of the vocabulary's nearest token at every position, by cosine, special ones such as [CLS] left out; "tokens" has all of them, and "scores"
says how near each is. It is a hint of what was learned, not a text to train on: projected to it, most of what was learned is lost.
"""

import io
import json
from typing import Any

import numpy as np

from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.models.tasks import read_task

TEXT, PARQUET = "text.jsonl", "examples.parquet"
PAIRED = " ⏐ "  # between the two texts of a pair
Row = dict[str, Any]


def plain_rows(data: DistilledData, recipe: Recipe, label_names: tuple[str, ...], card: dict[str, Any]) -> list[Row]:
    """Rows with labels alone: {"batch", "example", "label" (as a person reads it), "label_values" [C], "text", "tokens", "scores"}, the last three empty.

    Args:
        data: the distilled data set.
        recipe: says how its labels are meant.
        label_names: class names.
        card: with the "task", where that is not classification.
    """
    task, labels = read_task(card), np.asarray(data.labels, np.float32)
    rows = []
    for batch, labels_NC in enumerate(labels):
        readable = task.tell_stored(labels_NC, label_names, recipe.labels)
        for example, (told, values) in enumerate(zip(readable, labels_NC.tolist(), strict=True)):
            rows.append({"batch": batch, "example": example, "label": told, "label_values": values, "text": "", "tokens": [], "scores": []})
    return rows


def read_rows(
    data: DistilledData, recipe: Recipe, label_names: tuple[str, ...], card: dict[str, Any], words_VD: np.ndarray, tokenizer: Any
) -> list[Row]:
    """The same with the nearest tokens of each used position, the text that they make, and their cosines.

    Args:
        words_VD: word table of the encoder.
        tokenizer: its tokenizer; unused rows of the table, and special tokens that no text has, are never the nearest.
    """
    from ddllm.text.projection import nearest
    from ddllm.text.vocabulary import readable_tokens

    rows = plain_rows(data, recipe, label_names, card)
    allowed = readable_tokens(tokenizer, len(words_VD))
    found = nearest(np.reshape(data.embeddings, (-1, words_VD.shape[1])), words_VD, k=1, metric="cosine", allowed=allowed)
    shape = data.embeddings.shape[:3]
    ids_MNT, scores_MNT = (np.asarray(part)[..., 0].reshape(shape) for part in (found.ids, found.scores))
    for row in rows:
        place = row["batch"], row["example"]
        used = np.asarray(data.mask)[place] > 0
        ids = ids_MNT[place][used]
        row["tokens"] = tokenizer.convert_ids_to_tokens(ids.tolist())
        second = np.zeros(len(ids), bool) if data.types is None else np.asarray(data.types)[place][used] > 0.5
        row["text"] = PAIRED.join(read_tokens(tokenizer, part) for part in (ids[~second], ids[second]) if len(part))
        row["scores"] = [round(float(score), 4) for score in scores_MNT[place][used]]
    return rows


def read_tokens(tokenizer: Any, ids: np.ndarray) -> str:
    """Tokens as text, special ones left out."""
    return tokenizer.decode([int(number) for number in ids], skip_special_tokens=True).strip()


def encode_rows(rows: list[Row]) -> dict[str, bytes]:
    """Both files, by name."""
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    told = rows[0]["label"]
    label = pyarrow.list_(pyarrow.string()) if isinstance(told, list) else pyarrow.string() if isinstance(told, str) else pyarrow.float32()
    floats = pyarrow.list_(pyarrow.float32())
    columns = {"batch": pyarrow.int32(), "example": pyarrow.int32(), "label": label, "label_values": floats, "text": pyarrow.string()}
    columns |= {"tokens": pyarrow.list_(pyarrow.string()), "scores": floats}
    buffer = io.BytesIO()
    # Of so few rows, most of a file would be what helps to skip some of many.
    lean: dict[str, Any] = {"store_schema": False, "write_statistics": False, "use_dictionary": False, "compression": "zstd"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(columns)), buffer, **lean)
    return {TEXT: lines.encode(), PARQUET: buffer.getvalue()}
