"""The models that portraits are drawn with, and the pictures that they drew."""

import hashlib
import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from likeness.choosing.choice import read_choice
from likeness.core import cli
from likeness.core.devices import claim_gpu, torch_device
from likeness.core.files import ItemCache
from likeness.core.manifests import read_json, read_table
from likeness.core.provenance import canonical, code_digest, digest, file_sha256
from likeness.core.tensors import with_metadata
from likeness.drawing.infotext import UsedLora, lora_hash
from likeness.drawing.sampling import Pipeline, load_pipeline
from likeness.faces.detection import Detector
from likeness.faces.identity import Recogniser
from likeness.faces.upscale import enlarged, real_esrganer
from likeness.models.conditioning import Conditioning
from likeness.models.prompts import literal
from likeness.photos.images import png_bytes, read_photo
from likeness.portraits.face_pass import Framing, framing_of, with_face_redrawn
from likeness.portraits.redraw import Redrawing, redrawn


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
        self._upscaler = upscaler
        self._loaded: tuple[Path, Pipeline] | None = None
        self._weight: float | None = None
        self._texts: dict[str, Conditioning] = {}

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
        tile, weights = self._upscaler
        return real_esrganer(self.models, tile, self._device, weights)

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """A picture four times larger, by Real-ESRGAN."""
        return enlarged(image, self._real_esrganer)

    def pipeline(self, person: Person) -> Pipeline:
        """The base model with a person's LoRA."""
        if self._loaded is None or self._loaded[0] != person.lora:
            self._loaded = None  # before the next one is loaded: two may not fit into memory
            loaded = load_pipeline(self.base, person.lora, self._device, self.settings["sampler"], merged=True)
            self._loaded, self._weight = (person.lora, loaded), None
            self._texts.clear()
        return self._loaded[1]

    def redraw(self, person: Person, weight: float, image: np.ndarray, how: Redrawing, mask: Any = None) -> np.ndarray:
        """A picture, or what lies within a mask, redrawn with a person's LoRA at a weight."""
        pipeline = self.pipeline(person)
        if self._weight != weight:  # merging SDXL's weights takes seconds
            pipeline.set_weight(weight)
            self.weight_is(weight)
        return redrawn(pipeline, image, how, mask, self._texts)

    def weight_is(self, weight: float) -> None:
        """Note the weight at which the pipeline's LoRA was merged by others (draw_pictures)."""
        self._weight = weight
        self._texts.clear()  # the LoRA may change the text encoders

    def kept_picture(self, compute: Callable[[], np.ndarray], *key: Any) -> Path:
        """The file of a picture that depends on `key` and on the base model; it is computed if there is none yet."""
        return self.items.get(lambda: png_bytes(compute()), self.base["digest"], canonical(key))

    def faces(self, picture: Path) -> list[dict[str, Any]]:
        """The faces of a picture of the cache, the widest first."""
        content = picture.suffix
        path = self.items.get(lambda: canonical(self.detector.faces(read_photo(picture))).encode(), "faces", content)
        return json.loads(path.read_bytes())

    def with_face(self, picture: Path, row: Mapping[str, Any], person: Person, how: Redrawing, resolution: int) -> Path:
        """A picture of the cache with one of its faces redrawn as the person's."""

        def compute() -> np.ndarray:
            def redraw(cut: np.ndarray, mask: np.ndarray) -> np.ndarray:
                return self.redraw(person, person.weight, cut, how, mask)

            return with_face_redrawn(read_photo(picture), row, person.framing, resolution, redraw, self.enlarge)

        place = [row[key] for key in ("center_x", "center_y", "face_width", "face_height", "roll")]
        key = ["face", picture.suffix, place, how, resolution, self.settings["sampler"], person.weights, person.weight]
        key += person.framing
        return self.kept_picture(compute, *key)


def picture_row(png: bytes, pixels: np.ndarray, **values: Any) -> dict[str, Any]:
    """A row of DRAWN for a picture, with its hashes and its size."""
    content = {"sha256": hashlib.sha256(png).hexdigest(), "pixels": digest(canonical(pixels.shape), pixels.tobytes())}
    return {**values, **content, "width": pixels.shape[1], "height": pixels.shape[0]}
