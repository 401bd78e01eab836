"""Training on a distilled text, scored exactly as a distilled data set is (see small.py): hands on rows of the results."""

from typing import Any

from ddllm.distill.dataset import BESIDE
from ddllm.evaluate.small import evaluate_distilled
from ddllm.prepare import Prepared
from ddllm.text.distilled_text import DistilledText, read_again


def evaluate_text(prepared: Prepared, text: DistilledText, name: str) -> list[dict[str, Any]]:
    """Test figures with the recipe's own head and over redrawn ones, and again as the text reads, where tokenising it gives other tokens.

    Args:
        prepared: data and model, with the learner that the text was made for.
        text: what is trained on.
        name: of the rows, in the place of "distilled".

    Returns:
        Rows with "tokens" (of all examples), "floats" (numbers kept beside them) and "read_again" (share of examples that come back token for token).
    """
    rows, again = [], read_again(prepared, text)
    versions = [(name, text)] + ([(f"{name}, read again", again[0])] if again[1] < 1 else [])
    for title, version in versions:
        for row in evaluate_distilled(prepared, version.data, version.recipe):
            row["name"] = title + row["name"].removeprefix("distilled")
            tokens = int((version.data.mask > 0).sum())
            row["floats"] -= tokens * version.data.embeddings.shape[-1]
            kept = [part for part in BESIDE if getattr(version.data, part) is not None]
            row |= {"tokens": tokens, "read_again": again[1], "distillation_seconds": text.notes.get("distillation_seconds")}
            note = f"{tokens} tokens of the vocabulary" + (f", with what was learned before and is no text ({', '.join(kept)})" if kept else "")
            if title != name:
                note = f"the readable text tokenised again, in which {again[1]:.0%} of the examples come back token for token"
            row["note"] = f"{note}; {row['note']}"
            rows.append(row)
    return rows
