"""The grid of the report has every picture once, and shows any two axes of them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from chromium import broken_pictures, element, elements, opened, wait
from made_run import PROMPTS, build_report, made_choice, made_scores, write_metrics, write_run, write_subject
from report_grid import TILES, choose, headings, run_data, shown, tab, tile


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


def best_score(page: Path) -> float:
    return max(picture["score"] for picture in run_data(page)["pictures"])


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
    for prompt, label in (
        ("without the trigger: untrained", "identity 0.12"),
        ("two people: two_people", "0.12 and 0.21"),
    ):
        tab(browser, "prompt", prompt).click()
        assert tile(browser, 0, 1).text == label
    element(browser, "#heat").click()
    assert not elements(browser, f"{TILES}.scored")
    tab(browser, "prompt", PROMPTS[0]).click()
    assert elements(browser, f"{TILES}.scored") and "mean" in tile(browser, 0, 1).text
    compared = browser.execute_script("return rounds.map((group) => run.axes.prompt[placeOf(group[0].place).prompt])")
    assert set(compared) == set(PROMPTS)
    assert broken_pictures(browser) == 0 and browser.get_log("browser") == []


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


def test_the_choice_is_in_sight_on_a_phone(browser, page):
    opened(browser, page, 390)
    for axis in ("prompt", "seed"):
        choose(browser, f'#tabs select[data-axis="{axis}"]', "1")
        (chosen,) = elements(browser, f"{TILES}.chosen")
        edges = "const box = arguments[0].getBoundingClientRect(); return [box.left, box.right]"
        left, right = browser.execute_script(edges, chosen)
        assert left >= 0
        assert right <= 390


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
