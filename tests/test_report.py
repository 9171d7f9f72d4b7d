"""The report and the page of a data set open from disk in a real browser, show what matters first, and fit a phone."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from chromium import opened, started
from likeness.manifests import read_table, write_table
from likeness.marking import TRAINED_ALGORITHMIC_MEDIA, marked_png
from likeness.provenance import SCRIPTS, file_sha256
from likeness.report import frontier
from likeness.report.curves import course
from made_run import (
    PROMPTS,
    SELECT,
    build_dataset_page,
    build_report,
    made_choice,
    made_scores,
    made_untrained,
    write_metrics,
    write_run,
    write_subject,
)


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
    write_metrics(run, 3, text_encoder=True)
    choice = made_choice(scores)
    (run / "choice.json").write_text(json.dumps(choice))
    build_report(run, run / "report.html")
    return run / "report.html"


@pytest.fixture(scope="module")
def dataset_page(page) -> Path:
    """The small page of the same data set, as written by its script before anything is trained."""
    build_dataset_page(page.parent, page.with_name("dataset.html"))
    return page.with_name("dataset.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = started(tmp_path_factory.mktemp("chromium"))
    if not browser:
        pytest.skip("no Chromium; install it with: apt-get install -y chromium chromium-driver")
    yield browser
    browser.quit()


def element(browser, selector: str):
    return browser.find_element("css selector", selector)


def elements(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_disk_without_an_error_and_fits_the_window(browser, page, width):
    opened(browser, page, width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert broken_pictures(browser) == 0
    headline = element(browser, "h1")
    assert headline.is_displayed()
    assert headline.text == "Use epoch 2 at weight 0.8"
    assert headline.rect["y"] < 844
    parts = [element(browser, f"#{name}").rect["y"] for name in ("grid", "blind", "why", "training", "photos")]
    assert [headline.rect["y"], *parts] == sorted([headline.rect["y"], *parts])
    assert "Epochs 2 and 3 cannot be told apart" in element(browser, "#evidence").text


# --- the grid ------------------------------------------------------------------------------------------------------

TILES = "#sheet button.tile"


def broken_pictures(browser) -> int:
    return browser.execute_script(
        "return [...document.images].filter((i) => i.getAttribute('src') && i.complete && !i.naturalWidth).length"
    )


def tile(browser, row: int, column: int):
    return element(browser, f'{TILES}[data-row="{row}"][data-column="{column}"]')


def shown(browser) -> list[list[str]]:
    """What the tiles of the grid's rows are of, by their alternative texts."""
    rows = """return [...document.querySelectorAll('#sheet .body .line')]
        .map((row) => [...row.querySelectorAll('img')].map((picture) => picture.alt))"""
    return browser.execute_script(rows)


def headings(browser, side: str = ".headings") -> list[str]:
    return [heading.get_attribute("textContent") for heading in elements(browser, f"#sheet {side} .hider")]


def tab(browser, axis: str, label: str):
    return next(b for b in elements(browser, f'#tabs button[data-axis="{axis}"]') if b.text == label)


def choose(browser, control: str, value: str) -> None:
    Select(element(browser, control)).select_by_value(value)


def numbers(browser) -> dict[str, str]:
    """What the viewer says of the picture that it shows."""
    words = [row.text.split("\n") for row in elements(browser, "#viewer-numbers div")]
    return {name: value for name, value in words}


def test_every_picture_is_in_the_grid_once_and_the_choice_is_framed(browser, page):
    """Prompt and seed by tabs: what all tabs show together is the run."""
    opened(browser, page, 1280)
    seen = []
    for prompt in PROMPTS:
        tab(browser, "prompt", prompt).click()
        for seed in ("1", "2"):
            tab(browser, "seed", seed).click()
            assert headings(browser) == ["base model", "epoch 1", "epoch 2", "epoch 3"]
            assert headings(browser, ".side") == ["weight 0.6", "weight 0.8", "weight 1"]
            cells = [alt for row in shown(browser) for alt in row]
            assert cells.count(f"base model, seed {seed}") == 3, "beside every weight"
            seen += [(prompt, alt) for alt in cells if not alt.startswith("base")]
            (chosen,) = elements(browser, f"{TILES}.chosen img")
            assert chosen.get_attribute("alt") == f"epoch 2, weight 0.8, seed {seed}"
            assert len(elements(browser, f"{TILES}.alike")) == 1
    assert len(seen) == len(set(seen)) == 3 * 3 * 2 * 2
    assert [label.text for label in elements(browser, f"{TILES}.out b")] == ["no face", "copy"]
    assert broken_pictures(browser) == 0


