"""Models trained on random real examples: what a distilled set's attacks stand beside, and what tells how hard a text is in any case."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ddllm.distill.dataset import DistilledData
from ddllm.evaluate.selection import draw_selection, pick_for_seeds, train_passes
from ddllm.evaluate.small import head_keys
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.prepare import Prepared
from ddllm.privacy.lira import confidences, mean_where, offline_scores, standardise
from ddllm.privacy.membership import Victims, attack_rows, loss_scores, losses_of, text_logits, text_losses
from ddllm.runtime.progress import Progress, say

Row = dict[str, Any]


@dataclass(frozen=True)
class References:
    """Models trained on draws of random real examples, and what they make of the texts that are asked about.

    Attributes:
        learner: theirs, with redrawn heads.
        picked: row numbers of each draw's examples among the training texts.
        trained: parameters of each.
        losses_Km, losses_Kn: losses of members and of others.
        logits_KnC: logits of the others.
        note: how they were trained.
    """

    learner: Learner
    picked: list[np.ndarray]
    trained: list[Tree]
    losses_Km: np.ndarray
    losses_Kn: np.ndarray
    logits_KnC: np.ndarray
    note: str

    def difficulty(self, victims: Victims) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss of members and of others, each under the models that have not seen the text (Watson et al., ICLR 2022)."""
        unseen_Km = np.stack([~np.isin(victims.rows, rows) for rows in self.picked])
        return mean_where(self.losses_Km, unseen_Km), self.losses_Kn.mean(axis=0)


def train_references(prepared: Prepared, distilled: DistilledData, victims: Victims, rate: float, passes: int) -> References:
    """Train on config.privacy.heads draws of as many random real examples as there are distilled ones, or of a few more, so that classes have as many."""
    per_class = -(-distilled.examples // prepared.classes)
    batches, seeds = math.gcd(per_class, distilled.embeddings.shape[0]), range(prepared.config.privacy.heads)
    picked = pick_for_seeds(prepared, "random", per_class, seeds)
    learner, trained, losses_Km, logits_KnC = replace(prepared.learner, start="redrawn"), [], [], []
    with Progress(len(seeds), "privacy: random real examples") as progress:
        for seed, key in zip(seeds, head_keys(prepared, len(seeds)), strict=True):
            data = draw_selection(prepared, picked[seed], batches, rate)
            [(_, params)] = train_passes(learner, prepared.start, prepared.mesh, data, key, [passes])
            trained.append(params)
            losses_Km.append(text_losses(prepared, learner, params, victims.members))
            logits_KnC.append(text_logits(prepared, learner, params, victims.others))
            progress.update(progress.done + 1)
    note = f"plain SGD at the rate {rate:g} for {passes} passes, {len(seeds)} draws"
    rows = [np.sort(np.concatenate(picked[seed])) for seed in seeds]
    losses_Kn = np.stack([losses_of(learner, logits_nC, victims.others) for logits_nC in logits_KnC])
    return References(learner, rows, trained, np.stack(losses_Km), losses_Kn, np.stack(logits_KnC), note)


def attack_random(prepared: Prepared, victims: Victims, references: References) -> list[Row]:
    """Against training on random real examples: on training texts that they are not among, where there are any, and on these examples themselves."""
    seen = np.isin(victims.rows, np.concatenate(references.picked))
    if seen.all():
        say("  random real examples: all training texts that are asked about are among them, so that none is left to attack")
        return _attack_examples(prepared, victims, references)
    rest = replace(victims, members=victims.members.take(~seen), rows=victims.rows[~seen], easy_m=victims.easy_m[~seen])
    losses_m, losses_n = references.losses_Km.mean(axis=0)[~seen], references.losses_Kn.mean(axis=0)
    note = references.note + "; members are other training texts"
    rows = attack_rows("random real examples", loss_scores(losses_m, losses_n, rest), prepared, note)
    return rows + _attack_examples(prepared, victims, references)


def _attack_examples(prepared: Prepared, victims: Victims, references: References) -> list[Row]:
    """On the examples themselves; each draw's model is attacked by those of the others, where there are others.

    Scores under different models do not compare: in their place stands the share of the test texts that look less like a member to the same model.
    """
    learner, train = references.learner, prepared.tokens.train
    rows = np.unique(np.concatenate(references.picked))
    inside_KE = np.stack([np.isin(rows, picked) for picked in references.picked])
    examples, others = train.take(rows), victims.others
    logits_KEC = [text_logits(prepared, learner, params, examples) for params in references.trained]
    losses_KE = np.stack([losses_of(learner, logits_EC, examples) for logits_EC in logits_KEC])
    confident_KE, confident_Kn = (
        np.stack([confidences(learner.task, logits_nC, split.labels) for logits_nC in logits_KnC])
        for logits_KnC, split in ((logits_KEC, examples), (references.logits_KnC, others))
    )
    confident_KM = standardise(np.concatenate([confident_KE, confident_Kn], axis=1), np.concatenate([examples.labels, others.labels]))
    losses_KM = np.concatenate([losses_KE, references.losses_Kn], axis=1)
    inside_KM = np.concatenate([inside_KE, np.zeros(confident_Kn.shape, bool)], axis=1)
    shares: dict[str, list[np.ndarray]] = {}
    for target, inside_M in enumerate(inside_KM):
        rest = np.arange(len(inside_KM)) != target
        scores = {"loss": -losses_KM[target]}
        if rest.any():
            scores["difficulty-calibrated loss"] = mean_where(losses_KM[rest], ~inside_KM[rest]) - losses_KM[target]
            scores["LiRA offline"] = offline_scores(confident_KM[target], confident_KM[rest], inside_KM[rest])
        for name, values in scores.items():
            shares.setdefault(name, []).append(np.mean(values[len(rows) :][None] < values[inside_M][:, None], axis=1))
    grid = (np.arange(len(others)) + 0.5) / len(others)
    pairs = {name: (np.concatenate(found), grid) for name, found in shares.items()}
    return attack_rows("random real examples themselves", pairs, prepared, references.note + "; members are the examples")
