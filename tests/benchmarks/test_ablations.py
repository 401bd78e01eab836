"""Ablations: each run is the recipe with one thing changed, and rows keep apart what differs in more than that."""

import pytest
from flax.traverse_util import flatten_dict

from benchmarks import ablations
from benchmarks.jobs import Base
from ddllm.config import resolve
from ddllm.report.results import add_rows
from ddllm.runtime.storage import write_json

ENVIRONMENT = {"texts": {"rows": {"train": 90, "validation": 9, "test": 30}}, "cpu": "some", "backend": "cpu"}


@pytest.fixture
def make(tmp_path):
    """make(change, seed, outer_steps) -> its run on SST-2."""
    base = Base.below(tmp_path, "sst2", "embedded", None)
    return lambda change, seed=0, outer_steps=300: ablations.changed(base, change, 1, seed, outer_steps)


def finish(job, validation, test):
    """As if the run had ended with these figures."""
    row = {"name": "distilled", "examples_per_class": 1, "accuracy_mean": test, "accuracy_std": 0.0, "runs": 1, "seconds": 1.0}
    row |= {"inner_steps": 2, "floats": 10, "distillation_seconds": 60.0, "texts": 30}
    (job.member.folder / "distilled").mkdir(parents=True)
    add_rows(job.member.folder / "results.json", [row], resolve(job.member.config), ENVIRONMENT)
    write_json(job.member.folder / "distilled" / "recipe.json", {"validation_accuracy": validation, "validation_loss": 1 - validation, "outer_step": 200})


@pytest.mark.parametrize("change", ablations.CHANGES)
def test_a_run_differs_from_the_recipe_in_what_its_row_says(make, change):
    recipe, run = (flatten_dict(resolve(make(name).member.config), sep=".") for name in (ablations.AS_IT_IS, change))
    differing = {key for key in recipe if recipe[key] != run[key]}
    assert differing == {f"distill.{key.partition('=')[0]}" for key in ablations.CHANGES[change][1]}


def test_rows_are_means_over_seeds_and_other_amounts_are_rows_of_their_own(make):
    rows = []
    figures = {
        ("recipe", 0, 300): (0.8, 0.7),
        ("recipe", 1, 300): (0.9, 0.8),
        ("no_teacher", 0, 300): (0.75, 0.6),
        ("recipe", 0, 600): (0.95, 0.9),
    }
    for (change, seed, outer_steps), (validation, test) in figures.items():
        job = make(change, seed, outer_steps)
        finish(job, validation, test)
        ablations.enter(rows, job)
    assert [(row["change"], row["outer_steps"], len(row["test"])) for row in rows] == [
        ("recipe", 300, 2),
        ("no_teacher", 300, 1),
        ("recipe", 600, 1),
    ]
    text = ablations.markdown(rows)
    assert "| the recipe as it is | 85.0 ± 7.1 (2) |  | 0.150 | 75.0 ± 7.1 | 2 | 10 | 1 |" in text
    assert "75.0 (1) | -10.0 | 0.250 | 60.0" in text
    assert text.count("\n## ") == 2


def test_figures_of_an_earlier_recipe_are_thrown_away(make):
    rows, first, second = [], make("recipe", 0), make("recipe", 1)
    finish(first, 0.8, 0.7)
    ablations.enter(rows, first)
    second.member.config.distill.passes = 5
    finish(second, 0.9, 0.8)
    ablations.enter(rows, second)
    assert [row["test"] for row in rows] == [{"1": 0.8}]
