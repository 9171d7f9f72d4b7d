"""What config.yaml may say. Unknown keys are refused; every mistake becomes one line that names the key's path.

Only the Snakefile reads this module: scripts get the canonical JSON of the sections that their rule lists, so that
adding a key here reruns nothing.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from likeness.errors import LikenessError
from likeness.suffixes import PHOTO_SUFFIXES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]  # part of file names, of A1111's <lora:...>
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Subject(Section):
    photos: str
    """Folder of photos of one person; relative to the working directory, else to the Snakefile."""
    trigger: Annotated[str, Field(pattern=r"^[^\s/]+$")]
    """The word that calls the person: rare, and not their name."""
    class_noun: Annotated[str, Field(pattern=r"^[^/]+$")]
    """What the base model calls such a person: woman, man, person."""
    consent: Literal["self", "written", "synthetic"]
    """Who agreed to this likeness: self (it is you), written (you hold it in writing), synthetic (nobody exists)."""
    reference: list[str] = []
    """File names in the folder that show only the subject; without any, the subject is whom most photos show."""


class Curate(Section):
    min_face: Annotated[int, Field(gt=0)] = 64
    """Smallest face width in px that is trained on; Real-ESRGAN keeps a face's identity from about 64 px on."""
    same_person: Fraction = 0.45
    """Lowest SFace similarity to the subject's other photos; what it costs: docs/faces.md."""
    near_duplicate: Annotated[int, Field(ge=0, le=64)] = 6
    """Perceptual-hash distance up to which two photos count as the same picture."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Share of the photos set apart for judging (at least 3)."""
    min_photos: Annotated[int, Field(ge=1)] = 5
    """Fewer photos than this left to train on is an error."""


class Crop(Section):
    face_fraction: Annotated[float, Field(gt=0.1, le=1)] = 0.45
    """Face height as a share of the crop's side: head and a little shoulder."""
    face_level: Annotated[float, Field(ge=0.3, le=0.7)] = 0.48
    """Height of the face's middle in the crop, from the top: more shoulder than air above the hair."""


class Upscale(Section):
    weights: Annotated[str, Field(min_length=1)] | None = None
    """A .pth or .safetensors of your own for the network of RealESRGAN_x4plus; empty: those weights."""
    tile: Annotated[int, Field(ge=32)] = 256
    """Real-ESRGAN works in tiles of this many px: smaller needs less memory."""
    min_similarity: Fraction = 0.6
    """SFace similarity before and after; below, the Lanczos version is used."""


class Caption(Section):
    backend: Literal["template", "blip", "florence2"] = "template"
    """How photos without a .txt beside them get a caption: template says what was measured and needs no download."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """Hub id or local folder of a captioner; empty: BLIP large by Salesforce, Florence-2 base by Microsoft."""
    identity_words: Annotated[str, Field(min_length=1)] = "resources/identity_words.txt"
    """File with the words for what a person is, which blip's and florence2's captions leave out."""


class Train(Section):
    rank: Annotated[int, Field(gt=0)] = 128
    alpha: Annotated[float, Field(gt=0)] = 64
    optimizer: Literal["AdamW"] = "AdamW"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Of the U-Net's LoRA."""
    train_text_encoder: bool = False
    text_encoder_lr: Annotated[float, Field(gt=0)] = 5e-5
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_restarts"] = "cosine_with_restarts"
    lr_scheduler_num_cycles: Annotated[int, Field(gt=0)] = 3
    max_train_steps: Annotated[int, Field(gt=0)] = 2000
    epochs: Annotated[int, Field(gt=0)] = 10
    """One checkpoint is saved per epoch."""
    batch_size: Annotated[int, Field(gt=0)] = 2
    gradient_accumulation_steps: Annotated[int, Field(gt=0)] = 1
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"
    """Of the frozen base model and the activations; the LoRA itself is always fp32."""
    save_precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the numbers in the file; fp16 is what kohya_ss saves."""
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    noise_offset: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 42

    @model_validator(mode="after")
    def alpha_within_rank(self):
        if self.alpha > self.rank:
            raise ValueError(f"alpha {self.alpha:g} is larger than rank {self.rank}; expected at most rank")
        return self


class Sample(Section):
    prompts: Annotated[list[str], Field(min_length=1)]
    """{subject} stands for trigger and class noun, {class_noun} for the class noun alone."""
    untrained_prompt: str = "photo of a {class_noun}, portrait"
    """Without the trigger: if this looks like the person too, the LoRA has leaked."""
    negative_prompt: str = ""
    weights: Annotated[list[Annotated[float, Field(gt=0, le=2)]], Field(min_length=1)] = [0.6, 0.8, 1.0]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [1, 2]
    steps: Annotated[int, Field(gt=0)] = 25
    guidance_scale: Annotated[float, Field(ge=1)] = 7.0
    batch_size: Annotated[int, Field(gt=0)] = 4
    """Images drawn at once."""

    @model_validator(mode="after")
    def prompts_name_the_subject(self):
        for prompt in self.prompts:
            if "{subject}" not in prompt:
                raise ValueError(f"prompt {prompt!r} lacks {{subject}}; expected it in every prompt")
        for prompt in [*self.prompts, self.untrained_prompt]:
            try:
                prompt.format(subject="", class_noun="")
            except (KeyError, IndexError, ValueError):
                raise ValueError(
                    f"prompt {prompt!r} has a brace that is neither {{subject}} nor {{class_noun}}"
                ) from None
        return self


class Select(Section):
    beta: Annotated[float, Field(gt=0)] = 2.0
    """F-beta: how many times identity counts as much as prompt following."""
    copy_limit: Fraction = 0.95
    """SFace similarity to a training photo from which a picture counts as a copy of it."""
    leak_limit: Fraction = 0.5
    """Identity (0 to 1) that the untrained prompt may show before its checkpoint and weight are out."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 0


