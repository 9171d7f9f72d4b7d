"""The gallery of a run: the portraits that were drawn with its LoRA, the best first, with what the face pass changed
and how to draw each again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.files import ItemCache
from likeness.core.manifests import again, checked, read_table
from likeness.core.provenance import file_sha256
from likeness.drawing.infotext import recipe
from likeness.drawing.marking import read_infotext
from likeness.report.comfyui import FACE, comfyui_steps
from likeness.report.page import rendered
from likeness.report.thumbnails import CLOSE_UP, LARGE, SAMPLE, Preview, preview_files

Row = Mapping[str, str]
RULES = {"scene": "draw_scene", "place": "place_face"}  # that made the pictures of each kind
STAGES = {
    "scene": {"plain": "drawn", "hires": "enlarged and redrawn", "face": "face redrawn"},
    "place": {"original": "your picture", "face": "with the face"},
}
# The side of a close-up in lengths of the face's box, so that hair, ears and the seam of the face pass are on it.
MARGIN = 1.8


class Portrait(NamedTuple):
    """The stages of one picture, the final one last."""

    stages: Sequence[Row]

    @property
    def final(self) -> Row:
        return self.stages[-1]

    @property
    def before(self) -> Row | None:
        """The stage before the face pass; None if no face was redrawn."""
        return self.stages[-2] if self.final["stage"] == "face" and self.final["box"] else None

    @property
    def stayed(self) -> bool:
        """Whether it is a picture of the user's in which nothing was drawn."""
        return self.final["stage"] == "original"

    @property
    def kept(self) -> bool:
        return self.final["kept"] == "1"

    def previews(self, folder: Path) -> list[Preview]:
        """The picture, and where a face was redrawn its close-ups before and after."""
        whole = [_preview(self.final, folder, LARGE if self.kept else SAMPLE, None)]
        faces = (self.before, self.final) if self.before else ()
        return whole + [_preview(row, folder, CLOSE_UP, _close_up(self.final)) for row in faces]


def gallery_page(
    table: Path, *, subject: str, run: str, folder: str, thumbnails: ItemCache, threads: int
) -> tuple[str, dict[str, Path]]:
    """The text of the page, and the files of `folder` beside it ({name: file}). Both depend only on portraits.tsv and
    its pictures, which the page shows full screen.

    `thumbnails` comes from likeness.report.thumbnails.thumbnail_cache. Raises LikenessError if the table has no
    picture, or if a picture was changed since it was made or does not say how it was drawn.
    """
    every = _portraits(table)
    if not every:
        raise LikenessError(f"{table} has no picture; {again('score_portraits')}")
    portraits = [portrait for portrait in every if not portrait.stayed]
    previews = [portrait.previews(table.parent) for portrait in portraits]
    files = preview_files([preview for own in previews for preview in own], thumbnails, threads)
    # The names are hashes of the content, so that a browser never shows a cached old picture in place of a new one.
    names = {preview: f"{file_sha256(file)[:16]}.jpg" for preview, file in files.items()}
    cards = [
        _card(portrait, portraits, table.parent, [f"{folder}/{names[preview]}" for preview in own])
        for portrait, own in zip(portraits, previews, strict=True)
    ]
    html = rendered(
        "gallery.html.j2",
        title=f"{subject}, {run}: portraits",
        subject=subject,
        run=run,
        folder=folder,
        groups=_groups(cards, [portrait.final for portrait in every]),
        places=any(card["kind"] == "place" for card in cards),
    )
    return html, {names[preview]: file for preview, file in files.items()}


def _portraits(table: Path) -> list[Portrait]:
    """The pictures that have a final stage, in the order of the table. All files are checked."""
    rows = read_table(table).to_dict("records")
    for row in rows:
        if row["image"]:  # a picture of the user's that could not be read has none
            checked(table.parent / row["image"], row["sha256"], RULES[row["kind"]])
    stages: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        stages.setdefault(_identifier(row), []).append(row)
    return [Portrait(own) for own in stages.values() if own[-1]["final"] == "1"]


def _identifier(row: Row) -> tuple[str, ...]:
    return row["kind"], row["name"], row["source"], row["seed"]


def _preview(row: Row, folder: Path, side: int, part: tuple[int, int, int, int] | None) -> Preview:
    return Preview(folder / row["image"], row["sha256"], side, part, row["stage"] != "original")


