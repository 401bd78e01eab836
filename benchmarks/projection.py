"""Token projection beside faiss's exact index, on a table of BERT's size: equal results, time and memory.

    python -m benchmarks.projection [--queries 1,32,1000,10000,100000] [--neighbours 1,10] [--repetitions 5]

Both search in one process with as many threads, in turns, medians are reported, and what each found is compared: the share of queries with the same
rows in the same order, and, where they differ, how far apart in cosine the differing rows are. Memory is what a process of its own
holds at the search's peak beyond what it held at its start: libraries, table, index, queries and result. It is read from
Linux's /proc. Results go to benchmarks/results/projection.json, beside those of other numbers there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results" / "projection.json"
ROWS, WIDTH = 30_522, 768  # bert-base-uncased's word table
ENOUGH = 20.0  # seconds of repetitions behind a row
MEMORY_OF = "--memory-of"  # what the process of `peak_beyond` is told
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def make_table() -> np.ndarray:
    """Rows drawn at random, with norms that differ as a real table's do."""
    rng = np.random.default_rng(0)
    return (0.05 * rng.standard_normal((ROWS, WIDTH)) * rng.uniform(0.7, 1.3, (ROWS, 1))).astype(np.float32)


def make_queries(count: int) -> np.ndarray:
    """Queries drawn at random."""
    return np.random.default_rng(1).standard_normal((count, WIDTH)).astype(np.float32)


def make_search(framework: str, table: np.ndarray) -> Search:
    """search(queries, k) -> cosines and ids of the nearest rows, the index made beforehand; queries are normalised within."""
    if framework == "faiss":
        import faiss  # pyright: ignore[reportMissingImports]  requirements-bench.txt has it

        index = faiss.IndexFlatIP(WIDTH)
        index.add(table / np.linalg.norm(table, axis=1, keepdims=True))
        return lambda queries, k: index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), k)
    from ddllm.text.projection import index_table, nearest

    prepared = index_table(table)

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = nearest(queries, prepared, k)
        return np.asarray(found.scores), np.asarray(found.ids)

    return search


def peak_beyond(framework: str, count: int, k: int) -> int:
    """Bytes that a search needs at its peak, table, index, queries and result among them, in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.projection", MEMORY_OF, framework, str(count), str(k)]
    return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(framework: str, count: int, k: int) -> int:
    """The work of `peak_beyond`'s process."""
    before = resident("VmRSS")
    table = make_table()
    search = make_search(framework, table)
    queries = make_queries(count)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was the random numbers'
    search(queries, k)
    return resident("VmHWM") - before


def resident(which: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at the peak (VmHWM), as Linux has them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return 1024 * int(line.split()[1])


def measure(counts: list[int], ks: list[int], repetitions: int, console: Console) -> list[dict[str, Any]]:
    """Rows of the results."""
    table = make_table()
    searches = {framework: make_search(framework, table) for framework in ("ours", "faiss")}
    rows = []
    for count in counts:
        queries = make_queries(count)
        for k in ks:
            seconds: dict[str, list[float]] = {framework: [] for framework in searches}
            found = {framework: search(queries, k) for framework, search in searches.items()}
            while len(seconds["ours"]) < repetitions and sum(seconds["ours"]) < ENOUGH:
                for framework, search in searches.items():
                    began = time.perf_counter()
                    search(queries, k)
                    seconds[framework].append(time.perf_counter() - began)
            (ours, our_ids), (theirs, their_ids) = found["ours"], found["faiss"]
            same = np.all(our_ids == their_ids, axis=1)
            ratios = [mine / other for mine, other in zip(seconds["ours"], seconds["faiss"], strict=True)]
            row = {
                "queries": count,
                "neighbours": k,
                "threads": len(os.sched_getaffinity(0)),
                "repetitions": len(ratios),
                "seconds": statistics.median(seconds["ours"]),
                "faiss_seconds": statistics.median(seconds["faiss"]),
                "time_ratio_to_faiss": statistics.median(ratios),
                "same": float(same.mean()),
                "cosine_difference": float(np.abs(ours - theirs).max()),
                "bytes": peak_beyond("ours", count, k),
                "faiss_bytes": peak_beyond("faiss", count, k),
            }
            rows.append(row)
            console.print({name: round(value, 7) for name, value in row.items()})
    return rows


def key_of(row: dict[str, Any]) -> tuple[int, int]:
    """What a row is about."""
    return row["queries"], row["neighbours"]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the results as a table."""
    table = Table(title=f"Nearest of {ROWS:,} rows of {WIDTH} by cosine, threads: {len(os.sched_getaffinity(0))}")
    for name in ("queries", "k", "ours, s", "faiss, s", "ratio", "same rows", "ours, MiB", "faiss, MiB"):
        table.add_column(name, justify="right")
    for row in rows:
        sizes = [f"{row[name] / 2**20:.0f}" for name in ("bytes", "faiss_bytes")]
        times = [f"{row['seconds']:.4f}", f"{row['faiss_seconds']:.4f}", f"{row['time_ratio_to_faiss']:.2f}"]
        table.add_row(f"{row['queries']:,}", str(row["neighbours"]), *times, f"{row['same']:.4%}", *sizes)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [MEMORY_OF]:
        framework, count, k = arguments[1:]
        print(measure_memory(framework, int(count), int(k)))
        return 0
    from ddllm.main import exit_status  # here, since JAX comes with it, which counts where memory is measured

    return exit_status(lambda: work(arguments), "nothing was kept")


def work(arguments: list[str]) -> int:
    """Measure, print the table and write the rows.

    Raises:
        UserError: something on the command line is wrong, or faiss is not installed.
    """
    from benchmarks.options import number, numbers, parse
    from ddllm.errors import UserError

    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.projection", description=__doc__, formatter_class=form, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--queries", default="1,32,1000,10000,100000")
    parser.add_argument("--neighbours", default="1,10")
    parser.add_argument("--repetitions", default="5")
    given = parse(parser, arguments)
    counts, ks = numbers(given.queries, "--queries", 1), numbers(given.neighbours, "--neighbours", 1)
    repetitions = number(given.repetitions, "--repetitions", 1)
    if max(ks) > ROWS:
        raise UserError(f"--neighbours has {max(ks)}, but the table has {ROWS} rows.")
    if not find_spec("faiss"):
        raise UserError("faiss is not installed here; make bench BENCH=projection installs it.")
    console = Console()
    rows = measure(counts, ks, repetitions, console)
    measured = set(map(key_of, rows))
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = sorted(rows + [row for row in earlier if key_of(row) not in measured], key=key_of)
    show(rows, console)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
