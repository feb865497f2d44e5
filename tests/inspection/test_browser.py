"""The page in a browser: it needs no network, fits a phone, works by keyboard, and axe-core finds no barrier."""

import json
import shutil
import subprocess

import pytest
from browser import CHROMIUM, Browser
from test_page import HISTORY, example
from trainer_examples import tiny_model

from span_electra.inspection.page import render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two checkpoints whose samples differ, with words that no screen is wide enough for."""
    samples = example(("step 100",))
    samples["steps"] += example(("step 200",), model=tiny_model(initializer_range=0.5))["steps"]
    shown, older = samples["passages"][0], samples["steps"][0]["passages"][0]
    older["put"][0] = shown["tokens"][shown["masked"][0]]  # a sample that is the original
    shown["tokens"][2] = " " + "long" * 60
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render("my_model", samples, HISTORY, "A note."), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, which npm has."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, to fetch axe-core")
    folder = tmp_path_factory.mktemp("axe")
    fetched = subprocess.run(["npm", "install", "--silent", "axe-core"], cwd=folder, capture_output=True)
    if fetched.returncode:
        pytest.skip("npm cannot fetch axe-core")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def test_it_opens_without_an_error_and_asks_for_nothing_else(browser, page):
    browser.open(page)
    assert browser.errors == []
    assert [address for address in browser.requests if not address.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.run("document.querySelectorAll('article').length") == 3


def test_a_script_that_came_in_is_not_run(browser, page, tmp_path):
    evil = tmp_path / "evil.html"
    evil.write_text(page.read_text().replace("A note.", "<script>window.evil = 1</script>"))
    browser.open(evil)
    assert browser.run("typeof window.evil") == "undefined"
    assert any("Content Security Policy" in error for error in browser.errors)


@pytest.mark.parametrize("width", [320, 360, 768, 1400])
def test_nothing_is_wider_than_the_screen(browser, page, width):
    browser.open(page, width=width, height=780)
    browser.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    browser.run("document.querySelector('.masked').focus()")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.getElementById('panel').scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1240])
def test_axe_finds_no_violation(browser, page, axe, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    browser.run("document.querySelector('.masked').focus()")
    browser.run(f"{axe}; 0")
    found = browser.run(
        "axe.run({resultTypes: ['violations']}).then((result) => JSON.stringify(result.violations.map("
        "(violation) => [violation.id, violation.nodes.map((node) => node.html.slice(0, 200))])))"
    )
    assert json.loads(found) == []


def test_the_keyboard_reaches_the_details_of_every_token(browser, page):
    browser.open(page)
    browser.run("document.querySelector('article .tokens .t').focus()")
    assert browser.run("document.getElementById('panel').hidden") is False
    browser.press("ArrowRight")
    browser.press("End")
    assert browser.run("document.activeElement.textContent") == "[SEP]"
    assert "[SEP] Discriminator: original" in browser.run("document.getElementById('panel').textContent")
    browser.press("Home")
    browser.press("Tab")  # on to what follows the passage: a passage is one stop
    assert browser.run("document.activeElement.tagName") == "SUMMARY"
    browser.press("Escape")
    assert browser.run("document.getElementById('panel').hidden") is True


def test_the_slider_writes_the_other_checkpoint_into_the_page(browser, page):
    browser.open(page)
    state = (
        "JSON.stringify([...document.querySelectorAll('main, #stage-name')].map((part) => part.innerHTML"
        ".replace(/style=.--[pw]: ?([0-9]+);?./g, '$1').replace(/ (role|tabindex)=.[^ ]*?./g, '')))"
    )
    newest = browser.run(state)
    browser.run("document.getElementById('stage').focus()")
    browser.press("ArrowLeft")
    older = browser.run(state)
    assert "step 100" in older and "step 200" in newest
    assert browser.run("document.getElementById('stage').getAttribute('aria-valuetext')") == "step 100"
    browser.press("ArrowRight")
    assert browser.run(state) == newest and older != newest


def test_the_slider_shows_what_a_page_of_that_checkpoint_would(browser, page, tmp_path):
    samples = json.loads(page.read_text().partition('id="samples">')[2].partition("</script>")[0])
    samples["steps"].pop()
    alone = tmp_path / "alone.html"
    alone.write_text(render("my_model", samples, HISTORY, "A note."), encoding="utf-8")
    text = "document.querySelector('main').textContent.replace(/\\s+/g, ' ')"
    classes = "[...document.querySelectorAll('main .t, main tr')].map((part) => [...part.classList].sort().join())+''"
    browser.open(page)
    browser.run("document.getElementById('stage').focus()")
    browser.press("ArrowLeft")
    seen = browser.run(text), browser.run(classes)
    browser.open(alone)
    assert seen == (browser.run(text), browser.run(classes))


def test_without_scripts_everything_is_there(browser, page):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        nodes = browser.send("DOM.getDocument")["root"]["nodeId"]
        for selector, count in (("details table", 6), ("a.masked[href^='#g']", 3)):
            found = browser.send("DOM.querySelectorAll", nodeId=nodes, selector=selector)["nodeIds"]
            assert len(found) >= count
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
