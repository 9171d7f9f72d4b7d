"""The page that compares the runs of a subject says which is the best and what they change."""

import re

import pytest

from chromium import assert_fits, element, elements, opened
from made_pages import RUNS


@pytest.mark.parametrize("width", [390, 1280])
def test_runs_are_compared_on_a_page_that_fits_the_window(browser, runs_page, width):
    opened(browser, runs_page, width)
    assert_fits(browser, width)
    assert element(browser, "h1").text == "Use strong, epoch 2 at weight 0.8"
    assert "better than the other run, on 4 pictures each" in element(browser, "#evidence").text
    assert element(browser, "code").text == "strong/best/ava_strong.safetensors"


def test_only_what_the_runs_change_is_said_of_them(browser, runs_page):
    opened(browser, runs_page, 1280)
    assert [cell.text for cell in elements(browser, ".changes")] == ["rank 16", "rank 64"]
    links = [link.get_attribute("href") for link in elements(browser, ".runs a")]
    assert links == [(runs_page.parent / name / "report.html").as_uri() for name in RUNS]
    differences = [row.text for row in elements(browser, ".runs td:nth-child(5)")]
    assert differences[1] == "the best" and re.fullmatch(r"0\.\d\d to 0\.\d\d", differences[0])
    without_trigger = [row.text for row in elements(browser, ".runs td:nth-child(9)")]
    assert without_trigger == ["0.20 (limit 0.5)", "0.35 (limit 0.5)"]


def test_each_run_shows_its_own_pictures_beside_the_base_models(browser, runs_page):
    """Every picture of a run is one photo, so that its pixels tell which run it is of."""
    opened(browser, runs_page, 1280)
    rows = elements(browser, ".side tr:has(td)")
    assert len(rows) == 2 * 2
    for row in rows:
        base, portrait, strong = (cell.get_attribute("src") for cell in row.find_elements("css selector", "img"))
        assert base == portrait != strong
    assert len(elements(browser, ".side .tile")) == 4 * 3
