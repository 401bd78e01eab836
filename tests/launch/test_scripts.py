"""The launch scripts: local_multiprocess.sh for real, tpu.sh and slurm.sh with stand-ins that record how they are called."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Writes its name and arguments as a line, answers what a poll asks, and fails where it is told to.
STAND_IN = f"""#!{sys.executable}
import json, os, sys, time
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
if "describe" in call:
    if "--format=value(name)" in call:
        said = os.environ.get("EXISTS", "NOT_FOUND: Resource 'mine' was not found")
        sys.exit(0 if said == "yes" else "ERROR: " + said)
    states = os.environ["CALLS"] + ".states"
    seen = open(states).read() if os.path.exists(states) else ""
    open(states, "w").write(seen + "x")
    print(["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"][min(len(seen), 2)])
if os.environ.get("SLEEP_AT") and os.environ["SLEEP_AT"] in " ".join(call):
    time.sleep(1)
if os.environ.get("FAIL_AT") and os.environ["FAIL_AT"] in " ".join(call):
    print("ERROR:", os.environ.get("SAYING", "no luck"), file=sys.stderr)
    sys.exit(7)
"""
OVERRIDE = """--config.data.text_column=the "text", or it's $HOME"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """calls() -> the commands that stand-ins were called with so far; they come first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "ssh", "srun", "sbatch", "scontrol"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    record = tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(record))
    monkeypatch.setenv("TPU_POLL_SECONDS", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda: [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def hear_interrupts():
    """For new processes: what runs in a shell's background, as tests may, is deaf to SIGINT otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launch(name, *arguments, **environment):
    command = ["bash", str(ROOT / "launch" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


TPU = ("tpu.sh", "--name", "mine", "--zone", "us-west4-a", "--type", "v5litepod-16")


def steps(calls):
    """The verb of each call, with what tells calls of one verb apart."""
    named = []
    for call in calls:
        verb = next(word for word in call if word in ("create", "describe", "ssh", "scp", "delete"))
        command = next((word for word in call if word.startswith("--command=")), "")
        named.append(
            "run"
            if "ddllm.main" in command
            else "install"
            if "pip" in command
            else "fetch"
            if verb == "scp" and "--recurse" in call
            else verb
        )
    return named


def test_tpu_does_everything_in_order_and_a_dry_run_says_the_same(stand_ins):
    dry = launch(*TPU, "--dry-run", "--", "--config", "configs/imdb.py", OVERRIDE)
    assert dry.returncode == 0 and stand_ins() == []
    result = launch(*TPU, "--", "--config", "configs/imdb.py", OVERRIDE)
    assert result.returncode == 0, result.stderr
    calls = stand_ins()
    assert steps(calls) == ["describe", "create", "ssh", "scp", "install", "run", "fetch", "delete"]
    assert calls[1] == ["gcloud", *"compute tpus tpu-vm create mine --zone=us-west4-a --accelerator-type=v5litepod-16".split()] + [
        "--version=v2-alpha-tpuv5-lite"
    ]
    run = next(call for call in calls if "ddllm.main" in call[-1])
    assert run[:7] == "gcloud compute tpus tpu-vm ssh mine --zone=us-west4-a".split() and "--worker=all" in run
    # What a shell on the other side makes of it.
    remote = shlex.split(run[-1].removeprefix("--command="))
    assert remote[remote.index("ddllm.main") + 1 :] == ["--config", "configs/imdb.py", OVERRIDE, "--workdir=runs/mine"]
    assert calls[-1] == "gcloud compute tpus tpu-vm delete mine --zone=us-west4-a --quiet".split()
    printed = [line.removeprefix("+ ") for line in result.stderr.splitlines() if line.startswith("+ ")]
    assert printed == [line.removeprefix("+ ") for line in dry.stderr.splitlines() if line.startswith("+ ")]
    assert [shlex.split(line) for line in printed if line.startswith("gcloud")] == calls


@pytest.mark.parametrize(
    "step, happened",
    [
        ("create", ["describe", "create", "delete"]),
        ("ddllm.tar.gz mine:", ["describe", "create", "ssh", "scp", "delete"]),
        ("pip install", ["describe", "create", "ssh", "scp", "install", "delete"]),
        ("ddllm.main", ["describe", "create", "ssh", "scp", "install", "run", "fetch", "delete"]),
        ("--recurse", ["describe", "create", "ssh", "scp", "install", "run", "fetch", "fetch", "fetch", "delete"]),
    ],
)
def test_tpu_is_deleted_after_a_failure(stand_ins, step, happened):
    step = step.replace("ddllm.tar.gz mine:", "ddllm-mine.tar.gz mine:")
    result = launch(*TPU, "--", "--config", "configs/imdb.py", FAIL_AT=step)
    assert result.returncode != 0 and steps(stand_ins()) == happened


@pytest.mark.parametrize("step, happened", [("ddllm.main", ["run", "fetch", "delete"]), ("create", ["describe", "create", "delete"])])
def test_tpu_is_deleted_after_an_interrupt(stand_ins, step, happened):
    script = ["bash", str(ROOT / "launch" / TPU[0]), *TPU[1:], "--", "--config", "a.py"]
    process = subprocess.Popen(script, env=os.environ | {"SLEEP_AT": step}, stderr=subprocess.DEVNULL, preexec_fn=hear_interrupts)
    wait_until(lambda: stand_ins() and step in " ".join(stand_ins()[-1]))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130 and steps(stand_ins())[-len(happened) :] == happened


def test_tpu_options(stand_ins):
    result = launch(*TPU, "--queued", "--spot", "--project", "ours", "--keep", "--", "--config", "a.py")
    assert result.returncode == 0 and "costs money until" in result.stderr
    calls = stand_ins()
    assert steps(calls) == ["describe", "create", "describe", "describe", "describe", "ssh", "scp", "install", "run", "fetch"]
    assert calls[1][:5] == "gcloud compute tpus queued-resources create".split()
    assert {"--node-id=mine", "--spot", "--project=ours", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(calls[1])
    assert all("--project=ours" in call for call in calls)
    # The TPU that was kept is used again, and deleted now.
    result = launch(*TPU, "--queued", "--reuse", "--", "--config", "a.py")
    assert result.returncode == 0 and steps(stand_ins()[len(calls) :]) == ["ssh", "scp", "install", "run", "fetch", "delete"]
    assert stand_ins()[-1] == "gcloud compute tpus queued-resources delete mine --zone=us-west4-a --force --quiet".split()


@pytest.mark.parametrize(
    "options, version",
    [
        (("--type", "v5litepod-16"), "v2-alpha-tpuv5-lite"),
        (("--type", "v5p-8"), "v2-alpha-tpuv5"),
        (("--type", "v6e-4"), "v2-alpha-tpuv6e"),
        (("--type", "v4-8"), "tpu-ubuntu2204-base"),
        (("--type", "v6e-4", "--version", "newer"), "newer"),
    ],
)
def test_tpu_has_the_software_of_its_type(stand_ins, options, version):
    result = launch("tpu.sh", "--name", "mine", "--zone", "a", *options, "--dry-run", "--", "--config", "a.py")
    assert result.returncode == 0 and f" --version={version}\n" in result.stderr, result.stderr


def test_tpu_leaves_alone_what_is_not_its_own(stand_ins):
    result = launch(*TPU, "--", "--config", "a.py", EXISTS="yes")
    assert result.returncode == 2 and "use --reuse" in result.stderr and steps(stand_ins()) == ["describe"]


def test_tpu_creates_nothing_where_it_cannot_tell_what_is_there(stand_ins):
    result = launch(*TPU, "--", "--config", "a.py", EXISTS="there was a problem refreshing your tokens")
    assert result.returncode == 2 and "refreshing your tokens" in result.stderr and "cannot tell whether mine" in result.stderr
    assert steps(stand_ins()) == ["describe"]


@pytest.mark.parametrize("queued", [(), ("--queued",)])
def test_tpu_that_another_has_created_meanwhile_is_left_alone(stand_ins, queued):
    result = launch(*TPU, *queued, "--", "--config", "a.py", FAIL_AT="create", SAYING="ALREADY_EXISTS: Resource 'mine' already exists")
    assert result.returncode == 7 and "Resource 'mine' already exists" in result.stderr and "is left alone" in result.stderr
    assert "costs money" not in result.stderr and steps(stand_ins()) == ["describe", "create"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--name", "x", "--zone", "y", "--", "--config", "a.py"), "Give --type"),
        (("--name", "--zone", "y"), "--name needs a value"),
        (("--nme", "x"), "--nme is not understood"),
        ((*TPU[1:],), "give --config FILE after --"),
        ((*TPU[1:], "--", "--config", "a.py", "--workdir=x"), "leave --workdir=x out"),
    ],
)
def test_tpu_mistakes(stand_ins, arguments, message):
    result = launch("tpu.sh", *arguments)
    assert result.returncode == 2 and message in result.stderr and stand_ins() == []


def test_slurm_starts_a_process_for_each_gpu_or_a_member_of_a_sweep(stand_ins):
    slurm = {"SLURM_JOB_ID": "77", "PYTHON": "py", "SLURM_CPUS_PER_TASK": ""}
    assert launch("slurm.sh", "--config", "configs/imdb.py", OVERRIDE, **slurm).returncode == 0
    assert stand_ins() == [["srun", "--kill-on-bad-exit=1", "py", "-m", "ddllm.main", "--config", "configs/imdb.py", OVERRIDE]]
    assert launch("slurm.sh", "--config", "a.py", "--vary", "seed=0,1", SLURM_ARRAY_TASK_ID="1", **slurm).returncode == 0
    assert stand_ins()[1][2:] == ["py", "-m", "ddllm.sweep", "--config", "a.py", "--vary", "seed=0,1", "--member", "1"]
    result = launch("slurm.sh", "--config", "a.py", "--vary", "seed=0,1", **slurm)
    assert result.returncode == 2 and "--array" in result.stderr and len(stand_ins()) == 2
    assert launch("slurm.sh", "--config", "a.py", FAIL_AT="srun", **slurm).returncode == 7
    # Steps do not inherit the cores of a process.
    assert launch("slurm.sh", "--config", "a.py", **slurm | {"SLURM_CPUS_PER_TASK": "8"}).returncode == 0
    assert stand_ins()[-1][:5] == ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=8", "py", "-m"]


def test_slurm_gives_the_only_process_of_a_node_all_its_gpus(stand_ins, tmp_path):
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\necho devices=$JAX_LOCAL_DEVICE_IDS\n")
    for tasks, devices in (("1", "0,1,2,3"), ("4", ""), ("", "")):
        slurm = {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": "4", "JAX_LOCAL_DEVICE_IDS": ""}
        assert f"devices={devices}\n" in launch("slurm.sh", "--config", "a.py", **slurm).stdout


def test_slurm_shares_the_memory_of_a_node_out_among_its_processes(stand_ins, tmp_path):
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\necho bytes=$DDLLM_MEMORY\n")
    shares = (("4", "8000", "", 2000), ("4", "", "500", 4000), ("4", "0", "", 0), ("4", "", "", 0), ("1", "8000", "", 0), ("", "8000", "", 0))
    for tasks, node, core, share in shares:
        slurm = {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_MEM_PER_NODE": node, "SLURM_MEM_PER_CPU": core, "SLURM_CPUS_PER_TASK": "8", "DDLLM_MEMORY": ""}
        assert f"bytes={share * 2**20 or ''}\n" in launch("slurm.sh", "--config", "a.py", **slurm).stdout


def test_slurm_goes_into_the_queue_again_when_its_time_is_up(stand_ins, tmp_path):
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\ntouch started\nsleep 2\nexit 3\n")
    environment = os.environ | {"SLURM_JOB_ID": "77"}
    process = subprocess.Popen(["bash", str(ROOT / "launch" / "slurm.sh"), "--config", "a.py"], env=environment, stdout=subprocess.PIPE)
    wait_until(lambda: (tmp_path / "started").exists())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 3 and stand_ins() == [["scontrol", "requeue", "77"]]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def local(tiny_model, tiny_corpus, tmp_path, monkeypatch):
    """Command line of local_multiprocess.sh for a small run in tmp_path/run, up to its overrides."""
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    values = {"model.name": tiny_model, "data.source": tiny_corpus, "data.test": "test", "data.length": 8, "distill.length": 6}
    values |= {"runtime.compilation_cache": ""}
    line = [f"--config={ROOT / 'configs' / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}"]
    return [*line, *(f"--config.{key}={value}" for key, value in values.items())]


def test_local_multiprocess_runs_and_gives_the_status_of_a_failure(local, tmp_path):
    result = launch("local_multiprocess.sh", "-n", "2", "--all", *local, "--mode=prepare")
    assert result.returncode == 0 and ": 144 train, 16 validation" in result.stdout, result
    result = launch("local_multiprocess.sh", *local, "--mode=evaluate")
    assert result.returncode == 2 and result.stderr.count("run --mode=distill first") == 1, result
    result = launch("local_multiprocess.sh", "-n", "none", *local)
    assert result.returncode == 2 and "-n is 'none'" in result.stderr
    result = launch("local_multiprocess.sh", "-n", "3", *local, JAX_PLATFORMS="", CUDA_VISIBLE_DEVICES="0,1")
    assert result.returncode == 2 and "2 GPUs for 3 processes" in result.stderr


@pytest.mark.parametrize(
    "smi, visible, seen",
    [
        ("echo 3; echo 4", {"CUDA_VISIBLE_DEVICES": "5,7"}, ["5 0 2", "7 1 2"]),
        ("echo 3; echo 4; echo 6", {}, ["3 0 3", "4 1 3", "6 2 3"]),
        ("echo 3", {"CUDA_VISIBLE_DEVICES": ""}, ["empty 0 2", "empty 1 2"]),  # hidden on purpose
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", {}, ["unset 0 2", "unset 1 2"]),
    ],
)
def test_local_multiprocess_gives_each_process_its_gpu(tmp_path, monkeypatch, smi, visible, seen):
    gpu = '${CUDA_VISIBLE_DEVICES-unset}" && [ "$gpu" ] || gpu=empty'
    programs = {
        "python": f'[ "$1" = -c ] && exec {sys.executable} "$@"\ngpu="{gpu}\n'
        'echo "$gpu $JAX_PROCESS_ID $JAX_NUM_PROCESSES" >> "$SEEN"\necho $DDLLM_MEMORY >> "$SEEN"',
        "nvidia-smi": smi,
    }
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    result = launch("local_multiprocess.sh", "x", PYTHON=str(tmp_path / "python"), SEEN=str(tmp_path / "seen"), JAX_PLATFORMS="", **visible)
    lines = (tmp_path / "seen").read_text().splitlines()
    assert result.returncode == 0 and sorted(line for line in lines if " " in line) == seen, result
    # Each may take the same part of the memory.
    parts = [int(line) for line in lines if " " not in line]
    assert len(parts) == len(seen) and len(set(parts)) == 1 and 0 < parts[0] * len(seen) <= psutil.virtual_memory().total


def test_local_multiprocess_ends_all_on_an_interrupt(local, tmp_path):
    line = [*local, "--config.distill.outer_steps=100000", "--config.distill.checkpoint_every=3", "--mode=distill"]
    script = ["bash", str(ROOT / "launch" / "local_multiprocess.sh"), *line]
    process = subprocess.Popen(script, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    wait_until(lambda: (tmp_path / "run" / "checkpoints" / "3").exists() or process.poll() is not None, 120)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in error and "Traceback" not in error, error
