"""The page in a real browser, headless: no error, every figure drawn, filters work, no request leaves, text is not run, and a phone scrolls one way only."""

import shutil
from pathlib import Path

import pytest

from ddllm.report.compare import write_comparison
from ddllm.report.page import write_page

PLACES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, PLACES)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(path, width, scheme) -> a page at that file, with lists of its complaints and of what it asked for."""
    contexts = []

    def visit(path: Path, width=1200, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(5000)
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.absolute().as_uri())
        return page, complaints, asked

    yield visit
    for context in contexts:
        context.close()


WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CONTRAST = """() => {
  const luminance = (text) => {
    const c = document.createElement('canvas').getContext('2d');
    c.fillStyle = text; c.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const ratio = (a, b) => {
    const [x, y] = [a, b].map((name) => luminance(style.getPropertyValue(name).trim())).sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  return ['--ink', '--soft', '--accent', '--good', '--warm'].map((name) => ratio(name, '--raised'));
}"""


def test_no_error_and_nothing_asked(visit, make_folder):
    path = write_page(make_folder())
    for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light")):
        page, complaints, asked = visit(path, width, scheme)
        assert complaints == [] and asked == [path.absolute().as_uri()]
        assert page.evaluate(WIDER) == 0, f"the page is wider than {width}"
        for figure in page.locator("figure svg").all():
            box = figure.bounding_box()
            assert box["width"] > 200 and box["height"] > 80 and figure.locator("path").count() > 3
        assert page.locator("figure svg").count() == 6
        assert min(page.evaluate(CONTRAST)) > 4.5
    drawn = page.evaluate("getComputedStyle(document.querySelector('#results svg text')).fill")
    dark, *_ = visit(path, 1200, "dark")
    assert dark.evaluate("getComputedStyle(document.querySelector('#results svg text')).fill") != drawn


def test_text_is_not_run(visit, make_folder):
    page, *_ = visit(write_page(make_folder()))
    assert "<script>document.title = 'run'</script>" in page.title() and page.locator("script").count() == 1
    assert "<script>document.title" in page.locator("#example-3 .real").inner_text()
    # Even a script that has found its way in is not run.
    page.evaluate("document.body.appendChild(Object.assign(document.createElement('script'), { textContent: 'window.broken = 1' }))")
    assert page.evaluate("window.broken") is None


def test_filters(visit, make_folder):
    page, complaints, _ = visit(write_page(make_folder()))
    shown = page.locator(".card:not([hidden])")
    search, label = page.get_by_label("Search tokens and texts"), page.get_by_role("combobox", name="Label")
    assert shown.count() == 6 and page.locator("output").inner_text() == "6 examples"
    search.fill("NUMBER 4")
    assert shown.count() == 1 and shown.get_attribute("id") == "example-5" and page.locator("output").inner_text() == "1 of 6 examples"
    search.fill("clever")
    assert shown.count() == 6
    hits = page.locator("button.hit")
    assert 0 < hits.count() < 72 and all("clever" in words for words in hits.evaluate_all("found => found.map(one => one.dataset.words)"))
    label.select_option("rotten")
    assert shown.count() == 3 and set(shown.evaluate_all("found => found.map(one => one.dataset.of)")) == {"rotten"}
    search.fill("no such word")
    assert shown.count() == 0 and page.get_by_text("No example has that.").is_visible()
    search.press("Enter")
    assert complaints == []


def test_by_keyboard(visit, make_folder):
    page, *_ = visit(write_page(make_folder()))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    first, second = (page.locator("#example-1 [data-positions] button").nth(number) for number in (0, 1))
    first.focus()
    page.keyboard.press("ArrowRight")
    assert second.evaluate("found => found === document.activeElement")
    told = page.locator("#example-1 [data-chosen]").inner_text()
    assert told.startswith("Position 2: ") and len(told.split(",")) == 3
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Enter")
    assert page.locator("#example-1 .tokens").is_visible()


def test_a_table_that_is_wider_than_a_phone_says_so(visit, make_folder):
    path = write_page(make_folder())
    hint = "The table goes on to the right"
    phone, *_ = visit(path, 390)
    region = phone.locator("#figures .scroll")
    assert phone.locator("#figures").get_by_text(hint).is_visible()
    region.focus()
    phone.keyboard.press("ArrowRight")
    for _ in range(50):  # not wait_for_function, whose code the page's policy forbids
        if region.evaluate("region => region.scrollLeft") > 0:
            break
        phone.wait_for_timeout(100)
    assert region.evaluate("region => region.scrollLeft") > 0
    desk, *_ = visit(path, 1200)
    assert not desk.get_by_text(hint).first.is_visible()


def test_comparison(visit, make_folder, tmp_path):
    path = write_comparison([make_folder("one"), make_folder("two", 0.81, length=16)], tmp_path / "compare.html")
    for width in (1200, 390):
        page, complaints, asked = visit(path, width)
        assert complaints == [] and asked == [path.absolute().as_uri()] and page.evaluate(WIDER) == 0
        assert page.locator("figure svg").count() == 3