def test_the_folder_beside_the_page_holds_its_pictures_marked_as_made_by_ai(page):
    data = run_data(page)
    files = {picture["file"] for picture in data["pictures"]}
    assert files == {file.name for file in page.with_suffix("").iterdir()} and len(files) == 9
    for file in page.with_suffix("").iterdir():
        assert file.stem == file_sha256(file)[:16]
        assert TRAINED_ALGORITHMIC_MEDIA in Image.open(file).info["xmp"].decode()


def run_data(page: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page.read_text())[1])


def test_pictures_that_were_left_behind_are_missed_in_words(browser, page, tmp_path):
    shutil.copy(page, tmp_path)
    opened(browser, tmp_path / page.name, 1280)
    element(browser, "#grid").location_once_scrolled_into_view  # noqa: B018  (pictures load when they come near)
    wait(browser, lambda: element(browser, "#missing").is_displayed())
    assert "in the folder report/ beside this page" in element(browser, "#missing").text
    assert all("ERR_FILE_NOT_FOUND" in entry["message"] for entry in browser.get_log("browser"))


def wait(browser, condition) -> None:
    # A row that is read while the page replaces it is read again.
    WebDriverWait(browser, 10, ignored_exceptions=[StaleElementReferenceException]).until(lambda _: condition())


def test_any_two_axes_span_the_grid_and_swap(browser, page):
    opened(browser, page, 1280)
    element(browser, "#swap").click()
    assert headings(browser) == ["base model", "weight 0.6", "weight 0.8", "weight 1"]
    assert headings(browser, ".side") == ["epoch 1", "epoch 2", "epoch 3"]
    choose(browser, "#across", "seed")
    assert headings(browser) == ["seed 1", "seed 2"]
    assert headings(browser, ".side") == ["base model", "epoch 1", "epoch 2", "epoch 3"], "the base model is a row"
    assert shown(browser)[2] == ["epoch 2, weight 0.8, seed 1", "epoch 2, weight 0.8, seed 2"]
    choose(browser, "#down", "prompt")
    assert headings(browser, ".side") == list(PROMPTS)
    assert shown(browser)[0][:2] == ["base model, seed 1", "epoch 2, weight 0.8, seed 1"], "beside each picture"
    choose(browser, "#down", "seed")
    assert headings(browser) == list(PROMPTS), "the same axis on both sides swaps them"


def test_a_tab_can_show_all_values_as_groups_of_rows(browser, page):
    opened(browser, page, 1280)
    tab(browser, "seed", "all 2").click()
    side = headings(browser, ".side")
    assert side[:4] == ["weight 0.6", "seed 1", "weight 0.8", "seed 1"] and len(side) == 2 * 2 * 3
    assert [row[1] for row in shown(browser)] == [
        f"epoch 1, weight {w:g}, seed {s}" for s in (1, 2) for w in (0.6, 0.8, 1)
    ]


def test_a_click_on_a_heading_puts_its_values_away_until_they_are_asked_for(browser, page):
    opened(browser, page, 1280)
    elements(browser, "#sheet .headings .hider")[1].click()
    elements(browser, "#sheet .side .hider")[0].click()
    assert headings(browser) == ["base model", "epoch 2", "epoch 3"]
    assert headings(browser, ".side") == ["weight 0.8", "weight 1"]
    away = elements(browser, "#put-away button")
    assert [button.text for button in away] == ["epoch 1 ↺", "weight 0.6 ↺", "Show all"]
    away[0].click()
    assert headings(browser) == ["base model", "epoch 1", "epoch 2", "epoch 3"]
    assert len(shown(browser)) == 2
    elements(browser, "#sheet .headings .hider")[0].click()
    assert not element(browser, "#base").is_selected()
    assert headings(browser) == ["epoch 1", "epoch 2", "epoch 3"]


def test_the_last_value_of_an_axis_stays(browser, page):
    opened(browser, page, 1280)
    for _ in range(4):
        elements(browser, "#sheet .side .hider")[0].click()
    assert headings(browser, ".side") == ["weight 1"]


