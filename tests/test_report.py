"""The report opens from disk in a real browser, shows the choice first, and fits a phone."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from likeness import selection
from likeness.provenance import SCRIPTS
from likeness.report import loss_curve
from made_run import SELECT, made_scores, write_metrics, write_run, write_subject

CONFIG = {
    "subject_name": "ava",
    "run_name": "portrait",
    "subject": {"trigger": "ohwx", "class_noun": "woman", "consent": "synthetic"},
    "train": {"rank": 16},
}
FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory, ava) -> Path:
    """The report of a run whose best cell is epoch 2 at weight 0.8, as written by the script."""
    run = tmp_path_factory.mktemp("run")
    levels = {(2, 0.8): 0.8, (3, 0.6): 0.8}
    gates = {(1, 0.6): "no_face", (3, 1.0): "copy"}
    scores = made_scores(
        lambda *cell: levels.get(cell, 0.3), epochs=3, seeds=(1, 2), gate=lambda *cell: gates.get(cell, "")
    )
    write_run(run, scores, 128, sorted(ava.glob("*.jpg"))[:9])
    write_subject(run / "subject", ava)
    write_metrics(run, 3)
    choice = selection.choose(scores, **SELECT) | {"lora": "ava_portrait.safetensors", "sha256": "5" * 64}
    (run / "choice.json").write_text(json.dumps(choice))
    build_report(run, run / "report.html")
    return run / "report.html"


def build_report(run: Path, report: Path) -> None:
    inputs = {name: run / "subject" / f"{name}.tsv" for name in ("photos", "crops", "upscaled", "captions")}
    inputs |= {"dataset": run / "subject" / "dataset.json", "metrics": run / "log" / "metrics.tsv"}
    inputs |= {"scores": run / "scores.tsv", "choice": run / "choice.json", "report": report}
    options = [part for name, path in inputs.items() for part in (f"--{name}", path)]
    options += ["--samples", *sorted((run / "samples").glob("*.tsv")), "--config", json.dumps(CONFIG)]
    subprocess.run([sys.executable, SCRIPTS / "build_report.py", *options], check=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("no Chromium; install it with: apt-get install -y chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def opened(browser, page: Path, width: int):
    """The page in a window of this width. A window is at least 500 px wide, so the device's width is set instead."""
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    return browser


def element(browser, selector: str):
    return browser.find_element("css selector", selector)


def elements(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_disk_without_an_error_and_fits_the_window(browser, page, width):
    opened(browser, page, width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    broken = "return [...document.images].filter((i) => i.getAttribute('src') && i.complete && !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    headline = element(browser, "h1")
    assert headline.is_displayed()
    assert headline.text == "Use epoch 2 at weight 0.8"
    assert headline.rect["y"] < 844
    assert "Epochs 2 and 3 cannot be told apart" in element(browser, "#evidence").text


def test_a_tab_shows_the_sheet_of_its_prompt(browser, page):
    opened(browser, page, 1280)
    tabs, sheets = elements(browser, "[role=tab]"), elements(browser, "[role=tabpanel]")
    assert [sheet.is_displayed() for sheet in sheets] == [True, False]
    tabs[1].click()
    assert [sheet.is_displayed() for sheet in sheets] == [False, True]
    assert tabs[1].get_attribute("aria-selected") == "true"


def test_the_choice_is_in_sight_on_a_phone(browser, page):
    opened(browser, page, 390)
    for tab in elements(browser, "[role=tab]"):
        tab.click()
        (chosen,) = [cell for cell in elements(browser, "td.chosen") if cell.is_displayed()]
        edges = "const box = arguments[0].getBoundingClientRect(); return [box.left, box.right]"
        left, right = browser.execute_script(edges, chosen)
        assert left >= 0
        assert right <= 390


def test_each_sheet_has_every_picture_once_and_frames_the_choice(browser, page):
    opened(browser, page, 1280)
    for sheet in elements(browser, "[role=tabpanel]"):
        assert len(sheet.find_elements("css selector", ".tile")) == (1 + 3 * 3) * 2
        chosen = sheet.find_elements("css selector", "td.chosen .tile")
        assert {tile.get_attribute("data-title") for tile in chosen} == {
            f"epoch 2, weight 0.8, seed {s}" for s in (1, 2)
        }
        assert len(sheet.find_elements("css selector", "td.alike")) == 1
    words = [span.text for span in elements(browser, ".tile.out span") if span.is_displayed()]
    assert words == ["no face", "no face", "copy", "copy"]


def test_a_click_enlarges_a_picture_and_arrows_walk_the_grid(browser, page):
    from selenium.webdriver.common.keys import Keys

    opened(browser, page, 1280)
    element(browser, "td.chosen .tile").click()
    dialog, title = element(browser, "dialog"), element(browser, "#enlarged-title")
    assert dialog.is_displayed()
    assert title.text.startswith("epoch 2, weight 0.8, seed 1")
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert title.text.startswith("epoch 3, weight 0.8, seed 1")
    dialog.send_keys(Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert title.text.startswith("base model, seed 1")
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.get_log("browser") == []


def test_every_photo_is_there_with_its_fate_also_the_unreadable_one(browser, page):
    opened(browser, page, 1280)
    photos = {figure.find_element("css selector", "b").text: figure for figure in elements(browser, ".photos figure")}
    assert len(photos) == 10
    assert "near duplicate" in photos["08.jpg"].text
    assert "Nearly the same picture as 07.jpg." in photos["08.jpg"].text
    assert "unreadable" in photos["letter.jpg"].text
    assert photos["letter.jpg"].find_elements("css selector", "img") == []
    assert len(elements(browser, ".path .step")) == 8
    assert "photo of ohwx woman, 00 <b>bold</b>" in element(browser, ".path").text


def test_it_refers_to_nothing_outside_itself(page):
    addresses = []

    class Addresses(HTMLParser):
        def handle_starttag(self, tag, attributes):
            addresses.extend(value for name, value in attributes if name in ("src", "href", "srcset", "action"))

    text = page.read_text()
    Addresses().feed(text)
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)


def test_the_same_run_gives_the_same_bytes(page):
    again = page.with_name("again.html")
    build_report(page.parent, again)
    assert again.read_bytes() == page.read_bytes()


def test_settings_and_hashes_are_in_it(page):
    text = page.read_text()
    assert "5" * 64 in text
    assert "&#34;rank&#34;: 16" in text


def test_a_long_loss_curve_is_thinned_and_the_chosen_epoch_marked(tmp_path):
    curve = loss_curve(write_metrics(tmp_path, 40), 20)
    points = [tuple(map(float, point.split(","))) for point in curve["points"].split()]
    assert len(points) == 200
    assert points == sorted(points)
    assert points[99][0] < curve["chosen"] < points[101][0]
