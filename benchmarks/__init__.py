"""Side-by-side measurements against peers: each prints a table and writes rows to benchmarks/results."""
