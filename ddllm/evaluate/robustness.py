"""How much of a distilled data set's accuracy is left when it is trained on in another way than its recipe says.

Published sets collapse there: another order, batch size or optimizer took one from 96.5 to 62. Every variation is a row of its own, on the same test
texts as the recipe's row; what a variation leaves open (a constant rate) is chosen on validation texts.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddllm.artefact.base import Distilled
from ddllm.distill.dataset import DistilledData
from ddllm.distill.inner_loop import same_every_time
from ddllm.evaluate.small import head_keys, of_texts, train_small
from ddllm.evaluate.transfer import carry_over
from ddllm.evaluate.variations import Variation, vary
from ddllm.models.learner import Learner
from ddllm.models.scoring import Scorer
from ddllm.prepare import Prepared, prepare
from ddllm.report.results import mean_figure, summarise
from ddllm.runtime.progress import Progress, say

Row = dict[str, Any]


def evaluate_robustness(prepared: Prepared, distilled: Distilled, cache: Path) -> list[Row]:
    """Test figures by the recipe, away from it, and on the encoders of config.evaluate.transfer.

    Args:
        prepared: data, model and configuration; its learner is the one that the data set was distilled for.
        distilled: the distilled data set.
        cache: folder of tokenised corpora, for encoders with tokenizers of their own.

    Returns:
        Rows {"variation", "accuracy_mean", "accuracy_std" (and the task's other figures), "runs", "change" (points, against the recipe's row), "note",
        "texts"}, with "metric" where changes are of another figure than accuracy.

    Raises:
        UserError: an encoder cannot be read, or neither its hidden size nor its vocabulary fits.
    """
    data, recipe = jax.tree.map(jnp.asarray, distilled.data), distilled.recipe
    config = prepared.config.evaluate
    short = [PurePath(name).name for name in config.transfer]
    others = []
    for name, called in zip(config.transfer, short, strict=True):  # before anything is trained, so that a mistake in the last name costs no time
        other = prepare_other(prepared, name, cache)
        others.append((name, other, carry_over(prepared, other, data, recipe, called if short.count(called) == 1 else name)))
    rows = score_variations(prepared, vary(data, recipe, prepared.classes, tuple(config.adam_rates)))
    for name, other, carried in others:
        say(f"  trained on {name}, an encoder that it was not distilled for")
        rows += score_variations(other, carried, rows[0][f"{prepared.metric}_mean"])
    return rows


def prepare_other(prepared: Prepared, name: str, cache: Path) -> Prepared:
    """The same corpus and head on another encoder; the head starts as the first one's does."""
    config = ConfigDict(prepared.config.to_dict())
    config.model.name = name
    other, own = prepare(config, cache), prepared.learner
    # Mean pooling is a choice of the recipe's, whereas other heads are those of their families.
    head = own.head if own.head.kind == "mean" else other.learner.head
    return replace(other, learner=replace(other.learner, head=head, start=own.start, head_seed=own.head_seed))


def score_variations(prepared: Prepared, variations: list[Variation], base: float | None = None) -> list[Row]:
    """A row for every variation.

    Args:
        prepared: data, model and configuration.
        variations: what to train; `base` left out, the first one is what the others are compared with.
        base: accuracy (or what stands in its place) that changes are told from.
    """
    config, learner, metric = prepared.config.evaluate, prepared.learner, prepared.metric
    test = prepared.scorer(prepared.tokens.test, config.head_texts)
    validation = prepared.scorer(prepared.tokens.validation, config.tuning_texts)
    rows: list[Row] = []
    with Progress(len(variations), f"variations on {PurePath(prepared.pretrained.name).name}") as progress:
        for variation in variations:
            random = variation.draw is not None or not same_every_time(learner, variation.recipe)
            keys = head_keys(prepared, config.variation_draws if random else 1)
            run = _runner(prepared, learner, variation)
            tried, data = choose(variation.candidates, lambda data: mean_figure(run(data, validation, keys), metric))  # noqa: B023  called before the next turn
            scores = run(data, test, keys)
            note = "; ".join(filter(None, (variation.how, tried))) + of_texts(test.texts, len(prepared.tokens.test))
            mean = mean_figure(scores, metric)
            base = mean if base is None else base
            rows.append(
                {
                    "variation": variation.name,
                    **summarise(scores, metric),
                    "change": round(100 * (mean - base), 2),
                    "texts": test.texts,
                    "note": note.removeprefix(", "),
                    **variation.more,
                }
            )
            progress.update(progress.done + 1, **{"variation": variation.name, metric: mean})
    return rows


def choose(candidates: dict[str, Any], score: Callable[[Any], float]) -> tuple[str, Any]:
    """The candidate with the best score on validation, the first of equals, and a sentence about the choice; a single one is not scored."""
    if len(candidates) == 1:
        return "", next(iter(candidates.values()))
    scores = {name: score(candidate) for name, candidate in candidates.items()}
    best = max(scores, key=lambda name: scores[name])
    return f"{best} of {', '.join(candidates)}, chosen on validation", candidates[best]


def _runner(
    prepared: Prepared, learner: Learner, variation: Variation
) -> Callable[[DistilledData, Scorer, list[jax.Array]], list[dict[str, float]]]:
    """Figures of one training for each key."""

    def run(data: DistilledData, scorer: Scorer, keys: list[jax.Array]) -> list[dict[str, float]]:
        scores = []
        for key in keys:
            drawn = variation.draw(data, key) if variation.draw else data
            scores.append(scorer.scores(train_small(learner, variation.recipe, prepared.start, drawn, key)))
        return scores

    return run
