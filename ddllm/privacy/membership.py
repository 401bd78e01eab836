"""Membership inference against what is trained on a distilled data set, beside the fully fine-tuned model and beside as many random real examples.

The attacker has the distilled data set, trains on it, and asks of a text whether it was among those that the set was learned from: by its loss (Yeom
et al., CSF 2018), or by its loss less what makes it hard in any case (Watson et al., ICLR 2022, arXiv 2111.08440): the loss of a reference model that
has seen neither kind of text ("calibrated"), or the mean loss under models trained on random real examples ("difficulty-calibrated", see
references.py). Members are training texts, others are test texts. Where these differ in kind, as when they are split by film, an attack finds that too:
the models trained on random real examples, which have seen next to no member, say how much of an area above 0.5 that is. See lira.py for members and
others of one kind.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.data.tokens import TokenSplit
from ddllm.distill.inner_loop import same_every_time
from ddllm.evaluate.small import head_keys, train_small
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.prepare import Prepared
from ddllm.privacy.attacks import FALSE_POSITIVES, Attack, attack

Row = dict[str, Any]
INVERSE_PENALTY = 0.1  # scikit-learn's C of the reference, as for a probe that heads start from


@dataclass(frozen=True)
class Victims:
    """Texts that are asked about.

    Attributes:
        members, others: training and test texts.
        rows: row numbers of the members among all training texts.
        other_rows: row numbers of the others among all test texts.
        easy_m, easy_n: losses of the reference model on both.
    """

    members: TokenSplit
    others: TokenSplit
    rows: np.ndarray
    other_rows: np.ndarray
    easy_m: np.ndarray
    easy_n: np.ndarray


def choose_victims(prepared: Prepared, texts: int, seed: int) -> Victims:
    """At most so many training texts and as many test texts, and what a reference model makes of them.

    The reference is a logistic (for other tasks than classification: ridge) regression of validation texts' labels on the pretrained encoder's features.
    """
    rng, tokens = np.random.default_rng([seed, 53]), prepared.tokens
    count = min(texts, len(tokens.train), len(tokens.test))
    rows, other_rows = (np.sort(rng.permutation(len(split))[:count]) for split in (tokens.train, tokens.test))
    members, others = tokens.train.take(rows), tokens.test.take(other_rows)
    known_nD, others_nD = prepared.features_of(tokens.validation, "validation"), prepared.features_of(others, "test")
    predict = fit_reference(known_nD, tokens.validation.labels, prepared)
    losses = prepared.learner.task.outer_losses
    easy_m, easy_n = (
        np.asarray(losses(jnp.asarray(predict(features)), jnp.asarray(split.labels)))
        for features, split in ((prepared.features[rows], members), (others_nD, others))
    )
    return Victims(members, others, rows, other_rows, easy_m, easy_n)


def fit_reference(features_nD: np.ndarray, labels: np.ndarray, prepared: Prepared) -> Callable[[np.ndarray], np.ndarray]:
    """From features [n, D] to logits [n, C]."""
    from sklearn.linear_model import LogisticRegression, Ridge

    task, outputs = prepared.learner.task, len(prepared.tokens.label_names)
    if not task.one_class or len(np.unique(labels)) < 2:
        targets = np.asarray(task.targets(jnp.asarray(labels), outputs))
        ridge = Ridge(1 / INVERSE_PENALTY).fit(features_nD, targets)
        return lambda features: np.asarray(ridge.predict(features), np.float32).reshape(-1, targets.shape[1])
    probe = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000).fit(features_nD, labels)

    def predict(features: np.ndarray) -> np.ndarray:
        logits = np.full((len(features), outputs), np.log(1e-3), np.float32)  # of classes that no validation text is of
        logits[:, probe.classes_] = probe.predict_log_proba(features)
        return logits

    return predict


def text_logits(prepared: Prepared, learner: Learner, params: Tree, split: TokenSplit, words: jax.Array | None = None) -> np.ndarray:
    """Logits [n, C] of each text, in the order of the split."""
    logits = replace(prepared, learner=learner).scorer(split).logits(params, words)
    ordered = np.empty_like(logits)
    ordered[np.argsort(split.lengths, kind="stable")] = logits  # texts are scored from short to long
    return ordered


def text_losses(prepared: Prepared, learner: Learner, params: Tree, split: TokenSplit, words: jax.Array | None = None) -> np.ndarray:
    """Loss [n] of each text, in the order of the split."""
    return losses_of(learner, text_logits(prepared, learner, params, split, words), split)


def losses_of(learner: Learner, logits_nC: np.ndarray, split: TokenSplit) -> np.ndarray:
    """Loss [n] of each text, from its logits."""
    return np.asarray(learner.task.outer_losses(jnp.asarray(logits_nC), jnp.asarray(split.labels)))


def victims_losses(
    prepared: Prepared, learner: Learner, trained: list[Tree], victims: Victims, words: jax.Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Losses [m] and [n] of members and of others, means over some models."""
    members, others = (
        np.mean([text_losses(prepared, learner, params, split, words) for params in trained], axis=0)
        for split in (victims.members, victims.others)
    )
    return members, others


