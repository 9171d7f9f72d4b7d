"""The models that portraits are drawn with, and the pictures that they drew."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from likeness.choosing.choice import read_choice
from likeness.core import cli
from likeness.core.devices import claim_gpu, torch_device
from likeness.core.files import ItemCache, write_atomic
from likeness.core.manifests import read_json, read_table
from likeness.core.provenance import canonical, code_digest, digest, file_sha256
from likeness.core.tensors import with_metadata
from likeness.drawing.infotext import UsedLora, lora_hash
from likeness.drawing.marking import picture_hashes
from likeness.drawing.sampling import load_pipeline
from likeness.faces.detection import Detector
from likeness.faces.identity import Recogniser
from likeness.faces.upscale import enlarged, real_esrganer
from likeness.models.prompts import literal
from likeness.photos.images import png_bytes, read_photo
from likeness.portraits.face_pass import FaceToRedraw, Framing, framing_of
from likeness.portraits.redraw import Piece, Redrawer, Redrawing

Item = TypeVar("Item")

# How many pictures are prepared together: as many as keep a GPU busy. Each is kept when its batch is redrawn.
AT_ONCE = 8


class FaceOfPicture(NamedTuple):
    """A face (detection.FACE_COLUMNS) of a picture of the cache, to be redrawn from a seed."""

    picture: Path
    row: Mapping[str, Any]
    seed: int


class Person(NamedTuple):
    """A subject with the LoRA that was chosen. `weights` is the hash of its tensors."""

    name: str
    lora: Path
    weight: float
    weights: str
    words: Mapping[str, str]
    """What {subject} and {class_noun} stand for in prompts."""
    framing: Framing

    def prompt(self, text: str) -> str:
        return text.format(**self.words)

    def used_lora(self, weight: float) -> UsedLora | None:
        """The LoRA at a weight, for an infotext; None at the weight 0."""
        return UsedLora(self.lora.stem, weight, lora_hash(self.lora.read_bytes())) if weight else None


def person(name: str, subject: Mapping[str, str], choice: Path, lora: Path, crops: Path) -> Person:
    """A subject of the configuration with its chosen LoRA and weight, and the framing of its training crops."""
    noun = literal(subject["class_noun"])
    words = {"subject": f"{literal(subject['trigger'])} {noun}", "class_noun": noun}
    # Without the metadata: a file with another name in it draws the same pictures.
    weights = digest(with_metadata(lora.read_bytes(), {}))
    trained_on = read_table(crops)
    framing = framing_of(trained_on[trained_on["fate"] == "train"].to_dict("records"))
    return Person(name, lora, float(read_choice(choice)["weight"]), weights, words, framing)


def studio_cache(args: Namespace, script: str) -> ItemCache:
    """The item cache of a script that draws: `args` has cache, models and weights. Its keys contain the code, the
    pinned models and the user's own weights of Real-ESRGAN."""
    hashes = [read_json(args.models / "models.json"), [file_sha256(path) for path in args.weights]]
    return ItemCache(args.cache, code_digest(Path(script)), canonical(hashes))


