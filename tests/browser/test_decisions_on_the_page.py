"""The buttons of the data set's page write what decisions.yaml takes."""

from collections.abc import Iterator

import pytest
import yaml
from selenium.webdriver.common.keys import Keys

from chromium import assert_fits, element, elements, opened
from likeness.config.decisions import Decisions


@pytest.fixture
def cards(browser, dataset_page) -> Iterator[dict]:
    """The page as somebody opens it for the first time."""
    opened(browser, dataset_page, 1280)
    browser.execute_script("localStorage.clear()")
    yield opened_again(browser, dataset_page)
    browser.execute_script("localStorage.clear()")


def opened_again(browser, dataset_page) -> dict:
    opened(browser, dataset_page, 1280)
    return {card.get_attribute("data-name"): card for card in elements(browser, ".card")}


def buttons(card) -> dict:
    return {button.text: button for button in card.find_elements("css selector", ".decide button")}


def click(browser, card, label: str) -> None:
    """As somebody who has scrolled to the card. Selenium scrolls it to the edge, below the collected text."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", card)
    buttons(card)[label].click()


def decisions(browser) -> dict:
    """The text on the page, as decisions.yaml is read."""
    content = yaml.safe_load(element(browser, "#decided pre").get_attribute("textContent"))
    Decisions.model_validate(content)
    return content["photos"]


def test_a_photo_offers_what_may_be_decided_about_it(cards):
    offered = {name: list(buttons(card)) for name, card in cards.items()}
    assert offered["00.jpg"] == ["Leave out", "Hold out"] and offered["06.jpg"] == ["Leave out", "Train on it"]
    assert offered["08.jpg"] == ["Keep"], "a near duplicate"
    assert offered["letter.jpg"] == [], "nobody can keep what cannot be read"


def test_what_is_clicked_is_the_text_of_the_file(browser, cards):
    assert not element(browser, "#decided").is_displayed()
    click(browser, cards["00.jpg"], "Hold out")
    click(browser, cards["08.jpg"], "Keep")
    assert decisions(browser) == {"00.jpg": {"use": "heldout"}, "08.jpg": {"keep": "near_duplicate"}}
    assert element(browser, "#decided b").text == "2 decisions"
    click(browser, cards["00.jpg"], "Leave out")
    assert decisions(browser)["00.jpg"] == {"use": "drop"}, "the later one takes the place of the earlier one"
    click(browser, cards["00.jpg"], "Leave out")
    assert list(decisions(browser)) == ["08.jpg"], "a second click takes it back"
    element(browser, "#decided .clear").click()
    assert not element(browser, "#decided").is_displayed()


def test_the_keyboard_decides_and_goes_from_photo_to_photo(browser, cards):
    cards["00.jpg"].send_keys("d", Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys("h")
    assert decisions(browser) == {"00.jpg": {"use": "drop"}, "01.jpg": {"use": "heldout"}}


def test_decisions_wait_until_the_page_shows_them(browser, cards, dataset_page):
    click(browser, cards["00.jpg"], "Leave out")
    cards = opened_again(browser, dataset_page)
    assert decisions(browser) == {"00.jpg": {"use": "drop"}}
    assert buttons(cards["00.jpg"])["Leave out"].get_attribute("aria-pressed") == "true"


def test_it_fits_a_telephone(browser, cards, dataset_page):
    opened(browser, dataset_page, 390)
    element(browser, ".decide button").click()
    assert element(browser, "#decided").is_displayed()
    assert_fits(browser, 390)
