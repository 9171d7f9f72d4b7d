#!/usr/bin/env python3
"""Draw the rooms of scripts/likeness, from their imports, as docs/rooms.svg: python tools/draw_rooms.py

A room is drawn above all rooms that it imports, with an arrow to each of them. Arrows that follow from other arrows are
left out.
"""

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.core.provenance import SCRIPTS, imported_files  # noqa: E402

LIBRARY, PICTURE = SCRIPTS / "likeness", ROOT / "docs/rooms.svg"
WIDTH, BOX, HEIGHT = 980, 300, 92  # px: width of the picture, width and height of a room
FLOOR, GAP = 150, 24  # px: between the tops of two floors, and between two rooms
LETTERS = 44  # letters in a line of text


def main() -> None:
    PICTURE.write_text(drawn())


def drawn() -> str:
    arrows = room_arrows()
    floors = floors_of(arrows)
    places = places_of(floors, arrows)
    height = FLOOR * (max(floors.values()) + 1) + 20
    lines = [arrow(places[above], places[below]) for above, below in sorted(reduced(arrows))]
    boxes = [box(room, *places[room]) for room in sorted(places)]
    style = (
        "text{font-family:sans-serif;fill:#1d2b28}.name{font-size:19px;font-weight:600}.about{font-size:12px;fill:#53625e}"
        ".room{fill:#f4f7f5;stroke:#0b7a5e;stroke-width:1.5}.arrow{stroke:#7d8f8a;stroke-width:1.5;fill:none}"
    )
    head = '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    head += '<path d="M0 0 8 4 0 8z" fill="#7d8f8a"/></marker>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        f"<title>The rooms of scripts/likeness, and which imports which</title>\n<style>{style}</style>\n"
        f'<defs>{head}</defs>\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        + "\n".join([*lines, *boxes])
        + "\n</svg>\n"
    )


def room_arrows() -> set[tuple[str, str]]:
    """All imports as (room, imported room)."""
    modules = {path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py"}
    pairs = ((room_of(one), room_of(other)) for one in modules for other in modules.intersection(imported_files(one)))
    return {(above, below) for above, below in pairs if above != below}


def room_of(module: Path) -> str:
    return module.relative_to(LIBRARY).parts[0]


def floors_of(arrows: set[tuple[str, str]]) -> dict[str, int]:
    """The floor of each room; 0 is the lowest. Each room is as high as possible, so that the arrows to it are short."""

    def depth(room: str) -> int:
        return max((depth(above) + 1 for above, below in arrows if below == room), default=0)

    depths = {room: depth(room) for pair in arrows for room in pair}
    return {room: max(depths.values()) - below_the_top for room, below_the_top in depths.items()}


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from other arrows."""

    def all_below(room: str) -> set[str]:
        direct = {below for above, below in arrows if above == room}
        return direct.union(*map(all_below, direct))

    return {
        (above, below)
        for above, below in arrows
        if not any(below in all_below(other) for top, other in arrows if top == above)
    }


def places_of(floors: dict[str, int], arrows: set[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """The middle of the upper edge of each room. The rooms of a floor have the order of the rooms that they import. A
    single room of a floor is at the left, where no arrow passes, except on the lowest floor."""
    places: dict[str, tuple[float, float]] = {}
    direct, top = reduced(arrows), max(floors.values())
    for floor in range(top + 1):

        def mean_x(room: str) -> float:
            xs = [places[below][0] for above, below in direct if above == room]
            return sum(xs) / max(len(xs), 1)

        rooms = sorted((room for room, of in floors.items() if of == floor), key=lambda room: (mean_x(room), room))
        first = -1.0 if len(rooms) == 1 and floor else -(len(rooms) - 1) / 2
        for number, room in enumerate(rooms):
            places[room] = (WIDTH / 2 + (first + number) * (BOX + GAP), 20.0 + FLOOR * (top - floor))
    return places


def arrow(above: tuple[float, float], below: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = above, below
    return f'<path class="arrow" marker-end="url(#tip)" d="M{x:.0f} {y + HEIGHT:.0f} L{to_x:.0f} {to_y:.0f}"/>'


def box(room: str, x: float, y: float) -> str:
    files = [path for path in (LIBRARY / room).iterdir() if path.suffix == ".py" and path.name != "__init__.py"]
    about = (ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text())) or "").replace("\n", " ")
    text = [f'<text class="name" x="{x - BOX / 2 + 14:.0f}" y="{y + 27:.0f}">{room}/</text>']
    text.append(
        f'<text class="about" x="{x + BOX / 2 - 14:.0f}" y="{y + 27:.0f}" text-anchor="end">{len(files)} modules</text>'
    )
    for number, line in enumerate(wrapped(about)[:3]):
        text.append(
            f'<text class="about" x="{x - BOX / 2 + 14:.0f}" y="{y + 47 + 16 * number:.0f}">{escape(line)}</text>'
        )
    return f'<rect class="room" x="{x - BOX / 2:.0f}" y="{y:.0f}" width="{BOX}" height="{HEIGHT}" rx="10"/>' + "".join(
        text
    )


def wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= LETTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    main()
