"""Every photo has a card that says what became of it, in the report and on the page of the data set."""

import os
import shutil

import pytest
from selenium.webdriver.common.keys import Keys

from chromium import assert_fits, element, elements, opened
from likeness.core.manifests import read_table, write_table
from made_run import build_dataset_page


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_data_set_opens_alone_and_fits_the_window(browser, dataset_page, width):
    opened(browser, dataset_page, width)
    assert element(browser, "h1").text == "6 of 11 photos to train on"
    element(browser, ".larger").click()
    assert_fits(browser, width)


def test_the_captions_that_are_not_read_are_named(browser, dataset_page):
    opened(browser, dataset_page, 1280)
    named = element(browser, "ul[aria-label='Captions that are not read']")
    assert named.text == "<i>.txt: belongs to no photo that is used"


@pytest.fixture(params=["page", "dataset_page"])
def cards(request, browser) -> dict:
    """Photo -> its card, in the report and on the page of its own: they say the same."""
    opened(browser, request.getfixturevalue(request.param), 1280)
    return {card.find_element("css selector", "b").text: card for card in elements(browser, ".card")}


def pictures(card) -> list:
    return card.find_elements("css selector", "img")


def test_every_photo_has_a_card_with_its_fate_also_the_unreadable_one(browser, cards):
    assert len(cards) == 11
    assert "Nearly the same picture as 07.jpg." in cards["08.jpg"].text
    assert "The file is not a picture." in cards["letter.jpg"].text
    assert pictures(cards["letter.jpg"]) == []
    titles = [summary.text for summary in elements(browser, ".group > summary b")]
    assert titles == ["To train on", "Held out", "Dropped"]
    assert [h3.text for h3 in elements(browser, ".group h3")] == ["Unreadable 1", "Other person 1", "Near duplicate 1"]


def test_a_card_shows_the_photo_then_what_was_made_of_it(cards):
    alts = {name: [picture.get_attribute("alt") for picture in pictures(card)] for name, card in cards.items()}
    assert alts["00.jpg"] == ["00.jpg, with 1 face framed", "Training image of 00.jpg"]
    assert alts["06.jpg"] == ["06.jpg, with 1 face framed", "Crop of 06.jpg"]
    assert alts["08.jpg"] == ["08.jpg, with 1 face framed"]
    assert "photo of ohwx woman, 00 <b>bold</b>" in cards["00.jpg"].text
    assert "crop 400 px" in cards["00.jpg"].text
    assert "9 tokens" in cards["00.jpg"].text


def test_what_asks_for_a_look_is_said_in_words(cards):
    def warnings(name: str) -> list[str]:
        return [p.text for p in cards[name].find_elements("css selector", ".warning")]

    assert warnings("00.jpg") == []
    assert warnings("03.jpg") == ["Real-ESRGAN changed the face (similarity 0.41, below 0.6), so Lanczos was used"]
    assert warnings("04.jpg") == [
        "84 tokens, of which the base model reads 77",
        "8% of the crop lies beyond the photo's edge and is mirrored",
    ]


def test_faces_are_framed_where_they_are(browser, cards):
    corners = """const face = arguments[0].getBoundingClientRect(), photo = arguments[1].getBoundingClientRect();
        return [face.left - photo.left, face.top - photo.top, face.right - photo.left].map((v) => v / photo.width)"""
    frames = cards["05.jpg"].find_elements("css selector", ".frames rect")
    assert [frame.get_attribute("class") for frame in frames] == ["subject", "other"]
    # A line is drawn to both sides of its place, half its width of 2 px.
    where = browser.execute_script(corners, frames[0], pictures(cards["05.jpg"])[0])
    assert where == pytest.approx([128 / 512, 102 / 512, 384 / 512], abs=0.012)
    (stranger,) = cards["09.jpg"].find_elements("css selector", ".frames rect")
    assert stranger.get_attribute("class") == "other"


