"""From a run to its folder: `export_distilled` gathers what the arrays belong to and writes it all; `scores_of` what test texts said."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import ddllm
from ddllm.artefact.base import describe_base, drawn_parts
from ddllm.artefact.folder import save_distilled
from ddllm.artefact.rows import read_rows
from ddllm.config import resolve
from ddllm.data.tokens import load_tokenizer
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.prepare import Prepared
from ddllm.report.results import metric_of

# Sections of the configuration that say nothing about a set or its scores: what is asked about it afterwards, and where it is computed.
APART = ("prompt", "privacy", "report", "runtime")


def export_distilled(folder: Path, prepared: Prepared, data: DistilledData, recipe: Recipe, **card: Any) -> None:
    """Write the folder of a data set that was distilled from what is prepared.

    Args:
        folder: where to.
        prepared: data, model, learner and configuration.
        data: arrays, in numpy.
        recipe: constants of learning from them.
        card: further entries of recipe.json.
    """
    config, pretrained, names = prepared.config, prepared.pretrained, prepared.tokens.label_names
    base = describe_base(pretrained, prepared.learner, config.data.length, bool(config.data.pair_column))
    save_distilled(
        folder,
        data,
        recipe,
        names,
        config.distill.storage,
        read_rows(data, recipe, names, base, pretrained.words, load_tokenizer(pretrained.folder)),
        drawn_parts(prepared.learner, pretrained),
        **base,
        corpus=prepared.tokens.fingerprint,
        **card,
        config=kept_config(config),
    )


def kept_config(config: ConfigDict) -> dict[str, Any]:
    """What a card keeps of a configuration: all that a set or its scores depend on."""
    return {key: value for key, value in resolve(config).items() if key not in APART}


def scores_of(prepared: Prepared, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the results as a folder keeps them: the figure, and the protocol that it was measured by."""
    tokens = prepared.tokens
    scores = []
    for row in rows:
        metric = metric_of(row)
        others = {key: row[key] for key in row if key.endswith(("_mean", "_std")) and not key.startswith(f"{metric}_")}
        scores.append(
            {
                "name": row["name"],
                "figure": metric,
                "mean": row[f"{metric}_mean"],
                "deviation": row[f"{metric}_std"],
                "runs": row["runs"],
                "others": others,
                "texts": row["texts"],
                "head": row["head"],
                "note": row["note"],
                "data": tokens.name,
                "corpus": tokens.fingerprint,
                "model": prepared.pretrained.name,
                "seed": prepared.config.seed,
                "ddllm": ddllm.__version__,
            }
        )
    return scores
