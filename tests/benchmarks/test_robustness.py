"""Sets away from their recipe as a benchmark: each set is made once, and every variation is a row."""

from benchmarks import robustness
from benchmarks.jobs import Base


def test_each_set_is_distilled_and_then_trained_on_in_other_ways(tmp_path):
    base = Base.below(tmp_path, "sst2", "embedded", None)
    teachers, own, own_scored, robust, robust_scored = robustness.plan(base, ["recipe", "robust"], 1, 3, ("other",), smoke=False)
    assert own.member.folder == base.distilling("distilled", 1, 3).member.folder  # the table's
    assert own.member.config.distill.teacher == robust.member.config.distill.teacher == str(teachers.member.folder)
    assert not own.member.config.distill.robust and tuple(robust.member.config.distill.robust) == ("rates", "positions")
    assert (own_scored.change, robust_scored.change) == ("recipe", "robust")
    for made, scored in ((own, own_scored), (robust, robust_scored)):
        assert scored.member.stages == ["robustness"] and f"--distilled={made.member.folder / 'distilled'}" in scored.member.line
        assert tuple(scored.member.config.evaluate.transfer) == ("other",)
    assert len({job.member.folder for job in (teachers, own, own_scored, robust, robust_scored)}) == 5


def test_a_row_for_each_variation_and_a_column_for_each_set():
    common = {"dataset": "d", "model": "m", "examples_per_class": 1, "outer_steps": 9}
    rows = [
        common | {"set": "recipe", "variation": "rates doubled", "test": {"0": 0.8, "1": 0.7}, "change": {"0": -4.0, "1": -6.0}},
        common | {"set": "robust", "variation": "Adam", "test": {"0": 0.5}, "change": {"0": 1.0}},
    ]
    table = robustness.markdown(rows)
    assert "| rates doubled | 75.0 ± 7.1 (2) [-5.0] | – |" in table and "| Adam | – | 50.0 (1) [+1.0] |" in table
