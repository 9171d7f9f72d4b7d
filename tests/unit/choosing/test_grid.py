"""The grid shows every cell once, in its place, with the choice framed; and says that it is made by AI."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from infotext_reader import loras, parameters, plotted_prompts
from likeness.choosing import selection
from likeness.choosing.grid import (
    BACKGROUND,
    CHOSEN,
    FRAME,
    HELD_BACK,
    MARGIN,
    STRIP,
    grid,
    grid_layout,
    heading,
    sheet_infotext,
)
from likeness.choosing.scores import measured_pictures, picture_label, scored_pictures
from likeness.core.errors import LikenessError
from likeness.core.provenance import SCRIPTS
from likeness.drawing.lettering import wrapped
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA, marked_jpeg, marked_png
from made_run import PROMPTS, SELECT, made_scores, made_untrained, write_run
from marked import source_type


def made(folder: Path, side: int, **options):
    """(table, choice) of a run whose best cell is epoch 2 at weight 1."""
    levels = {(2, 1.0): 0.9}
    scores = made_scores(lambda *cell: levels.get(cell, 0.3), epochs=3, **options)
    write_run(folder, scores, side)
    choice = selection.choose(scores, **SELECT)
    (folder / "choice.json").write_text(json.dumps(choice))
    samples = sorted((folder / "samples").glob("*.tsv"))
    return scored_pictures(samples, folder / "scores.tsv", choice), choice


def sheet_tops(picture: np.ndarray, layout) -> list[int]:
    return [picture.shape[0] - (n + 1) * layout.sheet_height for n in reversed(range(len(PROMPTS)))]


@pytest.mark.parametrize(("side", "seeds"), [(512, 1), (64, 2)])
def test_every_cell_holds_its_own_picture(tmp_path, side, seeds):
    """Each picture has its own colour. Large ones show the first seed, small ones every seed side by side."""
    table, choice = made(tmp_path, side, seeds=(1, 2))
    layout, picture = grid_layout(table), grid(table, choice)
    assert (layout.columns, layout.rows, layout.seeds) == (4, 3, seeds)
    weights = [0.6, 0.8, 1.0]
    shown = 0
    for top, prompt in zip(sheet_tops(picture, layout), PROMPTS, strict=True):
        for _, row in table[(table["prompt"] == prompt) & (table["seed"] <= seeds)].iterrows():
            x, y = layout.corner(row["epoch"], weights.index(row["weight"]) if row["epoch"] else 1)
            x += (row["seed"] - 1) * layout.tile
            tile = picture[top + y : top + y + layout.tile, x : x + layout.tile]
            colour = np.asarray(Image.open(row["image"]))[0, 0]
            assert tile.shape == (layout.tile, layout.tile, 3)
            assert (tile == colour).all()
            shown += 1
    assert shown == len(PROMPTS) * (1 + 3 * 3) * seeds


def test_the_chosen_cell_and_no_other_is_framed(tmp_path):
    table, choice = made(tmp_path, 128)
    assert (choice["epoch"], choice["weight"]) == (2, 1.0)
    layout, picture = grid_layout(table), grid(table, choice)
    for top in sheet_tops(picture, layout):
        for epoch in (1, 2, 3):
            for row in range(3):
                x, y = layout.corner(epoch, row)
                frame = picture[top + y : top + y + layout.tile, x - FRAME : x]
                expected = CHOSEN if (epoch, row) == (2, 2) else BACKGROUND
                assert (frame == expected).all()


def test_the_whole_plot_has_a_sheet_of_the_prompts_that_only_hold_back_a_cell(tmp_path):
    scores = made_scores(lambda *cell: 0.4, epochs=2)
    untrained = made_untrained(lambda *cell: 0.1, epochs=2)
    write_run(tmp_path, pd.concat([scores, untrained], ignore_index=True), 64)
    (tmp_path / "choice.json").write_text(json.dumps(selection.choose(scores, **SELECT)))
    plot_grid(tmp_path, "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    colours = {tuple(np.asarray(Image.open(file))[0, 0]) for file in (tmp_path / "samples").glob("*/*.png")}
    assert colours <= set(map(tuple, picture.reshape(-1, 3))), "every picture is on it"


def test_a_sheet_says_what_must_not_be_seen_on_it():
    def said(kind: str, prompt: str) -> str:
        return heading(pd.DataFrame({"kind": [kind], "prompt": [prompt]}))

    untrained = said("untrained", "photo of a woman")
    assert untrained == "photo of a woman (without the trigger: must not draw the person)"
    pairs = said("two_people", "ohwx woman beside a man")
    assert pairs == "ohwx woman beside a man (only one of the two may be the person)"
    assert said("far", "ohwx woman on the moon") == "ohwx woman on the moon"


def plot_grid(folder: Path, name: str) -> None:
    samples = sorted((folder / "samples").glob("*.tsv"))
    command = [sys.executable, SCRIPTS / "plot_grid.py", "--samples", *samples, "--scores", folder / "scores.tsv"]
    subprocess.run([*command, "--choice", folder / "choice.json", "--grid", folder / name], check=True)


def test_a_strip_says_the_score_and_in_red_why_a_picture_is_out(tmp_path):
    """Read back by comparing with strips of other words: what differs in words differs in pixels, and only then."""
    gates = {(1, 0.6): "no_face", (1, 0.8): "copy", (3, 0.6): "no_face"}
    table, choice = made(tmp_path, 128, seeds=(1,), gate=lambda *cell: gates.get(cell, ""))
    layout, picture = grid_layout(table), grid(table, choice)
    top = sheet_tops(picture, layout)[0]
    strips = {}
    for epoch, row in itertools.product((1, 2, 3), range(3)):
        x, y = layout.corner(epoch, row)
        strip = picture[top + y + layout.tile :][:STRIP, x : x + layout.tile]
        strips[epoch, (0.6, 0.8, 1.0)[row]] = strip[1:-1, 1:-1]
    red = {cell for cell, strip in strips.items() if (strip == HELD_BACK).all(axis=-1).any()}
    assert red == set(gates)
    same = lambda one, other: np.array_equal(strips[one], strips[other])  # noqa: E731
    assert same((1, 0.6), (3, 0.6)) and not same((1, 0.6), (1, 0.8)), "no face, no face; copy"
    assert same((1, 1.0), (3, 1.0)) and not same((1, 1.0), (2, 1.0)), "0.30, 0.30; 0.90"


def test_a_long_prompt_is_wrapped_not_cut(tmp_path):
    prompt = "photo of ohwx woman " + ", ".join(["in a very long coat"] * 12)
    scores = made_scores(lambda *cell: 0.5, epochs=1, weights=[1.0], prompts=[prompt])
    write_run(tmp_path, scores, 128)
    samples = sorted((tmp_path / "samples").glob("*.tsv"))
    choice = selection.choose(scores, **SELECT)
    table = scored_pictures(samples, tmp_path / "scores.tsv", choice)
    picture = grid(table, choice)
    assert (picture[:, -MARGIN + FRAME :] == BACKGROUND).all()


def test_a_long_prompt_opens_no_gap_above_the_other_sheets(tmp_path):
    """Their sheets are to the pixel as they are without it, and its own is as much higher as it has lines more."""
    long = "photo of ohwx woman, 写真, " + ", ".join(["in a very long coat"] * 12)
    Image.new("RGB", (128, 128), CHOSEN).save(tmp_path / "same.png")
    pictures = {}
    for name, prompts in (("without", PROMPTS), ("with", [PROMPTS[0], long, PROMPTS[1]])):
        scores = made_scores(lambda *cell: 0.5, epochs=1, weights=[1.0], prompts=prompts)
        write_run(tmp_path / name, scores, 128, [tmp_path / "same.png"])
        table = scored_pictures(
            sorted((tmp_path / name / "samples").glob("*.tsv")),
            tmp_path / name / "scores.tsv",
            selection.choose(scores, **SELECT),
        )
        pictures[name], layout = grid(table, selection.choose(scores, **SELECT)), grid_layout(table)
    height, width = layout.sheet_height, layout.width
    first, last = pictures["without"][-2 * height : -height], pictures["without"][-height:]
    assert (pictures["with"][-height:] == last).all()
    title = pictures["without"].shape[0] - 2 * height
    assert (pictures["with"][title : title + height] == first).all()
    own = pictures["with"].shape[0] - title - 2 * height
    lines = len(wrapped(long, width - 2 * MARGIN, 19))
    assert lines > 1 and own == height + 24 * (lines - 1)


def test_plot_grid_writes_a_marked_png_with_the_same_bytes_twice(tmp_path):
    made(tmp_path, 64)
    for name in ("one.png", "two.png"):
        plot_grid(tmp_path, name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert source_type(tmp_path / "one.png") == TRAINED_ALGORITHMIC_MEDIA


def test_each_prompt_has_its_own_sheet_with_every_picture_at_its_own_size(tmp_path):
    """Also those of the prompts that only hold back a cell; each picture has its own colour."""
    scores = made_scores(lambda *cell: 0.4, epochs=2, seeds=(1, 2))
    gating = made_scores(lambda *cell: 0.1, epochs=2, seeds=(1, 2), prompts=["ohwx woman beside a man"])
    scores = pd.concat([scores, gating.assign(kind="two_people", second_identity=0.3)], ignore_index=True)
    write_run(tmp_path, scores, 300)
    (tmp_path / "choice.json").write_text(json.dumps(selection.choose(scores, **SELECT)))
    samples = sorted((tmp_path / "samples").glob("*.tsv"))
    options = ["--samples", *samples, "--scores", tmp_path / "scores.tsv", "--choice", tmp_path / "choice.json"]
    command = [sys.executable, SCRIPTS / "plot_sheets.py", *options, "--folder", tmp_path / "grids"]
    subprocess.run(command, check=True)
    sheets = sorted((tmp_path / "grids").iterdir())
    words = ["photo_of_ohwx_woman", "photo_of_ohwx_woman_smiling_dark_background", "ohwx_woman_beside_a_man"]
    assert [sheet.name for sheet in sheets] == [f"{n:02d}_{name}.png" for n, name in enumerate(words)]

    table = measured_pictures(samples, tmp_path / "scores.tsv", selection.choose(scores, **SELECT))
    for sheet, prompt in zip(sheets, [*PROMPTS, "ohwx woman beside a man"], strict=True):
        pixels = np.asarray(Image.open(sheet))
        found = dict(zip(*np.unique(packed(pixels), return_counts=True), strict=True))
        for _, row in table[table["prompt"] == prompt].iterrows():
            colour = packed(np.asarray(Image.open(row["image"])))[0, 0]
            assert (found.get(colour, 0) == 300 * 300) == (row["seed"] == 1), "large pictures: the first seed's"
        assert found[packed(np.array(CHOSEN))] > 4 * 300, "the chosen cell is framed"
        assert source_type(sheet) == TRAINED_ALGORITHMIC_MEDIA


def test_a_sheet_sent_to_a1111_is_drawn_again_by_its_x_y_z_plot(tmp_path):
    """Its infotext has the prompt of one cell and the words that lead from there to every other one."""
    table, _ = made(tmp_path, 64)
    found = parameters(sheet_infotext(table[table["prompt"] == PROMPTS[1]]))
    prompts = plotted_prompts(found)
    assert found["Seed"] == "1" and found["Size"] == "64x64" and found["Sampler"] == "Euler a"
    assert [[loras(prompt) for prompt in row] for row in prompts] == [
        [{f"ava_portrait-{epoch:06d}": weight} for epoch in (1, 2, 3)] for weight in (0.6, 0.8, 1.0)
    ]
    assert {prompt.split(" <lora:")[0] for row in prompts for prompt in row} == {PROMPTS[1]}


def test_a_picture_that_only_holds_back_a_cell_is_labelled_with_whom_its_faces_are():
    row = {"kind": "untrained", "gate": "", "identity": 0.12, "second_identity": np.nan, "score": 0.5}
    assert picture_label(row) == "identity 0.12"
    assert picture_label(row | {"gate": "leak", "second_identity": 0.7}) == "0.12 and 0.70"
    assert picture_label(row | {"gate": "no_face"}) == "no face"
    assert picture_label(row | {"kind": "far"}) == "0.50"


def test_samples_and_scores_of_different_runs_are_refused(tmp_path):
    _, choice = made(tmp_path, 64)
    samples = sorted((tmp_path / "samples").glob("*.tsv"))
    with pytest.raises(LikenessError, match="not of these samples"):
        scored_pictures(samples[:-1], tmp_path / "scores.tsv", choice)


def test_a_mark_is_read_back_and_changes_no_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(marked_png(pixels))
    (tmp_path / "a.jpg").write_bytes(marked_jpeg(pixels, 90))
    assert (np.asarray(Image.open(tmp_path / "a.png")) == pixels).all()
    assert source_type(tmp_path / "a.png") == source_type(tmp_path / "a.jpg") == TRAINED_ALGORITHMIC_MEDIA
    assert marked_png(pixels) == marked_png(pixels)


def packed(colours: np.ndarray) -> np.ndarray:
    """RGB in the last axis as one number."""
    return colours.astype(int) @ [1 << 16, 1 << 8, 1]
