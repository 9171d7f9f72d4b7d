"""The report says how much of the person each setting draws where nobody asked for the person."""

import json
from pathlib import Path

import pandas as pd
import pytest

from chromium import assert_fits, element, elements, opened
from made_run import build_report, made_choice, made_scores, made_untrained, write_metrics, write_run, write_subject
from report_grid import numbers, tile

IDENTITY_WITHOUT_TRIGGER = {1: 0.04, 2: 0.22, 3: 0.9}  # by epoch: a stranger, a little alike, over the limit


@pytest.fixture(scope="module")
def leaking_page(tmp_path_factory, ava) -> Path:
    """A run whose last epoch is the most alike, and draws the person without the trigger: the one before is chosen."""
    run = tmp_path_factory.mktemp("without_trigger")
    table = pd.concat(
        [
            made_scores(
                lambda epoch, weight: 0.25 * epoch,
                epochs=3,
                seeds=(1, 2),
                gate=lambda epoch, weight: "leak" if epoch == 3 else "",
            ),
            made_untrained(lambda epoch, weight: IDENTITY_WITHOUT_TRIGGER[epoch] * weight, epochs=3, seeds=(1, 2)),
            made_scores(lambda *cell: 0.7, epochs=3, seeds=(1, 2), prompts=["beside a man"]).assign(
                kind="two_people", second_identity=0.31
            ),
        ],
        ignore_index=True,
    )
    write_run(run, table, 128, sorted(ava.glob("*.jpg"))[:9])
    write_subject(run / "subject", ava)
    write_metrics(run, 3)
    (run / "choice.json").write_text(json.dumps(made_choice(table)))
    build_report(run, run / "report.html")
    return run / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_lines_say_how_near_to_the_limit_the_choice_is(browser, leaking_page, width):
    opened(browser, leaking_page, width)
    assert_fits(browser, width)
    assert element(browser, "h1").text == "Use epoch 2 at weight 1"
    said = element(browser, "#separation")
    assert said.text == (
        'Without "ohwx", "woman" draws faces a little like the person: likeness 0.22, where 0 is a stranger and 0.5 is '
        "the limit. Beside the person, somebody else has likeness 0.31."
    )
    assert said.rect["y"] < 844 and said.rect["y"] < element(browser, "#grid").rect["y"]
    measures = dict(reversed(row.text.split("\n")) for row in elements(browser, ".measures div"))
    assert measures["identity without the trigger, limit 0.5"] == "0.22"
    assert measures["the same, by the second recogniser"] == "0.22"


def test_every_setting_tells_its_identity_without_the_trigger(browser, leaking_page):
    """In the table, in the tip of a picture, and beside the picture that fills the screen."""
    opened(browser, leaking_page, 1280)
    element(browser, "#why ~ details summary").click()
    lines = elements(browser, ".numbers tr")
    heads, *rows = ([cell.text for cell in line.find_elements("css selector", "th, td")] for line in lines)
    without_trigger = [row[heads.index("identity without the trigger")] for row in rows]
    assert without_trigger == ["0.00", "0.02", "0.03", "0.04", "0.13", "0.18", "0.22", "0.54", "0.72", "0.90"]
    assert [row[heads.index("of two people")] for row in rows] == ["0.00", *["0.31"] * 9]
    assert "0.00 to 0.00" in [row[heads.index("less than the best by")] for row in rows], "the best itself: not -0.00"
    assert tile(browser, 2, 3).get_attribute("title").endswith("Identity of this setting without the trigger: 0.90")
    tile(browser, 1, 2).click()
    assert numbers(browser)["this setting without the trigger"] == "0.18"


def test_the_second_drawing_parts_at_the_limit_the_settings_that_leak(browser, leaking_page):
    opened(browser, leaking_page, 1280)
    limit = float(element(browser, "#without_trigger .limit").get_attribute("y1"))
    points = {
        (int(p.get_attribute("data-epoch")), float(p.get_attribute("data-weight"))): float(
            p.find_element("css selector", "circle").get_attribute("cy")
        )
        for p in elements(browser, "#without_trigger .cell")
    }
    assert len(points) == 1 + 3 * 3
    assert {cell for cell, y in points.items() if y < limit} == {(3, 0.6), (3, 0.8), (3, 1.0)}, (
        "further up: more of the person"
    )
    title = element(browser, "#without_trigger .chosen title").get_attribute("textContent")
    assert title.endswith("identity without the trigger 0.22")
    element(browser, '#without_trigger .cell[data-epoch="3"] text').click()
    here = browser.switch_to.active_element.find_element("css selector", "img").get_attribute("alt")
    assert here.startswith("epoch 3, weight 0.6")


def test_without_such_pictures_there_is_no_second_drawing(browser, page):
    opened(browser, page, 1280)
    assert not elements(browser, "#without_trigger")
    assert element(browser, "#separation").text.endswith("draws no face, so whom it draws is not known.")
