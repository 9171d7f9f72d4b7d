"""A picture of the report fills the screen, with its numbers beside it."""

from selenium.webdriver.common.keys import Keys

from chromium import element, opened
from made_run import PROMPTS
from report_grid import TILES, choose, numbers, tile


def test_a_click_shows_a_picture_full_screen_and_arrows_walk_the_grid(browser, page):
    opened(browser, page, 1280)
    tile(browser, 1, 2).click()
    dialog, title = element(browser, "#viewer"), element(browser, "#viewer-title")
    assert dialog.is_displayed() and (dialog.rect["width"], dialog.rect["height"]) == (1280, 844)
    assert title.text == "epoch 2, weight 0.8, seed 1: 0.83"
    assert element(browser, "#viewer-prompt").text == PROMPTS[0]
    assert numbers(browser) == {
        **{"identity": "0.80", "held-out similarity": "0.80", "identity, second recogniser": "0.80"},
        **{"nearest training photo": "0.50", "prompt following": "1.00", "faces": "1"},
        **{"sharpness": "0.50", "yaw, degrees": "0.00", "pitch, degrees": "5.00"},
    }
    beside = element(browser, "#viewer-base img")
    assert beside.is_displayed() and beside.get_attribute("alt") == "base model, seed 1"
    focused = browser.switch_to.active_element
    focused.send_keys(Keys.ARROW_RIGHT)
    assert title.text.startswith("epoch 3, weight 0.8, seed 1")
    focused.send_keys(Keys.ARROW_UP)
    assert title.text.startswith("epoch 3, weight 0.6, seed 1")
    focused.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert title.text.startswith("base model, seed 1")
    focused.send_keys(Keys.ARROW_RIGHT, Keys.ESCAPE)
    assert not dialog.is_displayed()
    back = browser.switch_to.active_element.find_element("css selector", "img")
    assert back.get_attribute("alt") == "epoch 1, weight 0.6, seed 1", "the focus is where the viewer ended"
    assert browser.get_log("browser") == []


def test_a_click_in_the_viewer_flips_its_picture(browser, page):
    opened(browser, page, 1280)
    choose(browser, "#flip", "seed")
    tile(browser, 1, 2).click()
    picture = element(browser, "#viewer-flip")
    picture.click()
    assert element(browser, "#viewer-title").text.startswith("epoch 2, weight 0.8, seed 2")
    element(browser, "#viewer [data-step=right]").click()
    assert element(browser, "#viewer-title").text.startswith("epoch 3, weight 0.8, seed 1")
    element(browser, "#viewer [data-step=close]").click()
    assert not element(browser, "#viewer").is_displayed()


def test_on_a_phone_the_viewer_fits_and_no_part_of_the_page_is_wider_than_it(browser, page):
    opened(browser, page, 390)
    element(browser, f"{TILES}.chosen").click()
    wide = """return [...document.querySelectorAll('#viewer *')].filter((part) => part.offsetParent
        && (part.getBoundingClientRect().right > 390.5 || part.getBoundingClientRect().bottom > 844.5)).length"""
    assert browser.execute_script(wide) == 0
    element(browser, "#viewer [data-step=close]").click()
    element(browser, "#swap").click()
    choose(browser, "#down", "prompt")
    element(browser, "#heat").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
