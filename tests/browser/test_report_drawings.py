"""The drawings of the report can be read, and their points lead to the pictures."""

import pytest
from selenium.webdriver.common.keys import Keys

from chromium import element, elements, opened
from report_grid import choose, headings


def test_a_point_of_the_drawing_leads_to_its_pictures(browser, page):
    def here() -> str:
        return browser.switch_to.active_element.find_element("css selector", "img").get_attribute("alt")

    opened(browser, page, 1280)
    elements(browser, "#sheet .headings .hider")[2].click()
    assert "epoch 2" not in headings(browser)
    element(browser, "#scatter .cell.chosen text").click()
    assert here() == "epoch 2, weight 0.8, seed 1", "what was put away is back"
    choose(browser, "#across", "prompt")
    choose(browser, "#down", "seed")
    element(
        browser, '#scatter .cell[data-epoch="1"][data-weight="1"], #scatter .cell[data-epoch="1"][data-weight="1.0"]'
    ).send_keys(Keys.ENTER)
    assert here() == "epoch 1, weight 1, seed 1"
    assert element(browser, "#sheet").rect["y"] < 844 + browser.execute_script("return scrollY")


def test_the_frontier_is_drawn_through_its_points(browser, page):
    opened(browser, page, 1280)
    corners = element(browser, "#scatter .frontier").get_attribute("points").split()
    places = {f"{c.get_attribute('cx')},{c.get_attribute('cy')}" for c in elements(browser, "#scatter .chosen circle")}
    assert places <= set(corners)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_course_of_the_training_is_in_the_drawings_and_can_be_read(browser, page, width):
    opened(browser, page, width)
    legend = [item.text for item in elements(browser, ".legend li")]
    assert [words.split(",")[0] for words in legend] == [
        *("loss", "loss", "validation loss", "how far the class has moved", "learning rate", "learning rate"),
    ]
    assert "learned by heart" in element(browser, ".reading").text
    # Everything that is drawn lies in its drawing, and letters are no smaller than 11 px on a phone.
    drawings = ":is(#loss, #preservation, #rates)"
    inside = f"""return [...document.querySelectorAll('{drawings} :not(title)')].filter((part) => {{
      const a = part.getBoundingClientRect(), b = part.closest('svg').getBoundingClientRect();
      return a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom;
    }}).length"""
    assert browser.execute_script(inside) == 0
    smallest = f"""return Math.min(...[...document.querySelectorAll('{drawings} text')].map((text) =>
      parseFloat(getComputedStyle(text).fontSize) * text.closest('svg').getScreenCTM().a))"""
    assert browser.execute_script(smallest) >= 11
    assert {label.text for label in elements(browser, f"{drawings} .end-label")} == {"epoch 2"}
    assert len(elements(browser, "#loss .validation circle")) == 3
    assert [len(elements(browser, f"#{name} polyline")) for name in ("preservation", "rates")] == [1, 2]
