"""How devices are split over heads, batches and parameters, and where parameters are cut."""

import jax
import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.runtime.mesh import arrange, make_mesh, parameter_bytes, parameter_spec, share_parameters, split_copies, with_all_axes


def make_config(devices=8, shard=1, heads=1, distill=32, finetune=32):
    config = default_config()
    config.runtime.devices, config.runtime.shard = devices, shard
    config.distill.heads, config.distill.batch_size, config.finetune.batch_size = heads, distill, finetune
    return config


@pytest.mark.parametrize(
    "values, sizes",
    [
        ({}, (1, 8, 1)),
        ({"heads": 8}, (8, 1, 1)),
        ({"heads": 12}, (4, 2, 1)),
        ({"heads": 3}, (1, 8, 1)),
        ({"heads": 4, "shard": 2}, (4, 1, 2)),
        ({"heads": 2, "shard": 2}, (2, 2, 2)),
        ({"shard": 4}, (1, 2, 4)),
        ({"devices": 6, "heads": 4, "distill": 9, "finetune": 12}, (2, 3, 1)),
        ({"devices": 1, "heads": 5}, (1, 1, 1)),
    ],
)
def test_split(values, sizes):
    assert tuple(make_mesh(make_config(**values)).shape.values()) == sizes


def test_most_heads_at_once_whose_batches_divide():
    assert split_copies(8, 8, 3) == (8, 1)
    assert split_copies(12, 4, 6) == (4, 3)
    assert split_copies(12, 4, 4) is None
    assert split_copies(12, 6, 4) == (6, 2)
    assert split_copies(12, 6, 3) is None


@pytest.mark.parametrize(
    "values, message",
    [
        ({"shard": 3}, "config.runtime.shard is 3, which does not divide the 8 devices; make it one of 1, 2, 4, 8"),
        ({"distill": 12}, "config.distill.batch_size is 12, which does not divide over 8 devices; make"),
        ({"distill": 9, "heads": 2}, "is 9, which does not divide over 8 devices, nor with config.distill.heads=2"),
        ({"finetune": 2, "shard": 2}, "config.finetune.batch_size is 2, which does not divide over 4 groups of 2 devices"),
        ({"devices": 9}, "JAX finds 8"),
    ],
)
def test_what_does_not_divide_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        make_mesh(make_config(**values))


def test_parameters_are_cut_along_their_longest_axis():
    assert parameter_spec((16, 48), 2) == jax.P(None, "model")
    assert parameter_spec((64, 16), 2) == parameter_spec((16, 16), 2) == jax.P("model")
    assert parameter_spec((5, 4), 4) == jax.P(None, "model")
    assert parameter_spec((16, 48), 1) == parameter_spec((48,), 2) == parameter_spec((3, 5), 2) == jax.P()
    tree = {"kernel": np.zeros((16, 48), np.float32), "bias": np.zeros(48, np.float32)}
    assert parameter_bytes(tree, arrange(jax.devices(), 1, 2, 4)) == 4 * (16 * 12 + 48)


def test_more_devices_to_a_copy():
    mesh, sizes = arrange(jax.devices(), 2, 4, 1), []
    while (mesh := share_parameters(mesh)) is not None:
        sizes.append(tuple(mesh.shape.values()))
    assert sizes == [(2, 2, 2), (2, 1, 4), (1, 1, 8)]


def test_missing_axes_have_one_device():
    mesh = with_all_axes(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)))
    assert dict(mesh.shape) == {"head": 1, "data": 8, "model": 1} and mesh.axis_names == ("head", "data", "model")