def test_the_heat_map_colours_higher_scores_warmer(browser, page):
    opened(browser, page, 1280)

    # Of the strip below a picture: how much more red than blue it is, 0 to 255.
    warmth = """const canvas = document.createElement('canvas').getContext('2d');
        canvas.fillStyle = getComputedStyle(arguments[0].querySelector('span')).backgroundColor;
        canvas.fillRect(0, 0, 1, 1);
        const [red, , blue] = canvas.getImageData(0, 0, 1, 1).data;
        return red - blue"""

    def warmths() -> list[int]:
        return [browser.execute_script(warmth, tile(browser, 1, column)) for column in (0, 1, 2)]

    assert len(set(warmths())) == 1
    element(browser, "#heat").click()
    assert element(browser, "#scale").text.split() == ["0.00", f"{best_score(page):.2f}"]
    base, middling, best = warmths()
    assert base < 0 < middling < best


def test_pictures_that_only_hold_back_a_setting_are_shown_with_whom_their_faces_are(browser, tmp_path, ava):
    """They have no score: no mean, no colour in the heat map, no part in the blind comparison."""
    scores = made_scores(lambda *cell: 0.4, epochs=2, weights=[1.0], seeds=(1, 2), noise=0.1)
    untrained, two_people = (
        made_scores(lambda *cell: 0.12, epochs=2, weights=[1.0], seeds=(1, 2), prompts=[kind]).assign(kind=kind)
        for kind in ("untrained", "two_people")
    )
    table = pd.concat([scores, untrained, two_people.assign(second_identity=0.21)], ignore_index=True)
    write_run(tmp_path, table, 128, sorted(ava.glob("*.jpg"))[:9])
    write_subject(tmp_path / "subject", ava)
    write_metrics(tmp_path, 2)
    (tmp_path / "choice.json").write_text(json.dumps(made_choice(table)))
    build_report(tmp_path, tmp_path / "report.html")
    opened(browser, tmp_path / "report.html", 1280)
    for prompt, label in (("untrained: untrained", "identity 0.12"), ("two people: two_people", "0.12 and 0.21")):
        tab(browser, "prompt", prompt).click()
        assert tile(browser, 0, 1).text == label
    element(browser, "#heat").click()
    assert not elements(browser, f"{TILES}.scored")
    tab(browser, "prompt", f"near: {PROMPTS[0]}").click()
    assert elements(browser, f"{TILES}.scored") and "mean" in tile(browser, 0, 1).text
    compared = browser.execute_script("return rounds.map((group) => run.axes.prompt[placeOf(group[0].place).prompt])")
    assert compared and all(prompt.startswith("near: ") for prompt in compared)
    assert broken_pictures(browser) == 0 and browser.get_log("browser") == []


# --- the person where nobody asked ---------------------------------------------------------------------------------

ALIKE_UNASKED = {1: 0.04, 2: 0.22, 3: 0.9}  # by epoch: a stranger, a little alike, over the limit


