"""What the README and docs/ point at is there: files, configuration keys, modules, stages."""

import importlib.util
import re
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from ddllm.artefact.command_line import ALONE
from ddllm.config import default_config
from ddllm.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENDINGS = ("html", "json", "md", "py")  # report.html is a file, no key
KEYS = flatten_dict(default_config().to_dict(), sep=".")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = [re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in file.read_text().splitlines() if line.startswith("#")]
            assert heading in titles, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_modules_and_modes_exist(page: Path):
    text = page.read_text()
    sections = "|".join(sorted({key.split(".")[0] for key in KEYS if "." in key}))
    for section, name in re.findall(rf"(?<![\w./])(?:--)?(?:config\.)?({sections})\.([a-z_]+)(?![\w.(/])", text):
        assert f"{section}.{name}" in KEYS or name in ENDINGS, f"{page.name}: {section}.{name}"
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), f"{page.name}: {module}"
    for modes in re.findall(r"--mode=([a-z,]+)", text):
        unknown = set(modes.split(",")) - {*STAGES, *ALONE, "all"}
        assert not unknown, f"{page.name}: {unknown}"
