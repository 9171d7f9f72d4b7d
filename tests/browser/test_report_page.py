"""The report opens from disk and fits the window, and a link opens it at the view that it names."""

import shutil

import pytest

from chromium import assert_fits, element, elements, opened, wait
from made_run import PROMPTS
from report_grid import TILES, choose, headings, shown, tab, tile


@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_disk_without_an_error_and_fits_the_window(browser, page, width):
    opened(browser, page, width)
    assert_fits(browser, width)
    headline = element(browser, "h1")
    assert headline.is_displayed()
    assert headline.text == "Use epoch 2 at weight 0.8"
    assert headline.rect["y"] < 844
    parts = [element(browser, f"#{name}").rect["y"] for name in ("grid", "blind", "why", "training", "photos")]
    assert [headline.rect["y"], *parts] == sorted([headline.rect["y"], *parts])
    assert "Settings of epochs 2 and 3 cannot be told apart" in element(browser, "#evidence").text


def test_a_link_brings_the_whole_view_back(browser, page):
    opened(browser, page, 1280)
    element(browser, "#swap").click()
    tab(browser, "prompt", PROMPTS[1]).click()
    tab(browser, "seed", "all 2").click()
    elements(browser, "#sheet .headings .hider")[1].click()
    element(browser, "#heat").click()
    choose(browser, "#flip", "base")
    tile(browser, 4, 2).click()
    before = headings(browser), headings(browser, ".side"), shown(browser), element(browser, "#viewer-title").text
    link = browser.current_url
    browser.get("about:blank")
    browser.get(link)
    after = headings(browser), headings(browser, ".side"), shown(browser), element(browser, "#viewer-title").text
    assert after == before
    assert before[3].startswith("epoch 2, weight 1, seed 2") and "weight 0.6" not in before[0]
    assert element(browser, "#heat").is_selected()
    assert element(browser, "#flip").get_attribute("value") == "base"
    assert element(browser, "#viewer").is_displayed()
    element(browser, "#viewer [data-step=close]").click()
    wait(browser, lambda: "view=" not in browser.current_url)  # a dialog tells of its end a moment later
    assert element(browser, "#permalink").get_attribute("href") == browser.current_url


@pytest.mark.parametrize(
    "link", ["#across=epoch&down=epoch", "#across=nose&prompt=99&view=1", "#across=seed&seed=all&without-seed=1,2"]
)
def test_a_link_that_fits_no_picture_shows_the_grid_all_the_same(browser, page, link):
    opened(browser, page, 1280)
    browser.get("about:blank")
    browser.get(page.as_uri() + link)
    assert len(elements(browser, TILES)) >= 2
    assert not element(browser, "#viewer").is_displayed()
    assert browser.get_log("browser") == []


def test_pictures_that_were_left_behind_are_missed_in_words(browser, page, tmp_path):
    shutil.copy(page, tmp_path)
    opened(browser, tmp_path / page.name, 1280)
    element(browser, "#grid").location_once_scrolled_into_view  # noqa: B018  (pictures load when they come near)
    wait(browser, lambda: element(browser, "#missing").is_displayed())
    assert "in the folder report/ beside this page" in element(browser, "#missing").text
    browser.get("about:blank")  # no picture is asked for after this, so that the log is complete
    assert all("ERR_FILE_NOT_FOUND" in entry["message"] for entry in browser.get_log("browser"))