class Config(Section):
    base_model: Annotated[str, Field(min_length=1)]
    """A diffusers folder, a single .safetensors file, or a hub id."""
    base_revision: str | None = None
    """Branch, tag or commit of a hub id."""
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] = 512
    """Side of the training crops and of the samples, in px."""
    subjects: Annotated[dict[Name, Subject], Field(min_length=1)]
    runs: Annotated[dict[Name, dict[Literal["train", "sample", "select"], dict[str, Any]]], Field(min_length=1)]
    """Named overrides of train, sample and select: a sweep is a list of runs."""
    curate: Curate = Curate()
    crop: Crop = Crop()
    upscale: Upscale = Upscale()
    caption: Caption = Caption()
    train: Train = Train()
    sample: Sample
    select: Select = Select()


def checked_config(raw: dict, roots: Iterable[Path]) -> dict:
    """The configuration with every default filled in and `runs` fully written out.

    `roots` are the folders that relative photo folders are looked for in, in order. Raises LikenessError with one
    line per mistake.
    """
    problems, config = _validated(Config, raw, ())
    runs = {}
    for name, overrides in (config.runs if config else {}).items():
        for section, model in (("train", Train), ("sample", Sample), ("select", Select)):
            merged = getattr(config, section).model_dump() | overrides.get(section, {})
            more, value = _validated(model, merged, ("runs", name, section))
            problems += more
            runs.setdefault(name, {})[section] = value and value.model_dump()
    subjects = {}
    for name, subject in (config.subjects if config else {}).items():
        try:
            folder = photo_folder(subject.photos, roots)
            subjects[name] = subject.model_dump() | {"photos": str(folder)}
            names = {path.name for path in photo_files(folder)}
            problems += [
                f"subjects.{name}.reference: no photo {photo!r} in {subject.photos}; expected names of files in it"
                for photo in subject.reference
                if photo not in names
            ]
        except LikenessError as error:
            problems.append(f"subjects.{name}.photos: {error}")
    weights = config.upscale.weights if config else None
    if weights and not any((root / weights).is_file() for root in roots):
        problems.append(
            f"upscale.weights: no file {weights!r}; expected a .pth or .safetensors file of RealESRGAN_x4plus"
        )
    if problems:
        raise LikenessError("config:\n  " + "\n  ".join(problems))
    return config.model_dump() | {"runs": runs, "subjects": subjects}


def photo_folder(photos: str, roots: Iterable[Path]) -> Path:
    """The folder of a subject's photos. Raises LikenessError if it is not there or holds no photo."""
    for root in roots:
        folder = root / photos
        if folder.is_dir():
            _refuse_names(folder)
            if not photo_files(folder):
                raise LikenessError(
                    f"no photo in {photos!r}; expected files ending in {' '.join(sorted(PHOTO_SUFFIXES))}"
                )
            return folder
    raise LikenessError(f"no folder {photos!r}; expected a folder of photos of one person")


def _refuse_names(folder: Path) -> None:
    """Snakemake takes {word} in a path for a wildcard, and its records, like the tables, hold paths as text."""
    for path in _named_like_photos(folder):
        if set("{}") & set(str(path)):
            raise LikenessError(f"the path {str(path)!r} has a brace, which Snakemake cannot take; rename it")
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise LikenessError(f"the path {str(path)!r} is not UTF-8; rename it") from None


def photo_files(folder: Path) -> list[Path]:
    """Every photo directly in a folder, sorted: what detect_faces reads. Captions (.txt) are read by caption_faces."""
    return [path for path in _named_like_photos(folder) if _can_be_read(path)]


def not_files(folder: Path) -> list[Path]:
    """What is named like a photo and is no file that can be read (a link to nothing, a folder, a pipe), sorted: it gets
    its row, but nobody can wait for it as an input."""
    return [path for path in _named_like_photos(folder) if not _can_be_read(path)]


def _named_like_photos(folder: Path) -> list[Path]:
    """Hidden files (a Mac's ._x.jpg) are not photos."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and not p.name.startswith("."))


def _can_be_read(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def json_schema() -> dict:
    """For editors: completes and checks config.yaml while it is typed."""
    return Config.model_json_schema()


def _validated(model: type[Section], raw: dict, where: tuple[str, ...]) -> tuple[list[str], Any]:
    try:
        return [], model.model_validate(raw)
    except ValidationError as error:
        return [_sentence(e, where) for e in error.errors()], None


def _sentence(error: dict, where: tuple[str, ...]) -> str:
    """One mistake: the key's path, what was found, what is expected."""
    path = ".".join(str(p) for p in (*where, *error["loc"]) if p != "[key]")
    found = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key; see config.yaml or docs/config.md for the ones there are"
        case "missing" if path.endswith(".consent"):
            return (
                f"{path}: missing; a LoRA is a likeness of a real person, so say who agreed to it: "
                "self (it is you), written (you hold their written consent) or synthetic (nobody exists)"
            )
        case "missing":
            return f"{path}: missing; expected a value"
        case "value_error":
            return f"{path}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
        case _:
            expected = error["msg"].removeprefix("Input should be ").removeprefix("String should ")
            return f"{path}: found {found!r}; expected {expected}"
