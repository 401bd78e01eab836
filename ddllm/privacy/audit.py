"""The whole report on what a distilled data set gives away: hands on the lists "privacy" and "nearness" of results.json.

Each part's rows are kept as they are found, so that a start that was killed goes on with the next part.
"""

import json
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddllm.artefact.base import Distilled
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.privacy.lira import attack_by_shadows
from ddllm.privacy.membership import attack_distilled, attack_full, choose_victims
from ddllm.privacy.nearness import compare_nearness
from ddllm.privacy.references import References, attack_random, train_references
from ddllm.privacy.shadows import Shadows
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import Progress, say
from ddllm.runtime.storage import read_json, write_json

Row = dict[str, Any]
Rows = list[Row]
NEARNESS = "nearness"


def audit(
    prepared: Prepared,
    distilled: Distilled,
    rows: Rows,
    finetuned: Callable[[], tuple[Any, Any]] | None,
    kept: Path | None = None,
    make_shadows: Callable[[], Shadows] | None = None,
) -> dict[str, Rows]:
    """Attacks on membership, and nearness to real texts.

    Args:
        prepared: data, model and configuration; its learner is the one that the data set was distilled for.
        distilled: the distilled data set.
        rows: of results.json; the row "random" tells the rate and passes of the random real examples.
        finetuned: gives parameters and word table of the fully fine-tuned model; None where there is none.
        kept: file of the parts that have been found before; None to keep nothing.
        make_shadows: gives the shadow sets of config.privacy; None where there are none.

    Returns:
        {"privacy": rows {"attack", "auc", "auc_low", "auc_high", "tpr_at_1_percent_fpr", "tpr_at_0.1_percent_fpr", "members", "others", "note"}, where
        rates are None for too few others; "nearness": see `compare_nearness`}.
    """
    config = prepared.config.privacy
    victims = choose_victims(prepared, config.texts, prepared.config.seed)
    tuned = next((row for row in rows if row["name"] == "random" and row.get("rate")), None)
    rate, passes = (tuned["rate"], tuned["passes"]) if tuned else _middle(prepared.config.evaluate)

    @cache
    def references() -> References:
        return train_references(prepared, distilled.data, victims, rate, passes)

    parts: dict[str, Callable[[], Rows]] = {
        "distilled": lambda: attack_distilled(prepared, distilled, victims, references().difficulty(victims))
    }
    if finetuned is None:
        say("  no fully fine-tuned model to compare with: the stage finetune makes it")
    else:
        parts["full"] = lambda: attack_full(prepared, *finetuned(), victims, references().difficulty(victims))
    parts["random"] = lambda: attack_random(prepared, victims, references())
    parts[NEARNESS] = lambda: compare_nearness(prepared, distilled, config.texts, prepared.config.seed)
    if make_shadows is not None:
        parts[f"{config.shadows} shadows of {config.shadow_steps} steps"] = lambda: attack_by_shadows(prepared, distilled, victims, make_shadows())
    mark = _mark(prepared, distilled, rate, passes)
    found: dict[str, Rows] = from_first(lambda: _read(kept, mark))
    with Progress(len(parts), "privacy", start=len(set(found) & set(parts))) as progress:
        for name, work in parts.items():
            if name in found:
                continue
            found[name] = work()
            if kept is not None and is_first():
                write_json(kept, {"mark": mark, "parts": found})
            progress.update(progress.done + 1)
    return {"privacy": [row for name in parts if name != NEARNESS for row in found[name]], NEARNESS: found[NEARNESS]}


def _middle(evaluate: ConfigDict) -> tuple[float, int]:
    """A rate and a number of passes, where the stage select has not chosen them."""
    rates, passes = sorted(evaluate.selection_rates), sorted(evaluate.selection_passes)
    return rates[len(rates) // 2], passes[len(passes) // 2]


def _mark(prepared: Prepared, distilled: Distilled, rate: float, passes: int) -> str:
    """What kept parts depend on, in short."""
    config = prepared.config
    asked = [config.privacy.texts, config.privacy.heads, config.privacy.resamples]
    facts = [asked, config.seed, rate, passes, distilled.checksum, prepared.tokens.fingerprint]
    return sha256(json.dumps([*facts, prepared.pretrained.fingerprint]).encode()).hexdigest()


def _read(kept: Path | None, mark: str) -> dict[str, Rows]:
    if kept is None or not kept.is_file():
        return {}
    try:
        known = read_json(kept)
    except UserError:
        return {}  # cut short: found anew
    return known["parts"] if isinstance(known, dict) and known.get("mark") == mark else {}
