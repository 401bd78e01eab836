"""A process starts itself again with huge pages exactly where the system can give them."""

import os
import subprocess
import sys

import pytest

from ddllm.runtime.huge_pages import SETTING, tunables

CAN = "always [madvise] never"


@pytest.mark.parametrize(
    "given, setting, library, expected",
    [
        ("", CAN, "glibc 2.36", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=3", CAN, "glibc 2.35", "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", CAN, "glibc 2.36", None),
        ("", "[always] madvise never", "glibc 2.36", None),
        ("", "always madvise [never]", "glibc 2.36", None),
        ("", CAN, "glibc 2.31", None),
        ("", CAN, "musl 1.2", None),
    ],
)
def test_only_where_they_can_be_had(given, setting, library, expected):
    assert tunables({"GLIBC_TUNABLES": given}, setting, library) == expected


def test_the_process_keeps_its_arguments_and_starts_again_once():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if not SETTING.exists() or tunables(environment, SETTING.read_text(), os.confstr("CS_GNU_LIBC_VERSION") or "") is None:
        pytest.skip("this system gives no huge pages on request")
    code = "import os, sys; from ddllm.runtime.huge_pages import start_with_huge_pages as go; go(); print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])"
    line = [sys.executable, "-c", code, "two words", "--x=1"]
    shown = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert shown == "glibc.malloc.hugetlb=1 ['two words', '--x=1']\n"
