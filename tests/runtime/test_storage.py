"""Atomic writing, and a sentence for every way in which a disk refuses."""

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from ddllm.errors import UserError
from ddllm.runtime.storage import describe_refusal, guard_storage, read_json, write_atomically, write_json


def test_json_comes_back(tmp_path: Path):
    value = {"accuracy": 0.5, "names": ["a", "ä"], "none": None}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path):
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    with pytest.raises(RuntimeError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_files_are_as_open_as_others(tmp_path: Path):
    write_json(tmp_path / "ours", 1)
    (tmp_path / "other").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("text", ["", '{"a": ', "\x00"])
def test_broken_json_is_named(tmp_path: Path, text: str):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(UserError, match="broken.json is not valid JSON"):
        read_json(tmp_path / "broken.json")
    with pytest.raises(UserError, match="absent.json does not exist"):
        read_json(tmp_path / "absent.json")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_device_becomes_a_sentence():
    with pytest.raises(UserError, match="runs/x cannot be used because the disk is full: free some space"), guard_storage("runs/x"):
        with open("/dev/full", "w", buffering=1) as file:
            file.write("line\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/disk/file"), "/disk/file cannot be used because the disk is read-only"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/disk/file"), "permission is denied"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "quota"),
        # As tensorstore, NumPy and safetensors word it.
        (
            ValueError('RESOURCE_EXHAUSTED: Error writing "a/0" at local file "/disk/d/": No space left on device [os_error_code=\'28\']'),
            "/disk/d/",
        ),
        (OSError("262144 requested and 1024 written"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_refusals_are_recognised_when_wrapped_too(error: Exception, words: str):
    assert words in (describe_refusal(error) or "")
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = error
    assert words in (describe_refusal(wrapped) or "")
    assert words in (describe_refusal(ExceptionGroup("several", [ValueError("another"), wrapped])) or "")


def test_other_errors_pass_unchanged():
    assert describe_refusal(ValueError("shapes differ")) is None
    with pytest.raises(FileNotFoundError), guard_storage():
        open("/absent/file")
    with pytest.raises(UserError, match="^as it was$"), guard_storage():
        raise UserError("as it was")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of 64 kB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_and_read_only_file_systems(small_disk: Path):
    with pytest.raises(UserError, match="the disk is full"), guard_storage(small_disk):
        write_json(small_disk / "large.json", "x" * 100_000)
    assert list(small_disk.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match="the disk is read-only"), guard_storage(small_disk):
        write_json(small_disk / "small.json", 1)


def test_checkpoint_on_a_full_or_read_only_file_system(small_disk: Path):
    import numpy as np

    from ddllm.runtime.checkpoints import Checkpoints

    checkpoints = Checkpoints(small_disk / "checkpoints", keep=1)
    with pytest.raises(UserError, match="the disk is full"), guard_storage():
        checkpoints.save(1, {"large": np.zeros(100_000)})
    # Room for the array, but not for what Orbax writes around it: the refusal comes from the background.
    noise = np.random.default_rng(0).integers(0, 255, 45_000, dtype=np.uint8)
    with pytest.raises(UserError, match="the disk is full"), guard_storage():
        checkpoints.save(2, {"noise": noise}, wait=True)
    assert checkpoints.latest() is None
    with suppress(OSError):  # Orbax has two threads that the disk may have refused, and the first has had its say.
        checkpoints.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match="the disk is read-only"), guard_storage():
        checkpoints.save(3, {"small": np.zeros(1)})
