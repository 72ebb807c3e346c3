"""The page in a real browser: what is there, what it asks of the network, both themes, a phone, pointer and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, find_chromium
from report_results import BODIES, EVIL, write

from outlex.report import write_report

PHONE, DESK = (390, 844), (1280, 900)  # width and height
PLOTS = "[...document.querySelectorAll('.plot')].filter((plot) => plot.getClientRects().length)"
CONTRAST = """(() => {
  const light = (colour) => {
    const linear = (x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.match(/[\\d.]+/g).map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("body, .lead, summary, .provenance, td, th, .tick, .legend, h3")].map((one) => {
    const style = getComputedStyle(one);
    const ink = light(one instanceof SVGElement ? style.fill : style.color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }).reduce((least, one) => Math.min(least, one));
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder / "in", **BODIES, **{"<img src=x onerror='window.hacked = 1'>": BODIES["fit"]})
    write_report(folder / "in", folder / "page.html", title=f"All kinds {EVIL}")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine (Debian and Ubuntu: apt install chromium)")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_everything_is_there_without_an_error_or_a_request(browser: Browser, page: Path) -> None:
    browser.show(DESK)
    browser.open(page)
    n_sections = len(BODIES) + 1
    assert browser.run("document.querySelectorAll('main section').length") == n_sections
    assert browser.run("document.querySelectorAll('nav a').length") == n_sections
    assert browser.run("[...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.hash))")
    assert browser.run("document.querySelectorAll('figure').length") > 30
    # each figure has its text version and its provenance; each drawing has a text that stands for it
    assert browser.run("[...document.querySelectorAll('figure')].every((f) => f.querySelector('table, .text'))")
    assert browser.run("[...document.querySelectorAll('figure')].every((f) => f.querySelector('.provenance dl'))")
    assert browser.run(
        "[...document.querySelectorAll('.plot svg')].every((s) => s.getAttribute('aria-label').length > 20)"
    )
    assert browser.seen("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = {request["request"]["url"] for request in browser.seen("Network.requestWillBeSent")}
    assert asked == {page.resolve().as_uri()}


def test_text_of_models_and_names_of_files_run_nothing(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("window.hacked === undefined")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert EVIL in browser.run("document.querySelector('.trace').textContent")
    # even a hole in the escaping would run nothing: the page's policy knows its own script only
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=data: onerror=\"window.hacked = 2\">')")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run("window.hacked === undefined")


@pytest.mark.parametrize("dark", [False, True])
def test_plots_are_not_blank_and_are_in_the_colours_of_the_theme(browser: Browser, page: Path, dark: bool) -> None:
    browser.show(DESK, dark=dark)
    browser.open(page)
    paper = "20,22,26" if dark else "255,255,255"
    n_plots = browser.run(f"{PLOTS}.length")
    assert n_plots > 20
    for k in range(0, n_plots, 5):  # each takes a screenshot
        plot = f"{PLOTS}[{k}]"
        colours = browser.colours(plot)
        drawn = sum(colours.values()) - colours.get(paper, 0)
        assert colours.get(paper, 0) > drawn > 300, browser.run(
            f"{plot}.closest('figure').querySelector('h3').textContent"
        )
        mark = f"{plot}.querySelector('.mark, .part, .bar, .beta')"
        wanted = browser.run(f"getComputedStyle({mark}).fill").removeprefix("rgb(").removesuffix(")").replace(" ", "")
        # bars let the grid shine through: there the exact colour is not to be found
        if not browser.run(f"!!{plot}.querySelector('.bar')"):
            assert colours.get(wanted, 0) > 4, k
        assert len(colours) > 8
    assert browser.run(CONTRAST) > 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_never_scrolls_sideways(browser: Browser, page: Path, dark: bool) -> None:
    browser.show(PHONE, dark=dark, mobile=True)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert browser.run(f"{PLOTS}.every((plot) => plot.classList.contains('narrow'))")
    assert browser.run(f"{PLOTS}.every((plot) => plot.getBoundingClientRect().right <= 390)")
    # wide tables scroll in boxes of their own, which the keyboard reaches
    assert browser.run("[...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)")
    assert browser.run("[...document.querySelectorAll('.scroll')].every((box) => box.tabIndex === 0)")
    assert browser.run("parseFloat(getComputedStyle(document.querySelector('.plot.narrow text')).fontSize)") >= 12


def test_pointer_touch_and_keys_show_what_is_behind_a_token(browser: Browser, page: Path) -> None:
    browser.show(DESK)
    browser.open(page)
    panel = "document.querySelector('.detail').innerText"
    token = "document.querySelectorAll('.trace [data-i]')[{}]"
    assert "recovered after a rejection" in browser.run(panel)  # chosen before anything is touched
    assert "draft (p 0.050, q̃ 0.700)" in browser.run(panel)
    assert "has none" in browser.run(panel)
    browser.run(f"{token.format(0)}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}}))")
    assert "accepted draft" in browser.run(panel)
    assert "0.900" in browser.run(panel)
    assert "Most probable to the proposal" in browser.run(panel)
    browser.run(f"{token.format(2)}.click()")
    assert "3 of 5" in browser.run(panel)
    for key in ("ArrowRight", "ArrowRight"):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert "5 of 5" in browser.run(panel)
    assert browser.run(f"document.activeElement === {token.format(4)}")
    # the whole text is one stop of the tab key
    assert browser.run("document.querySelectorAll('.trace [tabindex=\"0\"]').length") == 1
    kinds = browser.run("[...document.querySelectorAll('.text .tok')].map((one) => one.className)")
    assert [kind.replace(" chosen", "") for kind in kinds] == [
        "tok accepted",
        "tok recovered oov",
        "tok accepted",
        "tok bonus",
        "tok accepted",
    ]
    looks = [
        browser.run(
            f"(({{textDecorationLine: l, textDecorationStyle: s}}) => l + s)(getComputedStyle({token.format(k)}))"
        )
        for k in (0, 1, 3)
    ]
    assert len(set(looks)) == 3  # without colours, too
    assert browser.run(f"getComputedStyle({token.format(1)}).boxShadow") != "none"


def test_a_mark_says_its_numbers_beside_the_pointer(browser: Browser, page: Path) -> None:
    browser.show(DESK)
    browser.open(page)
    mark = f"{PLOTS}[0].querySelector('[data-tip]')"
    browser.run(f"{mark}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # scrolling hides it
    browser.run(f"{mark}.dispatchEvent(new PointerEvent('pointermove', {{bubbles: true, clientX: 400, clientY: 300}}))")
    assert not browser.run("document.getElementById('tip').hidden")
    assert browser.run("document.getElementById('tip').textContent") == browser.run(f"{mark}.dataset.tip")
    assert "tokens a second: 10.00" in browser.run(f"{mark}.dataset.tip")
