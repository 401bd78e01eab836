"""Who answers: what every backend offers, and which one a configuration means.

A backend gives the log-likelihood of each continuation after each prompt. Answers are kept in a file, so that a run that was stopped asks for the rest
alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from ddllm.prompt.cache import Answers


class Backend(Protocol):
    """A language model.

    Attributes:
        name: what it is called in results.
        calibrated: whether they are log-likelihoods, which can be calibrated.
    """

    name: str
    calibrated: bool

    @property
    def how(self) -> str:
        """What the scores are, in a few words; known for certain once there are some."""
        ...

    def score(self, prompts: Sequence[str], continuations: Sequence[str], done: Callable[[int], None]) -> np.ndarray:
        """Log-likelihoods [n, C] of continuations after prompts that begin alike; `done` is told how many more prompts have been answered."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def open_backend(prompt: ConfigDict, name: str, answers: Path, words: Sequence[str] = ()) -> Backend:
    """The backend for a model that config.prompt names.

    Args:
        prompt: the section of the configuration.
        name: hub name, local folder, GGUF file or "embedded"; or what the server calls its model.
        answers: file of the answers so far.
        words: what stands for each class.

    Raises:
        UserError: there is no such model, or what is needed to run it is not installed; or the server cannot be reached.
    """
    kept = Answers(answers)
    if prompt.base_url:
        from ddllm.prompt.server import open_server

        return open_server(prompt, name, kept, words)
    from ddllm.prompt.causal import open_causal

    return open_causal(name, prompt.batch_size, kept)