def test_before_and_after_share_a_place_and_a_slider_divides_them_with_the_keyboard(browser, cards):
    compared = [name for name, card in cards.items() if card.find_elements("css selector", ".compare")]
    assert compared == ["01.jpg", "02.jpg"]
    assert "same face before and after: 0.97" in cards["01.jpg"].text
    before, after = cards["01.jpg"].find_elements("css selector", ".compare img")
    assert before.rect == after.rect
    shown = "return getComputedStyle(arguments[0]).clipPath"
    assert browser.execute_script(shown, after) == "inset(0px 0px 0px 50%)"
    cards["01.jpg"].find_element("css selector", "input").send_keys(Keys.HOME)
    assert browser.execute_script(shown, after) == "inset(0px 0px 0px 0%)"


def test_counts_filter_the_cards(browser, cards):
    def shown() -> list[str]:
        return [name for name, card in cards.items() if card.is_displayed()]

    buttons = {button.text: button for button in elements(browser, ".filters button")}
    assert list(buttons) == [
        "11 photos", "6 to train on", "2 held out", "3 dropped", "1 unreadable", "1 other person", "1 near duplicate",
        "2 enlarged by Real-ESRGAN", "1 with mirrored edges", "2 with a warning",
    ]  # fmt: skip
    buttons["1 near duplicate"].click()
    assert shown() == ["08.jpg"]
    buttons["2 with a warning"].click()
    assert shown() == ["03.jpg", "04.jpg"]
    buttons["11 photos"].click()
    assert shown() == list(cards)


def test_poses_are_drawn_and_zones_without_a_photo_stay_empty(browser, cards):
    label = element(browser, "#pose").get_attribute("aria-label")
    assert label.endswith("front, level: 4; right, level: 4")
    assert len(elements(browser, "#pose .mark.train circle")) == 6
    assert len(elements(browser, "#pose .mark.heldout rect")) == 2
    assert len(elements(browser, "#pose .zone.empty")) == 3 * 5 - 2
    # Further to the right in the photo is further to the right in the drawing.
    left = [mark.rect["x"] for mark in elements(browser, "#pose .mark.train")]
    assert left == sorted(left)


def test_light_is_counted_in_zones_and_what_was_not_measured_is_said(browser, cards):
    light, side, background = elements(browser, ".lights figure")
    labels = [figure.find_element("css selector", "svg").get_attribute("aria-label") for figure in (light, side)]
    assert labels[0] == "Light on the face, dim: 1"
    assert labels[1] == "Side of the light, from the left: 0, even: 7, from the right: 1"
    assert background.text.endswith("Background, not measured on 1")


def test_advice_is_on_the_page(browser, cards):
    sentences = [item.text for item in elements(browser, ".advice li")]
    assert any("turned to the left of the picture" in sentence for sentence in sentences)


def test_many_photos_are_folded_up_at_first(browser, page, tmp_path):
    """The same data set of 11, ten times."""
    folder = page.parent / "subject"
    for name in ("photos", "crops", "upscaled", "captions"):
        table = read_table(folder / f"{name}.tsv")
        for column in {"photo", "crop", "image"} & set(table):
            table[column] = [os.path.relpath(folder / path, tmp_path / "subject") for path in table[column]]
        # A path with "/." at its end is another name of the same photo.
        rows = [row | {"photo": row["photo"] + "/." * n} for n in range(10) for row in table.to_dict("records")]
        write_table(tmp_path / "subject" / f"{name}.tsv", rows, list(table))
    shutil.copy(folder / "dataset.json", tmp_path / "subject")
    build_dataset_page(tmp_path, tmp_path / "dataset.html")
    opened(browser, tmp_path / "dataset.html", 1280)
    assert browser.execute_script("return document.documentElement.scrollHeight") < 2 * 844
    assert not any(card.is_displayed() for card in elements(browser, ".card"))
    next(button for button in elements(browser, ".filters button") if "held out" in button.text).click()
    assert sum(card.is_displayed() for card in elements(browser, ".card")) == 20
