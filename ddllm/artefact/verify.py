"""Whether a folder still does what its card says: trained again on its recipe, scored on the same texts, compared."""

from typing import Any

import jax
import jax.numpy as jnp

from ddllm.artefact.base import Distilled
from ddllm.artefact.card import FIGURES
from ddllm.errors import ScoreDiffers, UserError
from ddllm.evaluate.small import head_keys, score_heads
from ddllm.prepare import Prepared
from ddllm.report.results import mean_figure
from ddllm.runtime.progress import Progress

ALLOWED = 0.002  # between machines, whose roundings differ; or the stated deviation of several runs, where that is more


def verify_distilled(prepared: Prepared, distilled: Distilled, where: str) -> str:
    """Train and score again, and say what came out.

    Args:
        prepared: data, model and configuration; its learner is the one that the data set was distilled for.
        distilled: the data set, with a score in its card.
        where: its folder, for messages.

    Raises:
        UserError: the card has no score.
        ScoreDiffers: the figure is not the card's.
    """
    score = stated_score(distilled, where)
    test, figure = prepared.tokens.test, score["figure"]
    if figure not in prepared.learner.task.figures:
        raise UserError(f"the card of {where} states {figure}, which {prepared.learner.task.name} does not have; get the folder again.")
    scorer = prepared.scorer(test, score["texts"] if score["texts"] < len(test) else 0)
    data = jax.tree.map(jnp.asarray, distilled.data)
    keys = head_keys(prepared, score["runs"])
    with Progress(len(keys), "verify") as progress:
        scores = score_heads(prepared.learner, distilled.recipe, prepared.start, data, scorer, keys, progress)
    found, stated = mean_figure(scores, figure), score["mean"]
    allowed = max(ALLOWED, score["deviation"] if score["runs"] > 1 else 0.0)
    same_texts = scorer.texts == score["texts"] and score.get("corpus", prepared.tokens.fingerprint) == prepared.tokens.fingerprint
    texts = f"{scorer.texts:,} test texts" + ("" if same_texts else f", other ones than the card's {score['texts']:,} of {score.get('data', '?')}")
    what = f"{FIGURES.get(figure, figure)} {100 * found:.2f} on {texts}; the card of {where} states {100 * stated:.2f}"
    if abs(found - stated) > allowed + 1e-9:
        raise ScoreDiffers(f"{what}, which is {100 * abs(found - stated):.2f} points away ({100 * allowed:.2f} are allowed).")
    return f"verified: {what}"


def stated_score(distilled: Distilled, where: str) -> dict[str, Any]:
    """The score of training exactly as the recipe says, its own head included.

    Raises:
        UserError: there is none.
    """
    start = distilled.card["head"]["start"]
    for score in distilled.card["scores"]:
        if score.get("head") == start:
            return score
    raise UserError(f"the card of {where} states no test score; run --mode=evaluate in the working directory that it was distilled in.")
