"""The gallery opens from disk: pictures fill the screen, a slider compares before and after, texts can be copied."""

import shutil

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from chromium import assert_fits, broken_pictures, element, elements, opened, wait
from infotext_reader import text_chunks
from made_portraits import PHOTO

TITLES = [
    *("full_body, seed 1", "full_body, seed 2", "full_body, seed 3", "plain & simple, seed 7"),
    *(f"terrace, {PHOTO}, seed 5", f"terrace, {PHOTO}, seed 6"),
]
LARGE = "#viewer .stage .compare"
DIVIDED = "return getComputedStyle(arguments[0].querySelector('.after')).clipPath"


def divided_at(browser, compare) -> float:
    """Where the slider divides two pictures, in % of their width."""
    return float(browser.execute_script(DIVIDED, compare).removesuffix("%)").split()[-1])


def title(browser) -> str:
    return element(browser, "#viewer-title").text


def press(browser, *keys: str) -> None:
    browser.switch_to.active_element.send_keys(*keys)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_disk_and_fits_the_window_also_with_everything_unfolded(browser, gallery_page, width):
    opened(browser, gallery_page, width)
    assert "All of these pictures are made by AI" in element(browser, "#made").text
    assert [picture.rect["y"] < 844 for picture in elements(browser, ".kept img")][0], "a picture is in sight at once"
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert_fits(browser, width)
    # No part is cut off either; the texts to copy scroll within their frames.
    wide = """return [...document.querySelectorAll('main *')].filter((part) => part.checkVisibility()
        && !part.closest('pre') && part.getBoundingClientRect().right > arguments[0] + 0.5).length"""
    assert browser.execute_script(wide, width) == 0
    elements(browser, ".open")[0].click()
    wide = """return [...document.querySelectorAll('#viewer .stage *, #viewer .steps *')].filter((part) => {
        const { right, bottom } = part.getBoundingClientRect();
        return right > arguments[0] + 0.5 || bottom > 844.5 }).length"""
    assert browser.execute_script(wide, width) == 0
    assert broken_pictures(browser) == 0


def test_the_kept_are_large_and_the_others_are_folded_away_with_their_reason(browser, gallery_page):
    opened(browser, gallery_page, 1280)
    assert [heading.text for heading in elements(browser, ".kept h3")] == [TITLES[n] for n in (0, 1, 3, 4)]
    assert all(picture.rect["width"] > 440 for picture in elements(browser, ".kept .open img"))
    tiles = elements(browser, ".others .card")
    assert len(tiles) == 2 and not any(tile.is_displayed() for tile in tiles)
    elements(browser, ".others summary")[1].click()
    assert tiles[1].is_displayed() and tiles[1].text.endswith("the face is less like the person: 0.41")


def test_the_table_has_the_identity_by_both_recognisers_at_every_stage(browser, gallery_page):
    opened(browser, gallery_page, 1280)
    tables = [[row.text for row in table.find_elements("css selector", "tr")] for table in elements(browser, "table")]
    assert [rows[1:] for rows in tables if len(rows) > 3][0] == [
        "drawn 0.12 0.02 0.50",
        "enlarged and redrawn 0.12 0.02 0.50",
        "face redrawn 0.80 0.70 0.50",
    ]
    assert tables[-1][1:] == ["your picture 0.05 -0.05 0.50", "with the face 0.60 0.50 0.50"]


def test_a_slider_compares_before_and_after_by_mouse_touch_and_keyboard(browser, gallery_page):
    opened(browser, gallery_page, 1280)
    compare = elements(browser, ".kept .compare")[0]
    slider = compare.find_element("css selector", "input")
    assert divided_at(browser, compare) == 50
    slider.send_keys(Keys.ARROW_RIGHT)
    assert divided_at(browser, compare) == 51
    quarter = round(compare.rect["width"] / 4)
    ActionChains(browser).move_to_element(slider).click_and_hold().move_by_offset(-quarter, 0).release().perform()
    assert divided_at(browser, compare) == pytest.approx(25, abs=4)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", compare)
    y = box["y"] + box["height"] / 2
    for kind, share in (("touchStart", 0.3), ("touchMove", 0.6), ("touchMove", 0.8), ("touchEnd", None)):
        points = [{"x": box["x"] + share * box["width"], "y": y}] if share else []
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert divided_at(browser, compare) == pytest.approx(80, abs=5)


