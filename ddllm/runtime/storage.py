"""Files that are either wholly written or not at all, and clear words for a disk that refuses: hands on writers and `guard_storage`."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddllm.errors import UserError

# What the disk says, and what a person can do about it.
REFUSALS = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another --workdir"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another --workdir"),
    errno.EROFS: ("the disk is read-only", "choose a --workdir on a writable one"),
    errno.EACCES: ("permission is denied", "change its permissions or choose another --workdir"),
    errno.EPERM: ("the operation is not permitted", "change its permissions or choose another --workdir"),
}
# Tensorstore, safetensors and NumPy pass a refusal on as text in exceptions of their own.
WORDINGS = (
    (re.compile(r"No space left on device|\d+ requested and \d+ written"), errno.ENOSPC),
    (re.compile(r"Disk quota exceeded"), errno.EDQUOT),
    (re.compile(r"Read-only file system"), errno.EROFS),
    (re.compile(r"Permission denied"), errno.EACCES),
)
QUOTED_PATH = re.compile(r"""["'](/[^"']+)["']""")


@contextmanager
def guard_storage(path: Path | str | None = None) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk inside the `with` block into a `UserError`; every other exception passes unchanged.

    Args:
        path: what to name when the error itself does not tell which file it was about.

    Raises:
        UserError: the disk refused; it names the path and what to do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = describe_refusal(error, path)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def describe_refusal(error: BaseException, path: Path | str | None = None) -> str | None:
    """The sentence for an exception behind which the disk refused to write (or to read), or None for any other exception."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            found = (describe_refusal(inner, path) for inner in cause.exceptions)
            return next((sentence for sentence in found if sentence), None)
        number = cause.errno if isinstance(cause, OSError) and cause.errno in REFUSALS else None
        if number is None:
            number = next((number for wording, number in WORDINGS if wording.search(str(cause))), None)
        if number is not None:
            what, advice = REFUSALS[number]
            quoted = QUOTED_PATH.search(str(cause))
            place = getattr(cause, "filename", None) or (quoted and quoted[1]) or path
            return f"{place or 'A file'} cannot be used because {what}: {advice}."
        cause = cause.__cause__
    return None


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; when the `with` block ends well it replaces `path`, else it is removed.

    The temporary path has the same ending, for writers that choose the format by it. A crash at any moment leaves the old file or the new
    one.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        # mkstemp makes files that only their owner may read; results are as open as other files.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        os.close(handle)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities raise `ValueError`, since they are not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: run the stage that writes it first.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): remove it, so that it is written anew, or restore it.") from error


def digest_files(files: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, of what files hold, one behind the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
