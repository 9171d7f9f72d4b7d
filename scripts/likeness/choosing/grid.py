"""A1111's X/Y/Z plot: checkpoints across, weights down, one sheet per prompt, with the scores below the pictures."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from likeness.choosing.choice import advice
from likeness.choosing.scores import SCORED_KINDS, picture_label
from likeness.drawing.infotext import called_lora, with_pairs
from likeness.drawing.lettering import draw_text, own_font, wrapped
from likeness.drawing.marking import read_infotext

LARGEST_TILE, SMALLEST_TILE = 256, 128  # px: larger tiles do not fit a screen, smaller faces cannot be judged by eye
SHEET_WIDTH = 2400  # px for the tiles of a row; if there are more, they are made smaller
MARGIN, GAP, STRIP, AXIS, LABEL = 24, 12, 24, 26, 96  # px
FRAME = 5  # px

BACKGROUND, INK, FAINT, PANEL = (250, 250, 248), (28, 30, 33), (112, 117, 124), (233, 234, 232)
CHOSEN = (0, 128, 96)
HELD_BACK = (176, 58, 46)
MUST_NOT = {
    "untrained": "(without the trigger: must not draw the person)",
    "two_people": "(only one of the two may be the person)",
}


class Layout(NamedTuple):
    """The geometry of a sheet, in px. A cell shows the pictures of one (epoch, weight), side by side, with a strip
    below. The height of the heading is that of one line until the sheet's own heading is known."""

    tile: int
    seeds: int
    columns: int
    rows: int
    heading: int

    @property
    def cell_width(self) -> int:
        return self.tile * self.seeds

    @property
    def width(self) -> int:
        return self.corner(self.columns - 1, 0)[0] + self.cell_width + MARGIN

    @property
    def sheet_height(self) -> int:
        return self.heading + AXIS + self.rows * (self.tile + STRIP) + (self.rows - 1) * GAP + MARGIN

    def corner(self, column: int, row: float) -> tuple[int, int]:
        """The top left corner of a cell's first picture in the sheet. `row` may lie between two rows, as the base
        model's does.

        The labels of the weights stand to the right of the base model's column, because it has no weight.
        """
        x = MARGIN + column * (self.cell_width + GAP) + (LABEL if column else 0)
        return x, round(self.heading + AXIS + row * (self.tile + STRIP + GAP))


def grid(table: pd.DataFrame, choice: Mapping[str, Any]) -> np.ndarray:
    """The whole plot, uint8 (height, width, 3): a title, and below it the sheets of all prompts."""
    prompts = list(dict.fromkeys(table["prompt"]))
    layout = grid_layout(table)
    sheets = [_sheet(table[table["prompt"] == prompt], choice, layout) for prompt in prompts]
    return np.concatenate([_title(layout.width, choice), *sheets])


def sheets(table: pd.DataFrame, choice: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray, str]]:
    """(file name, uint8 (height, width, 3), infotext) of each prompt's sheet, with the pictures in their own size."""
    for n, prompt in enumerate(dict.fromkeys(table["prompt"])):
        pictures = table[table["prompt"] == prompt]
        words = re.sub(r"\W+", "_", prompt.lower()).strip("_")[:60]  # a file name has at most 255 bytes
        side = _side(pictures)
        layout = _layout(pictures, side * pictures["seed"].nunique(), side)
        yield f"{n:02d}_{words}.png", _sheet(pictures, choice, layout), sheet_infotext(pictures)


def sheet_infotext(pictures: pd.DataFrame) -> str:
    """The infotext of a sheet: that of its first picture with a LoRA, and the settings of the X/Y/Z plot. With it
    A1111's txt2img draws the sheet again, without the base model."""
    trained = pictures[pictures["epoch"] > 0].sort_values(["epoch", "weight", "seed"])
    names = [called_lora(read_infotext(image)) for image in trained.drop_duplicates("epoch")["image"]]
    weights = [f":{weight:g}>" for weight in sorted(trained["weight"].unique())]
    axes = {"X": names, "Y": weights}
    pairs = {"Script": "X/Y/Z plot"}
    for axis, values in axes.items():
        pairs |= {f"{axis} Type": "Prompt S/R", f"{axis} Values": ", ".join(values)}
    return with_pairs(read_infotext(trained["image"].iloc[0]), pairs)


