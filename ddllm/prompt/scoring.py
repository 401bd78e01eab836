"""From examples to figures: prompts in several draws and orders, scored on the same test texts, with contextual calibration.

Calibration (Zhao et al., ICML 2021, arXiv 2102.09690): the probabilities of the labels, normalised over the labels, are divided by what they are on
average for texts without content ("N/A", "", "[MASK]") behind the same examples; W = diag(p_cf)^-1, b = 0 in the paper's words.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ddllm.data.splits import Split, draw_part
from ddllm.prompt.backend import Backend
from ddllm.prompt.templates import Template

PART = 41  # among the seeds of what is drawn


@dataclass(frozen=True)
class Questions:
    """What every prompt is asked.

    Attributes:
        template: the wording.
        texts: the test texts, as the prompt ends with them.
        blanks: the content-free texts, likewise.
        labels: classes of the test texts [n].
    """

    template: Template
    texts: list[str]
    blanks: list[str]
    labels: np.ndarray


def make_questions(template: Template, test: Split, limit: int, seed: int, blanks: Sequence[str]) -> Questions:
    """Test texts (a random part of `limit` with the classes in proportion; 0: all) and content-free ones as questions."""
    part = draw_part(test, limit, [seed, PART])
    pairs = part.pairs or [""] * len(part)
    texts = [template.query(text, pair) for text, pair in zip(part.texts, pairs, strict=True)]
    return Questions(template, texts, [template.query(blank, blank if part.pairs else "") for blank in blanks], part.labels)


def score_prefix(backend: Backend, questions: Questions, prefix: str, done: Callable[[int], None] = lambda count: None) -> dict[str, float]:
    """Accuracy on the test texts behind one beginning of a prompt.

    Args:
        backend: who answers.
        questions: the test texts and their wording.
        prefix: what stands before them.
        done: is told how many more questions have been answered.

    Returns:
        {"accuracy"} calibrated where that is possible, "uncalibrated" as the model says, and "unanswered": the share of texts without an answer, which are
        right in neither.
    """
    blanks = questions.blanks if backend.calibrated else []
    prompts = [prefix + query for query in [*questions.texts, *blanks]]
    scores = backend.score(prompts, questions.template.continuations, done)
    scores_nC, blanks_mC = scores[: len(questions.texts)], scores[len(questions.texts) :]
    raw, answered_n = accuracy(scores_nC, questions.labels), decided(scores_nC)
    # Calibration alone would give an answer where the model gives none.
    reached = accuracy(np.where(answered_n[:, None], calibrate(scores_nC, blanks_mC), 0.0), questions.labels) if len(blanks) else raw
    return {"accuracy": reached, "uncalibrated": raw, "unanswered": float(np.mean(~answered_n))}


def calibrate(scores_nC: np.ndarray, blanks_mC: np.ndarray) -> np.ndarray:
    """Log-probabilities [n, C] over the labels, less those that content-free texts have on average (equation 1 of Zhao et al., with b = 0)."""
    log_p_nC, blank_mC = log_normalise(scores_nC), np.exp(log_normalise(blanks_mC))
    return log_normalise(log_p_nC - np.log(np.maximum(blank_mC.mean(axis=0, keepdims=True), 1e-30)))


def log_normalise(scores_nC: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis."""
    shifted = scores_nC - scores_nC.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def accuracy(scores_nC: np.ndarray, labels_n: np.ndarray) -> float:
    """Share of texts whose class has a higher score than every other; where the highest are equal there is no answer."""
    return float(np.mean(decided(scores_nC) & (scores_nC.argmax(axis=1) == labels_n)))


def decided(scores_nC: np.ndarray) -> np.ndarray:
    """Whether each text [n] has one highest score, and so an answer."""
    return np.sum(scores_nC == scores_nC.max(axis=1, keepdims=True), axis=1) == 1


class Clock:
    """Seconds since it was made, or since the last look."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        seconds, self._begun = now - self._begun, now
        return seconds