class Studio:
    """Draws and redraws, and keeps every result by its content. A model is loaded when it is first needed, so that a
    call that finds all its results loads none."""

    def __init__(
        self,
        items: ItemCache,
        base: Mapping[str, Any],
        models: Path,
        settings: Mapping[str, Any],
        upscaler: tuple[int, Path | None],
    ):
        """`settings` are those of a scene or place, with sampler and clip_skip; `upscaler` is the side of a tile in px
        and the user's own weights."""
        self.items, self.base, self.models, self.settings = items, base, models, settings
        self.tile, self._weights = upscaler
        self._loaded: tuple[Path, Redrawer] | None = None

    @cached_property
    def detector(self) -> Detector:
        return Detector(self.models)

    @cached_property
    def recogniser(self) -> Recogniser:
        return Recogniser(self.models)

    @cached_property
    def _device(self) -> torch.device:
        """The GPU, locked for this process, or the CPU. torch reads which GPUs it may use when it first needs one."""
        claim_gpu(cli.say)
        return torch_device()

    @cached_property
    def _real_esrganer(self) -> Any:
        return real_esrganer(self.models, self.tile, self._device, self._weights)

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """A picture four times larger, by Real-ESRGAN."""
        return enlarged(image, self._real_esrganer)

    def redrawer(self, person: Person) -> Redrawer:
        """The base model with a person's LoRA."""
        if self._loaded is None or self._loaded[0] != person.lora:
            self._loaded = None  # before the next one is loaded: two may not fit into memory
            pipeline = load_pipeline(self.base, person.lora, self._device, self.settings["sampler"], merged=True)
            self._loaded = person.lora, Redrawer(pipeline, self.settings["batch_size"])
        return self._loaded[1]

    def kept_pictures(
        self, keys: Sequence[Sequence[Any]], draw: Callable[[list[int]], Iterable[np.ndarray]], passes: str
    ) -> list[Path]:
        """The files of the pictures that depend on the base model and on `keys`.

        Those that are missing are drawn: `draw` gets their numbers, and each picture is kept as soon as it is there.
        `passes` names the work for the progress bar.
        """
        keys = [(self.base["digest"], canonical(key)) for key in keys]
        paths = {number: path for number, key in enumerate(keys) if (path := self.items.find(*key))}
        self.items.reused += len(paths)
        missing = [number for number in range(len(keys)) if number not in paths]
        bar = cli.progress(desc=passes, total=len(missing), unit="picture")
        for number, picture in zip(missing, draw(missing) if missing else (), strict=True):
            paths[number] = self.items.put(png_bytes(picture), *keys[number])
            self.items.computed += 1
            bar.update()
        bar.close()
        return [paths[number] for number in range(len(keys))]

    def faces(self, picture: Path) -> list[dict[str, Any]]:
        """The faces of a picture of the cache, the widest first."""
        content = picture.suffix
        path = self.items.get(lambda: canonical(self.detector.faces(read_photo(picture))).encode(), "faces", content)
        return json.loads(path.read_bytes())

    def with_faces(self, faces: Sequence[FaceOfPicture], person: Person, how: Redrawing, resolution: int) -> list[Path]:
        """Each picture with its face redrawn as the person's."""

        def key(face: FaceOfPicture) -> list[Any]:
            place = [face.row[name] for name in ("center_x", "center_y", "face_width", "face_height", "roll")]
            made_with = [resolution, self.settings["sampler"], person.weights, person.weight, *person.framing]
            made_with += [self.tile]
            return ["face", face.picture.suffix, place, face.seed, how, *made_with]

        def draw(missing: Sequence[int]) -> Iterator[np.ndarray]:
            for group in groups([faces[number] for number in missing]):
                cuts = [
                    FaceToRedraw(read_photo(face.picture), face.row, person.framing, resolution, self.enlarge)
                    for face in group
                ]
                pieces = [Piece(cut.cut, face.seed, cut.mask) for cut, face in zip(cuts, group, strict=True)]
                redrawn = self.redrawer(person).redrawn(pieces, how, person.weight)
                yield from (cut.placed(new) for cut, new in zip(cuts, redrawn, strict=True))

        return self.kept_pictures([key(face) for face in faces], draw, f"faces of {person.name}")


def groups(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items, AT_ONCE at a time."""
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


def picture_row(png: bytes, pixels: np.ndarray, **values: Any) -> dict[str, Any]:
    """A row of DRAWN for a picture, with its hashes and its size."""
    size = {"width": pixels.shape[1], "height": pixels.shape[0]}
    return {**values, **picture_hashes(png, pixels), **size}


def written_picture(path: Path, png: bytes, pixels: np.ndarray, **values: Any) -> dict[str, Any]:
    """Write a picture to a file. Returns its row of DRAWN."""
    write_atomic(path, png)
    return picture_row(png, pixels, image=f"{path.parent.name}/{path.name}", **values)
