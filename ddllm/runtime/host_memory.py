"""How much of the machine's memory this process may still take: what is free, within the limits of its container or job and its part among others; and
the giving back of what it does not need any more.

Processes that are started together and share a machine are each told their part in the environment variable `SHARE`, before the first of them has
taken anything: what is free later says nothing of what the others will take.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from ddllm.errors import UserError

SHARE = "DDLLM_MEMORY"  # bytes that this process may take in all


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take.

    Args:
        root: where /proc and /sys are.

    Raises:
        UserError: the environment variable with this process's part is no number.
    """
    share = os.environ.get(SHARE, "")
    if share and not share.isdecimal():
        raise UserError(f"the environment variable {SHARE} is {share!r}, but must be a whole number of bytes.")
    part = [int(share) - psutil.Process().memory_info().rss] if share else []
    return max(min([psutil.virtual_memory().available, *_left_in_groups(root), *part]), 0)


def share_out(processes: int) -> int:
    """Bytes for each of so many processes that are about to be started here."""
    return free_host_memory() // processes


def give_back_freed() -> None:
    """Give the system what this process has freed, which glibc keeps for later (hundreds of megabytes after compiling); other C libraries do as they do."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # a C library without it, or Windows
        return
    trim(0)


def _left_in_groups(root: Path) -> Iterator[int]:
    """What the control groups of this process leave it: its own and those around it, any of which may have a limit, of either version.

    A container may see its own group where /proc names one of the machine's; groups that are not there are left out.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops, limit, used, cache = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            tops, limit, used, cache = ("sys/fs/cgroup/memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inside = Path(path.lstrip("/"))
        groups = [inside, *inside.parents] if ".." not in inside.parts else [Path()]
        for group in (root / top / group for top in tops for group in groups):
            try:
                most, taken = (group / limit).read_text().strip(), int((group / used).read_text())
                counts = dict(pair.split() for pair in (group / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if most != "max":
                # Read files that nobody uses any more are given back at need.
                yield int(most) - taken + int(counts.get(cache, 0))
