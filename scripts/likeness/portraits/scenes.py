"""The stages of a scene: plain, hires and face."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from likeness.core import cli
from likeness.core.provenance import canonical
from likeness.drawing.infotext import lora_tag
from likeness.drawing.sampling import Cell, draw_pictures
from likeness.faces.identity import similarity
from likeness.photos.images import lanczos, png_bytes, read_photo
from likeness.portraits.faces_of_picture import box_of, most_alike
from likeness.portraits.redraw import redrawing, redrawn_in_tiles
from likeness.portraits.studio import Person, Studio

# The side of a hires pass's tiles, as a multiple of the resolution: larger pictures make the base model repeat things,
# and take more memory than the first drawing did.
TILE = 2
PLAIN_SETTINGS = ("negative_prompt", "steps", "sampler", "guidance_scale", "clip_skip")
NO_FACE = "no face was found, so none was redrawn"


class Stage(NamedTuple):
    """A picture after one stage. `box` is the redrawn face [x, y, w, h] in px, empty for the other stages."""

    name: str
    picture: Path
    prompt: str
    box: list[float]
    detail: str


class SceneDrawing(NamedTuple):
    """A scene, its person, and the person's photos as SFace embeddings. `settings` are the scene's keys with every
    default, and clip_skip."""

    studio: Studio
    person: Person
    settings: Mapping[str, Any]
    resolution: int
    photos: Sequence[np.ndarray]

    @property
    def weight(self) -> float:
        """The LoRA's weight while the scene is drawn."""
        weight = self.settings["scene_weight"]
        return self.person.weight if weight is None else weight

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first drawing in px."""
        return self.settings["width"] or self.resolution, self.settings["height"] or self.resolution

    @property
    def prompt(self) -> str:
        return self.person.prompt(self.settings["prompt"])

    @property
    def face_prompt(self) -> str:
        return self.person.prompt(self.settings["face_prompt"])

    @property
    def face_prompt_with_lora(self) -> str:
        """The prompt of the face pass as A1111 needs it."""
        return f"{self.face_prompt} {lora_tag(self.person.lora.stem, self.person.weight)}"


def seeds_of(settings: Mapping[str, Any]) -> list[int]:
    """The seeds of a scene or place."""
    return settings["seeds"] or list(range(1, settings["count"] + 1))


def drawn_stages(scene: SceneDrawing) -> Iterator[tuple[int, list[Stage]]]:
    """Each seed with the stages of its picture. Every stage is kept as soon as it is drawn."""
    plain = _plain_pictures(scene)
    for seed in cli.progress(plain, desc="passes", unit="picture"):
        stages = [Stage("plain", plain[seed], scene.prompt, [], "")]
        if scene.settings["hires"] > 1:
            stages.append(Stage("hires", _hires(scene, stages[-1].picture, seed), scene.prompt, [], ""))
        if scene.settings["face_strength"] > 0:
            stages = _with_face_pass(scene, stages, seed)
        yield seed, stages


def _plain_pictures(scene: SceneDrawing) -> dict[int, Path]:
    """The picture of each seed. Those that are missing in the cache are drawn in batches."""
    studio, settings = scene.studio, scene.settings
    lora = scene.person.weights if scene.weight else ""
    drawn_with = canonical([lora, scene.weight, scene.prompt, scene.size, {k: settings[k] for k in PLAIN_SETTINGS}])

    def key(seed: int) -> tuple[str, ...]:
        return studio.base["digest"], "plain", drawn_with, str(seed)

    seeds = seeds_of(settings)
    paths = {seed: path for seed in seeds if (path := studio.items.find(*key(seed)))}
    studio.items.reused += len(paths)
    cells = [Cell(scene.weight, scene.prompt, "portrait", seed) for seed in seeds if seed not in paths]
    if cells:
        drawn = draw_pictures(studio.pipeline(scene.person), cells, settings, scene.size)
        for cell, image in cli.progress(drawn, total=len(cells), desc="plain", unit="picture"):
            paths[cell.seed] = studio.items.put(png_bytes(np.asarray(image)), *key(cell.seed))
            studio.items.computed += 1
        studio.weight_is(scene.weight)
    return {seed: paths[seed] for seed in seeds}


def _hires(scene: SceneDrawing, picture: Path, seed: int) -> Path:
    """A picture enlarged and redrawn at a low strength."""
    settings = scene.settings
    size = [round(side * settings["hires"] / 8) * 8 for side in scene.size]
    how = redrawing(settings, prompt=scene.prompt, strength=settings["hires_strength"], seed=seed)

    def compute() -> np.ndarray:
        image = read_photo(picture)
        by_network = settings["hires_upscaler"] == "Real-ESRGAN"
        large = lanczos(scene.studio.enlarge(image) if by_network else image, *size)
        return redrawn_in_tiles(
            large, TILE * scene.resolution, lambda tile: scene.studio.redraw(scene.person, scene.weight, tile, how)
        )

    key = ["hires", picture.suffix, size, settings["hires_upscaler"], how, settings["sampler"], scene.resolution]
    return scene.studio.kept_picture(compute, *key, scene.person.weights if scene.weight else "", scene.weight)


def _with_face_pass(scene: SceneDrawing, stages: list[Stage], seed: int) -> list[Stage]:
    """The stages with that of the face pass; without a face the last one says so."""
    last = stages[-1]
    face = _face_of_person(scene, last.picture)
    if face is None:
        return [*stages[:-1], last._replace(detail=NO_FACE)]
    how = redrawing(scene.settings, prompt=scene.face_prompt, strength=scene.settings["face_strength"], seed=seed)
    picture = scene.studio.with_face(last.picture, face, scene.person, how, scene.resolution)
    return [*stages, Stage("face", picture, scene.face_prompt, box_of(face), "")]


def _face_of_person(scene: SceneDrawing, picture: Path) -> dict[str, Any] | None:
    """The face that is redrawn: of several faces the one most like the person, and the largest if the scene was drawn
    without the LoRA. None without a face."""
    rows = scene.studio.faces(picture)
    if not rows or len(rows) == 1 or scene.weight == 0:
        return rows[0] if rows else None
    image = read_photo(picture)
    embeddings = [scene.studio.recogniser.embedding(image, row) for row in rows]
    return rows[most_alike([float(np.mean([similarity(e, photo) for photo in scene.photos])) for e in embeddings])]
