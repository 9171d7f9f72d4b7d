"""The browser that all tests here share."""

import pytest

from chromium import started


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One for all tests: to start it takes longer than most of them."""
    chromium = started(tmp_path_factory.mktemp("chromium"))
    if not chromium:
        pytest.skip("no Chromium; install it with: apt-get install -y chromium chromium-driver")
    yield chromium
    chromium.quit()


@pytest.fixture
def browser(chromium):
    """It, with an empty page, and nothing in its log of what the test before has opened."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium
