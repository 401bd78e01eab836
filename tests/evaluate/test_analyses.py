"""Analyses of one distilled data set: bytes, operations, and when distillation has paid for itself."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.evaluate.compute import (
    STEP,
    count_by_xla,
    distillation_flops,
    evaluate_compute,
    forward_flops,
    padded_flops,
    paid_after,
    planned,
)
from ddllm.evaluate.storage import FORMATS, stored_bytes
from ddllm.models.heads import init_head
from ddllm.report.analyses import print_analyses
from ddllm.report.results import add_rows, read_results
from ddllm.runtime.metrics import read_metrics
from ddllm.stages import analyse, load_scored


def count_products(jaxpr) -> int:
    """Operations of the matrix products that a program is traced to."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = (*equation.outvars[0].aval.shape, *(equation.invars[0].aval.shape[axis] for axis in contracted))
            total += 2 * math.prod(sizes)
        total += sum(count_products(inner.jaxpr) for inner in equation.params.values() if hasattr(inner, "jaxpr"))
    return total


def test_operations_are_those_of_the_program(tiny):
    learner, params = tiny
    for kind in ("mean", "bert"):
        learner = replace(learner, head=replace(learner.head, kind=kind))
        params = {**params, "head": init_head(jax.random.key(0), learner.head, 8)}
        traced = jax.make_jaxpr(learner.logits)(params, jnp.zeros((3, 12, 8)), jnp.ones((3, 12)))
        assert count_products(traced.jaxpr) == forward_flops(learner, 3, 12)
    lengths = np.array([3, 8, 9, 12])
    assert padded_flops(learner, lengths, (8, 12)) == (forward_flops(learner, 2, 8) + forward_flops(learner, 2, 12)) / 4


def test_paid_after():
    assert paid_after(100, 11, 1) == 10 and paid_after(101, 11, 1) == 11
    assert paid_after(100, 1, 1) is None and paid_after(None, 2, 1) is None and paid_after(1, None, 1) is None


def test_a_distillation_costs_its_bodies_and_its_longer_trainings(distilled_run):
    prepared, distilled = load_scored(distilled_run)
    plan, small, real = planned(distilled), 1e6, 1e3

    def cost(**changes):
        return distillation_flops(prepared, distilled, plan | changes, small, real)

    least = cost()
    # Of five bodies the last has all 10 steps, the others 2, 4, 6 and 8; each is validated once.
    validated = len(prepared.tokens.validation) * padded_flops(prepared.learner, prepared.tokens.validation.lengths, prepared.buckets)
    batch = 3 * prepared.config.finetune.batch_size * real
    assert cost(pool=5, pool_steps=10) - least == pytest.approx(30 * batch + 5 * validated, abs=2)
    # In half of the outer steps the recipe twice over, in a third where single examples are met too; fewer while perturbations grow.
    unrolled = plan["outer_steps"] * plan["heads"] * small * STEP[plan["gradient"]] / 3
    assert cost(robust=["passes"]) - least == pytest.approx(0.9 / 2 * unrolled, rel=1e-6)
    assert cost(robust=["passes", "examples", "rates"]) - least == pytest.approx(0.9 / 3 * unrolled, rel=1e-6)
    assert cost(robust=["examples"]) == least


def test_the_stage(distilled_run, capsys):
    full = {"name": "full", "examples_per_class": None, "accuracy_mean": 0.9, "accuracy_std": 0.0, "runs": 1, "seconds": 20.0}
    add_rows(distilled_run.workdir.results, [full], {"data": {"source": "x"}, "model": {"name": "y"}}, {})
    analyse(distilled_run)
    results = read_results(distilled_run.workdir.results)
    assert [row["variation"] for row in results["labels"]] == ["as the recipe says", "hard labels", "hard labels, rates tuned"]
    storage = {row["variation"]: row for row in results["storage"]}
    data = load_scored(distilled_run)[1].data
    assert list(storage) == list(FORMATS) and storage["float32"]["bytes"] == 4 * data.floats == stored_bytes(data, "float32")
    assert storage["float32"]["change"] == 0 and storage["float16"]["bytes"] == storage["bfloat16"]["bytes"]
    positions = int(data.mask.sum())
    assert storage["8 bits"]["bytes"] == 4 * data.floats - 3 * 16 * positions + 8 * positions
    training, shortest, short, finetuning, distilling = results["compute"]
    assert 0.2 < training["flops"] / training["flops_by_xla"] < 2 and training["seconds"] > 0
    assert count_by_xla(*load_scored(distilled_run)) == training["flops_by_xla"]
    assert finetuning["flops"] > 10 * training["flops"] and finetuning["accuracy_mean"] == 0.9
    assert [row["cost"] for row in (shortest, short)] == [f"one fine-tuning for {epochs} epochs" for epochs in ("0.188", "0.75")]
    assert [16 * shortest["flops"], 4 * short["flops"]] == pytest.approx([finetuning["flops"]] * 2, rel=1e-6)
    assert short["seconds"] > 0 and 0 <= short["accuracy_mean"] <= 1
    lines = read_metrics(distilled_run.workdir.metrics)
    assert [[line["step"] for line in lines if line["stage"] == f"short-{share}"][-1] for share in ("0.0625", "0.25")] == [1, 4]
    assert distilling["flops"] > 3000 * training["flops"] and distilling["seconds"] == 30.0
    assert distilling["paid_after_seconds"] == math.ceil(30 / (20 - training["seconds"]))
    # A teacher is not for nothing.
    prepared, distilled = load_scored(distilled_run)
    config = distilled.card["config"] | {"distill": distilled.card["config"]["distill"] | {"teacher": "full"}}
    taught = evaluate_compute(prepared, replace(distilled, card=distilled.card | {"config": config}), full, {})[-1]
    assert taught["flops"] > distilling["flops"] + finetuning["flops"] and taught["seconds"] == 50.0
    # Two that are fine-tuned for half as long cost as much.
    config["distill"] |= {"teacher": "brief", "brief_teachers": 2, "brief_epochs": prepared.config.finetune.epochs / 2}
    brief = evaluate_compute(prepared, replace(distilled, card=distilled.card | {"config": config}), full, {})[-1]
    assert brief["seconds"] == 50.0 and brief["flops"] > taught["flops"]  # both are asked
    config["distill"] |= {"teacher": "full", "crossed": 0.5}  # for new texts it is asked again and again
    crossed = evaluate_compute(prepared, replace(distilled, card=distilled.card | {"config": config}), full, {})[-1]
    assert crossed["flops"] > taught["flops"]
    # What is fine-tuned once is not fine-tuned again.
    analyse(distilled_run)
    assert read_metrics(distilled_run.workdir.metrics) == lines
    again = read_results(distilled_run.workdir.results)["compute"][1]
    assert again | {"seconds": 0} == shortest | {"seconds": 0} and again["seconds"] == pytest.approx(shortest["seconds"], abs=2.0)
    capsys.readouterr()
    print_analyses(results)
    shown = capsys.readouterr().out
    assert all(title in shown for title in ("Labels: distilled", "Storage: distilled", "Compute: distilled"))
    assert f"{distilling['paid_after_seconds']} trainings by seconds" in " ".join(shown.split())
