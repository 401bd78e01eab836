"""Several processes that compute one run together, on one machine or on many: how they find each other, agree, and end together.

Process 0 owns the working directory. What it reads there and what decides the run's course reaches the others by `from_first`; they write
nothing but tokens in a cache of their own. All draw the same batches, since chance derives from (seed, step), and place their shares on a
mesh over everyone's devices. A failure anywhere ends all: a thread in each process tells and hears of it (`ending_together`).
"""

import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ddllm.errors import UserError, was_interrupted
from ddllm.runtime import progress
from ddllm.runtime.cluster import Place, find_place, meet

T = TypeVar("T")

CHUNK = 2**24  # bytes that are broadcast at once
BEAT = 1.0  # seconds between looks at the others
PATIENCE = 8.0  # seconds that an ending process waits for the others to take notice
OWN_WORDS = 3.0  # seconds in which process 0 may find out by itself what another one has failed with
GO_ON = "The same command goes on from the last checkpoint."
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "Connection", "CANCELLED")  # in errors of a computation whose peers have gone


def join(runtime: ConfigDict) -> None:
    """Join the other processes of this run, where there are any; to be called before the first computation.

    Raises:
        UserError: the settings are wrong, the port of process 0 is taken, or not all come within config.runtime.join_timeout seconds.
    """
    global _bond
    if _bond is not None:
        return
    place = find_place(runtime)
    if place is None:
        return
    meet(place, runtime.join_timeout)
    # Caught as a notice, SIGTERM would no longer end the process; checkpoints are written regularly anyway.
    jax.config.update("jax_enable_preemption_service", False)
    late = threading.Timer(runtime.join_timeout, _give_up, [place, runtime.join_timeout])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.number,
            cluster_detection_method=None if place.detected else "deactivate",
            # The library's own answer to lateness and silence is to abort with a stack of addresses, so it comes second.
            initialization_timeout=runtime.join_timeout + 60,
            heartbeat_timeout_seconds=2 * runtime.silence_timeout + 30,
        )
    finally:
        late.cancel()
    if place.number:
        progress.be_quiet()
    _bond = _Bond(place, runtime.silence_timeout)
    if jax.device_count() != place.count * jax.local_device_count():
        raise UserError(
            f"process {place.number} has {jax.local_device_count()} of {jax.device_count()} devices: each of the {place.count} processes must have "
            "as many."
        )


def is_first() -> bool:
    """Whether this process owns the working directory: it computes alone, or is process 0."""
    return _bond is None or _bond.place.number == 0


