"""The curve is drawn for whole, short and empty runs."""

from pathlib import Path

import numpy as np
import pytest

from ddllm.report.curve import draw_curve
from ddllm.report.figures import smooth

ROWS = [{"name": "full", "accuracy_mean": 0.821}, {"name": "random", "accuracy_mean": 0.553}, {"name": "k_centers", "accuracy_mean": 0.601}]


def make_metrics(steps: int) -> list[dict]:
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        line = {"stage": "distill", "step": step, "loss": float(0.45 + 0.25 * np.exp(-step / 80) + rng.normal(0, 0.06))}
        if step % 50 == 0:
            line["validation_accuracy"] = float(0.79 - 0.2 * np.exp(-step / 120) + rng.normal(0, 0.008))
        lines.append(line)
    return [{"stage": "finetune", "step": 1, "loss": 9.0}, *lines]


def size_of_png(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


@pytest.mark.parametrize(("steps", "rows"), [(500, ROWS), (3, ROWS[1:]), (0, [])])
def test_png_is_written(tmp_path: Path, steps: int, rows: list[dict]):
    draw_curve(make_metrics(steps), rows, tmp_path / "curve.png")
    assert size_of_png(tmp_path / "curve.png") == (1200, 900)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_missing_figures_are_left_out(tmp_path: Path):
    metrics = [{"stage": "distill", "step": 1, "loss": None}, {"stage": "distill", "step": 2, "loss": 0.5}]
    draw_curve(metrics, ROWS, tmp_path / "curve.png", title="Rotten Tomatoes with MiniLM-L6")
    assert size_of_png(tmp_path / "curve.png") == (1200, 900)


def test_a_title_is_no_formula(tmp_path: Path):
    draw_curve(make_metrics(3), ROWS, tmp_path / "curve.png", title="cost_$x^$ with MiniLM-L6")
    assert size_of_png(tmp_path / "curve.png") == (1200, 900)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_running_mean(width: int):
    values = np.arange(10.0) ** 2
    slow = [values[max(0, place - width // 2) : place + width - width // 2].mean() for place in range(10)]
    np.testing.assert_allclose(smooth(values, width), slow)
