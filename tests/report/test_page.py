"""The page without a browser: everything in the folder is on it, text is escaped, names are unique, and nothing is asked of a network."""

import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from ddllm.artefact.folder import add_scores, load_distilled
from ddllm.errors import UserError
from ddllm.report.facts import describe_card
from ddllm.report.figures import draw_changes, draw_comparison, draw_curves, draw_map, draw_rates, draw_results, kind_of, wilson
from ddllm.report.page import gather, make_plots, making_command, write_page
from ddllm.report.svg import UNSEEN, VARIABLES

EMPTY = {"meta", "link", "br", "input", "img", "hr"}


class Reader(HTMLParser):
    """What a browser would make of the page: its elements, with each one's text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self):
        return " ".join(data for tag, data in self.texts if tag not in ("script", "style"))

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture
def read(make_folder):
    def read(change=lambda folder: None):
        folder = make_folder()
        change(folder)
        return Reader(write_page(folder).read_text())

    return read


def test_everything_in_the_folder_is_on_the_page(read):
    page = read()
    assert not page.open
    headings = {"Distilled data beside its baselines", "Outer loss", "While distilling", "Learned rates", "Trained otherwise than the recipe says",
                "A map of features"}
    assert headings <= {data for tag, data in page.texts if tag == "h3"}
    assert len(page.all("figure")) == len(page.all("figcaption")) == len(page.all("svg")) == 6
    text = page.text()
    for expected in ("79.0 ± –", "78.0 ± 1.1 (20)", "loss, distilled", "0.500 to 0.560", "SmolLM", "examples shuffled", "−8.0", "base_model.hidden", "1.234"):
        assert expected in text, expected
    assert "python -m ddllm.main --config=x.py" in text and '"length": 12' in text
    cards = [attributes for attributes in page.all("article")]
    assert [card["data-of"] for card in cards] == ["fresh", "rotten"] * 3
    assert len([button for button in page.all("button")]) == 6 * 12
    tabs = [button["tabindex"] for button in page.all("button")]
    assert tabs.count("0") == 6  # one stop of the tab key for each example


def test_text_is_shown_and_not_run(read):
    page = read()
    assert page.text().count("<script>document.title = 'run'</script>") >= 5  # title, notes, command, card, a real text
    assert len(page.all("script")) == 1 and not page.all("img") and not page.all("iframe")
    for tag, attributes, _ in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_names_are_unique_and_lead_somewhere(read):
    page = read()
    names = [attributes["id"] for _, attributes, _ in page.elements if attributes.get("id")]
    assert len(names) == len(set(names))
    for tag, attributes, _ in page.elements:
        for value in (attributes.get("href", ""), *re.findall(r"url\((#[^)]*)\)", " ".join(str(value) for value in attributes.values()))):
            assert not value.startswith("#") or value[1:] in names, (tag, value)
        for name in ("aria-labelledby",):
            assert set(attributes.get(name, "").split()) <= set(names)


def test_figures_take_the_colours_of_the_page(make_folder):
    folder = make_folder()
    plots = [*gather(folder)["plots"], gather(folder)["map"]]
    for plot in plots:
        svg = ET.fromstring(str(plot.svg).replace(' role="img"', ' xmlns="http://www.w3.org/2000/svg" role="img"', 1))
        assert svg.find("{*}title").text == plot.title and len(svg.find("{*}desc").text) > 20
        assert not any(colour in plot.svg for colour in VARIABLES) and "var(--ink)" in plot.svg
        assert svg.findall(".//{*}text") and "<style" not in plot.svg and "metadata" not in plot.svg
    rates = draw_rates(np.array([[0.1, 0.2], [0.3, 0.4]]), ["body.layers.0.attention.qkv.kernel", "body.layers.0.attention.qkv.bias"])
    assert "kernels: 0.1 to 0.3" in rates.description and "biases: 0.2 to 0.4" in rates.description
    assert [kind_of(name) for name in ("all", "layer_3", "body.embeddings.position", "head.out.kernel")] == ["all parameters", "layers", "tables", "head"]


NAMES = ["cost_$x^$", "$10-$50", "$", "$$", r"a\$b", "_under"]  # of two dollars matplotlib would make a formula, or none that it can read
POINTS = [{"stage": "distill", "step": step, "loss": 1 / step} for step in (1, 2)]


@pytest.mark.parametrize("draw", [
    lambda: draw_results([{"name": name, "accuracy_mean": 0.5, "accuracy_std": 0.0, "runs": 1} for name in NAMES], 100),
    lambda: draw_changes([{"variation": name, "change": 1.0} for name in ("the recipe", *NAMES)]),
    lambda: draw_map({"real": [[0, 0, 0], [1, 1, 1]], "distilled": [[0, 1, 0, 1]], "groups": NAMES, "explained": [0.5, 0.2]}),
    lambda: draw_curves(dict.fromkeys(NAMES, POINTS), [], "loss", "loss", "Outer loss", ""),
    lambda: draw_comparison([(name, "run", 50.0, 1.0, 2) for name in NAMES], "accuracy"),
    lambda: draw_comparison([("row", name, 50.0, 1.0, 2) for name in NAMES], "accuracy"),
], ids=["results", "changes", "map", "curves", "rows", "runs"])
def test_names_in_figures_are_shown_as_they_are(draw):
    page = Reader(draw().svg)
    shown = ["".join(data.split()).removeprefix(UNSEEN) for tag, data in page.texts if tag == "text"]
    assert [name for name in shown if name in NAMES] == NAMES


def test_what_varied_sets_lose_is_shown_for_each_apart():
    both = (("the recipe", 0.0), ("rates doubled", -1.0))
    rows = [{"name": name, "variation": what, "change": change} for name in ("distilled", "a b") for what, change in both]
    plots = make_plots({"rows": [], "robustness": rows}, [], None, [])
    assert [(plot.name, plot.description) for plot in plots] == [("changes", "rates doubled -1.0."), ("changes-a-b", "rates doubled -1.0.")]
    assert plots[1].title.endswith(": a b")


def test_what_accuracy_costs_is_shown():
    means = (0.85, 0.8, None, 0.9)
    compute = [{"name": "distilled", "cost": f"cost {number}", "flops": 10**number, "accuracy_mean": mean} for number, mean in enumerate(means, 9)]
    storage = [{"name": "a b", "variation": kind, "bytes": 1000 * count, "accuracy_mean": 0.8, "accuracy_std": 0.01, "runs": 2}
               for kind, count in (("float32", 100), ("8 bits", 40))]
    costs, stored = make_plots({"rows": [], "compute": compute, "storage": storage}, [], None, [])
    assert (costs.name, stored.name) == ("compute", "bytes-a-b") and stored.title.endswith(": a b")
    assert costs.description.startswith("cost 9 85.0 % for 1e+09; cost 10 80.0 % for 1e+10; cost 12 90.0 %")  # what has no figure has no point
    assert stored.description.startswith("float32 80.0 % for 100; 8 bits 80.0 % for 40")
    assert not make_plots({"rows": [], "compute": compute[:1], "storage": []}, [], None, [])


def test_rates_have_powers_of_ten():
    page = Reader(draw_rates(np.array([[1e-3], [1e-1]]), ["all"]).svg)
    shown = "".join(data.strip() for tag, data in page.texts if tag == "tspan")
    assert "10−3" in shown and "10−1" in shown and "$" not in page.text()


def test_intervals():
    low, high = wilson(0.8, 100)
    assert (low, high) == (pytest.approx(0.7112, abs=1e-4), pytest.approx(0.8666, abs=1e-4))  # Newcombe 1998's method 3
    assert wilson(1.0, 50)[1] == pytest.approx(1) and wilson(0.0, 50)[0] == pytest.approx(0)


def test_what_is_missing_is_said(read, make_folder, tmp_path):
    def bare(folder):
        for name in ("metrics.jsonl", "look.json", "commands.txt"):
            (folder / name).unlink()
        shutil.rmtree(folder / "distilled")

    page = read(bare)
    assert "--mode=look,report" in page.text() and "the stage distill writes it" in page.text() and not page.open
    assert len(page.all("svg")) == 2  # results and robustness
    damaged = make_folder("damaged")
    (damaged / "distilled" / "distilled.safetensors").write_bytes(b"?")
    assert "could not be opened" in write_page(damaged).read_text()
    with pytest.raises(UserError, match="results.json does not exist"):
        write_page(tmp_path)


def test_the_card_is_told_in_words(make_folder):
    folder = make_folder() / "distilled"
    score = {"name": "distilled", "figure": "accuracy", "mean": 0.8621, "deviation": 0.0, "runs": 1, "texts": 1821, "head": "zero", "others": {"x": 1}}
    add_scores(folder, [score, score | {"name": "distilled, redrawn heads", "deviation": 0.012, "runs": 5, "texts": 500}])
    distilled = load_distilled(folder)
    part = {"name": "films", "sha256": "a" * 64, "label_names": ["bad", "good"], "examples": 2, "inner_steps": 3, "sets": 1, "texts": [{"corpus": "b" * 64}]}
    distilled.card.update({"merged": {"way": "join", "sets": [part]}, "updated": part | {"name": "plays"}, "batch_shares": [[0.5, 0.5]]})
    facts = describe_card(distilled)
    assert facts[:4] == [
        ("distilled", "accuracy 86.2 on 1,821 test texts"),
        ("distilled, redrawn heads", "accuracy 86.2 ± 1.2 (5 runs) on 500 test texts"),
        ("merged from", "films: bad, good, 2 examples in 3 inner steps"),
        ("updated from", "plays: bad, good, 2 examples in 3 inner steps"),
    ]
    assert ("merged.way", "join") in facts and not any("{" in value or "[" in value for _, value in facts if "script" not in value)
    sums = [name for name, value in facts if re.fullmatch("[0-9a-f]{64}", value)]
    assert sums == [name for name, _ in facts[-len(sums):]] and "files.distilled.safetensors" in sums


@pytest.mark.parametrize(
    "commands, shown",
    [
        (["m --config=a", "m --config=a --mode=report"], 0),
        (["m --config=a --mode=distill,evaluate", "m --config=a --mode evaluate", "m --config=a --mode=look,report"], 0),
        (["m --config=a --mode=distill", "m --mode=merge,evaluate --sets=a,b", "m --mode=evaluate --distilled=x", "m --distilled=x"], 1),
        (["m --mode=evaluate --name='a", "m --mode=evaluate"], 1),
        (["", ""], 1),
    ],
)
def test_the_command_that_made_the_set_is_shown(commands, shown):
    assert making_command(commands) == commands[shown] and making_command([]) == ""