def attack_rows(model: str, scores: dict[str, tuple[np.ndarray, np.ndarray]], prepared: Prepared, note: str) -> list[Row]:
    """A row for each attack on a model, from the scores of members and of others."""
    resamples, seed = prepared.config.privacy.resamples, prepared.config.seed
    return [attack_row(f"{name}, {model}", attack(*pair, resamples, seed), note) for name, pair in scores.items()]


def attack_row(name: str, found: Attack, note: str) -> Row:
    """A row of results.json; its note says where there are too few others for a rate."""
    few = [f"{100 * rate:g} %" for rate, share in zip(FALSE_POSITIVES, found.found, strict=True) if share is None]
    few_note = f"; too few others for a false positive rate of {' or '.join(few)}" if few else ""
    return {"attack": name, **found.row(), "note": note + few_note}


def loss_scores(
    losses_m: np.ndarray, losses_n: np.ndarray, victims: Victims, hard: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The attacks by loss, calibrated ones among them: the second where models trained on random real examples have told how `hard` texts are."""
    scores = {"loss": (-losses_m, -losses_n), "calibrated loss": (victims.easy_m - losses_m, victims.easy_n - losses_n)}
    return scores | ({"difficulty-calibrated loss": (hard[0] - losses_m, hard[1] - losses_n)} if hard else {})


def attack_distilled(prepared: Prepared, distilled: Distilled, victims: Victims, hard: tuple[np.ndarray, np.ndarray]) -> list[Row]:
    """Against training on the distilled set by its recipe; losses are means over heads (or orders) where these are drawn."""
    trained = train_heads(prepared, distilled)
    losses_m, losses_n = victims_losses(prepared, prepared.learner, trained, victims)
    note = f"trained by its recipe, {len(trained)} run{'s' if len(trained) > 1 else ''}"
    return attack_rows("distilled", loss_scores(losses_m, losses_n, victims, hard), prepared, note)


def train_heads(prepared: Prepared, distilled: Distilled) -> list[Tree]:
    """Parameters trained on a set by its recipe: from config.privacy.heads heads (or orders) where these are drawn."""
    learner, recipe = prepared.learner, distilled.recipe
    data = jax.tree.map(jnp.asarray, distilled.data)
    keys = head_keys(prepared, 1 if same_every_time(learner, recipe) else prepared.config.privacy.heads)
    return [train_small(learner, recipe, prepared.start, data, key) for key in keys]


def attack_full(
    prepared: Prepared, params: Tree, words: jax.Array, victims: Victims, hard: tuple[np.ndarray, np.ndarray]
) -> list[Row]:
    """Against the model that was fine-tuned on all training texts."""
    losses_m, losses_n = victims_losses(prepared, prepared.learner, [params], victims, words)
    return attack_rows("full data", loss_scores(losses_m, losses_n, victims, hard), prepared, "fine-tuned on all training texts")
