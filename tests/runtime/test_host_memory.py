"""What a process may take of the machine's memory, by control groups of both versions as files, and by its part among others."""

import ctypes
import platform
import subprocess
import sys

import psutil
import pytest

from ddllm.errors import UserError
from ddllm.runtime.host_memory import SHARE, free_host_memory, give_back_freed, share_out

GB = 10**9
OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes")
NEW = ("memory.max", "memory.current")
UNLIMITED = 9223372036854771712  # as the first version writes it


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """64 GB are free on it, and nobody has shared them out."""
    monkeypatch.delenv(SHARE, raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GB}))


@pytest.fixture
def make_root(tmp_path):
    """make(lines of /proc/self/cgroup, {folder below /sys/fs/cgroup: (limit, taken, lines of memory.stat)}, names of the files) -> root."""

    def make(lines, groups, names=NEW):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(lines)
        for folder, (*figures, counts) in groups.items():
            place = tmp_path / "sys/fs/cgroup" / folder
            place.mkdir(parents=True, exist_ok=True)
            for name, figure in zip(names, figures, strict=True):
                (place / name).write_text(f"{figure}\n")
            (place / "memory.stat").write_text(counts)
        return tmp_path

    return make


def test_a_machine_without_groups_gives_what_is_free(tmp_path):
    assert free_host_memory(tmp_path) == 64 * GB


@pytest.mark.parametrize(
    "groups, left",
    [
        ({"job/step": (8 * GB, 3 * GB, "anon 5\ninactive_file 0\n")}, 5),
        # Files that were read can be dropped.
        ({"job/step": (8 * GB, 7 * GB, f"inactive_file {4 * GB}\n")}, 5),
        # The limit is often that of a group around it.
        ({"job/step": ("max", 3 * GB, ""), "job": (10 * GB, 4 * GB, f"inactive_file {GB}\n")}, 7),
        ({"job/step": (8 * GB, 3 * GB, ""), "job": (10 * GB, 9 * GB, "")}, 1),
        ({"job/step": ("max", 3 * GB, "")}, 64),
        ({"job/step": (8 * GB, 9 * GB, "")}, 0),
        # In a container the own group is at the top.
        ({"": (8 * GB, 2 * GB, "")}, 6),
        ({"job/step": (100 * GB, 2 * GB, "")}, 64),
    ],
)
def test_groups_of_the_second_version(make_root, groups, left):
    assert free_host_memory(make_root("0::/job/step\n", groups)) == left * GB


@pytest.mark.parametrize(
    "groups, left",
    [
        ({"memory/docker/7": (8 * GB, 3 * GB, f"inactive_file 1\ntotal_inactive_file {GB}\n")}, 6),
        ({"memory": (8 * GB, 3 * GB, "")}, 5),
        ({"memory/docker/7": (UNLIMITED, 3 * GB, ""), "memory/docker": (4 * GB, 3 * GB, "")}, 1),
        ({"memory": (UNLIMITED, 3 * GB, "")}, 64),
        ({"cpu/docker/7": (8 * GB, 3 * GB, "")}, 64),
    ],
)
def test_groups_of_the_first_version(make_root, groups, left):
    root = make_root("4:cpu,cpuacct:/docker/7\n3:memory,hugetlb:/docker/7\n1:name=systemd:/\n0::/\n", groups, OLD)
    assert free_host_memory(root) == left * GB


def test_a_group_outside_of_what_a_container_sees(make_root):
    assert free_host_memory(make_root("0::/../other\n", {"": (8 * GB, 2 * GB, "")})) == 6 * GB


def test_processes_that_share_a_machine_have_a_part_each(tmp_path, monkeypatch):
    taken = psutil.Process().memory_info().rss
    monkeypatch.setenv(SHARE, str(16 * GB))
    assert free_host_memory(tmp_path) == pytest.approx(16 * GB - taken, abs=GB / 10)
    assert share_out(2) <= 8 * GB
    monkeypatch.setenv(SHARE, str(100 * GB))
    assert free_host_memory(tmp_path) == 64 * GB
    monkeypatch.setenv(SHARE, "much")
    with pytest.raises(UserError, match="whole number of bytes"):
        free_host_memory(tmp_path)


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="other C libraries give back as they see fit")
def test_what_was_freed_is_given_back():
    script = """
import psutil
from ddllm.runtime.host_memory import give_back_freed

rows = [bytes(50_000) for _ in range(4_000)]  # too small for pages of their own
kept = rows[-1]
del rows
before = psutil.Process().memory_info().rss
give_back_freed()
print(before - psutil.Process().memory_info().rss)
"""
    given = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    assert given > 100_000_000


def test_other_c_libraries_do_as_they_do(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back_freed()
