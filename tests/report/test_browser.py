"""Pages in a real browser: nothing to complain of, nothing fetched, tables there, fit for a phone, sorted by a click."""

import json
import shutil

import pytest

import caffeinit
from caffeinit.batch.index import write_index
from caffeinit.batch.manifest import Entry
from caffeinit.report import About, write_report
from tests.nets import NETS, pictures

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on the PATH")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


def requests(browser):
    """Return what the browser has asked for since it was asked last."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def write_pages(folder):
    """Write an index with two models, and the page of the first."""
    net = NETS["inception"]()
    result = caffeinit.rescale(net, pictures())
    write_report(folder / "b.html", net, result, about=About("rescale", {"net": "net.prototxt"}))
    entries = [
        Entry("b", "rescale", "ok", outputs={"b.json": {}, "b.html": {}}),
        Entry("a", "rescale", "failed", "why"),
    ]
    (folder / "b.json").write_text(json.dumps(result.to_json()))
    write_index(folder / "index.html", folder, "rescale", entries)
    return result


def look_through(browser, width):
    """Show a page in a window of this width, below 500 pixels on a phone."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def models(browser):
    return [cell.text for cell in browser.find_elements("css selector", "tbody th")]


def test_pages_in_a_browser(browser, tmp_path):
    result = write_pages(tmp_path)
    index = (tmp_path / "index.html").as_uri()
    browser.get(index)
    assert models(browser) == ["b", "a"]
    browser.find_element("css selector", "thead button").click()
    assert models(browser) == ["a", "b"]
    browser.find_element("link text", "b").click()
    page = browser.current_url
    assert page == (tmp_path / "b.html").as_uri()
    # What begins with chrome is the tab's own first page.
    assert {url for url in requests(browser) if not url.startswith(("chrome", "data:"))} == {index, page}
    tables = browser.find_elements("css selector", "table")
    assert [len(t.find_elements("css selector", "tbody tr")) for t in tables] == [len(result.units)] * 2
    assert all(p.rect["width"] > 50 for p in browser.find_elements("css selector", "[role=img], img"))
    for width in (390, 1280):
        look_through(browser, width)
    seen = set()
    for theme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        ground, text = (
            browser.execute_script(script, *of) for of in (("body", "backgroundColor"), (".plot text", "fill"))
        )
        assert ground != text
        seen |= {ground, text}
    assert len(seen) == 4
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_results_and_reasons_are_seen_without_scrolling_sideways(browser, tmp_path, width):
    long = "some/folder_with_a_long_name_that_nobody_likes/" * 3 + "net_iter_10000.caffemodel"
    entries = [
        Entry("b", "rescale", "ok", summary="3 of 3 units changed", outputs={"b.json": {}}),
        Entry(long, "rescale", "failed", f'{long}: layer "conv1": ' + "the reason is long, too; " * 20),
    ]
    told = {"units": [{"rate": r, "out_std": 1} for r in (0.1, 3, 2e-7)], "rate_spread": 12345.678}
    (tmp_path / "b.json").write_text(json.dumps(told))
    write_index(tmp_path / "index.html", tmp_path, "rescale", entries)
    browser.get((tmp_path / "index.html").as_uri())
    look_through(browser, width)
    box = browser.find_element("css selector", ".scroll")
    assert browser.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", box) == 0
    edges = (
        "return [...arguments[0].children].map(c => { const r = c.getBoundingClientRect(); return [r.left, r.right] })"
    )
    for row in browser.find_elements("css selector", "tbody tr"):
        cells = browser.execute_script(edges, row)
        assert all(left >= 0 and right <= width for left, right in cells)
    said = [cell.text.split() for cell in browser.find_elements("css selector", ".said")]
    assert [words[:2] for words in said] == [
        ["ok", "3"],
        ["failed", "some/folder_with_a_long_name_that_nobody_likes/" * 3 + "net_iter_10000.caffemodel:"],
    ]
    browser.find_elements("css selector", "thead button")[1].click()
    assert models(browser) == [long, "b"]
