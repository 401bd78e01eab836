"""Progress without a terminal and on one."""

import os
import pty
import subprocess
import sys

import pytest

from ddllm.runtime import progress as module
from ddllm.runtime.progress import Progress, say


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_every_ten_seconds_and_at_the_end(capsys: pytest.CaptureFixture, clock: list[float]):
    with Progress(50, "distill", start=20) as progress:
        for step in range(21, 51):
            clock[0] += 30 if step == 21 else 2
            progress.update(step, loss=1 / step, validation_accuracy=0.75 if step == 30 else None)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "distill 21/50  0:30, ? left  loss 0.048"
    # 2 s a step: neither compilation in the first step nor the steps of an earlier process count.
    assert lines[1] == "distill 26/50  0:40, 0:48 left  loss 0.038"
    assert lines[2] == "distill 31/50  0:50, 0:38 left  loss 0.032  validation accuracy 0.750"
    assert lines[-1] == "distill 50/50  took 1:28  loss 0.020  validation accuracy 0.750"
    assert len(lines) == 7


def test_time_left_follows_a_change_of_speed(clock: list[float]):
    progress = Progress(1000, "distill")
    for step in range(1, 101):
        clock[0] += 1.0 if step < 50 else 4.0
        progress.update(step)
    left = progress.seconds_left()
    assert left is not None and left == pytest.approx(900 * 4, rel=0.1)


def test_end_is_not_printed_twice(capsys: pytest.CaptureFixture, clock: list[float]):
    with Progress(1, "evaluate") as progress:
        clock[0] += 20
        progress.update(1, accuracy=0.5)
        assert progress.done == 1
    say("[done] 100%")
    assert capsys.readouterr().err.splitlines() == ["evaluate 1/1  took 0:20  accuracy 0.500", "[done] 100%"]


PROGRAM = """
from ddllm.runtime.progress import Progress, say
with Progress(40, "distill") as progress:
    for step in range(1, 41):
        progress.update(step, loss=0.4567, validation_accuracy=0.789)
        if step == 20:
            say("a note [in brackets]")
say("done")
"""


def test_bar_on_a_terminal_of_eighty_columns():
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=side, stdout=subprocess.DEVNULL, env=environment)
    os.close(side)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:
        pass  # Linux says so when the other side is closed.
    os.close(main)
    assert process.wait() == 0
    text = shown.decode()
    assert "a note [in brackets]" in text and "done" in text
    last = text.rsplit("distill", 1)[1].splitlines()[0]
    assert "40/40" in last and "took 0:0" in last
    assert "loss 0.457  validation accuracy 0.789" in last
