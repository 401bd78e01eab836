"""Membership inference against what is trained on a distilled data set, beside the fully fine-tuned model and beside as many random real examples.

The attacker has the distilled data set, trains on it, and asks of a text whether it was among those that the set was learned from: by its loss (Yeom et al.,
CSF 2018), or by its loss less that of a reference model that has seen neither kind of text (Watson et al., ICLR 2022). Members are training texts, others
are test texts. Where these differ in kind, as when they are split by film, an attack finds that too: the model trained on random real examples, which has
seen next to no member, says how much of an area above 0.5 that is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.data.tokens import TokenSplit
from ddllm.distill.artefact import Distilled
from ddllm.distill.inner_loop import same_every_time
from ddllm.evaluate.selection import draw_selection, pick_for_seeds, train_passes
from ddllm.evaluate.small import head_keys, train_small
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.prepare import Prepared
from ddllm.privacy.attacks import attack
from ddllm.runtime.progress import Progress
from ddllm.select.features import compute_features

Row = dict[str, Any]
INVERSE_PENALTY = 0.1  # scikit-learn's C of the reference, as for a probe that heads start from


@dataclass(frozen=True)
class Victims:
    """Texts that are asked about.

    Attributes:
        members, others: training and test texts.
        rows: row numbers of the members among all training texts.
        easy_m, easy_n: losses of the reference model on both.
    """

    members: TokenSplit
    others: TokenSplit
    rows: np.ndarray
    easy_m: np.ndarray
    easy_n: np.ndarray


def choose_victims(prepared: Prepared, texts: int, seed: int) -> Victims:
    """At most so many training texts and as many test texts, and what a reference model makes of them.

    The reference is a logistic (for other tasks than classification: ridge) regression of validation texts' labels on the pretrained encoder's features.
    """
    rng, tokens = np.random.default_rng([seed, 53]), prepared.tokens
    count = min(texts, len(tokens.train), len(tokens.test))
    rows = np.sort(rng.permutation(len(tokens.train))[:count])
    members, others = tokens.train.take(rows), tokens.test.take(np.sort(rng.permutation(len(tokens.test))[:count]))
    size, start, encoder = prepared.config.evaluate.batch_size, prepared.start, prepared.learner.encoder
    known_nD, others_nD = (
        compute_features(encoder, start, split, size, prepared.buckets, prepared.mesh, f"features of {name} texts")
        for name, split in (("validation", tokens.validation), ("test", others))
    )
    predict = fit_reference(known_nD, tokens.validation.labels, prepared)
    losses = prepared.learner.task.outer_losses
    easy_m, easy_n = (
        np.asarray(losses(jnp.asarray(predict(features)), jnp.asarray(split.labels)))
        for features, split in ((prepared.features[rows], members), (others_nD, others))
    )
    return Victims(members, others, rows, easy_m, easy_n)


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


def text_losses(prepared: Prepared, learner: Learner, params: Tree, split: TokenSplit, words: jax.Array | None = None) -> np.ndarray:
    """Loss [n] of each text, in the order of the split."""
    scorer = replace(prepared, learner=learner).scorer(split)
    losses = np.asarray(learner.task.outer_losses(jnp.asarray(scorer.logits(params, words)), jnp.asarray(scorer.labels)))
    ordered = np.empty_like(losses)
    ordered[np.argsort(split.lengths, kind="stable")] = losses  # texts are scored from short to long
    return ordered


def attack_rows(model: str, losses_m: np.ndarray, losses_n: np.ndarray, victims: Victims, prepared: Prepared, note: str) -> list[Row]:
    """A row for each attack, from a model's losses of members and of others."""
    resamples, seed = prepared.config.privacy.resamples, prepared.config.seed
    scores = {"loss": (-losses_m, -losses_n), "calibrated loss": (victims.easy_m - losses_m, victims.easy_n - losses_n)}
    return [
        {"attack": f"{name}, {model}", **attack(members, others, resamples, seed).row(), "note": note}
        for name, (members, others) in scores.items()
    ]


def attack_distilled(prepared: Prepared, distilled: Distilled, victims: Victims) -> list[Row]:
    """Against training on the distilled set by its recipe; losses are means over heads (or orders) where these are drawn."""
    learner, recipe = prepared.learner, distilled.recipe
    data = jax.tree.map(jnp.asarray, distilled.data)
    keys = head_keys(prepared, 1 if same_every_time(learner, recipe) else prepared.config.privacy.heads)
    trained = [train_small(learner, recipe, prepared.start, data, key) for key in keys]
    note = f"trained by its recipe, {len(keys)} run{'s' if len(keys) > 1 else ''}"
    return _mean_attack(prepared, "distilled", trained, learner, victims, note)


def attack_full(prepared: Prepared, params: Tree, words: jax.Array, victims: Victims) -> list[Row]:
    """Against the model that was fine-tuned on all training texts."""
    losses_m, losses_n = (text_losses(prepared, prepared.learner, params, split, words) for split in (victims.members, victims.others))
    return attack_rows("full data", losses_m, losses_n, victims, prepared, "fine-tuned on all training texts")


def attack_random(prepared: Prepared, victims: Victims, rate: float, passes: int) -> list[Row]:
    """Against training on as many random real examples: on training texts that they are not among, and on these examples themselves."""
    config = prepared.config
    batches, per_class = config.distill.batches, config.distill.examples_per_class
    seeds = range(config.privacy.heads)
    picked = pick_for_seeds(prepared, "random", per_class, seeds)
    learner = replace(prepared.learner, start="redrawn")
    trained, own = [], []
    with Progress(len(seeds), "privacy: random real examples") as progress:
        for seed, key in zip(seeds, head_keys(prepared, len(seeds)), strict=True):
            data = draw_selection(prepared, picked[seed], batches, rate)
            [(_, params)] = train_passes(learner, prepared.start, prepared.mesh, data, key, [passes])
            trained.append(params)
            rows = np.sort(np.concatenate(picked[seed]))
            own.append(text_losses(prepared, learner, params, prepared.tokens.train.take(rows)))
            progress.update(progress.done + 1)
    note = f"plain SGD at the rate {rate:g} for {passes} passes, {len(seeds)} draws"
    seen = np.isin(victims.rows, np.concatenate([row for rows in picked.values() for row in rows]))
    members = replace(victims, members=victims.members.take(~seen), rows=victims.rows[~seen], easy_m=victims.easy_m[~seen])
    rows = _mean_attack(prepared, "random real examples", trained, learner, members, note + "; members are other training texts")
    # Losses under different models do not compare: in their place stands the share of the test texts that the same model finds harder.
    harder = [
        np.mean(text_losses(prepared, learner, params, victims.others)[None] > losses_k[:, None], axis=1)
        for params, losses_k in zip(trained, own, strict=True)
    ]
    others = (np.arange(len(victims.others)) + 0.5) / len(victims.others)
    found = attack(np.concatenate(harder), others, config.privacy.resamples, config.seed)
    rows.append({"attack": "loss, random real examples themselves", **found.row(), "note": note + "; members are the examples"})
    return rows


def _mean_attack(prepared: Prepared, model: str, trained: list[Tree], learner: Learner, victims: Victims, note: str) -> list[Row]:
    losses_m, losses_n = (
        np.mean([text_losses(prepared, learner, params, split) for params in trained], axis=0) for split in (victims.members, victims.others)
    )
    return attack_rows(model, losses_m, losses_n, victims, prepared, note)
