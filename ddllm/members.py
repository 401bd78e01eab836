"""The members of a sweep: each an ordinary run in a process and a folder of its own, started, watched and recorded by `run_members`.

What became of a member is kept in its folder as member.json: {"status": "finished" | "failed" | "waiting", "seconds", "error", "stages"}.
One that was killed waits, with a sentence about it as its error.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from ml_collections import ConfigDict

from ddllm.config import resolve
from ddllm.errors import UserError
from ddllm.report.results import add_rows, read_results
from ddllm.runtime.host_memory import SHARE, share_out
from ddllm.runtime.storage import read_json, write_json
from ddllm.runtime.workdir import BESIDE_FINETUNING, CONFIG, FULL, LOG, MEMBER, Workdir, check_same_run

FINISHED, FAILED, WAITING = "finished", "failed", "waiting"
# Members that share a machine are runs of their own, even where the surroundings speak of several processes.
APART = "--config.runtime.distributed=off"
INTERRUPTED = 130  # exit status after Ctrl-C
GRACE = 10.0  # seconds in which an interrupted member may end by itself


@dataclass(frozen=True)
class Member:
    """One combination of the varied values.

    Attributes:
        values: the varied keys with their values as typed.
        folder: its working directory.
        line: its command line for `ddllm.main`.
        config: its whole configuration.
        stages: the stages that are asked for.
    """

    values: dict[str, str]
    folder: Path
    line: list[str]
    config: ConfigDict
    stages: list[str]

    @property
    def title(self) -> str:
        """The varied keys with their values, as text."""
        return describe_values(self.values)

    def check_folder(self) -> None:
        """Raise `UserError` where its folder belongs to another configuration."""
        if (self.folder / CONFIG).exists():
            check_same_run(self.folder, resolve(self.config))

    def record(self) -> dict[str, Any]:
        """What is known of its earlier starts: status, seconds, error, and the stages that were asked for."""
        path = self.folder / MEMBER
        known = read_json(path) if path.exists() else {"status": WAITING, "seconds": 0.0, "error": "", "stages": []}
        return known if set(self.stages) <= set(known["stages"]) else known | {"status": WAITING, "error": ""}


def add_processes(parser: argparse.ArgumentParser, runs: str) -> None:
    """The option that says how many runs go at a time."""
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help=f"{runs} at a time, which share out this machine's cores, memory and GPUs")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}, but must be at least 1")
    return int(text)


def run_members(members: list[Member], processes: int, retry: bool, until: float = float("inf")) -> None:
    """Run what is left of the members, so many at a time; none is started after `until` (of `time.monotonic`)."""
    left = [member for member in members if member.record()["status"] not in ((FINISHED,) if retry else (FINISHED, FAILED))]
    for member in members:
        if member not in left:
            _say(f"{member.title}: {member.record()['status']} before")
    shares: SimpleQueue[dict[str, Any]] = SimpleQueue()
    for share in _share_out(min(processes, max(len(left), 1))):
        shares.put(share)
    running: list[subprocess.Popen[bytes]] = []
    stopping = Event()

    def run(member: Member) -> None:
        share = shares.get()
        if stopping.is_set() or time.monotonic() >= until:
            shares.put(share)
            return
        if share["cores"]:
            # Of this thread alone, from which the member's process inherits it: XLA makes as many threads as it may use cores.
            os.sched_setaffinity(0, share["cores"])
        try:
            take_over(member, members)
        except UserError:
            pass  # The member will say it itself.
        run_member(member, [*member.line, APART], share["environment"], running, stopping)
        shares.put(share)

    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(run, member) for member in left]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + GRACE
            for process in running:
                try:
                    process.wait(max(deadline - time.monotonic(), 0.1))
                except subprocess.TimeoutExpired:
                    process.terminate()  # deep in a library; nothing is lost, as after a kill
            raise


def take_over(member: Member, members: list[Member]) -> None:
    """Give a member that has not started yet the fine-tuning of one that has finished and would have done the same.

    The stage resumes from its checkpoints and figures, finds nothing left to train, and scores; a stage that asks for a teacher finds it whole.
    """

    def decisive(config: ConfigDict) -> dict[str, Any]:
        return {key: value for key, value in resolve(config).items() if key not in BESIDE_FINETUNING} | {"metric": config.evaluate.metric}

    if (member.folder / CONFIG).exists():
        return
    for other in members:
        source = Workdir(other.folder, None)
        if other.record()["status"] != FINISHED or not source.finetune.exists() or decisive(other.config) != decisive(member.config):
            continue
        results = read_results(source.results)
        full = [row for row in results["rows"] if row["name"] == FULL]
        if not full:
            continue
        with Workdir.open(member.folder, resolve(member.config), f"# fine-tuning taken over from {other.folder}") as target:
            lines = source.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["stage"].startswith("finetune")]
            target.metrics.write_text("".join(kept), encoding="utf-8")
            # Renamed when whole, since half a checkpoint would be taken for a whole one.
            part = target.path / ".finetune"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source.finetune, part, copy_function=_link)
            part.rename(target.finetune)
            target.keep_origin(source.read_origin())
            # Last, since it says that fine-tuning has come to its end.
            add_rows(target.results, full, resolve(member.config), results["environment"])
        return


def _link(source: str, target: str) -> None:
    # Checkpoints are never changed in place, so that both folders can have the same files.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def run_member(
    member: Member,
    line: list[str],
    environment: dict[str, str],
    running: list[subprocess.Popen[bytes]] | None = None,
    stopping: Event | None = None,
) -> int:
    """Run one member to its end by a command line, its output in its log, and record and say what became of it.

    Args:
        member: the member.
        line: of `ddllm.main`.
        environment: variables of its own.
        running: takes its process.
        stopping: is set where all members are interrupted together.

    Returns:
        Its exit status, as a shell counts: 128 and the signal's number where a signal ended it.
    """
    member.folder.mkdir(parents=True, exist_ok=True)
    before, began = member.record()["seconds"], time.monotonic()
    _say(f"{member.title}: started, see {member.folder / LOG}")
    with open(member.folder / LOG, "ab") as log:
        start = log.tell()
        command = [sys.executable, "-m", "ddllm.main", *line]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | environment) as process:
            if running is not None:
                running.append(process)
            status = process.wait()
    record = {"status": WAITING, "seconds": before + time.monotonic() - began, "error": "", "stages": member.stages}
    # How one that is being interrupted has ended says nothing about it.
    stopped = status == INTERRUPTED or (stopping is not None and stopping.is_set())
    if status == 0:
        record["status"] = FINISHED
    elif status > 0 and not stopped:
        with open(member.folder / LOG, "rb") as log:
            log.seek(start)
            record |= {"status": FAILED, "error": last_sentence(log.read().decode(errors="replace"))}
    elif not stopped:
        # A signal says nothing about the member, which goes on at the next start, but a person should hear of it.
        record["error"] = f"ended by {_name_signal(-status)}; the same command goes on."
    write_json(member.folder / MEMBER, record)
    _say(f"{member.title}: {record['status']} after {record['seconds']:.0f} s {record['error']}".rstrip())
    return status if status >= 0 else 128 - status


def _name_signal(number: int) -> str:
    name = {known.value: known.name for known in signal.Signals}.get(number, f"signal {number}")
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def run_one(members: list[Member], number: int, retry: bool) -> int:
    """Run one member here, as a task of an array does; of several processes that compute it together each comes here with the same number."""
    member = members[number]
    status = member.record()["status"]
    if status == FINISHED or (status == FAILED and not retry):
        _say(f"{member.title}: {status} before")
        return int(status == FAILED)
    first = (os.environ.get("JAX_PROCESS_ID") or os.environ.get("SLURM_PROCID") or "0") == "0"
    if first:
        return run_member(member, member.line, {})
    return subprocess.run([sys.executable, "-m", "ddllm.main", *member.line], stdin=subprocess.DEVNULL).returncode


def last_sentence(log: str) -> str:
    """Why a run failed: its last message to the user, or else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    messages = [line.removeprefix("ddllm: ") for line in lines if line.startswith("ddllm: ")]
    return (messages or lines or ["it left no word"])[-1]


def _share_out(processes: int) -> list[dict[str, Any]]:
    """The cores, memory and GPUs of this machine in equal shares, one for each process.

    All have every core where there are fewer than processes. Several that share a GPU have an equal part of its memory each, which they take as they need it:
    by itself, JAX takes three quarters at once.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // processes
    devices, shares = _gpus(), []
    sharing = -(-processes // len(devices)) if devices else 1
    on_gpu = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.3f}"} if sharing > 1 else {}
    memory = {SHARE: str(share_out(processes))} if processes > 1 else {}
    for number in range(processes):
        mine = cores[number * each : (number + 1) * each] if processes > 1 else []
        gpu = {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)], **on_gpu} if devices and processes > 1 else {}
        shares.append({"cores": mine, "environment": {**gpu, **memory}})
    return shares


def _gpus() -> list[str]:
    """Numbers of the GPUs that may be used; none where CUDA_VISIBLE_DEVICES is empty, which hides them."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return visible.split(",") if visible else []
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def describe_values(values: dict[str, str]) -> str:
    """Keys with their values, as text."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
