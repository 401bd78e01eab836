"""LiRA, the likelihood-ratio attack (Carlini et al., IEEE S&P 2022, arXiv 2112.03570), with shadow distillations in the place of shadow models.

How confident a model is of a text's label depends on the text before all. Shadow sets (shadows.py) tell what is usual for it: what a model reaches
that was trained on a set distilled with the text, and on one distilled without it. Confidences are logit-scaled, and each kind is taken for Gaussian:

    LiRA            log N(confidence; with the text) − log N(confidence; without it)      (online: texts are known before shadows are distilled)
    LiRA offline    (confidence − mean without it) / deviation without it                 (from shadows without the text alone)

Two kinds of targets are attacked. The run's own set, whose members are training texts and whose others are test texts: these may differ in kind, most
of which the shadows, made of both, take out. And each shadow set in turn, by all others but the other one of its pair: members and others are then
halves of the same texts, drawn by chance, so that an area above 0.5 can have no other cause than what the set gives away.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.data.splits import strata
from ddllm.data.tokens import TokenSplit, join_splits
from ddllm.models.tasks import Task
from ddllm.prepare import Prepared
from ddllm.privacy.attacks import attack_in_turn
from ddllm.privacy.membership import Victims, attack_row, attack_rows, text_logits, train_heads
from ddllm.privacy.shadows import Shadows
from ddllm.runtime.progress import Progress

Row = dict[str, Any]
MANY = 32  # shadows with a text, and as many without it, from which on each text has variances of its own (as published: 64 in all)
TINY = 1e-30
TURNS = 4  # shadows from which on each is attacked by the others: of fewer, only its own pair is left


def attack_by_shadows(prepared: Prepared, distilled: Distilled, victims: Victims, shadows: Shadows) -> list[Row]:
    """Rows of the attack on the run's own set and, where there are enough shadows, on each of them in turn."""
    config, members = prepared.config, len(victims.members)
    texts = join_splits([victims.members, victims.others])
    rows = np.concatenate([victims.rows, len(prepared.tokens.train) + victims.other_rows])  # among the shadows' texts
    inside_SM = shadows.inside[:, rows]
    found = []
    with Progress(len(shadows.sets) + 1, "privacy: what shadow sets tell") as progress:
        for each in (distilled, *shadows.sets):
            theirs = prepared if each is distilled else replace(prepared, learner=each.learner(prepared.pretrained))
            found.append(mean_confidences(theirs, each, texts))
            progress.update(progress.done + 1)
    own_M, *others = standardise(np.stack(found), texts.labels)
    shadows_SM = np.stack(others)
    how = f"{len(others)} shadow sets of {shadows.outer_steps} outer steps, each from half of the training and test texts"
    scores = {name: (values[:members], values[members:]) for name, values in score_all(own_M, shadows_SM, inside_SM).items()}
    rows_own = attack_rows("distilled", scores, prepared, how)
    if len(others) < TURNS:
        return rows_own
    note = f"{how}; each attacked by the others but its pair's, members and others being halves of the same texts; means of {len(others)} targets"
    in_turn = score_in_turn(shadows_SM, inside_SM)
    found_in_turn = {name: attack_in_turn(values, inside_SM, config.privacy.resamples, config.seed) for name, values in in_turn.items()}
    return rows_own + [attack_row(f"{name}, shadow sets in turn", each, note) for name, each in found_in_turn.items()]


def mean_confidences(prepared: Prepared, distilled: Distilled, texts: TokenSplit) -> np.ndarray:
    """Confidences [n] of texts under what is trained on a set, means over heads (or orders) where these are drawn."""
    learner, trained = prepared.learner, train_heads(prepared, distilled)
    runs = [confidences(learner.task, text_logits(prepared, learner, params, texts), texts.labels) for params in trained]
    return np.mean(runs, axis=0)


