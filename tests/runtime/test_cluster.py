"""Where a process stands: what each source says, which goes first, and what cannot be meant."""

import os

import pytest

from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.runtime.cluster import Place, find_place


def place_of(**runtime):
    config = default_config()
    config.runtime.update(runtime)
    return find_place(config.runtime)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")):
            monkeypatch.delenv(name)


def test_places_come_from_keys_variables_or_the_cluster(monkeypatch):
    assert place_of() is None
    assert place_of(processes=1, process=0, coordinator="host:1") is None
    assert place_of(processes=3, process=2, coordinator="host:12") == Place("host:12", 3, 2)
    slurm = {"JOB_ID": "4097", "STEP_NODELIST": "gpu[03,07-09]", "NTASKS": "8", "PROCID": "5", "LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert place_of() == Place("gpu03:61441", 8, 5, detected=True)
    assert place_of(distributed="off") is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert place_of() is None
    for name, value in {"COORDINATOR_ADDRESS": "[::1]:99", "NUM_PROCESSES": "2", "PROCESS_ID": "0"}.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    assert place_of() == Place("[::1]:99", 2, 0)
    assert place_of(process=1) == Place("[::1]:99", 2, 1)


@pytest.mark.parametrize(
    "runtime, message",
    [
        ({"processes": 2}, "config.runtime.process (or JAX_PROCESS_ID) is not set"),
        ({"processes": 2, "process": 0}, "config.runtime.coordinator (or JAX_COORDINATOR_ADDRESS) is not set"),
        ({"processes": 2, "process": 2, "coordinator": "host:1"}, "must be from 0 to 1"),
        ({"processes": 2, "process": 0, "coordinator": "host"}, "must be host:port"),
        ({"processes": 2, "process": 0, "coordinator": "host:port"}, "must be host:port"),
    ],
)
def test_settings_that_cannot_be_meant(runtime, message):
    with pytest.raises(UserError) as raised:
        place_of(**runtime)
    assert message in str(raised.value)
