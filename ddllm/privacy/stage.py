"""The stage `privacy`: what a distilled data set gives away."""

from functools import partial
from typing import Any

from ddllm.errors import UserError
from ddllm.models.multi_head import MultiHead
from ddllm.privacy.audit import audit
from ddllm.privacy.shadows import distil_shadows, plan_shadows
from ddllm.report.results import read_results
from ddllm.run import Run, load_scored, of_same_texts, record
from ddllm.runtime.processes import from_first, is_first


def privacy(run: Run) -> None:
    """What the distilled data set gives away: the lists "privacy" and "nearness" of the results."""
    prepared, distilled = load_scored(run)
    if isinstance(prepared.learner.task, MultiHead):
        raise UserError(
            f"the data set has a head for each of {len(prepared.learner.task.heads)} tasks, and the attacks are on one that has its task's texts alone; "
            "run the stage privacy on the sets that it was merged from."
        )
    if not of_same_texts(prepared, distilled):
        raise UserError(
            "which texts the data set was distilled from is not known here, since it comes from another corpus, split or length than this run's; "
            "run the stage privacy with the configuration that it was distilled by (its recipe.json has it)."
        )
    rows = from_first(lambda: read_results(run.workdir.results)["rows"] if run.workdir.results.exists() else [])
    there = from_first(lambda: any(run.workdir.finetune.glob("seed-*")))

    def finetuned() -> tuple[Any, Any]:
        return run.finetuned(prepared).models[0]

    shadows = None
    if run.config.privacy.shadows:
        plan_shadows(run.prepared, run.workdir.shadows, None if run.distilled else distilled.card.get("distillation_seconds"))
        shadows = partial(distil_shadows, run.prepared, run.workdir.shadows, run.metrics)
    kept = run.workdir.privacy if is_first() else None
    record(run, [], audit(prepared, distilled, rows, finetuned if there else None, kept, shadows))
