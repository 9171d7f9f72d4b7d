"""Reads and operates the grid of a report's page for tests."""

import json
import re
from pathlib import Path

from selenium.webdriver.support.ui import Select

from chromium import element, elements

TILES = "#sheet button.tile"


def tile(browser, row: int, column: int):
    return element(browser, f'{TILES}[data-row="{row}"][data-column="{column}"]')


def shown(browser) -> list[list[str]]:
    """The alternative texts of the pictures in the grid, by rows."""
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
    """The numbers that the viewer shows about its picture."""
    words = [row.text.split("\n") for row in elements(browser, "#viewer-numbers div")]
    return {name: value for name, value in words}


def run_data(page: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page.read_text())[1])
