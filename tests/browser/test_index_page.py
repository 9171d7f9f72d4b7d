"""The first page of the results shows every subject and run, and leads to the other pages."""

import pytest

from chromium import assert_fits, elements, opened
from made_pages import PEOPLE


@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_page_shows_every_subject_and_run_and_fits_the_window(browser, index_page, width):
    opened(browser, index_page, width)
    assert_fits(browser, width)
    cards = elements(browser, ".run")
    assert [card.find_element("css selector", "h3").text for card in cards] == ["Use epoch 2 at weight 1"] * 4
    assert [code.text for code in elements(browser, ".words")] == [
        *("<lora:ava_portrait:1> ohwx woman", "<lora:ava_strong:1> ohwx woman"),
        *("<lora:otto_portrait:1> sks man", "<lora:otto_strong:1> sks man"),
    ]
    said = [card.text for card in cards]
    assert 'Without "ohwx", "woman" still draws anybody: likeness 0.05' in said[0]
    assert 'Without "sks", "man" still draws anybody: likeness 0.09' in said[3]
    assert "0.09\nidentity without the trigger, limit 0.5" in said[3]
    assert "otto/strong/best/otto_strong.safetensors" in said[3]
    pictures = [picture.get_attribute("src") for picture in elements(browser, ".run img")]
    assert len(set(pictures)) == 4
    # The bar of the better run reaches further to the right, and its interval holds the score.
    bars = [[part.rect["x"] for part in card.find_elements("css selector", ".score i, .score b")] for card in cards]
    assert bars[0][1] - cards[0].rect["x"] < bars[1][1] - cards[1].rect["x"]
    assert all(left <= score for left, score in bars)


def test_the_first_page_leads_to_the_other_pages(browser, index_page):
    opened(browser, index_page, 1280)
    links = {link.get_attribute("href") for link in elements(browser, "main a")}
    folder = index_page.parent
    reports = {
        (folder / subject / run / "report.html").as_uri() for subject in PEOPLE for run in ("portrait", "strong")
    }
    pages = {(folder / subject / f"{name}.html").as_uri() for subject in PEOPLE for name in ("dataset", "runs")}
    assert links == reports | pages
