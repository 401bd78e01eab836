"""The benchmark compares like with like: on its arrays, PyTorch's double backward gives our gradient."""

import numpy as np
import pytest

from benchmarks import contestants
from benchmarks.workloads import Workload, make_problem


@pytest.fixture
def problem(embedded):
    return make_problem(Workload("small", 2, 2, 6, 3))


def test_contestants_agree(problem):
    pytest.importorskip("torch")
    loss, gradients = contestants.ours(problem, "mixed")()
    peer_loss, peer_gradients = contestants.pytorch(problem, "double-backward")()
    assert loss == pytest.approx(peer_loss, rel=1e-5)
    for part, expected in peer_gradients.items():
        assert np.linalg.norm(expected) > 1e-6
        assert np.linalg.norm(gradients[part] - expected) < 1e-4 * np.linalg.norm(expected), part


def test_equal_seeds_give_equal_arrays(problem):
    again = make_problem(Workload("small", 2, 2, 6, 3))
    for part in ("embeddings", "labels", "rates", "ids", "targets"):
        np.testing.assert_array_equal(getattr(problem, part), getattr(again, part))
