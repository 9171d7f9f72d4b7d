"""The documents are what the code says, and no link in them is dead."""

import re
from pathlib import Path

import pytest

import draw_rooms
from project import ROOT

PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "resources").rglob("*.md")})


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_picture_of_the_rooms_is_drawn_from_the_code():
    assert draw_rooms.PICTURE.read_text() == draw_rooms.drawn(), "run: make docs"


def test_every_document_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index] == ["index.md"]


def test_the_modules_that_the_map_names_are_there():
    """docs/architecture.md: a module without a room is in the room of the one before it."""
    library, room = ROOT / "scripts/likeness", None
    for row in re.findall(r"^\| .* \|$", (ROOT / "docs/architecture.md").read_text(), re.M):
        for path in re.findall(r"`([\w/]+\.py)`", row.rpartition("|")[0].rpartition("|")[2]):
            room = path.rpartition("/")[0] or room
            assert (library / room / path.rpartition("/")[2]).is_file(), row
