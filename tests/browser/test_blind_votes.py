"""Who looks at the report votes blind for one of two pictures, and the page counts how often the score agrees."""

import re
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains

from chromium import element, elements, opened
from report_grid import run_data


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
    assert said.text.endswith("100 %, with 95 % confidence 72 to 100 %. The score agrees with your eyes.")
    for _ in range(10):
        worse = side_by_score(ballot, "worse")
        element(ballot, f"[data-vote={worse}]").click()
    assert "in 10 of 20 votes: 50 %" in said.text
    assert said.text.endswith("This may still be chance, so vote on more pairs.")
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