def confidences(task: Task, logits_nC: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logit-scaled confidence [n] of each text's label, log p − log(1 − p); of tasks without classes, minus the loss."""
    if not task.one_class:
        return -np.asarray(task.outer_losses(jnp.asarray(logits_nC), jnp.asarray(labels)), np.float64)
    logits_nC, own = logits_nC.astype(np.float64), np.arange(logits_nC.shape[1])[None] == labels[:, None]
    return logits_nC[own] - np.logaddexp.reduce(np.where(own, -np.inf, logits_nC), axis=1)


def standardise(confidences_SM: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each model's confidences with a mean of 0 in every class, and a deviation of 1.

    Distilled sets differ in how sure of themselves a model becomes, and of which class, far more than by single texts.
    """
    classes = strata(labels)
    centred = np.array(confidences_SM, np.float64)
    for label in np.unique(classes):
        centred[:, classes == label] -= centred[:, classes == label].mean(axis=1, keepdims=True)
    deviation_S1 = centred.std(axis=1, keepdims=True)
    return centred / np.where(deviation_S1 > 0, deviation_S1, 1)


def score_all(target_M: np.ndarray, shadows_SM: np.ndarray, inside_SM: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [M] by both variants, from confidences of the target and of shadows."""
    return {"LiRA": online_scores(target_M, shadows_SM, inside_SM), "LiRA offline": offline_scores(target_M, shadows_SM, inside_SM)}


def score_in_turn(shadows_SM: np.ndarray, inside_SM: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [S, M] of every shadow's model by the pairs of others, and its confidences beside them.

    Without its pair each text is in half of the others, whether it is a member or not. With the pair's other set, members would have one shadow with
    them less, and be told by that alone.
    """
    turns = np.arange(len(shadows_SM))
    found = [score_all(shadows_SM[turn], shadows_SM[turns // 2 != turn // 2], inside_SM[turns // 2 != turn // 2]) for turn in turns]
    return {"confidence": shadows_SM, **{name: np.stack([scores[name] for scores in found]) for name in found[0]}}


def online_scores(target_M: np.ndarray, shadows_SM: np.ndarray, inside_SM: np.ndarray) -> np.ndarray:
    """Log-likelihood ratios [M] (Algorithm 1); of few shadows with one variance for all, the value of which changes no order.

    Args:
        target_M: confidences of the target's model.
        shadows_SM: those of the shadows' models.
        inside_SM: whether a text is in a shadow; each must be in one and not in another.
    """
    (with_M, spread_M), (without_M, lone_M) = _gaussians(shadows_SM, inside_SM), _gaussians(shadows_SM, ~inside_SM)
    return _log_density(target_M, with_M, spread_M) - _log_density(target_M, without_M, lone_M)


def offline_scores(target_M: np.ndarray, shadows_SM: np.ndarray, inside_SM: np.ndarray) -> np.ndarray:
    """How many deviations [M] the target's confidence lies above the mean without the text, which the probability of the one-sided test grows with."""
    mean_M, spread_M = _gaussians(shadows_SM, ~inside_SM)
    return (target_M - mean_M) / spread_M


def mean_where(values_SM: np.ndarray, chosen_SM: np.ndarray) -> np.ndarray:
    """Mean [M] over the models that are chosen for each text; over all where none is."""
    none_M = np.logical_not(chosen_SM.any(axis=0))
    return np.average(values_SM, axis=0, weights=chosen_SM | none_M[None])


def _gaussians(shadows_SM: np.ndarray, chosen_SM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [M] of the chosen shadows' confidences of each text; where they are few, a deviation of 1."""
    mean_M = mean_where(shadows_SM, chosen_SM)
    counts_M = chosen_SM.sum(axis=0)
    if counts_M.min() < MANY:
        return mean_M, np.ones_like(mean_M)
    squares_M = (np.square(shadows_SM - mean_M[None]) * chosen_SM).sum(axis=0)
    return mean_M, np.maximum(np.sqrt(squares_M / (counts_M - 1)), TINY)


def _log_density(values_M: np.ndarray, mean_M: np.ndarray, spread_M: np.ndarray) -> np.ndarray:
    """Of a Gaussian, less a constant."""
    return -np.square((values_M - mean_M) / spread_M) / 2 - np.log(spread_M)
