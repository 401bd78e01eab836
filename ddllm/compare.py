"""Runs beside each other: `python -m ddllm.compare RUN RUN … [--out compare.html]`.

Each RUN is a working directory with results. The page needs nothing but itself: results, learning curves, and the keys that differ.
"""

import argparse
import sys
from pathlib import Path

from ddllm.errors import UserError
from ddllm.main import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser("python -m ddllm.compare", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a working directory")
    parser.add_argument("--out", default="compare.html", metavar="FILE", help="the page; by default compare.html")

    def work() -> int:
        try:
            options, rest = parser.parse_known_args(arguments)
        except argparse.ArgumentError as error:
            raise UserError(f"{error}; correct it on the command line.") from None
        if rest:
            raise UserError(f"{rest[0]!r} is not understood; give folders of runs, and perhaps --out FILE.")
        from ddllm.report.compare import write_comparison  # only now: a mistyped option should not have to wait for it

        print(write_comparison([Path(run) for run in options.runs], Path(options.out)))
        return 0

    return exit_status(work, "the same command starts again")


if __name__ == "__main__":
    sys.exit(main())
