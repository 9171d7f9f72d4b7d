"""A real browser for the pages: Chromium without a window, driven by Selenium."""

import shutil
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

# Options that keep the browser from using the network or a GPU.
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


def started(profile: Path) -> webdriver.Chrome | None:
    """A browser with its data in an empty folder; None if no browser is installed."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def opened(browser: webdriver.Chrome, page: Path, width: int) -> webdriver.Chrome:
    """Open the page in a window of this width. A window is at least 500 px wide, so the device's width is set
    instead."""
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    return browser


def element(browser, selector: str):
    return browser.find_element("css selector", selector)


def elements(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def broken_pictures(browser) -> int:
    return browser.execute_script(
        "return [...document.images].filter((i) => i.getAttribute('src') && i.complete && !i.naturalWidth).length"
    )


def assert_fits(browser, width: int) -> None:
    """The page has no error in its scripts, no broken picture, and is no wider than the window."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert broken_pictures(browser) == 0


def wait(browser, condition) -> None:
    # If the page replaces a row while it is read, it is read again.
    WebDriverWait(browser, 10, ignored_exceptions=[StaleElementReferenceException]).until(lambda _: condition())
