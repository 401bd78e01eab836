"""Sets JAX up for a run and describes the machine: hands on the devices to use and the environment that is saved with results."""

import logging
import os
import platform
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import ddllm
from ddllm.errors import UserError
from ddllm.runtime import processes
from ddllm.runtime.compiler import set_compiler_flags
from ddllm.runtime.host_memory import free_host_memory
from ddllm.runtime.processor import describe_processor

PACKAGES = ("jax", "jaxlib", "optax", "numpy", "orbax-checkpoint", "transformers")


def set_up(runtime: ConfigDict) -> None:
    """Settings that must be made before the first computation: compiled programs are kept between runs, libraries log only what matters.

    Args:
        runtime: the section `runtime` of the configuration. A cache folder that cannot be written is done without.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    set_compiler_flags()
    # These say at every start which accelerators a machine does not have.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    folder = cache_folder(runtime.compilation_cache)
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder(setting: str) -> Path | None:
    """The folder for compiled programs, made if need be: `setting` itself, the user's cache folder for "auto"; None for "" or an unwritable one."""
    if not setting:
        return None
    return user_cache("compilation") if setting == "auto" else _writable(Path(setting).absolute())


def user_cache(name: str) -> Path | None:
    """A folder of this name in the user's cache folder, made if need be; None for an unwritable one."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return _writable(Path(base, "ddllm", name).absolute())


def _writable(folder: Path) -> Path | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def choose_devices(runtime: ConfigDict) -> list[Any]:
    """The first `runtime.devices` devices, of each process as many; all of them for 0.

    Raises:
        UserError: more are asked for than there are, or they do not divide over the processes.
    """
    devices = jax.devices()
    if runtime.devices > len(devices):
        raise UserError(
            f"config.runtime.devices is {runtime.devices}, but JAX finds {len(devices)} here ({devices[0].device_kind}): use 0 for all of them."
        )
    if runtime.devices % processes.count():
        raise UserError(
            f"config.runtime.devices is {runtime.devices}, which does not divide over {processes.count()} processes: use a multiple or 0 for all."
        )
    each = runtime.devices // processes.count() or None
    return [device for number in range(processes.count()) for device in jax.local_devices(number)[:each]]


def place(tree: Any, sharding: Any) -> Any:
    """Put arrays where a sharding says; of one that spans processes each process fills its own part, from equal arrays.

    Args:
        tree: any pytree of arrays; on several processes every one holds the whole of it.
        sharding: for all leaves.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def fill(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(fill(jax.random.key_data(leaf)))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(fill, tree)


def whole(array: Any) -> np.ndarray:
    """A copy in host memory. Of an array that is cut up over devices of several processes, this one's must have every piece (see mesh.make_mesh)."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.array(array, copy=True)
    copy = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        copy[shard.index] = shard.data
    return copy


def free_memory(device: Any) -> int:
    """Bytes that a device can still give; for a CPU device, those that this process may take of the machine's, shared out over all of them."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return free_host_memory() // jax.local_device_count()


def has_host_memory(device: Any) -> bool:
    """Whether programs on this device can leave arrays in the host's memory and fetch them again."""
    return any(memory.kind == "pinned_host" for memory in device.addressable_memories())


def describe_environment() -> dict[str, Any]:
    """What a result depends on beside its configuration, as JSON: machine, devices, versions and date."""
    devices = jax.devices()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "ddllm": ddllm.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": describe_processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": processes.count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def computed_on(environment: dict[str, Any]) -> str:
    """The name of what did the computing, of an environment as above: the accelerator, or the processor where there was none."""
    return environment["cpu"] if environment["backend"] == "cpu" else environment["device"]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
