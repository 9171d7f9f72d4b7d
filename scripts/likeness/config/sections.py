"""The sections of config.yaml and their keys. Unknown keys are errors.

Only the Snakefile and import_kohya.py import this package. Scripts of rules get the canonical JSON of the sections that
their rule lists, so that a new key here reruns nothing.
"""

import unicodedata
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from likeness.config.drawing_base import ClipSkip, DrawingBase, ModelName, PredictionType
from likeness.config.mistakes import CLASS_NOUN, TRIGGER
from likeness.config.portrait_sections import Guidance, Name, Place, Portraits, Sampler, SamplingSteps
from likeness.config.prompt_checks import check_naming_prompt, check_negative_prompt, check_words, placeholders
from likeness.core.section import Count, Fraction, Number, Pixels, Prompt, Section, Seed, quote
from likeness.models.prompts import literal
from likeness.training.settings import Train

GENERATE = "generate"  # instead of a folder of regularisation photos: the base model draws them


def part_of_a_name(text: str) -> str:
    """In Unicode's composed form. A folder's name has at most 255 bytes, and trigger and class noun are in one."""
    text = unicodedata.normalize("NFC", text)
    if len(text.encode()) > 100:
        raise ValueError(f"has {len(text.encode())} bytes; expected at most 100")
    if hidden := next((sign for sign in text if unicodedata.category(sign) == "Cf"), None):
        raise ValueError(f"has the sign {ascii(hidden)}, which nobody sees; remove it")
    return text


class Subject(Section):
    photos: Annotated[str, Field(min_length=1)]
    """Folder of photos of one person. The path is relative to the working directory, else to the Snakefile."""
    trigger: Annotated[str, Field(pattern=TRIGGER), AfterValidator(part_of_a_name)]
    """The word that calls the person in prompts. Choose a rare word, not their name."""
    class_noun: Annotated[Prompt, Field(pattern=CLASS_NOUN), AfterValidator(part_of_a_name)]
    """What the base model calls such a person: woman, man, person."""
    consent: Literal["self", "written", "synthetic"]
    """Who agreed to this likeness: self (it is you), written (you have their consent in writing), synthetic (the person
    does not exist)."""
    reference: list[str] = []
    """File names in the folder that show only the subject. If empty, the subject is the person on most photos."""
    decisions: Annotated[str, Field(min_length=1)] | None = None
    """File of what you decide about single photos and about the choice (docs/decisions.md). Empty: decisions.yaml in
    the folder of photos, if it is there."""
    regularisation: Annotated[str, Field(min_length=1)] | None = None
    """Pictures of other people of the class, shown as often as the subject's (kohya's reg_data_dir), so that the LoRA
    does not change the class. Either a folder of photos; captions are the .txt files beside them, else the class noun.
    Or generate: the base model draws them, from the training captions without the person. Write ./generate for a folder
    of that name."""
    regularisation_images: Count = 100
    """How many pictures generate draws. 100 as in diffusers' DreamBooth: five of each of 20 captions. With fewer, each
    is shown more often."""

    @model_validator(mode="after")
    def words_that_a_prompt_can_say(self) -> Self:
        check_words(literal(f"{self.trigger} {self.class_noun}"))
        return self


