"""The stages of a scene: plain, hires and face."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from likeness.drawing.infotext import lora_tag
from likeness.drawing.sampling import Cell, draw_pictures
from likeness.faces.faces_of_picture import box_of, most_alike
from likeness.faces.identity import similarity
from likeness.photos.images import lanczos, read_photo
from likeness.portraits.redraw import Piece, joined, redrawing, tiles
from likeness.portraits.studio import FaceOfPicture, Person, Studio, groups

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
    def lora(self) -> str:
        """The hash of the LoRA's tensors; empty where the scene is drawn without it."""
        return self.person.weights if self.weight else ""

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


def drawn_stages(scene: SceneDrawing) -> list[tuple[int, list[Stage]]]:
    """Each seed with the stages of its picture. Every picture of every stage is kept as soon as it is drawn."""
    seeds = seeds_of(scene.settings)
    stages = [[Stage("plain", picture, scene.prompt, [], "")] for picture in _plain_pictures(scene, seeds)]
    if scene.settings["hires"] > 1:
        enlarged = hires_pictures(scene, [stage[-1].picture for stage in stages], seeds)
        for of_picture, picture in zip(stages, enlarged, strict=True):
            of_picture.append(Stage("hires", picture, scene.prompt, [], ""))
    if scene.settings["face_strength"] > 0:
        _add_face_pass(scene, stages, seeds)
    return list(zip(seeds, stages, strict=True))


def _plain_pictures(scene: SceneDrawing, seeds: Sequence[int]) -> list[Path]:
    """The first drawing from each seed."""
    settings = {key: scene.settings[key] for key in PLAIN_SETTINGS}
    made_with = [scene.lora, scene.weight, scene.prompt, scene.size, settings]
    with_batch_size = settings | {"batch_size": scene.settings["batch_size"]}

    def draw(missing: Sequence[int]) -> Iterator[np.ndarray]:
        pipeline = scene.studio.redrawer(scene.person).pipeline
        cells = [Cell(scene.weight, scene.prompt, "portrait", seeds[number]) for number in missing]
        return (np.asarray(image) for _, image in draw_pictures(pipeline, cells, with_batch_size, scene.size))

    return scene.studio.kept_pictures([["plain", seed, *made_with] for seed in seeds], draw, "plain")


def hires_pictures(scene: SceneDrawing, pictures: Sequence[Path], seeds: Sequence[int]) -> list[Path]:
    """Pictures enlarged and redrawn at a low strength."""
    settings, side = scene.settings, TILE * scene.resolution
    width, height = (round(length * settings["hires"] / 8) * 8 for length in scene.size)
    how = redrawing(settings, prompt=scene.prompt, strength=settings["hires_strength"])
    upscaler = settings["hires_upscaler"]
    tile = scene.studio.tile if upscaler == "Real-ESRGAN" else None
    made_with = [width, height, upscaler, how, settings["sampler"], scene.resolution, scene.lora, scene.weight]
    made_with += [tile]

    def enlarged(picture: Path) -> np.ndarray:
        image = read_photo(picture)
        return lanczos(scene.studio.enlarge(image) if upscaler == "Real-ESRGAN" else image, width, height)

    def draw(missing: Sequence[int]) -> Iterator[np.ndarray]:
        for group in groups(missing):
            cut = [tiles(enlarged(pictures[number]), side) for number in group]
            pieces = [Piece(tile, seeds[number]) for number, parts in zip(group, cut, strict=True) for tile in parts]
            redrawn = scene.studio.redrawer(scene.person).redrawn(pieces, how, scene.weight)
            yield from (joined(list(islice(redrawn, len(parts))), (height, width), side) for parts in cut)

    keys = [["hires", picture.suffix, seed, *made_with] for picture, seed in zip(pictures, seeds, strict=True)]
    return scene.studio.kept_pictures(keys, draw, "hires")


def _add_face_pass(scene: SceneDrawing, stages: Sequence[list[Stage]], seeds: Sequence[int]) -> None:
    """Add the stage of the face pass to each picture's; where there is no face, the last one says so."""
    how = redrawing(scene.settings, prompt=scene.face_prompt, strength=scene.settings["face_strength"])
    faces: list[FaceOfPicture] = []
    with_face: list[list[Stage]] = []
    for of_picture, seed in zip(stages, seeds, strict=True):
        row = _face_of_person(scene, of_picture[-1].picture)
        if row is None:
            of_picture[-1] = of_picture[-1]._replace(detail=NO_FACE)
        else:
            faces.append(FaceOfPicture(of_picture[-1].picture, row, seed))
            with_face.append(of_picture)
    redrawn = scene.studio.with_faces(faces, scene.person, how, scene.resolution)
    for of_picture, face, picture in zip(with_face, faces, redrawn, strict=True):
        of_picture.append(Stage("face", picture, scene.face_prompt, box_of(face.row), ""))


def _face_of_person(scene: SceneDrawing, picture: Path) -> dict[str, Any] | None:
    """The face that is redrawn: of several faces the one most like the person, and the largest if the scene was drawn
    without the LoRA. None without a face."""
    rows = scene.studio.faces(picture)
    if not rows or len(rows) == 1 or scene.weight == 0:
        return rows[0] if rows else None
    image = read_photo(picture)
    embeddings = [scene.studio.recogniser.embedding(image, row) for row in rows]
    return rows[most_alike([float(np.mean([similarity(e, photo) for photo in scene.photos])) for e in embeddings])]
