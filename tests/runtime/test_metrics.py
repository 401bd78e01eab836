"""Figures survive kills and resumes, without doubles."""

import struct
from pathlib import Path

import pytest

from ddllm.runtime.metrics import Metrics, read_metrics


def events(folder: Path) -> list[tuple]:
    """(step, tag, value) of the scalars in all event files of a folder, and (step, "start", None) where one says that later steps are void."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    found = []
    for path in sorted(folder.rglob("*tfevents*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            if event.session_log.status == SessionLog.START:
                found.append((event.step, "start", None))
    return found


def test_lines_are_there_at_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, tmp_path / "events")
    metrics.write(1, {"loss": 0.5}, "distill")
    (entry,) = read_metrics(path)
    assert entry.pop("time") > 1e9
    assert entry == {"stage": "distill", "step": 1, "loss": 0.5}
    metrics.write(2, {"loss": float("nan"), "norm": float("inf")}, "distill")
    assert read_metrics(path)[1]["loss"] is None and read_metrics(path)[1]["norm"] is None
    metrics.close()
    assert events(tmp_path / "events")[0] == (1, "distill/loss", 0.5)


def test_cut_last_line_is_dropped(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "distill", "step": 1}\n{"stage": "dist')
    assert [entry["step"] for entry in read_metrics(path)] == [1]
    metrics = Metrics(path)
    metrics.write(2, {}, "distill")
    metrics.close()
    assert [entry["step"] for entry in read_metrics(path)] == [1, 2]
    assert read_metrics(tmp_path / "absent") == []


def test_rewind_forgets_later_steps_of_its_stage_alone(tmp_path: Path):
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "events"
    metrics = Metrics(path, folder)
    for step in range(1, 6):
        metrics.write(step, {"loss": step}, "finetune")
        metrics.write(step, {"loss": step}, "distill")
    metrics.close()

    metrics = Metrics(path, folder)
    metrics.rewind("distill", 3)
    metrics.write(4, {"loss": 40}, "distill")
    metrics.close()
    found = [(entry["stage"], entry["step"], entry["loss"]) for entry in read_metrics(path)]
    assert [entry[1:] for entry in found if entry[0] == "finetune"] == [(step, step) for step in range(1, 6)]
    assert [entry[1:] for entry in found if entry[0] == "distill"] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert events(folder / "distill")[-2:] == [(4, "start", None), (4, "distill/loss", pytest.approx(40))]
    assert not any(tag == "start" for _, tag, _ in events(folder / "finetune"))


def test_rewind_in_the_middle_of_a_process(tmp_path: Path):
    metrics = Metrics(tmp_path / "metrics.jsonl", tmp_path / "events")
    metrics.write(1, {"loss": 1}, "distill")
    metrics.write(2, {"loss": 2}, "distill")
    metrics.rewind("distill", 0)
    metrics.write(1, {"loss": 3}, "distill")
    metrics.close()
    assert [entry["loss"] for entry in read_metrics(tmp_path / "metrics.jsonl")] == [3]


def test_without_events_no_folder_is_made(tmp_path: Path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write(1, {"loss": 1}, "distill")
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