def grid_layout(table: pd.DataFrame) -> Layout:
    """The layout of the plot. Large pictures are scaled down, and only the first seed is shown. Small pictures keep
    their size, and as many seeds are shown side by side as there is room for."""
    return _layout(table, SHEET_WIDTH // table["epoch"].nunique(), LARGEST_TILE)


def _layout(table: pd.DataFrame, share: int, largest: int) -> Layout:
    """A layout with at most `share` px for the width of a cell, and `largest` px for the side of a picture."""
    columns, rows = table["epoch"].nunique(), table.loc[table["epoch"] > 0, "weight"].nunique()
    side = _side(table)
    seeds = min(table["seed"].nunique(), share // SMALLEST_TILE) if side <= SMALLEST_TILE else 1
    seeds = max(seeds, 1)
    tile = max(min(share // seeds, side, largest), SMALLEST_TILE)
    return Layout(tile, seeds, columns, rows, heading=_heading_height(1))


def _heading_height(lines: int) -> int:
    return 24 * lines + 14


def _side(table: pd.DataFrame) -> int:
    return Image.open(table["image"].iloc[0]).width


def heading(pictures: pd.DataFrame) -> str:
    """The heading of a sheet: the prompt. For a kind of prompt that does not count it also says what the pictures must
    not show."""
    first = pictures.iloc[0]
    return f"{first['prompt']} {MUST_NOT.get(first['kind'], '')}".strip()


def _sheet(table: pd.DataFrame, choice: Mapping[str, Any], layout: Layout) -> np.ndarray:
    """The sheet of one prompt; the heading has as many lines as it needs."""
    lines = wrapped(heading(table), layout.width - 2 * MARGIN, 19)
    layout = layout._replace(heading=_heading_height(len(lines)))
    canvas = Image.new("RGB", (layout.width, layout.sheet_height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw_text(canvas, (MARGIN, 4 + 24 * i), line, INK, 19)
    epochs = sorted(table["epoch"].unique())
    weights = sorted(table.loc[table["epoch"] > 0, "weight"].unique())
    for column, epoch in enumerate(epochs):
        x, y = layout.corner(column, 0)
        label = f"epoch {epoch}" if epoch else "base"
        draw.text((x + layout.cell_width / 2, y - AXIS / 2), label, INK, own_font(16), anchor="mm")
    for row, weight in enumerate(weights):
        x, y = layout.corner(1, row)
        draw.text((x - GAP, y + layout.tile / 2), f"weight {weight:g}", INK, own_font(16), anchor="rm")

    means = {(c["epoch"], c["weight"]): c["score"] for c in (choice["base"], *choice["cells"])}
    for (epoch, weight), cell in table.groupby(["epoch", "weight"]):
        # The base model has no weight: it is shown once, in the middle of the rows.
        place: float = weights.index(weight) if epoch else (layout.rows - 1) / 2
        corner = layout.corner(epochs.index(epoch), place)
        mean = means[epoch, weight] if cell["kind"].iloc[0] in SCORED_KINDS else None
        _draw_cell(canvas, cell.sort_values("seed"), corner, layout, mean)
        if (epoch, weight) == (choice["epoch"], choice["weight"]):
            x, y = corner
            box = (x - FRAME, y - FRAME, x + layout.cell_width + FRAME - 1, y + layout.tile + STRIP + FRAME - 1)
            draw.rectangle(box, outline=CHOSEN, width=FRAME)
    return np.asarray(canvas)


def _draw_cell(
    canvas: Image.Image, cell: pd.DataFrame, corner: tuple[int, int], layout: Layout, mean: float | None
) -> None:
    draw = ImageDraw.Draw(canvas)
    left, top = corner
    bottom = top + layout.tile
    draw.rectangle((left, bottom, left + layout.cell_width - 1, bottom + STRIP - 1), fill=PANEL)
    for i, (_, picture) in enumerate(cell.head(layout.seeds).iterrows()):
        x = left + i * layout.tile
        image = Image.open(picture["image"]).convert("RGB")
        canvas.paste(image.resize((layout.tile, layout.tile), Image.Resampling.LANCZOS), (x, top))
        colour = HELD_BACK if picture["gate"] else INK
        draw.text((x + 6, bottom + STRIP / 2), picture_label(picture), colour, own_font(15), anchor="lm")
    # Pictures that do not count have no mean. Small tiles with a long label ("several faces") have no room for it.
    if mean is not None and (layout.seeds == 1 or not cell["gate"].iloc[layout.seeds - 1]):
        position = (left + layout.cell_width - 6, bottom + STRIP / 2)
        draw.text(position, f"mean {mean:.2f}", FAINT, own_font(12), anchor="rm")


def _title(width: int, choice: Mapping[str, Any]) -> np.ndarray:
    use, sure = advice(choice)
    lines = wrapped(
        f"{sure} Below each picture is its score, or the identity of its faces if the prompt does not ask for the "
        "person. 'mean' is the mean score over all prompts and seeds. Made by AI.",
        width - 2 * MARGIN,
        15,
    )
    canvas = Image.new("RGB", (width, MARGIN + 36 + 20 * len(lines) + 18), BACKGROUND)
    draw_text(canvas, (MARGIN, MARGIN - 6), use, CHOSEN, 26)
    for i, line in enumerate(lines):
        draw_text(canvas, (MARGIN, MARGIN + 32 + 20 * i), line, FAINT, 15)
    return np.asarray(canvas)
