"""Runs beside each other: what differs, a sentence for every mistake, and a wheel that has the templates."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddllm.compare import main
from ddllm.report.compare import compare_configs, gather

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_beside_what(make_folder):
    folders = [make_folder("one"), make_folder("two", 0.81, length=16)]
    found = gather(folders)
    assert [name for name, *_ in found["runs"]] == ["one", "two"]
    rows = {cells[0]: cells[1:] for cells in found["results"].cells}
    assert rows["distilled"] == ("79.0", "81.0") and rows["random real examples"] == ("54.0 ± 8.0 (3)",) * 2
    assert found["differences"].cells == [("distill.length", "12", "16")]
    assert [plot.name for plot in found["plots"]] == ["comparison", "loss", "validation"]
    assert "distilled in two 81.0" in found["plots"][0].description


def test_numbers_that_differ_in_their_last_digits_are_different():
    configs = {name: {"distill": {"initial_rate": rate, "length": 4}} for name, rate in (("one", 0.00012341), ("two", 0.00012344))}
    assert compare_configs(configs).cells == [("distill.initial_rate", "0.00012341", "0.00012344")]


def test_the_command(make_folder, tmp_path, capsys):
    one, two = (str(make_folder(name)) for name in ("one", "two"))
    out = tmp_path / "pages" / "compare.html"
    assert main([one, two, f"--out={out}"]) == 0 and "The configurations are the same." in out.read_text()
    for line, message in (
        ([one], "1 runs are given, but 2 to 8"),
        ([one, one], "given twice"),
        ([one, str(tmp_path)], "it has no results.json"),
        ([one, two, "--uot=x"], "'--uot=x' is not understood"),
        ([one, two, f"--out={one}/results.json/x"], "cannot be written"),
    ):
        capsys.readouterr()
        assert main(line) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_wheel_has_the_templates(tmp_path):
    pytest.importorskip("setuptools")
    import shutil
    import zipfile

    for name in ("ddllm", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    (tmp_path / "out").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    [wheel] = (tmp_path / "out").glob("*.whl")
    there = set(zipfile.ZipFile(wheel).namelist())
    templates = {f"ddllm/report/templates/{path.name}" for path in (ROOT / "ddllm" / "report" / "templates").iterdir()}
    assert len(templates) >= 6 and templates <= there