def test_arrows_go_from_picture_to_picture_and_escape_closes(browser, gallery_page):
    opened(browser, gallery_page, 1280)
    first = elements(browser, ".open")[0]
    first.send_keys(Keys.ARROW_RIGHT)
    press(browser, Keys.ENTER)
    assert title(browser) == TITLES[1]
    compare = element(browser, LARGE)
    assert compare.rect["height"] > 700, "it fills the window"
    sources = [image.get_attribute("src") for image in elements(browser, f"{LARGE} img")]
    assert [source.rpartition("/")[2] for source in sources] == ["0002_hires.png", "0002_face.png"]
    press(browser, Keys.ARROW_UP)
    assert divided_at(browser, compare) == 51 and title(browser) == TITLES[1]
    seen = [title(browser)]
    for _ in range(6):
        press(browser, Keys.ARROW_RIGHT)
        seen.append(title(browser))
    assert seen == [*TITLES[1:], TITLES[-1], TITLES[-1]], "also the others, and it stops at the last"
    assert element(browser, "#viewer-at").text == "Picture 6 of 6."
    assert not element(browser, '#viewer [data-step="1"]').is_enabled()
    press(browser, Keys.ARROW_LEFT)
    element(browser, '#viewer [data-step="1"]').click()
    press(browser, Keys.ESCAPE)
    wait(browser, lambda: not element(browser, "#viewer").is_displayed())
    shown = browser.switch_to.active_element.find_element("css selector", "img")
    assert shown.get_attribute("alt") == f"{TITLES[-1]}, made by AI" and shown.is_displayed()
    assert browser.get_log("browser") == []


def test_a_picture_without_a_face_pass_is_large_without_a_slider(browser, gallery_page):
    opened(browser, gallery_page, 1280)
    elements(browser, ".kept .open")[2].click()
    assert title(browser) == TITLES[3]
    assert elements(browser, f"{LARGE}") == []
    picture = element(browser, "#viewer .stage img")
    assert picture.get_attribute("src").endswith("plain%20%26%20simple/0007_plain.png")
    wait(browser, lambda: picture.get_property("naturalHeight") == 384)


def test_the_copy_buttons_copy_the_texts_on_the_page_and_in_the_large_view(browser, gallery_page):
    opened(browser, gallery_page, 1280)
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    pasted = "navigator.clipboard.readText().then(arguments[0])"
    infotext = text_chunks(gallery_page.parent / "portraits/full_body/0001_face.png")["parameters"]
    elements(browser, ".kept .text > details > summary")[0].click()
    copy = elements(browser, ".kept .copy")
    copy[0].click()
    wait(browser, lambda: copy[0].text == "Copied")
    assert browser.execute_async_script(pasted) == infotext
    elements(browser, ".open")[0].click()
    element(browser, "#viewer summary").click()
    in_view = elements(browser, "#viewer .copy")[1]
    in_view.click()
    wait(browser, lambda: in_view.text == "Copied")
    assert browser.execute_async_script(pasted).startswith("1. Load Checkpoint: demo\n2. Load LoRA: ava_portrait")


def test_it_is_dark_where_the_system_is(browser, gallery_page):
    colours = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened(browser, gallery_page, 1280)
        style = "return getComputedStyle(document.body)"
        colours.append([browser.execute_script(f"{style}.{name}") for name in ("backgroundColor", "color")])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours == [["rgb(250, 250, 248)", "rgb(28, 30, 33)"], ["rgb(22, 24, 26)", "rgb(233, 234, 236)"]]


def test_pictures_that_were_left_behind_are_missed_in_words(browser, gallery_page, tmp_path):
    shutil.copy(gallery_page, tmp_path)
    opened(browser, tmp_path / gallery_page.name, 1280)
    wait(browser, lambda: element(browser, "#missing").is_displayed())
    assert "copy the page and the folders together" in element(browser, "#missing").text
    browser.get("about:blank")  # no picture is asked for after this, so that the log is complete
    assert all("ERR_FILE_NOT_FOUND" in entry["message"] for entry in browser.get_log("browser"))
