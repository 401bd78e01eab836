"""Few-epoch fine-tuning on real texts, the third way to spend as little as a training on distilled data does: rows for the list "compute"."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddllm.evaluate.finetune import finetune, score_finetuned
from ddllm.prepare import Prepared
from ddllm.report.results import summarise
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.metrics import Metrics

STAGE = "short"


def finetune_shortly(prepared: Prepared, folder: Path, open_metrics: Callable[[], Metrics]) -> list[dict[str, Any]]:
    """Fine-tunings of config.finetune's kind that take the shares config.evaluate.short_finetunings of its epochs, each with a rise and fall of the rate.

    Args:
        prepared: data, model and configuration.
        folder: of checkpoints: what has been trained is not trained again.
        open_metrics: opens where figures are written.

    Returns:
        Rows {"epochs", "seconds", and figures on test texts}, the shortest first.
    """
    rows = []
    for share in sorted(prepared.config.evaluate.short_finetunings):
        config = prepared.config.copy_and_resolve_references()
        with config.unlocked():
            # The last parameters are the best ones of so short a run.
            config.finetune.update({"epochs": share * config.finetune.epochs, "validations": 1, "checkpoints": 2})
        checkpoints, metrics = Checkpoints(folder / f"{share:g}", keep=1), open_metrics()
        try:
            state, seconds = finetune(replace(prepared, config=config), config.seed, checkpoints, metrics, f"{STAGE}-{share:g}")
        finally:
            checkpoints.close()
            metrics.close()
        rows.append({"epochs": config.finetune.epochs, "seconds": seconds, **summarise([score_finetuned(prepared, state)], prepared.metric)})
    return rows
