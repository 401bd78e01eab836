"""What a person sees while a stage runs: a bar with the time left and the latest figures, or plain lines where there is no terminal.

Everything goes to standard error, so that standard output holds results alone.
"""

import math
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

PLAIN_EVERY = 10.0  # seconds between plain lines
SPEED_OVER = 60.0  # seconds of the recent past that the time left is estimated from

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one message, above the bar if one is shown."""
    _console.print(text, markup=False, soft_wrap=True)


def be_quiet() -> None:
    """Show nothing from now on: of several processes that compute together only the first one speaks."""
    _console.quiet = True


def restore_terminal() -> None:
    """Give back the cursor that a bar hides, where the process ends under a bar."""
    if _console.is_terminal:
        _console.show_cursor(True)
        _console.print()


class Progress:
    """A bar over `total` steps, used as a context manager.

    Args:
        total: steps in the whole stage.
        title: what is going on, in a word or two.
        start: steps done before this process, which do not count for the speed.

    Attributes:
        done: steps done so far.
    """

    def __init__(self, total: int, title: str, start: int = 0):
        self.total = total
        self.title = title
        self.done = start
        self._values: dict[str, Any] = {}
        self._begun = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()
        self._printed = self._begun
        self._printed_step = -1
        self._bar: RichProgress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if _console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=max(6, 24 - len(self.title))),
                "{task.completed:.0f}/{task.total:.0f}",
                "{task.fields[time]}",
            )
            # A bracket in a title or among the figures must not be read as markup.
            figures = TextColumn("{task.fields[figures]}", markup=False, style="cyan")
            self._bar = RichProgress(*columns, figures, console=_console, refresh_per_second=4)
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, time=self._time(), figures="")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._printed_step != self.done:
            self._print()

    def update(self, step: int, **values: float | int | str | None) -> None:
        """Say that `step` steps of the total are done. Figures given once stay until they are given again; None is left out."""
        now = time.monotonic()
        self.done = step
        self._values |= {name: value for name, value in values.items() if value is not None}
        # The first mark is set after the first step, so that compilation does not count for the speed.
        self._marks.append((now, step))
        window = max(SPEED_OVER, (now - self._begun) / 3)
        while len(self._marks) > 2 and now - self._marks[1][0] > window:
            self._marks.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, time=self._time(), figures=self._figures())
        elif now - self._printed >= PLAIN_EVERY:
            self._print()

    def seconds_left(self) -> float | None:
        """An estimate from the recent speed of this process; None before there is one."""
        if len(self._marks) < 2:
            return None
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (self.total - self.done) * (end - begin) / (last - first) if last > first else None

    def _time(self) -> str:
        elapsed = time.monotonic() - self._begun
        left = self.seconds_left()
        if self.done >= self.total:
            return f"took {_clock(elapsed)}"
        return f"{_clock(elapsed)}, {'?' if left is None else _clock(left)} left"

    def _figures(self) -> str:
        return "  ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in self._values.items())

    def _print(self) -> None:
        self._printed = time.monotonic()
        self._printed_step = self.done
        say("  ".join(part for part in (f"{self.title} {self.done}/{self.total}", self._time(), self._figures()) if part))


def _clock(seconds: float) -> str:
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _figure(value: Any) -> str:
    if isinstance(value, int | str):
        return str(value)
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.2g}"
