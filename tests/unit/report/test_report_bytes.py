"""The same results give the same bytes, and the pages refer to nothing outside themselves."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from likeness.core.provenance import file_sha256
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA
from made_pages import build_index, compare_runs
from made_run import build_dataset_page, build_report
from report_grid import run_data


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


def test_the_same_runs_give_the_same_page(runs_page):
    compare_runs(runs_page.parent, runs_page.with_name("again.html"))
    assert runs_page.with_name("again.html").read_bytes() == runs_page.read_bytes()


def test_the_same_choices_give_the_same_first_page(index_page):
    build_index(index_page.parent, index_page.with_name("again.html"))
    assert index_page.with_name("again.html").read_bytes() == index_page.read_bytes()


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


def test_the_folder_beside_the_page_holds_its_pictures_marked_as_made_by_ai(page):
    data = run_data(page)
    files = {picture["file"] for picture in data["pictures"]}
    assert files == {file.name for file in page.with_suffix("").iterdir()} and len(files) == 9
    for file in page.with_suffix("").iterdir():
        assert file.stem == file_sha256(file)[:16]
        assert TRAINED_ALGORITHMIC_MEDIA in Image.open(file).info["xmp"].decode()


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


def test_the_arithmetic_of_the_steps_is_on_the_page(page):
    """Of this run, not of the configuration's, which dataset.json has."""
    html = page.read_text()
    assert "repeats = ceil(40 steps x (batch 2 x accumulation 1) / (6 images x 4 epochs)) = 4" in html
    assert "4 x 6" not in html