class Curate(Section):
    min_face: Pixels = 64
    """Smallest face width in px that is trained on. From about 64 px on, Real-ESRGAN keeps a face's identity."""
    same_person: Fraction = 0.45
    """Lowest SFace similarity to the subject's other photos. Higher: fewer photos of other people are kept, and more of
    the subject's own are dropped (figures: docs/faces.md)."""
    # Of 96 portraits it was 0.37 to 0.65. After a Gaussian blur of 2 px on a face 256 px high it was 0.16 to 0.36,
    # after one of 3 px 0.10 to 0.27.
    min_sharpness: Fraction = 0.21
    """Lowest sharpness of a face, 0 to 1. Below it only clearly useless faces lie: portraits have 0.37 to 0.65, blurred
    ones 0.10 to 0.36."""
    # Ordinary portraits have 0.4 to 0.65, and 0.04 to 0.06 if their values are divided by ten. Dark skin in poor light
    # must pass.
    brightness: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.07, 0.94]
    """Lowest and highest mean brightness of a face, 0 to 1. Only black and white faces lie outside; dark skin in poor
    light does not."""
    max_clipped: Fraction = 0.4
    """Largest share of a face that is burnt out or black. Hard sunlight burns out about a quarter."""
    min_visible: Fraction = 0.9
    """Smallest share of a face within the photo. A chin or a hairline may lie beyond its edge, an eye may not."""
    near_duplicate: Annotated[int, Field(ge=0, le=64)] = 6
    """Largest distance of two aligned faces at which their photos count as one picture (cut, resized, filtered, turned
    or mirrored), of which one is dropped. 0 is the same face, 64 a quite different one; higher drops more
    (docs/faces.md). If a face is burnt out or cut off, the distance is that of the perceptual hashes of the whole
    frames."""
    held_out: Annotated[Number, Field(ge=0, le=0.5)] = 0.2
    """Share of the kept photos that is held out for judging (at least 3 photos, but min_photos stay to train on).
    Higher: surer judging, fewer photos to train on."""
    min_photos: Count = 5
    """The run ends with an error if fewer photos than this are left to train on."""

    @field_validator("brightness")
    @classmethod
    def darkest_first(cls, limits: list[float]) -> list[float]:
        if limits[0] >= limits[1]:
            raise ValueError(f"found {quote(limits)}; expected the lowest brightness first")
        return limits


class Crop(Section):
    face_fraction: Annotated[Number, Field(gt=0.1, le=1)] = 0.45
    """Face height as a share of the crop's side. Higher: a tighter crop. The default shows the head and a little
    shoulder."""
    face_level: Annotated[Number, Field(ge=0.3, le=0.7)] = 0.48
    """Height of the face's centre in the crop, as a share from the top. Lower: more shoulder, less air above the hair.
    The default shows more shoulder than air."""


class Upscale(Section):
    weights: Annotated[str, Field(min_length=1)] | None = None
    """Your own weights (.pth or .safetensors) for the network of RealESRGAN_x4plus. Empty: its published weights."""
    tile: Annotated[int, Field(ge=32, le=8192)] = 256
    """Side in px of the tiles that Real-ESRGAN works on. Smaller tiles need less memory."""
    min_similarity: Fraction = 0.6
    """Lowest SFace similarity of a face before and after upscaling. Below it, Lanczos is used instead of
    Real-ESRGAN."""