def count() -> int:
    """Number of processes."""
    return 1 if _bond is None else _bond.place.count


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives on process 0, on every process; all of them must come here, and only process 0 calls it.

    Args:
        make: gives anything that can be pickled.
    """
    if count() == 1:
        return make()
    content = pickle.dumps(make(), protocol=5) if is_first() else b""
    chunks, rest = (int(number) for number in _broadcast(np.array(divmod(len(content), CHUNK), np.int32)))
    received = bytearray()
    for index, size in enumerate([CHUNK] * chunks + [rest] * bool(rest)):
        # Few sizes, so that few programs are compiled.
        padded = np.zeros(1 << max(size - 1, 255).bit_length(), np.uint8)
        piece = np.frombuffer(content, np.uint8)[index * CHUNK : index * CHUNK + size]
        padded[: len(piece)] = piece
        received += _broadcast(padded)[:size].tobytes()
    return pickle.loads(received)


def _broadcast(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def check_same(what: str, here: Any) -> None:
    """Make sure that all processes hold the same value.

    Raises:
        UserError: this one's differs from that of process 0.
    """
    first = from_first(lambda: here)
    if first != here:
        raise UserError(f"{what} differs from that of process 0; give every process the same.")


@contextmanager
def ending_together() -> Iterator[None]:
    """In the `with` block processes may join; they leave it together. An exception in one of several ends all, with one sentence and one status.

    A process alone sees the exception unchanged. Of several, each ends here: with a `UserError`'s status (2) for one anywhere, 130 for an interrupt, else 1.
    """
    try:
        yield
    except BaseException as error:
        if _bond is None:
            raise
        _bond.fail(error)
    if _bond is not None:
        _bond.part()


class _Bond:
    """What joins this process to the others: the coordinator's table of keys, and a thread that looks into it."""

    def __init__(self, place: Place, silence: float):
        from jax._src import distributed  # the table of keys has no public name

        self.place, self._silence = place, silence
        self._client: Any = distributed.global_state.client
        self._failing, self._stop, self._leaving = threading.Event(), threading.Event(), threading.Lock()
        self._heard = {number: (-1, time.monotonic()) for number in range(1, place.count)}
        self._thread = threading.Thread(target=self._watch, daemon=True, name="processes")
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Tell the others of an exception of this process, and end."""
        # A computation that ends while it is being dispatched raises the plain class.
        lost = isinstance(error, jax.errors.JaxRuntimeError | ValueError) and any(word in str(error) for word in LOST)
        if lost:
            time.sleep(PATIENCE)  # The thread ends this process if another one has said why.
        self._failing.set()
        status, sentence = _describe(error, lost)
        if status == 1 and not lost:
            traceback.print_exception(error)
        if self.place.number == 0:
            self._set("failure", f"{status} {sentence}")
            self._leave_last(status, sentence)
        who = f"process {self.place.number} on {socket.gethostname()}: "
        # Where all fail alike, process 0 has its own sentence and needs no other.
        self._set("failure", f"{status} {who}{sentence}")
        if not self._wait_for("seen"):
            print(f"ddllm: {who}{sentence}", file=sys.stderr)
        self._leave(status)

    def part(self) -> None:
        """Wait until all processes are done, and let go of them."""
        self._client.wait_at_barrier("ddllm/done", 2**31 - 1)
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        beat, missed, looked = 0, 0, time.monotonic()
        while not self._stop.wait(BEAT):
            looked, before = time.monotonic(), looked
            if looked - before > 5 * BEAT:
                # This process was stopped for a while, and did not hear because it did not listen.
                self._heard = {number: (beat, looked) for number, (beat, _) in self._heard.items()}
            try:
                beat += 1
                self._client.key_value_set(f"ddllm/alive/{self.place.number}", str(beat), allow_overwrite=True)
                failure, missed = self._get("failure") or self._find_silent(), 0
            except jax.errors.JaxRuntimeError:
                missed += 1
                failure = "1 process 0 cannot be reached any more." if missed == 3 else None
            if failure is not None and not self._failing.is_set():
                self._follow(*failure.split(" ", 1))

    def _find_silent(self) -> str | None:
        now = time.monotonic()
        for number, (last, when) in self._heard.items() if self.place.number == 0 else ():
            beat = int(self._get(f"alive/{number}") or -1)
            if beat != last:
                self._heard[number] = beat, now
            elif now - when > self._silence:
                del self._heard[number]
                failure = f"1 process {number} has not been heard of for {self._silence} seconds. {GO_ON}"
                self._set("failure", failure)
                return failure
        return None

    def _follow(self, status: str, sentence: str) -> None:
        """End because of another process."""
        if self.place.number == 0:
            # The main thread may be about to fail for the same reason, with its own words.
            if self._failing.wait(OWN_WORDS):
                return
            self._leave_last(int(status), sentence)
        self._leave(int(status))

    def _leave_last(self, status: int, sentence: str) -> None:
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # The other thread ends this process.
        # When process 0 goes, the coordinator goes with it, and who is still there then is aborted.
        progress.restore_terminal()
        print(f"ddllm: {sentence}", file=sys.stderr)
        self._set("seen", "yes")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not all(self._get(f"gone/{number}") for number in self._heard):
            time.sleep(0.1)
        time.sleep(0.2)
        _exit(status)

    def _leave(self, status: int) -> None:
        self._set(f"gone/{self.place.number}", "yes")
        _exit(status)

    def _wait_for(self, key: str) -> bool:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._get(key):
                return True
            time.sleep(0.1)
        return False

    def _get(self, key: str) -> str | None:
        try:
            return self._client.key_value_try_get(f"ddllm/{key}")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return None
            if self._failing.is_set():
                return None
            raise

    def _set(self, key: str, value: str) -> None:
        try:
            self._client.key_value_set(f"ddllm/{key}", value)
        except jax.errors.JaxRuntimeError:
            pass  # Another process was first, or the coordinator is gone.


_bond: _Bond | None = None


def _describe(error: BaseException, lost: bool) -> tuple[int, str]:
    if isinstance(error, UserError):
        return error.status, str(error)
    if was_interrupted(error):
        return 130, f"interrupted. {GO_ON}"
    first = (str(error).splitlines() or [""])[0]
    if lost:
        return 1, f"the computation with the other processes failed, one of which has probably ended ({first[:200]}). {GO_ON}"
    return 1, f"failed with {type(error).__name__}: {first[:500]}"


def _exit(status: int) -> None:
    # Without the interpreter's own farewell, in which libraries would wait for processes that are gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _give_up(place: Place, timeout: float) -> None:
    print(
        f"ddllm: of {place.count} processes not all have come to {place.coordinator} within {timeout:g} seconds; start all with the same "
        "config.runtime.processes, each with its own config.runtime.process.",
        file=sys.stderr,
    )
    _exit(2)
