"""How readable texts are, beside as many real ones: hands on `measure` for any texts, and `judge_texts` for those of a prepared data set.

| figure | |
|---|---|
| `perplexity` | exp(loss of all texts / their tokens of the judge) |
| `nll_per_word` | loss of all texts / their words, in nats: whatever the judge's tokens are, and into how many it cuts a word |
| `distinct_1`, `distinct_2`, `repeated_4` | see repetition.py |
| `grammar` | mistakes in a hundred words, where the checker is installed (see grammar.py) |

The judge should have taken no part in making the texts. All texts, real ones too, are compared as the encoder reads them (its tokens, decoded, so that case
and unknown characters are the same) with their marks put where prose has them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddllm.data.splits import Split
from ddllm.data.tokens import TokenSplit, load_tokenizer, tokenize_texts
from ddllm.errors import UserError
from ddllm.evaluate.selection import pick_for_seeds
from ddllm.prepare import Prepared
from ddllm.runtime.processes import from_first
from ddllm.text.distilled_text import read_texts
from ddllm.text.grammar import can_check, mistakes
from ddllm.text.likelihood import LanguageModel
from ddllm.text.repetition import distinct, repeated, split_words, tidy

REFERENCE = 200  # real sentences at least, in sets as large as that of the texts


def measure(sets: Sequence[Sequence[str]], judge: LanguageModel) -> dict[str, float]:
    """The figures above of one or several sets of texts: of all texts together, but for distinct_n, which depends on a set's size: mean over the sets.

    Blank texts, as sentences of characters that the encoder does not know read, are left out.

    Raises:
        UserError: there is no text, a set has none, or one is too long for the judge.
    """
    filled = [[tidy(text) for text in texts if text.strip()] for texts in sets]
    if not any(filled) or not all(map(len, sets)):
        raise UserError("there is no text to judge; give at least one.")
    sets = [texts for texts in filled if texts]
    together = [text for texts in sets for text in texts]
    losses, tokens = judge.losses(together)
    figures = {
        "perplexity": math.exp(losses.sum() / tokens.sum()),
        "nll_per_word": float(losses.sum() / sum(len(split_words(text)) for text in together)),
        **{f"distinct_{n}": float(np.mean([distinct(texts, n) for texts in sets])) for n in (1, 2)},
        "repeated_4": repeated(together, 4),
    }
    return figures | ({"grammar": mistakes(together)} if can_check() else {})


def judge_texts(prepared: Prepared, sets: Sequence[Sequence[str]], judge: LanguageModel) -> dict[str, Any]:
    """Figures of sets of like size, the same of real training sentences as "<figure>_real", and the judge's name.

    Args:
        prepared: data and model.
        sets: readable texts.
        judge: scores them.
    """
    read, sentences = [as_read(prepared, texts) for texts in sets], real_sets(prepared, max(len(texts) for texts in sets))
    figures, real = from_first(lambda: (measure(read, judge), measure(sentences, judge)))
    return figures | {f"{name}_real": value for name, value in real.items()} | {"judge": judge.name}


def as_read(prepared: Prepared, texts: Sequence[str]) -> list[str]:
    """Texts as the encoder's tokenizer gives them back, cut to config.data.length tokens."""
    tokenizer, split = load_tokenizer(prepared.pretrained.folder), Split.unlabelled(list(texts))
    return _decode(prepared, tokenize_texts(tokenizer, split, prepared.config.data.length)[0])


def real_sets(prepared: Prepared, size: int) -> list[list[str]]:
    """Random sets of real training sentences, each as large as asked for (up to a multiple of the classes), of `REFERENCE` sentences or more in all."""
    least = min(np.bincount(prepared.tokens.train.labels)) if prepared.learner.task.one_class else len(prepared.tokens.train)
    per_class = min(math.ceil(size / prepared.classes), int(least))
    draws = range(math.ceil(REFERENCE / (per_class * prepared.classes)))
    picked = pick_for_seeds(prepared, "random", per_class, draws)
    return [selected_texts(prepared, rows) for rows in picked.values()]


def selected_texts(prepared: Prepared, picked: Sequence[np.ndarray]) -> list[str]:
    """Training texts as the encoder's tokenizer gives them back; `picked` has row numbers, an array for each class."""
    return _decode(prepared, prepared.tokens.train.take(np.concatenate(picked)))


def tell(figures: dict[str, Any]) -> str:
    """The figures in a clause for a row's note."""
    real = figures["perplexity_real"]
    part = ", which took part in the search" if figures.get("judge_took_part") else ""
    return f"perplexity {figures['perplexity']:.0f} by {figures['judge']}, {figures['perplexity'] / real:.1f} times that of real sentences ({real:.0f}){part}"


def _decode(prepared: Prepared, split: TokenSplit) -> list[str]:
    mask = np.arange(split.ids.shape[1]) < split.lengths[:, None]
    return read_texts(load_tokenizer(prepared.pretrained.folder), split.ids, mask)
