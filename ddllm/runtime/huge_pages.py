"""Asks the C library for huge pages, before anything is computed on a CPU under Linux.

XLA allocates the temporaries of a program anew at each run, and the kernel hands them out page by page: 110,000 page faults, a sixth of the
time, in one forward and backward pass of MiniLM on 32 texts. In pages of 2 MB it is a thousand. The C library (glibc, 2.35 or newer) reads
the setting when a process starts, so that the command starts itself again with it; in a notebook, set GLIBC_TUNABLES before starting Python.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def tunables(environment: Mapping[str, str], setting: str, library: str) -> str | None:
    """The value of GLIBC_TUNABLES that turns huge pages on, or None where nothing is to be changed.

    Args:
        environment: of the process; a choice of the user's own stays.
        setting: what the kernel says of transparent huge pages, such as "always [madvise] never".
        library: name and version of the C library, such as "glibc 2.36".
    """
    name, _, version = library.partition(" ")
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    given = environment.get("GLIBC_TUNABLES", "")
    if name != "glibc" or numbers < (2, 35) or "[madvise]" not in setting or TUNABLE in given:
        return None
    return ":".join(filter(None, (given, f"{TUNABLE}=1")))


def start_with_huge_pages() -> None:
    """Start this process again with huge pages where they can be had and are not yet; else do nothing."""
    try:
        value = tunables(os.environ, SETTING.read_text(), os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (OSError, ValueError, AttributeError):  # another system than Linux
        return
    if value is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "GLIBC_TUNABLES": value})