class Caption(Section):
    backend: Literal["template", "blip", "florence2"] = "template"
    """What writes captions for photos that have no .txt beside them. template describes what was measured, and needs no
    download."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """Hub id or local folder of a captioner. Empty: BLIP large by Salesforce for blip, Florence-2 base by Microsoft for
    florence2."""
    identity_words: Annotated[str, Field(min_length=1)] = "resources/identity_words.txt"
    """File with words for what a person is. They are left out of the captions by blip and florence2."""


class Sample(DrawingBase):
    prompts: Annotated[list[Prompt], Field(min_length=1)]
    """Prompts like the captions: what the LoRA must draw best. {subject} stands for trigger and class noun,
    {class_noun} for the class noun alone. Prompts may be long, with A1111's weights and BREAK: docs/sampling.md."""
    far_prompts: list[Prompt] = []
    """Prompts with other clothes, places, light and styles than the photos. They count as much as prompts."""
    canary_prompts: list[Prompt] = []
    """Prompts that contradict the photos (short grey hair, in profile). A LoRA that only draws its training photos
    again fails here first."""
    untrained_prompts: Annotated[list[Prompt], Field(min_length=1)] = [
        "photo of a {class_noun}, portrait",
        "photo of a {class_noun}",
    ]
    """Prompts without the trigger. If these pictures look like the person too, the LoRA has leaked."""
    two_people_prompt: Prompt | None = None
    """A prompt for the subject beside somebody else. If both look like the person, the LoRA has leaked."""
    negative_prompt: Prompt = ""
    """Negative prompt of every picture."""
    weights: Annotated[list[Annotated[Number, Field(ge=0.01, le=2)]], Field(min_length=1)] = [0.6, 0.8, 1.0]
    """Weights of the LoRA at which every checkpoint is drawn."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [1, 2]
    """Seeds from which every prompt is drawn. More seeds make the choice surer, and take longer (docs/choice.md)."""
    sampler: Sampler = "DPM++ 2M Karras"
    """The sampler, by its name in A1111."""
    steps: SamplingSteps = 25
    """Sampling steps of a picture. At most 150, as in A1111: with many more, some of diffusers' samplers give noise,
    and with 1000 an error."""
    guidance_scale: Guidance = 7.0
    """A1111's CFG scale: higher follows the prompt more strictly."""
    batch_size: Count | None = None
    """Pictures drawn at once. Empty: as many as fit into the GPU's memory, 4 on a CPU. If memory runs out, it is
    halved."""

    @model_validator(mode="after")
    def prompts_that_can_be_compared(self) -> Self:
        naming = [*self.prompts, *self.far_prompts, *self.canary_prompts]
        naming += [self.two_people_prompt] if self.two_people_prompt else []
        every = [*naming, *self.untrained_prompts]
        for prompt in naming:
            check_naming_prompt(prompt)
        check_negative_prompt(self.negative_prompt)
        for prompt in self.untrained_prompts:
            check_words(prompt)
            if "subject" in placeholders(prompt):
                raise ValueError(
                    f"untrained prompt {quote(prompt)} has {{subject}}, which calls the person; write {{class_noun}}"
                )
        weights = [round(weight, 4) for weight in self.weights]  # pages show no more digits
        for name, values in (("prompt", every), ("weight", weights), ("seed", self.seeds)):
            if double := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"{name} {quote(double[0])} stands there twice; expected each {name} once")
        return self


class Select(Section):
    beta: Annotated[Number, Field(ge=0.01, le=100)] = 2.0
    """How many times identity counts as much as prompt following in the score, an F-beta (docs/choice.md). Higher:
    identity counts more."""
    copy_limit: Fraction = 0.95
    """A picture whose SFace similarity to a training photo reaches this counts as a copy of it. Lower: more pictures
    are excluded."""
    leak_limit: Fraction = 0.5
    """Highest identity (0 to 1) allowed in pictures of the untrained prompts, and of the second face of the two-people
    prompt. Above it, the checkpoint is ruled out at this weight. Lower is stricter."""
    clip: Annotated[str, Field(min_length=1)] | None = None
    """Local folder or hub id of a CLIP model (openai/clip-vit-large-patch14) that measures how well a picture follows
    its prompt. Empty: only what can be measured of a face counts (smile, glasses, turn of the head, background)."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Number of bootstrap samples, from which the intervals are computed. More give steadier intervals."""
    confidence: Annotated[Number, Field(ge=0.7, lt=1)] = 0.95
    """Confidence of the intervals: 0.95 is 95 %. Higher: wider intervals, so fewer settings can be told apart."""
    seed: Seed = 0
    """Seed of the bootstrap."""


# The sections that a run may override.
SECTIONS_OF_A_RUN: dict[str, type[Section]] = {"train": Train, "sample": Sample, "select": Select}