@pytest.fixture(scope="module")
def unasked_page(tmp_path_factory, ava) -> Path:
    """A run whose last epoch is the most alike and draws the person unasked, so that the one before is chosen."""
    run = tmp_path_factory.mktemp("unasked")
    table = pd.concat(
        [
            made_scores(
                lambda epoch, weight: 0.25 * epoch,
                epochs=3,
                seeds=(1, 2),
                gate=lambda epoch, weight: "leak" if epoch == 3 else "",
            ),
            made_untrained(lambda epoch, weight: ALIKE_UNASKED[epoch] * weight, epochs=3, seeds=(1, 2)),
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
def test_the_first_lines_say_how_near_to_the_limit_the_choice_is(browser, unasked_page, width):
    opened(browser, unasked_page, width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert element(browser, "h1").text == "Use epoch 2 at weight 1"
    said = element(browser, "#separation")
    assert said.text == (
        'Without "ohwx", "woman" draws faces a little like the person: likeness 0.22, where 0 is a stranger and 0.5 is '
        "the limit. Beside the person, somebody else has likeness 0.31."
    )
    assert said.rect["y"] < 844 and said.rect["y"] < element(browser, "#grid").rect["y"]
    measures = dict(reversed(row.text.split("\n")) for row in elements(browser, ".measures div"))
    assert measures["identity without the trigger, limit 0.5"] == measures["that, by the second recogniser"] == "0.22"


def test_every_setting_tells_its_identity_without_the_trigger(browser, unasked_page):
    """In the table, in the tip of a picture, and beside the picture that fills the screen."""
    opened(browser, unasked_page, 1280)
    element(browser, "#why ~ details summary").click()
    lines = elements(browser, ".numbers tr")
    heads, *rows = ([cell.text for cell in line.find_elements("css selector", "th, td")] for line in lines)
    unasked = [row[heads.index("without the trigger")] for row in rows]
    assert unasked == ["0.00", "0.02", "0.03", "0.04", "0.13", "0.18", "0.22", "0.54", "0.72", "0.90"]
    assert [row[heads.index("of two people")] for row in rows] == ["0.00", *["0.31"] * 9]
    assert tile(browser, 2, 3).get_attribute("title").endswith("Identity of this setting without the trigger: 0.90")
    tile(browser, 1, 2).click()
    assert numbers(browser)["this setting without the trigger"] == "0.18"


def test_the_second_drawing_parts_at_the_limit_the_settings_that_leak(browser, unasked_page):
    opened(browser, unasked_page, 1280)
    limit = float(element(browser, "#unasked .limit").get_attribute("y1"))
    points = {
        (int(p.get_attribute("data-epoch")), float(p.get_attribute("data-weight"))): float(
            p.find_element("css selector", "circle").get_attribute("cy")
        )
        for p in elements(browser, "#unasked .cell")
    }
    assert len(points) == 1 + 3 * 3
    assert {cell for cell, y in points.items() if y < limit} == {(3, 0.6), (3, 0.8), (3, 1.0)}, (
        "further up: more of the person"
    )
    title = element(browser, "#unasked .chosen title").get_attribute("textContent")
    assert title.endswith("identity without the trigger 0.22")
    element(browser, '#unasked .cell[data-epoch="3"] text').click()
    here = browser.switch_to.active_element.find_element("css selector", "img").get_attribute("alt")
    assert here.startswith("epoch 3, weight 0.6")


def test_without_such_pictures_there_is_no_second_drawing(browser, page):
    opened(browser, page, 1280)
    assert not elements(browser, "#unasked")
    assert element(browser, "#separation").text.endswith("draws no face, so whom it draws is not known.")


def best_score(page: Path) -> float:
    return max(picture["score"] for picture in run_data(page)["pictures"])


def source(browser, row: int, column: int) -> str:
    return tile(browser, row, column).find_element("css selector", "img").get_attribute("src")


@pytest.mark.parametrize("axis, there", [("epoch", (1, 3)), ("weight", (2, 2)), ("base", (1, 0))])
def test_a_key_held_down_flips_a_picture_in_place(browser, page, axis, there):
    opened(browser, page, 1280)
    choose(browser, "#flip", axis)
    own, next_one = source(browser, 1, 2), source(browser, *there)
    hover = ActionChains(browser).move_to_element(tile(browser, 1, 2))
    hover.key_down("f").perform()
    assert source(browser, 1, 2) == next_one != own
    ActionChains(browser).key_up("f").perform()
    assert source(browser, 1, 2) == own


def test_a_click_shows_a_picture_full_screen_and_arrows_walk_the_grid(browser, page):
    opened(browser, page, 1280)
    tile(browser, 1, 2).click()
    dialog, title = element(browser, "#viewer"), element(browser, "#viewer-title")
    assert dialog.is_displayed() and (dialog.rect["width"], dialog.rect["height"]) == (1280, 844)
    assert title.text == "epoch 2, weight 0.8, seed 1: 0.83"
    assert element(browser, "#viewer-prompt").text == PROMPTS[0]
    assert numbers(browser) == {
        **{"identity": "0.80", "similarity": "0.80", "second recogniser": "0.80", "copy": "0.50"},
        **{"prompt following": "1.00", "faces": "1.00", "sharpness": "0.50", "yaw": "0.00", "pitch": "5.00"},
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


def test_the_grid_is_one_stop_of_the_tab_key_and_arrows_do_the_rest(browser, page):
    def here() -> str:
        return browser.switch_to.active_element.find_element("css selector", "img").get_attribute("alt")

    opened(browser, page, 1280)
    assert [t.get_attribute("tabindex") for t in elements(browser, TILES)].count("0") == 1
    element(browser, f'{TILES}[tabindex="0"]').send_keys(Keys.ARROW_DOWN)
    assert here() == "epoch 2, weight 1, seed 1"
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert here() == "base model, seed 1"
    outline = browser.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid", "the focus can be seen"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert element(browser, "#viewer-title").text.startswith("base model, seed 1")


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


def test_the_frontier_is_what_no_other_setting_beats():
    cells = [
        {"identity": identity, "prompt_score": prompt}
        for identity, prompt in [(0.2, 0.9), (0.5, 0.9), (0.4, 0.95), (0.7, 0.6), (0.7, 0.5), (0.6, 0.6), (0.1, 0.2)]
    ]
    assert [(c["identity"], c["prompt_score"]) for c in frontier(cells)] == [(0.4, 0.95), (0.5, 0.9), (0.7, 0.6)]


def test_the_frontier_is_drawn_through_its_points(browser, page):
    opened(browser, page, 1280)
    corners = element(browser, "#scatter .frontier").get_attribute("points").split()
    places = {f"{c.get_attribute('cx')},{c.get_attribute('cy')}" for c in elements(browser, "#scatter .chosen circle")}
    assert places <= set(corners)


def test_the_choice_is_in_sight_on_a_phone(browser, page):
    opened(browser, page, 390)
    for axis in ("prompt", "seed"):
        choose(browser, f'#tabs select[data-axis="{axis}"]', "1")
        (chosen,) = elements(browser, f"{TILES}.chosen")
        edges = "const box = arguments[0].getBoundingClientRect(); return [box.left, box.right]"
        left, right = browser.execute_script(edges, chosen)
        assert left >= 0
        assert right <= 390


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


def test_only_rows_in_sight_are_in_the_page_and_scrolling_brings_the_others(browser, page):
    opened(browser, page, 1280)
    for axis, label in (("prompt", "all 2"), ("seed", "all 2")):
        tab(browser, axis, label).click()
    assert element(browser, "#sheet").get_attribute("aria-rowcount") == str(2 * 2 * 3 + 1)
    assert 4 <= len(shown(browser)) < 12
    browser.execute_script("sheet.scrollTop = sheet.scrollHeight")
    wait(browser, lambda: headings(browser, ".side")[-3:] == ["weight 1", "seed 2", PROMPTS[1]])
    assert tile(browser, 11, 3).is_displayed() and len(shown(browser)) < 12
    (entry,) = elements(browser, f'{TILES}[tabindex="0"]')
    assert entry.find_element("css selector", "img").get_attribute("alt") == "epoch 2, weight 0.8, seed 1", "not lost"


# --- the blind comparison ------------------------------------------------------------------------------------------


@pytest.fixture
def ballot(browser, page):
    opened(browser, page, 1280)
    browser.execute_script("localStorage.clear()")
    return opened(browser, page, 1280)


def on_the_ballot(browser, page) -> dict[str, list[dict]]:
    """Letter -> every picture of the run that this side may be, by its file."""
    pictures = run_data(page)["pictures"]
    sources = {side: element(browser, f"[data-vote={side}] img").get_attribute("src") for side in "ab"}
    return {side: [p for p in pictures if p["file"] == Path(url).name] for side, url in sources.items()}


def side_by_score(ballot, which: str) -> str:
    """The side of the better or the worse picture; both are of one prompt and one seed."""
    (a, b) = ballot.execute_script("const {a, b} = pair(votes.length); return [a, b]")
    assert a["place"][2:] == b["place"][2:] and a["place"][:2] != b["place"][:2] and a["score"] != b["score"]
    return "a" if (a["score"] > b["score"]) == (which == "better") else "b"


def test_votes_of_whom_the_score_agrees_with_are_counted(ballot, page):
    """The better picture by the score is voted for, by click and by key, then the worse one."""
    said = element(ballot, "#verdict")
    assert said.text == "No votes yet."
    for number in range(1, 11):
        better = side_by_score(ballot, "better")
        if number % 2:
            element(ballot, f"[data-vote={better}]").click()
        else:
            ActionChains(ballot).send_keys(better).perform()
        assert said.text.startswith(f"You agreed with the score in {number} of {number} votes")
    # Wilson's interval of 10 in 10 is 72 to 100 %.
    assert said.text.endswith("100 %, with 95 % confidence 72 to 100 %. The score sees what you see.")
    for _ in range(10):
        worse = side_by_score(ballot, "worse")
        element(ballot, f"[data-vote={worse}]").click()
    assert "in 10 of 20 votes: 50 %" in said.text and said.text.endswith("That may still be chance, so vote on more.")
    element(ballot, ".vote[data-vote=n]").click()
    assert "in 10 of 20 votes, and could not decide in 1: 50 %" in said.text


def test_votes_stay_when_the_page_is_opened_again_and_can_be_forgotten(ballot, page):
    first = [element(ballot, f"[data-vote={side}] img").get_attribute("src") for side in "ab"]
    for letter in "abn":
        element(ballot, f".vote[data-vote={letter}]").click()
    opened(ballot, page, 390)
    assert "could not decide in 1" in element(ballot, "#verdict").text
    element(ballot, "#votes summary").click()
    assert len(elements(ballot, "#votes li")) == 3 and "epoch" in element(ballot, "#votes li").text
    element(ballot, "#take-back").click()
    assert len(elements(ballot, "#votes li")) == 2 and "could not decide" not in element(ballot, "#verdict").text
    element(ballot, "#forget").click()
    assert element(ballot, "#verdict").text == "No votes yet."
    again = [element(ballot, f"[data-vote={side}] img").get_attribute("src") for side in "ab"]
    assert again == first, "the same pairs for everybody, in the same order"


def test_nothing_on_the_ballot_tells_which_setting_a_picture_is_of(ballot, page):
    words = element(ballot, "#ballot").get_attribute("outerHTML")
    assert not re.search(r"epoch|weight|score|0\.\d", words)
    assert all(len(pictures) >= 1 for pictures in on_the_ballot(ballot, page).values())


def test_pictures_that_a_gate_holds_back_and_equal_ones_are_not_voted_on(ballot):
    held_back = (
        "return [...Array(200).keys()].map(pair).filter(({a, b}) => a.out || b.out || a.score === b.score).length"
    )
    assert ballot.execute_script(held_back) == 0
    sides = ballot.execute_script(
        "return [...Array(200).keys()].map(pair).filter(({a, b}) => a.score > b.score).length"
    )
    assert 60 < sides < 140, "the better one stands on either side"


# --- the photos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_data_set_opens_alone_and_fits_the_window(browser, dataset_page, width):
    opened(browser, dataset_page, width)
    assert element(browser, "h1").text == "6 of 11 photos to train on"
    element(browser, ".larger").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


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


@pytest.mark.parametrize("name", ["page", "dataset_page"])
def test_it_refers_to_nothing_outside_itself(request, name):
    page, addresses = request.getfixturevalue(name), []

    class Addresses(HTMLParser):
        def handle_starttag(self, tag, attributes):
            addresses.extend(value for name, value in attributes if name in ("src", "href", "srcset", "action"))

    text = page.read_text()
    Addresses().feed(text)
    assert addresses
    # The report names one other page, of the same results; its samples are named in its data, all in one folder.
    assert {address for address in addresses if not address.startswith(("data:", "#"))} <= {"../../index.html"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|<script src|\son\w+=", text)
    assert not re.search(r"(https?:)?//\w+\.", text)


def test_the_same_run_gives_the_same_bytes(page, dataset_page):
    for build_again, first in ((build_report, page), (build_dataset_page, dataset_page)):
        # Of the same name, because a page names its folder.
        again = page.parent / "again" / first.name
        build_again(page.parent, again)
        assert again.read_bytes() == first.read_bytes()
    names = [
        sorted(file.name for file in folder.iterdir())
        for folder in (page.parent / "report", page.parent / "again/report")
    ]
    assert names[0] == names[1]


def test_thumbnails_that_the_page_made_are_there_for_the_report(page, dataset_page):
    def made() -> dict[Path, int]:
        files = (path for path in (page.parent / "cache").rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files}

    first = made()
    assert len(first) == 10 + 9, "photos that can be read, and the pictures that samples show"
    build_report(page.parent, page.with_name("again.html"))
    assert made() == first


def test_settings_and_hashes_are_in_it(page):
    text = page.read_text()
    assert "5" * 64 in text
    assert "&#34;rank&#34;: 16" in text


def points(polyline: str) -> np.ndarray:
    """(n, 2): x and y."""
    return np.array([tuple(map(float, point.split(","))) for point in polyline.split()])


def test_a_long_course_is_thinned_and_the_chosen_epoch_marked(tmp_path):
    found = course(write_metrics(tmp_path, 400), 200)
    loss, rates = found["loss"], found["rates"]
    for line in (loss["raw"], loss["smoothed"], rates["lines"][0]["points"]):
        x = points(line)[:, 0]
        assert len(x) == 200 and list(x) == sorted(x)
        assert x[99] < found["chosen"] < x[101]
    assert len(loss["validation"]) == 200


def test_smoothed_loss_shows_the_fall_that_noise_hides(tmp_path):
    loss = course(write_metrics(tmp_path, 20), 10)["loss"]
    raw, smoothed = points(loss["raw"])[:, 1], points(loss["smoothed"])[:, 1]
    assert np.abs(np.diff(smoothed)).mean() < 0.1 * np.abs(np.diff(raw)).mean()
    assert smoothed[-1] - smoothed[0] > 20, "further down on the page: a smaller loss"


def test_validation_and_learning_rates_are_drawn_where_the_metrics_have_them(tmp_path):
    """By one axis each: at the middle of the run, where the validation loss is lowest, its dot is the lowest."""
    both = course(write_metrics(tmp_path, 8, text_encoder=True), 4)
    heights = [dot["y"] for dot in both["loss"]["validation"]]
    assert len(heights) == 8 and heights.index(max(heights)) == 3
    assert both["loss"]["validation"][3]["x"] == both["chosen"]
    assert "epoch 4: validation loss 0.1300" in both["loss"]["validation"][3]["title"]
    unet, text = (points(line["points"]) for line in both["rates"]["lines"])
    bottom, top = (both["rates"]["y_ticks"][i] for i in (0, -1))
    assert [bottom["label"], top["label"], both["rates"]["unit"]] == ["0", "1", "1e-4"]
    assert unet[0, 1] == pytest.approx(top["at"], abs=0.5) and unet[-1, 1] == pytest.approx(bottom["at"], abs=0.5)
    assert text[0, 1] == pytest.approx((top["at"] + bottom["at"]) / 2, abs=0.5)

    rows = read_table(write_metrics(tmp_path, 8))
    write_table(tmp_path / "none.tsv", rows.assign(validation_loss="").to_dict("records"), list(rows))
    plain = course(tmp_path / "none.tsv", 4)
    assert plain["loss"]["validation"] == []
    assert [line["name"] for line in plain["rates"]["lines"]] == ["learning rate, U-Net"]


def test_how_far_the_class_has_moved_is_drawn_where_it_was_preserved(tmp_path):
    metrics = write_metrics(tmp_path, 8)
    drawing = course(metrics, 4)["preservation"]
    (line,) = drawing["lines"]
    heights, (bottom, top) = points(line["points"])[:, 1], (drawing["y_ticks"][i] for i in (0, -1))
    assert list(heights) == sorted(heights, reverse=True), (
        "it moves ever further, and steps without a number leave no gap"
    )
    assert [bottom["label"], top["label"], drawing["unit"]] == ["0", "4", "1e-4"]
    assert heights[-1] == pytest.approx(top["at"], abs=0.06 * (bottom["at"] - top["at"]))

    rows = read_table(metrics)
    write_table(tmp_path / "off.tsv", rows.assign(preservation="").to_dict("records"), list(rows))
    assert course(tmp_path / "off.tsv", 4)["preservation"]["lines"] == []


def test_a_course_without_a_step_draws_nothing(tmp_path):
    found = course(write_metrics(tmp_path, 0), 1)
    assert found["loss"]["raw"] == "" and found["loss"]["validation"] == [] and found["chosen"] is None


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


def test_the_arithmetic_of_the_steps_is_on_the_page(page):
    """Of this run, not of the configuration's, which dataset.json has."""
    html = page.read_text()
    assert "repeats = ceil(40 steps x (batch 2 x accumulation 1) / (6 images x 4 epochs)) = 4" in html
    assert "4 x 6" not in html


# --- the page that compares runs -----------------------------------------------------------------------------------

RUNS = {"portrait": {"rank": 16, "optimizer": "AdamW"}, "strong": {"rank": 64, "optimizer": "AdamW"}}


@pytest.fixture(scope="module")
def runs_page(tmp_path_factory, ava) -> Path:
    """Two runs, of which the second is the more alike, as written by the script."""
    subject = tmp_path_factory.mktemp("subject")
    for name, level, photo in (("portrait", 0.4, "00.jpg"), ("strong", 0.7, "01.jpg")):
        scores = made_scores(lambda *cell, level=level: level, epochs=2, seeds=(1, 2), noise=0.05)
        unasked = made_untrained(lambda *cell, level=level: level / 2, epochs=2, seeds=(1, 2))
        scores = pd.concat([scores, unasked], ignore_index=True)
        write_run(subject / name, scores, 128, [ava / photo])
        choice = made_choice(scores, f"ava_{name}.safetensors")
        (subject / name / "best").mkdir()
        (subject / name / "best/choice.json").write_text(json.dumps(choice))
    compare_runs(subject, subject / "runs.html")
    return subject / "runs.html"


def run_script(script: str, options: dict[str, list]) -> None:
    words = [word for option, values in options.items() for word in (option, *values)]
    subprocess.run([sys.executable, SCRIPTS / script, *words], check=True)


def compare_runs(subject: Path, page: Path) -> None:
    sections = {"sample": {"steps": 25}, "select": SELECT}
    config = {"subject_name": "ava", "runs": {name: {"train": train, **sections} for name, train in RUNS.items()}}
    options = {
        "--choices": [subject / name / "best/choice.json" for name in RUNS],
        "--scores": [subject / name / "scores.tsv" for name in RUNS],
        "--samples": [table for name in RUNS for table in sorted((subject / name / "samples").glob("*.tsv"))],
        "--page": [page],
        "--config": [json.dumps(config)],
    }
    run_script("compare_runs.py", options)


@pytest.mark.parametrize("width", [390, 1280])
def test_runs_are_compared_on_a_page_that_fits_the_window(browser, runs_page, width):
    opened(browser, runs_page, width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
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
    unasked = [row.text for row in elements(browser, ".runs td:nth-child(9)")]
    assert unasked == ["0.20 (limit 0.5)", "0.35 (limit 0.5)"]


def test_each_run_shows_its_own_pictures_beside_the_base_models(browser, runs_page):
    """Every picture of a run is one photo, so that its pixels tell which run it is of."""
    opened(browser, runs_page, 1280)
    rows = elements(browser, ".side tr:has(td)")
    assert len(rows) == 2 * 2
    for row in rows:
        base, portrait, strong = (cell.get_attribute("src") for cell in row.find_elements("css selector", "img"))
        assert base == portrait != strong
    assert len(elements(browser, ".side .tile")) == 4 * 3


def test_the_same_runs_give_the_same_page(runs_page):
    compare_runs(runs_page.parent, runs_page.with_name("again.html"))
    assert runs_page.with_name("again.html").read_bytes() == runs_page.read_bytes()


# --- the first page of the results ---------------------------------------------------------------------------------

PEOPLE = {"ava": ("ohwx", "woman"), "otto": ("sks", "man")}


@pytest.fixture(scope="module")
def index_page(tmp_path_factory, ava) -> Path:
    """Two subjects with two runs each, every preview the photo of its own, as written by the script."""
    results = tmp_path_factory.mktemp("results")
    photos = iter(sorted(ava.glob("*.jpg")))
    for subject in PEOPLE:
        for run, level in (("portrait", 0.4), ("strong", 0.7)):
            unasked = made_untrained(lambda *cell, level=level: level / 8, epochs=2)
            scores = made_scores(lambda *cell, level=level: level, epochs=2, noise=0.05)
            scores = pd.concat([scores, unasked], ignore_index=True)
            choice = made_choice(scores, f"{subject}_{run}.safetensors")
            best = results / subject / run / "best"
            best.mkdir(parents=True)
            preview = best / f"{subject}_{run}.png"
            preview.write_bytes(marked_png(np.asarray(Image.open(next(photos)).convert("RGB"))))
            (best / "choice.json").write_text(json.dumps(choice | {"preview_sha256": file_sha256(preview)}))
    build_index(results, results / "index.html")
    return results / "index.html"


def build_index(results: Path, page: Path) -> None:
    subjects = {
        name: {"trigger": trigger, "class_noun": noun, "consent": "synthetic"}
        for name, (trigger, noun) in PEOPLE.items()
    }
    options = {
        "--choices": sorted(results.glob("*/*/best/choice.json")),
        "--previews": sorted(results.glob("*/*/best/*.png")),
        "--page": [page],
        "--config": [json.dumps({"subjects": subjects})],
    }
    run_script("build_index.py", options)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_page_shows_every_subject_and_run_and_fits_the_window(browser, index_page, width):
    opened(browser, index_page, width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert broken_pictures(browser) == 0
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


def test_the_same_choices_give_the_same_first_page(index_page):
    build_index(index_page.parent, index_page.with_name("again.html"))
    assert index_page.with_name("again.html").read_bytes() == index_page.read_bytes()
