"""Analyses of one distilled data set: bytes, operations, and when distillation has paid for itself."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.evaluate.compute import count_by_xla, evaluate_compute, forward_flops, padded_flops, paid_after
from ddllm.evaluate.storage import FORMATS, stored_bytes
from ddllm.models.heads import init_head
from ddllm.report.analyses import print_analyses
from ddllm.report.results import add_rows, read_results
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
    training, finetuning, distilling = results["compute"]
    assert 0.2 < training["flops"] / training["flops_by_xla"] < 2 and training["seconds"] > 0
    assert count_by_xla(*load_scored(distilled_run)) == training["flops_by_xla"]
    assert finetuning["flops"] > 10 * training["flops"] and finetuning["accuracy_mean"] == 0.9
    assert distilling["flops"] > 3000 * training["flops"] and distilling["seconds"] == 30.0
    assert distilling["paid_after_seconds"] == math.ceil(30 / (20 - training["seconds"]))
    # A teacher is not for nothing.
    prepared, distilled = load_scored(distilled_run)
    config = distilled.card["config"] | {"distill": distilled.card["config"]["distill"] | {"teacher": "full"}}
    taught = evaluate_compute(prepared, replace(distilled, card=distilled.card | {"config": config}), full, {})[-1]
    assert taught["flops"] > distilling["flops"] + finetuning["flops"] and taught["seconds"] == 50.0
    capsys.readouterr()
    print_analyses(results)
    shown = capsys.readouterr().out
    assert all(title in shown for title in ("Labels: distilled", "Storage: distilled", "Compute: distilled"))
    assert f"{distilling['paid_after_seconds']} trainings by seconds" in " ".join(shown.split())