class Run(Section):
    base_model: ModelName | None = None
    """Another base model to train this run on. Empty: that of the top level."""
    base_revision: str | None = None
    """Branch, tag or commit. Empty: that of the top level, or none if this run has a base_model."""
    vae: ModelName | None = None
    """The VAE of this run. Empty: that of the top level, or the model's own if this run has a base_model."""
    prediction_type: PredictionType | None = None
    """Empty: that of the top level, or read from the model if this run has a base_model."""
    clip_skip: ClipSkip | None = None
    """Empty: that of the top level."""
    train: dict[str, Any] = {}
    """Keys of train with the values of this run."""
    sample: dict[str, Any] = {}
    """Keys of sample with the values of this run. base_model here draws this run on another model; the training is
    shared with runs that train alike."""
    select: dict[str, Any] = {}
    """Keys of select with the values of this run."""


def _or_nothing(written: Any) -> Any:
    return {} if written is None else written


class Install(Section):
    folders: list[Annotated[str, Field(min_length=1)]] = []
    """Folders into which every chosen LoRA is copied, with its sidecar and preview: A1111's models/Lora, ComfyUI's
    models/loras. A file that is not ours is never replaced (docs/results.md)."""
    every_epoch: Name | None = None
    """A run of which every saved epoch is copied too, for a comparison by eye (A1111's X/Y/Z plot)."""


class Config(Section):
    base_model: ModelName
    """The Stable Diffusion model to train on: a diffusers folder, a single .safetensors file, or a hub id."""
    base_revision: str | None = None
    """Branch, tag or commit, if base_model is a hub id."""
    vae: ModelName | None = None
    """Your own VAE instead of the base model's: a diffusers folder or a single .safetensors file."""
    prediction_type: PredictionType | None = None
    """What the base model predicts, noise or velocity (kohya's v_parameterization). Empty: read from the model."""
    clip_skip: ClipSkip = 1
    """As in A1111: 1 reads the text encoder's last layer, 2 the one before. Use the same value when you draw with the
    LoRA."""
    resolution: Annotated[int, Field(ge=64, le=8192, multiple_of=8)] = 512
    """Side of the training crops and of the samples, in px."""
    buckets: bool = False
    """true: each crop has the shape of its photo (kohya's enable_bucket). false: square crops, which are better for
    faces."""
    subjects: Annotated[dict[Name, Subject], Field(min_length=1)]
    """The people, by name. Or the path of a table of many (.tsv) with a row for each: the columns subject, photos,
    trigger, class_noun and consent and, if needed, regularisation, regularisation_images and reference (file names
    separated by commas)."""
    runs: Annotated[dict[Name, Annotated[Run, BeforeValidator(_or_nothing)]], Field(min_length=1)]
    """Named overrides of train, sample, select and of the base model. Every subject is trained once for each run, so
    several runs are a sweep."""
    share_with_group: bool = False
    """true: the group of the project's folder may read and change the results and the caches. false: only you may."""
    curate: Curate = Curate()
    """Which photos are trained on, held out or dropped."""
    crop: Crop = Crop()
    """How a face is cut out of its photo."""
    upscale: Upscale = Upscale()
    """Real-ESRGAN, for crops that are smaller than the resolution."""
    caption: Caption = Caption()
    """Where captions come from."""
    train: Train = Train()
    """The LoRA and its training."""
    sample: Sample
    """What is drawn of every checkpoint."""
    select: Select = Select()
    """How checkpoint and weight are chosen."""
    portraits: Portraits = Portraits()
    """Finished pictures of every subject, drawn with the chosen LoRA at the chosen weight."""
    places: dict[Name, Place] = {}
    """Pictures of yours into which a subject's face is put, by name."""
    install: Install = Install()
    """Where the chosen LoRAs are copied to."""


def json_schema() -> dict[str, Any]:
    """The schema by which editors complete and check config.yaml."""
    schema = Config.model_json_schema()
    subjects = schema["properties"]["subjects"]
    about = {key: subjects.pop(key) for key in ("title", "description")}
    schema["properties"]["subjects"] = about | {"anyOf": [subjects, {"type": "string"}]}
    return schema
