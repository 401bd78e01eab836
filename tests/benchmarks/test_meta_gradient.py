"""The benchmark compares like with like: on its arrays, PyTorch's double backward gives our gradient."""

import numpy as np
import pytest

from benchmarks import contestants
from benchmarks.workloads import Workload, make_problem


@pytest.fixture
def problem(embedded):
    return make_problem(Workload("small", 2, 2, 6, 3))


@pytest.mark.parametrize("products, method, most", [("float32", "mixed", 1e-4), ("float32", "mixed+offload", 1e-4), ("bfloat16", "mixed", 0.1)])
def test_contestants_agree(problem, products, method, most):
    pytest.importorskip("torch")
    loss, gradients = contestants.ours(problem, method, products).run()
    peer_loss, peer_gradients = contestants.pytorch(problem, "double-backward", products).run()
    assert loss == pytest.approx(peer_loss, rel=most / 10)
    for part, expected in peer_gradients.items():
        assert np.linalg.norm(expected) > 1e-6
        assert np.linalg.norm(gradients[part] - expected) < most * np.linalg.norm(expected), part


def test_equal_seeds_give_equal_arrays(problem):
    again = make_problem(Workload("small", 2, 2, 6, 3))
    for part in ("embeddings", "labels", "rates", "ids", "targets"):
        np.testing.assert_array_equal(getattr(problem, part), getattr(again, part))
