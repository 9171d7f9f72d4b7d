"""The report of a run: a page that works offline, and the folder of its samples beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from likeness.choosing.best import best_picture, calling_words
from likeness.choosing.choice import advice, chosen_cell, read_choice, separation
from likeness.choosing.scores import measured_pictures
from likeness.core.files import ItemCache
from likeness.core.manifests import read_json
from likeness.core.provenance import file_sha256
from likeness.report.axes import PLOT, Axis, axis, ticks, x_at, y_at
from likeness.report.curves import curves
from likeness.report.dataset_page import dataset_part
from likeness.report.page import rendered
from likeness.report.sample_grid import samples_part
from likeness.report.thumbnails import sample_files, sample_uri
from likeness.training.schedule import arithmetic, sizes


def report_page(
    photos: Path,
    crops: Path,
    upscaled: Path,
    captions: Path,
    dataset: Path,
    metrics: Path,
    samples: Sequence[Path],
    scores: Path,
    choice: Path,
    *,
    title: str,
    subject: Mapping[str, Any],
    config: Mapping[str, Any],
    folder: str,
    has_gallery: bool,
    thumbnails: ItemCache,
    threads: int,
) -> tuple[str, dict[str, Path]]:
    """The text of the page, and the files of `folder` beside it ({name: file}). Both depend only on the arguments and
    the files.

    The manifests are those of results/{subject} and results/{subject}/{run}. `config` is shown unchanged. `thumbnails`
    comes from likeness.report.thumbnails.thumbnail_cache.

    Raises LikenessError if samples and scores do not have the same pictures.
    """
    chosen = read_choice(choice)
    table = measured_pictures(samples, scores, chosen)
    files = {"dataset.json": dataset, "photos.tsv": photos, "captions.tsv": captions, "scores.tsv": scores}
    pictures = sample_files(table, thumbnails, threads)
    # The names are hashes of the content, so that a browser never shows a cached old picture in place of a new one.
    names = {image: f"{file_sha256(file)[:16]}.jpg" for image, file in pictures.items()}
    part = dataset_part(photos, crops, upscaled, captions, dataset, thumbnails, threads)
    html = rendered(
        "template.html.j2",
        title=title,
        has_gallery=has_gallery,
        advice=advice(chosen),
        separation=separation(chosen, subject),
        choice=chosen,
        cell=chosen_cell(chosen),
        prompt=calling_words(chosen, subject),
        scale=table[["floor", "ceiling", "floor_from"]].iloc[0].to_dict(),
        preview=sample_uri(Path(best_picture(table, chosen)["image"])),
        run=samples_part(table, chosen, [names[image] for image in table["image"]])
        # The browser stores the votes of the blind comparison under this id, separately for each table of scores.
        | {"folder": folder, "id": file_sha256(scores)[:16]},
        reference=_held_out_crop(part),
        plot=PLOT,
        following=following(chosen),
        without_trigger=without_trigger(chosen),
        course=curves(metrics, chosen["epoch"]),
        # A run may have its own number of steps. The page of the data set has that of the configuration.
        dataset=part | {"arithmetic": arithmetic(SimpleNamespace(**config["train"]), *sizes(read_json(dataset)))},
        config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
        hashes={chosen["lora"]: chosen["sha256"], **{name: file_sha256(path) for name, path in files.items()}},
    )
    return html, {names[image]: file for image, file in pictures.items()}


def following(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing of identity against prompt following: the keys of `_scatter`, and {frontier: a polyline}."""
    drawing, *axes = _scatter(choice, "prompt_score", [0.5, 1.0])
    return drawing | {"frontier": _stairs(frontier(choice["cells"]), *axes)}


def without_trigger(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing of identity against identity without the trigger: the keys of `_scatter`, and {limit: the y
    coordinate of the limit}."""
    drawing, _, y_axis = _scatter(choice, "untrained", [0.0, choice["leak_limit"]])
    return drawing | {"limit": y_at(choice["leak_limit"], y_axis)}


def _scatter(choice: Mapping[str, Any], name: str, y_holds: Sequence[float]) -> tuple[dict[str, Any], Axis, Axis]:
    """The drawing of the cells by mean identity (x) and the number `name` (y), in the units of PLOT, and its axes.
    Cells without this number are left out; the chosen cell comes last, on top. `y_holds` are values that the y axis
    must contain.

    {points: [{x, y, r, label, kind, title, epoch, weight}], x_ticks, y_ticks}
    """
    alike = {tuple(cell) for cell in choice["indistinguishable"]}
    chosen = (choice["epoch"], choice["weight"])
    cells = sorted((choice["base"], *choice["cells"]), key=lambda c: ((c["epoch"], c["weight"]) == chosen, c["epoch"]))
    cells = [cell for cell in cells if cell[name] is not None]
    x_axis = axis([0.0, 1.0, *(cell["identity"] for cell in cells)])
    y_axis = axis([*y_holds, *(cell[name] for cell in cells)])
    points = [
        {
            "x": x_at(cell["identity"], x_axis),
            "y": y_at(cell[name], y_axis),
            "r": round(6 + 4 * cell["weight"], 1),
            "epoch": cell["epoch"],
            "weight": cell["weight"],
            "label": str(cell["epoch"]) if cell["epoch"] else "B",
            "kind": "chosen" if key == chosen else "alike" if key in alike else "base" if not cell["epoch"] else "",
            "title": _point_title(cell),
        }
        for cell in cells
        for key in [(cell["epoch"], cell["weight"])]
    ]
    drawing = {"points": points, "x_ticks": ticks(x_axis, x_at), "y_ticks": ticks(y_axis, y_at)}
    return drawing, x_axis, y_axis


def _point_title(cell: Mapping[str, Any]) -> str:
    title = (
        f"epoch {cell['epoch']} at weight {cell['weight']:g}: identity {cell['identity']:.2f}, "
        f"prompt following {cell['prompt_score']:.2f}"
    )
    return title if cell["untrained"] is None else f"{title}, identity without the trigger {cell['untrained']:.2f}"


def frontier(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The Pareto frontier of the cells by identity and prompt following, by rising identity."""
    kept: list[Mapping[str, Any]] = []
    for cell in sorted(cells, key=lambda c: (-c["identity"], -c["prompt_score"])):
        if not kept or cell["prompt_score"] > kept[-1]["prompt_score"]:
            kept.append(cell)
    return kept[::-1]


def _stairs(cells: Sequence[Mapping[str, Any]], x_axis: Axis, y_axis: Axis) -> str:
    """The edge of the area that the cells of the frontier dominate: a polyline from the left side of the plot to its
    bottom."""
    corners: list[tuple[float, float]] = []
    left: float = PLOT["left"]
    for cell in cells:
        x, y = x_at(cell["identity"], x_axis), y_at(cell["prompt_score"], y_axis)
        corners += [(left, y), (x, y)]
        left = x
    return " ".join(f"{x},{y}" for x, y in [*corners, (left, PLOT["height"] - PLOT["bottom"])])


def _held_out_crop(dataset: Mapping[str, Any]) -> str | None:
    """The crop of a held-out photo of the person, as a reference for judging the likeness; None if there is none."""
    crops = (
        card["crop"]
        for group in dataset["groups"]
        if group["fate"] == "heldout"
        for part in group["parts"]
        for card in part["cards"]
    )
    return next((crop for crop in crops if crop), None)
