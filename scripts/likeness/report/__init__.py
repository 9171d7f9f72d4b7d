"""The report of a run: a page that opens from disk and fetches nothing, and the folder of its samples beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from likeness.best import best_picture, calling_words
from likeness.dataset import arithmetic, sizes
from likeness.files import ItemCache
from likeness.manifests import read_json
from likeness.provenance import file_sha256
from likeness.report.curves import course
from likeness.report.dataset import dataset_part
from likeness.report.drawing import PLOT, axis, ticks, x_at, y_at
from likeness.report.page import rendered
from likeness.report.pictures import sample_files, sample_uri
from likeness.report.samples import samples_part
from likeness.selection import advice, chosen_cell, measured_pictures, read_choice, separation


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
    subject: Mapping,
    config: Mapping,
    folder: str,
    thumbnails: ItemCache,
    threads: int,
) -> tuple[str, dict[str, Path]]:
    """The whole page, and what lies in `folder` beside it (name -> file). Same files, same text and names.

    The manifests are those of results/{subject} and results/{subject}/{run}; `config` is shown as it is; `thumbnails`
    is made by likeness.report.pictures.thumbnail_cache.

    Raises LikenessError if the samples and the scores are not of the same pictures.
    """
    chosen = read_choice(choice)
    table = measured_pictures(samples, scores, chosen)
    files = {"dataset.json": dataset, "photos.tsv": photos, "captions.tsv": captions, "scores.tsv": scores}
    pictures = sample_files(table, thumbnails, threads)
    # Named by content: a picture that did not change keeps its name, and a browser shows no old one for a new one.
    names = {image: f"{file_sha256(file)[:16]}.jpg" for image, file in pictures.items()}
    part = dataset_part(photos, crops, upscaled, captions, dataset, thumbnails, threads)
    html = rendered(
        "template.html.j2",
        title=title,
        advice=advice(chosen),
        separation=separation(chosen, subject),
        choice=chosen,
        cell=chosen_cell(chosen),
        prompt=calling_words(chosen, subject),
        scale=table[["floor", "ceiling", "floor_from"]].iloc[0].to_dict(),
        preview=sample_uri(Path(best_picture(table, chosen)["image"])),
        run=samples_part(table, chosen, [names[image] for image in table["image"]])
        # What is voted on in the blind comparison is kept in the browser, apart for each table of scores.
        | {"folder": folder, "id": file_sha256(scores)[:16]},
        reference=_held_out_crop(part),
        plot=PLOT,
        following=following(chosen),
        unasked=unasked(chosen),
        course=course(metrics, chosen["epoch"]),
        # A run may have its own number of steps; the data set's page tells of the configuration's.
        dataset=part | {"arithmetic": arithmetic(config["train"], *sizes(read_json(dataset)))},
        config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
        hashes={chosen["lora"]: chosen["sha256"], **{name: file_sha256(path) for name, path in files.items()}},
    )
    return html, {names[image]: file for image, file in pictures.items()}


def following(choice: Mapping) -> dict:
    """The drawing of identity against prompt following: that of `_scatter`, and {frontier: a polyline}."""
    drawing, *axes = _scatter(choice, "prompt_score", [0.5, 1.0])
    return drawing | {"frontier": _stairs(frontier(choice["cells"]), *axes)}


def unasked(choice: Mapping) -> dict:
    """The drawing of identity against that without the trigger: of `_scatter`, and {limit: how far down it lies}."""
    drawing, _, y_axis = _scatter(choice, "untrained", [0.0, choice["leak_limit"]])
    return drawing | {"limit": y_at(choice["leak_limit"], y_axis)}


def _scatter(choice: Mapping, name: str, y_holds: Sequence[float]) -> tuple[dict, tuple, tuple]:
    """Cells by mean identity (x) and the number `name` (y) where they have one, in the units of PLOT, the chosen one
    last, on top; and the axes. `y_holds` are values that the y axis must hold.

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


def _point_title(cell: Mapping) -> str:
    title = (
        f"epoch {cell['epoch']} at weight {cell['weight']:g}: identity {cell['identity']:.2f}, "
        f"prompt following {cell['prompt_score']:.2f}"
    )
    return title if cell["untrained"] is None else f"{title}, identity without the trigger {cell['untrained']:.2f}"


def frontier(cells: Sequence[Mapping]) -> list[Mapping]:
    """The cells that no other is at least as good as in both numbers and better in one (Pareto), by rising identity."""
    kept: list[Mapping] = []
    for cell in sorted(cells, key=lambda c: (-c["identity"], -c["prompt_score"])):
        if not kept or cell["prompt_score"] > kept[-1]["prompt_score"]:
            kept.append(cell)
    return kept[::-1]


def _stairs(cells: Sequence[Mapping], x_axis: tuple, y_axis: tuple) -> str:
    """The edge of what the cells surpass: a polyline from the plot's left side down to its bottom."""
    corners, left = [], PLOT["left"]
    for cell in cells:
        x, y = x_at(cell["identity"], x_axis), y_at(cell["prompt_score"], y_axis)
        corners += [(left, y), (x, y)]
        left = x
    return " ".join(f"{x},{y}" for x, y in [*corners, (left, PLOT["height"] - PLOT["bottom"])])


def _held_out_crop(dataset: Mapping) -> str | None:
    """A photo of the person that training never saw, to judge a likeness by."""
    crops = (
        card["crop"]
        for group in dataset["groups"]
        if group["fate"] == "heldout"
        for part in group["parts"]
        for card in part["cards"]
    )
    return next((crop for crop in crops if crop), None)
