"""What the processor is and can do, by the kernel's account of it (Linux)."""

import platform
from functools import cache
from pathlib import Path

# Sums products of bfloat16 numbers in float32, in one instruction.
MULTIPLY_BFLOAT16 = {"avx512_bf16", "amx_bf16"}


def describe_processor() -> str:
    """Its name and what processors of one name differ by, in speed by half."""
    said = _account()
    name, features = said.get("model name") or platform.processor() or platform.machine(), said.get("flags", "").split()
    made = f" (family {said['cpu family']}, model {said['model']})" if {"cpu family", "model"} <= said.keys() else ""
    return name + made + next((f", {called}" for flag, called in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in features), "")


def multiplies_bfloat16() -> bool:
    """Whether it has instructions for products of bfloat16 numbers, which XLA then uses."""
    return bool(MULTIPLY_BFLOAT16 & set(_account().get("flags", "").split()))


@cache
def _account() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
