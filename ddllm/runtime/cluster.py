"""Where a process stands among those that compute one run together: by the configuration, variables, or the cluster it runs on.

`Place` is what is handed on to `processes`, which joins them.
"""

import errno
import os
import socket
import time
from dataclasses import dataclass

from ml_collections import ConfigDict

from ddllm.errors import UserError

# As jax.distributed and common launchers name them; the configuration goes first.
COORDINATOR, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# JAX knows Kubernetes too, but asks for a package and for rights there even where a process computes alone.
CLUSTERS = ("slurm", "ompi", "gcetpu", "gketpu")


@dataclass(frozen=True)
class Place:
    """Where a process stands among all.

    Attributes:
        coordinator: host:port that process 0 listens at.
        count: processes in all.
        number: of this one, from 0.
        detected: whether a cluster's surroundings said so, which then assign devices too.
    """

    coordinator: str
    count: int
    number: int
    detected: bool = False


def find_place(runtime: ConfigDict) -> Place | None:
    """Where this process stands, by the configuration, the environment or the cluster's own variables; None where it computes alone.

    Raises:
        UserError: what is said is incomplete or contradicts itself.
    """
    if runtime.distributed == "off":
        return None
    coordinator = runtime.coordinator or os.environ.get(COORDINATOR, "")
    count = runtime.processes or _whole_number(COUNT)
    number = _whole_number(NUMBER) if runtime.process < 0 else runtime.process
    detected = False
    if count is None or number is None:
        count, number, coordinator, detected = _ask_cluster(count, number, coordinator, runtime.join_timeout)
    said = {
        "config.runtime.coordinator (or " + COORDINATOR + ")": coordinator or None,
        "config.runtime.processes (or " + COUNT + ")": count,
        "config.runtime.process (or " + NUMBER + ")": number,
    }
    if count == 1 or all(value is None for value in said.values()):
        return None
    missing = [name for name, value in said.items() if value is None]
    if coordinator is None or count is None or number is None or missing:
        present = [name for name in said if name not in missing]
        raise UserError(f"several processes are asked for by {' and '.join(present)}, but {' and '.join(missing)} is not set.")
    if not 0 <= number < count:
        raise UserError(f"config.runtime.process is {number}, but with {count} processes it must be from 0 to {count - 1}.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"config.runtime.coordinator is {coordinator!r}; it must be host:port, such as 10.0.0.1:7654.")
    return Place(coordinator, count, number, detected)


def meet(place: Place, timeout: float) -> None:
    """Make sure that the coordinator's port can be had, or reached: the library itself would abort without a sentence.

    Raises:
        UserError: the port of process 0 is taken, or cannot be reached for `timeout` seconds.
    """
    host, port = place.coordinator.rsplit(":", 1)
    host = host.strip("[]")
    if place.number == 0:
        for family, anywhere in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((anywhere, int(port)))
                return
            except OSError as error:
                if family == socket.AF_INET6 and error.errno != errno.EADDRINUSE:
                    continue
                raise UserError(
                    f"process 0 cannot listen at port {port} ({error.strerror}); choose another one in config.runtime.coordinator."
                ) from error
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=min(5.0, timeout)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process {place.number} cannot reach process 0 at {place.coordinator} ({error.strerror or error}) since {timeout:g} seconds; "
                    "start it, or correct config.runtime.coordinator."
                ) from error
            time.sleep(0.2)


def _whole_number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not text.isdecimal():
        raise UserError(f"the environment variable {variable} is {text!r}, which is not a whole number.")
    return int(text)


def _ask_cluster(count: int | None, number: int | None, coordinator: str, timeout: int) -> tuple[int | None, int | None, str, bool]:
    """What is not said yet, by JAX's own detection where that finds several processes, and whether it does."""
    from jax._src.clusters import ClusterEnv  # no public name

    cluster = next((kind for kind in ClusterEnv._cluster_types if kind.name in CLUSTERS and kind.is_env_present()), None)
    if cluster is None or cluster.get_process_count() == 1:
        return count, number, coordinator, False
    port = os.environ.get("JAX_COORDINATOR_PORT")
    coordinator = coordinator or cluster.get_coordinator_address(timeout_secs=timeout, override_coordinator_port=port)
    return count or cluster.get_process_count(), cluster.get_process_id() if number is None else number, coordinator, True