def _close_up(row: Row) -> tuple[int, int, int, int]:
    """The square around the face that was redrawn, within the picture: left, top, right, bottom in px."""
    x, y, w, h = json.loads(row["box"])
    width, height = int(row["width"]), int(row["height"])
    side = round(min(MARGIN * max(w, h), width, height))
    left = round(min(max(x + w / 2 - side / 2, 0), width - side))
    top = round(min(max(y + h / 2 - side / 2, 0), height - side))
    return left, top, left + side, top + side


def _groups(cards: Sequence[Mapping[str, Any]], finals: Sequence[Row]) -> list[dict[str, Any]]:
    """The cards by scene and place, in the order of the final rows: [{kind, name, prompts, kept: cards, others: cards,
    stayed: sentences about pictures in which nothing was drawn}]."""
    members: dict[tuple[str, str], list[Mapping[str, Any]]] = {(row["kind"], row["name"]): [] for row in finals}
    for card in cards:
        members[card["kind"], card["name"]].append(card)
    return [
        {
            "kind": kind,
            "name": name,
            "prompts": list(dict.fromkeys(card["prompt"] for card in own if card["prompt"])),
            "kept": [card for card in own if card["kept"]],
            "others": [card for card in own if not card["kept"]],
            "stayed": _stayed(row for row in finals if (row["kind"], row["name"]) == (kind, name)),
        }
        for (kind, name), own in members.items()
    ]


def _stayed(finals: Iterable[Row]) -> list[str]:
    """A sentence for each picture of the user's in which nothing was drawn."""
    return list(dict.fromkeys(f"{row['source']}: {row['reason']}" for row in finals if row["stage"] == "original"))


def _card(portrait: Portrait, portraits: Sequence[Portrait], folder: Path, previews: Sequence[str]) -> dict[str, Any]:
    """What the page shows of a picture. `previews` are the addresses of its previews, in their order."""
    final, before = portrait.final, portrait.before
    infotext = _infotext(final, folder)
    read = recipe(infotext)
    is_place = final["kind"] == "place"
    original = portrait.stages[0]["image"] if is_place else ""
    preview, *faces = previews
    title = ", ".join(part for part in (final["name"], final["source"], f"seed {final['seed']}") if part)
    rivals = [other for other in portraits if _identifier(other.final)[:3] == _identifier(final)[:3]]
    return {
        "kind": final["kind"],
        "name": final["name"],
        "kept": portrait.kept,
        "title": title,
        "alt": f"{title}, made by AI",
        "before_alt": f"{title}, {'your picture' if is_place else 'before the face was redrawn, made by AI'}",
        "preview": preview,
        "faces": faces,
        "image": final["image"],
        "before": before and before["image"],
        "width": int(final["width"]),
        "height": int(final["height"]),
        "facts": _facts(final, len(rivals)),
        "details": list(dict.fromkeys(row["detail"] for row in portrait.stages if row["detail"])),
        "reason": final["reason"],
        "stages": [_measured(row) for row in portrait.stages],
        "original": original,
        "prompt": final["prompt"],
        "infotext": infotext,
        "with_adetailer": any(key.startswith(FACE) for key in read.pairs),
        "comfyui": comfyui_steps(read, int(final["width"]), int(final["height"]), original),
    }


def _infotext(row: Row, folder: Path) -> str:
    text = read_infotext(folder / row["image"])
    if not text:
        raise LikenessError(f"{folder / row['image']} does not say how it was drawn; {again(RULES[row['kind']])}")
    return text


def _facts(row: Row, rivals: int) -> list[str]:
    """Short texts about a final picture, which is one of `rivals` of its scene or place."""
    faces = int(row["faces"])
    facts = [f"number {row['rank']} of {rivals}"] if rivals > 1 else []
    facts.append(f"{row['width']} × {row['height']} px")
    if faces != 1:
        facts.append(f"{faces} faces" if faces else "no face found")
    if row["copy"]:
        facts.append(f"similarity to the most similar training photo {float(row['copy']):.2f}")
    return facts


def _measured(row: Row) -> dict[str, Any]:
    """A stage in words, and its numbers; None where there is no face."""
    numbers = {name: float(row[name]) if row[name] else None for name in ("identity", "judge_identity", "sharpness")}
    return {"stage": STAGES[row["kind"]][row["stage"]], **numbers}
