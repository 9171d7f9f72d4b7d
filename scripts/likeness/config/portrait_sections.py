"""The sections of config.yaml about finished pictures: portraits and places."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from likeness.config.drawing_base import DrawingBase
from likeness.config.mistakes import NAME
from likeness.config.prompt_checks import check_naming_prompt, check_negative_prompt
from likeness.core.section import Count, Fraction, Number, Prompt, Section, Seed, quote

# Part of file names, of which two and a number make one of at most 255 bytes, and of A1111's <lora:...>.
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
Sampler = Literal["DPM++ 2M Karras", "DPM++ 2M", "Euler a", "Euler", "DDIM", "UniPC"]
SamplingSteps = Annotated[int, Field(gt=0, le=150)]
Guidance = Annotated[Number, Field(ge=1, le=100)]
Side = Annotated[int, Field(ge=64, le=8192, multiple_of=8)]
FACE_PROMPT = "photo of {subject}"
LONGEST_SIDE = 8192  # px of a picture after hires: 67 megapixels take 4 GB when tiles are joined


class Drawing(Section):
    """What scenes and places have in common."""

    negative_prompt: Prompt | None = None
    """Negative prompt. Empty: that of sample."""
    count: Count = 4
    """How many pictures are drawn, with the seeds 1, 2, 3 and so on."""
    seeds: list[Seed] = []
    """Seeds instead of count."""
    keep: Count = 1
    """How many of them are shown first in the gallery: those that are most like the person (docs/portraits.md)."""
    sampler: Sampler | None = None
    """The sampler, by its name in A1111. Empty: that of sample."""
    steps: SamplingSteps | None = None
    """Sampling steps. Empty: those of sample."""
    guidance_scale: Guidance | None = None
    """A1111's CFG scale. Empty: that of sample."""

    @model_validator(mode="after")
    def seeds_and_words_of_a_drawing(self) -> Self:
        if double := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seed {double[0]} stands there twice; expected each seed once")
        check_negative_prompt(self.negative_prompt or "")
        return self


class Scene(Drawing):
    prompt: Prompt
    """What is drawn. {subject} stands for trigger and class noun, {class_noun} for the class noun alone."""
    width: Side | None = None
    """Width of the first drawing in px, a multiple of 8. Empty: the resolution."""
    height: Side | None = None
    """Height of the first drawing in px, a multiple of 8. Empty: the resolution."""
    scene_weight: Annotated[Number, Field(ge=0, le=2)] | None = None
    """Weight of the LoRA while the scene is drawn. Empty: the chosen weight. Lower: bodies, clothes and other people
    stay more as the base model draws them, and the face pass alone makes the face the person's. 0 draws without the
    LoRA."""
    hires: Annotated[Number, Field(ge=1, le=4)] = 1.0
    """Factor by which the drawing is enlarged and then redrawn (A1111's hires fix). 1: not at all."""
    hires_strength: Fraction = 0.35
    """Denoising strength of this redrawing. Higher: more new detail, and a picture that differs more."""
    hires_upscaler: Literal["Real-ESRGAN", "Lanczos"] = "Real-ESRGAN"
    """What enlarges the drawing before it is redrawn."""
    face_strength: Fraction = 0.4
    """Denoising strength of the face pass, which redraws the face alone with the chosen weight (ADetailer's). 0: no
    face pass. Higher: more of the person, less of the drawn expression and light."""
    face_prompt: Prompt = FACE_PROMPT
    """Prompt of the face pass."""

    @model_validator(mode="after")
    def size_at_the_end(self) -> Self:
        width, height = (self.hires * (side or 0) for side in (self.width, self.height))
        if max(width, height) > LONGEST_SIDE:
            raise ValueError(f"{width:g} x {height:g} px after hires; expected sides of at most {LONGEST_SIDE} px")
        return self

    @model_validator(mode="after")
    def prompts_of_a_scene(self) -> Self:
        for prompt in (self.prompt, self.face_prompt):
            check_naming_prompt(prompt)
        return self


def default_scenes(resolution: int) -> dict[str, Scene]:
    """Scenes for a real base model, if the configuration names none. The full body is drawn higher than wide, by the
    factor 3 : 2 that Stable Diffusion 1.5 and XL both draw well."""
    high = resolution * 3 // 2 // 8 * 8
    return {
        "studio": Scene(prompt="studio portrait photo of {subject}, soft light, grey background"),
        "street": Scene(prompt="photo of {subject} on a street in the evening, upper body, city lights", height=high),
        "full_body": Scene(prompt="full body photo of {subject} walking in a park, wide shot", hires=1.5, height=high),
        "painting": Scene(prompt="oil painting of {subject}, portrait, brush strokes", face_strength=0.3),
    }


class Portraits(DrawingBase):
    scenes: dict[Name, Scene] | None = None
    """Named scenes. Empty: studio, street, full_body and painting. {} draws none."""


def _face(written: Any) -> Any:
    """Which face of a picture: largest, a number counted from the left, or a point (x, y) in px."""
    is_number = [_is_coordinate(part) for part in _parts(written)]
    if written == "largest" or (isinstance(written, int) and is_number == [True] and 1 <= written <= 100):
        return written
    if isinstance(written, list | tuple) and is_number == [True, True]:
        return tuple(map(float, written))
    raise ValueError(
        f"found {quote(written)}; expected largest, a number counted from the left, or a point [x, y] in px"
    )


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1_000_000


def _parts(written: Any) -> list[Any]:
    return list(written) if isinstance(written, list | tuple) else [written]


POINT = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}
FACE = {"anyOf": [{"const": "largest"}, {"type": "integer", "minimum": 1, "maximum": 100}, POINT]}
Face = Annotated[Any, BeforeValidator(_face), WithJsonSchema(FACE)]


class Place(Drawing):
    pictures: Annotated[str, Field(min_length=1)]
    """Folder of pictures of yours: a body, a group, a painting. The path is relative to the working directory, else to
    the Snakefile."""
    consent: Literal["self", "written", "synthetic", "own picture"]
    """Whose pictures they are: self (you are on them), written (you have the consent of the people on them in writing),
    synthetic (these people do not exist), own picture (you made them, and nobody can be recognised)."""
    faces: dict[Name, Face] = {}
    """Which face becomes whose: a subject's name with largest, with a number counted from the left, or with a point
    [x, y] in px. Several subjects share one picture. Empty: every subject is put alone into the largest face."""
    prompt: Prompt = FACE_PROMPT
    """Prompt of the face."""
    strength: Annotated[Number, Field(ge=0.4, le=1)] = 0.6
    """Denoising strength. Lower: more of the picture's own expression, pose and light. Higher: more of the person
    (figures: docs/portraits.md)."""

    @model_validator(mode="after")
    def words_of_a_place(self) -> Self:
        check_naming_prompt(self.prompt)
        faces = list(self.faces.values())
        if double := [face for face in faces if faces.count(face) > 1]:
            raise ValueError(f"the face {quote(double[0])} becomes two subjects; expected another face for each")
        return self
