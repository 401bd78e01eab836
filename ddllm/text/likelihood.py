"""How likely texts are to a causal language model: hands on `LanguageModel`, which judges texts, and which a search keeps its texts fluent with.

The model is found, loaded and run by ddllm/prompt, GGUF files included. A text is scored from its first token on, behind what documents begin with
(sequences.py); the loss is the sum of the tokens' negative log-likelihoods, in nats.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ddllm.errors import UserError
from ddllm.prompt.causal import load_causal, score_sequences, short_name
from ddllm.prompt.decoders import NEEDED, find_decoder
from ddllm.prompt.sequences import whole_texts

BATCH = 16  # texts in a forward pass


class LanguageModel:
    """A causal language model that scores whole texts; its weights are read at the first text, and what it said of a text is kept.

    Args:
        name: what it is called in results.
        folder: of its files.
        batch_size: texts in a forward pass; those of like length go together.
    """

    def __init__(self, name: str, folder: Path, batch_size: int = BATCH):
        self.name, self.folder, self.batch_size = name, folder, batch_size
        self._loaded: tuple[Any, Any] | None = None
        self._known: dict[str, tuple[float, int]] = {}

    def losses(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood of each text in nats [n], and its tokens [n].

        Texts that have not been scored before are, in one call of ceil(n / batch_size) forward passes; a pass of the embedded model takes about 10 ms for each
        token on one core.

        Raises:
            UserError: a text is empty, or longer than the model's positions.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            model, tokenizer = self._load()
            sequences = whole_texts(tokenizer, new)
            longest, positions = max(map(len, sequences.ids)), getattr(model.config, "max_position_embeddings", None)
            if positions is not None and longest > positions:
                raise UserError(f"a text of {longest} tokens does not fit the {positions} positions of {self.name}; shorten it, or choose another model.")
            for numbers, rows in score_sequences(model, sequences, self.batch_size):
                for number, [found] in zip(numbers, rows, strict=True):
                    self._known[new[number]] = (-found, len(sequences.targets[number][0].tokens))
        found = [self._known[text] for text in texts]
        return np.array([loss for loss, _ in found]), np.array([count for _, count in found])

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_causal(self.folder)
        return self._loaded


def open_language_model(name: str) -> LanguageModel:
    """The model of a hub name, a local folder, a GGUF file or "embedded".

    Raises:
        UserError: there is no such model, or PyTorch is not installed.
    """
    if find_spec("torch") is None:
        raise UserError(f"language models are run by PyTorch, which is not installed here; run `{NEEDED}`, or leave the model's name empty.")
    return LanguageModel(short_name(name), find_decoder(name))
