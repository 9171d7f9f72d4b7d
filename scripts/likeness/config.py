"""What config.yaml may say. Unknown keys are refused; every mistake becomes one line that names the key's path.

Only the Snakefile reads this module: scripts get the canonical JSON of the sections that their rule lists, so that
adding a key here reruns nothing.
"""

import json
import os
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)

from likeness.errors import LikenessError
from likeness.identity_words import whole_word
from likeness.photos import checked_photos, photo_files
from likeness.prompts import check_prompt, drawn_words, literal
from likeness.training.optimizers import problems

MAX_TEXT = 4000  # letters; a path may have 4096 bytes
MAX_LINES = 50  # a screen; who mends those sees the others next
MAX_DEPTH = 12  # runs.{name}.train.optimizer_args.betas.0 is the deepest there is: 6
# Folders of their own in results/, and in results/{subject}/.
RESERVED_SUBJECTS = frozenset({"clip", "logs", "models"})
RESERVED_RUNS = frozenset({"captions", "class_pictures", "crops", "image", "reg", "upscaled"})
GENERATE = "generate"  # in the place of a folder of regularisation photos: the base model draws them

# Part of file names, of which two and a number make one of at most 255 bytes, and of A1111's <lora:...>.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$", max_length=100)]


def _number(written: Any) -> Any:
    """1e-4 is a number to everybody but YAML 1.1, which wants 1.0e-4 and hands on a text."""
    is_number = isinstance(written, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", written)
    return float(written) if is_number else written


Number = Annotated[float, BeforeValidator(_number)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
# What is larger is a slip of the hand: it ends in no run, but in hours, in all of the memory, or in an overflow.
Count = Annotated[int, Field(gt=0, le=10_000)]
Steps = Annotated[int, Field(gt=0, le=10_000_000)]
Pixels = Annotated[int, Field(gt=0, le=8192)]
Rank = Annotated[int, Field(gt=0, le=1280)]  # as wide as the widest layers: a higher rank can say no more
# What is smaller vanishes in rounding, and the LoRA does nothing.
Alpha = Annotated[Number, Field(ge=0.001)]
Rate = Annotated[Number, Field(ge=1e-9, le=10)]
Weight = Annotated[Number, Field(ge=0, le=10_000)]
Prompt = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a table's column holds no more


def _argument(written: Any, validated: Callable[[Any], Any]) -> Any:
    """One sentence, where pydantic has one for each kind."""
    try:
        return validated(written)
    except ValidationError:
        raise ValueError(f"found {_shown(written)}; expected true, false, a number or a list of numbers") from None


Argument = Annotated[bool | int | Number | list[Number], WrapValidator(_argument)]


def _part_of_a_name(text: str) -> str:
    """A folder's name has at most 255 bytes, and trigger and class noun are in one."""
    if len(text.encode()) > 100:
        raise ValueError(f"has {len(text.encode())} bytes; expected at most 100")
    if hidden := next((sign for sign in text if unicodedata.category(sign) == "Cf"), None):
        raise ValueError(f"has the sign {ascii(hidden)}, which nobody sees; remove it")
    return text


# What A1111 reads as weights, alternatives or other files cannot call the person; a comma ends a part of a caption.
TRIGGER = r"^[^\s/{}()\[\]<>:|,\\]+$"
CLASS_NOUN = r"^[^/{}()\[\]<>:|\\]*[^\W_][^/{}()\[\]<>:|\\]*$"
# In words.
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_]*$": "letters from A to Z, digits and _, which is not the first",
    TRIGGER: "one word, without any of / { } ( ) [ ] < > : | , \\",
    CLASS_NOUN: "a word or some, without any of / { } ( ) [ ] < > : | \\",
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def said(cls, written: Any) -> Any:
        """Without what is left empty (`train:` alone, which YAML reads as null), so that it has its default; null is a
        value only where a key may be empty."""
        if not isinstance(written, Mapping):
            return written
        return {key: value for key, value in written.items() if value is not None or cls._may_be_empty(key)}

    @classmethod
    def _may_be_empty(cls, key: str) -> bool:
        field = cls.model_fields.get(key)
        return field is None or type(None) in get_args(field.annotation)


class Subject(Section):
    photos: Annotated[str, Field(min_length=1)]
    """Folder of photos of one person; relative to the working directory, else to the Snakefile."""
    trigger: Annotated[str, Field(pattern=TRIGGER), AfterValidator(_part_of_a_name)]
    """The word that calls the person: rare, and not their name."""
    class_noun: Annotated[Prompt, Field(pattern=CLASS_NOUN), AfterValidator(_part_of_a_name)]
    """What the base model calls such a person: woman, man, person."""
    consent: Literal["self", "written", "synthetic"]
    """Who agreed to this likeness: self (it is you), written (you hold it in writing), synthetic (nobody exists)."""
    reference: list[str] = []
    """File names in the folder that show only the subject; without any, the subject is whom most photos show."""
    regularisation: Annotated[str, Field(min_length=1)] | None = None
    """Pictures of other people of the class, shown as often as the subject's (kohya's reg_data_dir): the class keeps
    its looks. A folder of photos, captioned by the .txt beside each, else by the class noun. Or generate: the base
    model draws them, from the training captions without the person; a folder of that name is ./generate."""
    regularisation_images: Count = 100
    """How many of them generate draws; 100 as in diffusers' DreamBooth, five of each of 20 captions. The fewer there
    are, the more often each is shown."""

    @model_validator(mode="after")
    def words_that_a_prompt_can_say(self):
        _check_prompt(literal(f"{self.trigger} {self.class_noun}"))
        return self


class Curate(Section):
    min_face: Pixels = 64
    """Smallest face width in px that is trained on; Real-ESRGAN keeps a face's identity from about 64 px on."""
    same_person: Fraction = 0.45
    """Lowest SFace similarity to the subject's other photos; what it costs: docs/faces.md."""
    near_duplicate: Annotated[int, Field(ge=0, le=64)] = 6
    """Distance of two faces, laid on each other, up to which their photos count as one picture that was cut, resized,
    filtered, turned or mirrored: 0 the same, 64 quite different (docs/faces.md). Where a face is burnt out or cut off,
    of the perceptual hashes of the whole frames."""
    held_out: Annotated[Number, Field(ge=0, le=0.5)] = 0.2
    """Share of the photos set apart for judging (at least 3)."""
    min_photos: Count = 5
    """Fewer photos than this left to train on is an error."""


class Crop(Section):
    face_fraction: Annotated[Number, Field(gt=0.1, le=1)] = 0.45
    """Face height as a share of the crop's side: head and a little shoulder."""
    face_level: Annotated[Number, Field(ge=0.3, le=0.7)] = 0.48
    """Height of the face's middle in the crop, from the top: more shoulder than air above the hair."""


class Upscale(Section):
    weights: Annotated[str, Field(min_length=1)] | None = None
    """A .pth or .safetensors of your own for the network of RealESRGAN_x4plus; empty: those weights."""
    tile: Annotated[int, Field(ge=32, le=8192)] = 256
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
    network: Literal["lora", "locon", "dora", "loha", "lokr"] = "lora"
    """LoRA; LoCon, with the convolutions too; LoHa and LoKr, which diffusers does not read; DoRA, with magnitudes,
    drawn as it was trained only here: A1111, InvokeAI and diffusers ruin it."""
    rank: Rank = 128
    """kohya's network_dim."""
    alpha: Alpha = 64
    """kohya's network_alpha: the LoRA counts alpha / rank."""
    conv_rank: Rank = 8
    """Rank of LoCon's 3x3 convolutions (kohya's conv_dim)."""
    conv_alpha: Alpha = 4
    dropout: Annotated[Number, Field(ge=0, le=0.9)] = 0.0
    """Of the adapter, while training (kohya's network_dropout)."""
    layers: Literal["all", "attention"] = "all"
    """Where a LoRA goes: every layer of the transformers, or their attention alone."""
    network_weights: Annotated[str, Field(min_length=1)] | None = None
    """A LoRA file to go on from, of the same kind, rank and layers (kohya's network_weights)."""
    optimizer: Literal["AdamW", "AdamW8bit", "Adafactor", "DAdaptAdam", "Prodigy", "Lion"] = "AdamW"
    optimizer_args: dict[str, Argument] = {}
    """As in kohya: {weight_decay: 0.01, betas: [0.9, 0.99], relative_step: false, ...}."""
    learning_rate: Rate = 1e-4
    """Of the U-Net's LoRA; 1 for DAdaptAdam and Prodigy."""
    train_text_encoder: bool = False
    text_encoder_lr: Rate = 5e-5
    loraplus_lr_ratio: Annotated[Number, Field(ge=1, le=1000)] = 1.0
    """LoRA+: the second matrices (lora_up) learn at so many times the rate (kohya's network_args)."""
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = "cosine_with_restarts"
    lr_scheduler_num_cycles: Count = 3
    lr_scheduler_power: Annotated[Number, Field(gt=0, le=100)] = 1.0
    """Of polynomial."""
    lr_warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    max_train_steps: Steps | None = None
    """Optimisation steps in all. Of these three, two give the third; without any, 2000 steps in 10 epochs."""
    epochs: Count | None = None
    repeats: Count | None = None
    """How often each photo is shown in an epoch (the number before a kohya folder's name)."""
    save_every_n_epochs: Count = 1
    """A checkpoint is saved, and then judged, after every so many epochs, and after the last."""
    batch_size: Count = 2
    gradient_accumulation_steps: Count = 1
    gradient_checkpointing: bool = False
    """Computes activations twice instead of keeping them: slower, with much less memory."""
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"
    """Of the frozen base model and the activations; the LoRA itself is always fp32."""
    save_precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the numbers in the file; fp16 is what kohya_ss saves."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """PyTorch's own attention, or xformers' (GPU only)."""
    compile: bool = False
    """torch.compile of the U-Net, on a GPU with CUDA graphs: minutes before the first step, then faster ones."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """cuda: no GPU is an error, instead of a training that takes days."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """One training on so many GPUs of one machine: each takes its share of the pictures of every step, so batch_size x
    gradient_accumulation_steps should be a multiple. The result is that of one GPU, but for rounding."""
    deterministic: bool = False
    """On a GPU: the same bytes again, by slower kernels. On a CPU they are the same anyway."""
    timestep_sampling: Literal["uniform", "sigmoid"] = "uniform"
    """Which timesteps are trained: all alike, or mostly the middle ones (ai-toolkit's timestep_type: sigmoid)."""
    loss: Literal["l2", "huber"] = "l2"
    huber_c: Annotated[Number, Field(ge=1e-4, le=1)] = 0.1
    huber_schedule: Literal["snr", "exponential", "constant"] = "snr"
    min_snr_gamma: Annotated[Number, Field(ge=0.01, le=1e6)] | None = None
    debiased_estimation: bool = False
    """Instead of min_snr_gamma."""
    dco_beta: Annotated[Number, Field(ge=0.01, le=1e6)] | None = None
    """Direct consistency optimisation: a picture teaches less, the better the LoRA already is than the base model (its
    authors' code has 1000)."""
    masked_loss: bool = False
    """What lies outside the head counts a tenth, so that less of the background is learned."""
    masked_prior: Weight = 0.0
    """With masked_loss: weight of what lies outside the head, where the LoRA shall answer as the base model does, so
    that rooms and clothes are not learned (OneTrainer's masked prior preservation, ai-toolkit's inverted_mask_prior).
    0: off."""
    preserve_class: Weight = 1.0
    """Weight of the second part of the loss: on the caption without the person ("a woman, smiling") the LoRA shall
    answer as the base model does, so that "a woman" stays anybody (ai-toolkit's diff_output_preservation_multiplier;
    kohya's diff_output_preservation). 0: off."""
    preserve_class_share: Annotated[Number, Field(ge=0.01, le=1)] = 0.5
    """Share of the pictures that it is applied to: less is faster."""
    prior_loss_weight: Annotated[Number, Field(gt=0, le=10_000)] = 1.0
    """Of the regularisation photos."""
    prior_prediction: bool = False
    """Regularisation photos teach what the base model answers to them, not themselves (OneTrainer's prior prediction):
    their own looks are not learned."""
    noise_offset: Annotated[Number, Field(ge=0, le=10)] = 0.0
    multires_noise_iterations: Annotated[int, Field(ge=0, le=100)] = 0
    multires_noise_discount: Annotated[Number, Field(ge=0.01, le=1)] = 0.3
    caption_dropout_rate: Annotated[Number, Field(ge=0, le=0.9)] = 0.0
    """Share of the pictures that are shown without their caption."""
    shuffle_caption: bool = False
    """The parts of a caption between commas change places each time."""
    keep_tokens: Annotated[int, Field(ge=0, le=255)] = 1
    """How many parts stay in front when the others are shuffled: the first names the subject."""
    max_token_length: Literal[75, 150, 225] = 75
    """Tokens of a caption that are read, in chunks of 75 as in kohya; what is longer is cut. Brackets in captions are
    words, and no weights."""
    flip_aug: bool = False
    """Mirrors every other picture. Faces are not symmetric: a LoRA that saw both sides looks less like the person."""
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Save the moving average of the weights, which keeps this share of itself at each step (0.99 to 0.999)."""
    seed: Seed = 42

    @model_validator(mode="after")
    def settings_that_fit_together(self):
        if self.alpha > self.rank:
            raise ValueError(f"alpha {self.alpha:g} is larger than rank {self.rank}; expected at most rank")
        if self.conv_alpha > self.conv_rank:
            raise ValueError(f"conv_alpha {self.conv_alpha:g} is larger than conv_rank {self.conv_rank}")
        if self.debiased_estimation and self.min_snr_gamma is not None:
            raise ValueError("debiased_estimation and min_snr_gamma are two weights for one thing; set one of them")
        if self.masked_prior and not self.masked_loss:
            raise ValueError("masked_prior is about what masked_loss leaves out; set masked_loss: true as well")
        if None not in (self.max_train_steps, self.epochs, self.repeats):
            raise ValueError("max_train_steps, epochs and repeats: two of them give the third; set one of them to null")
        if self.gpus > self.batch_size * self.gradient_accumulation_steps:
            raise ValueError(
                f"gpus: {self.gpus}, and a step has {self.batch_size * self.gradient_accumulation_steps} pictures "
                "(batch_size x gradient_accumulation_steps); lower gpus, or raise one of them"
            )
        if self.device == "cpu" and self.attention == "xformers":
            raise ValueError("attention: xformers needs a GPU, and device is cpu; write attention: sdpa")
        if mistakes := problems(self.model_dump()):
            raise ValueError("; ".join(mistakes))
        return self

    def with_schedule(self) -> dict:
        """As a dict, with two of max_train_steps, epochs and repeats filled in."""
        values = self.model_dump()
        # 2000 steps are what guides ask for faces; an epoch's checkpoint each 200 steps.
        for key, value in (("epochs", 10), ("max_train_steps", 2000)):
            if [values["max_train_steps"], values["epochs"], values["repeats"]].count(None) > 1:
                values[key] = values[key] or value
        return values


def _places(prompt: str) -> set[str]:
    """Which words a prompt has a place for: subject, class_noun. Raises ValueError for any other brace."""
    try:
        parts = list(Formatter().parse(prompt))
    except ValueError:
        parts = [("", prompt, "", None)]
    places = {name for _, name, *_ in parts if name is not None}
    other = any(form or conversion or set("{}") & set(text) for text, _, form, conversion in parts)
    if places - {"subject", "class_noun"} or other:
        raise ValueError(f"prompt {_shown(prompt)} has a brace that is neither {{subject}} nor {{class_noun}}")
    return places


def _check_prompt(prompt: str, negative: bool = False) -> None:
    """Raises ValueError, which pydantic wants, if A1111 would draw it otherwise than it is drawn here."""
    try:
        check_prompt(prompt, negative)
    except LikenessError as error:
        raise ValueError(f"prompt {prompt!r} {error}") from None


class Sample(Section):
    prompts: Annotated[list[Prompt], Field(min_length=1)]
    """As the captions are: what the LoRA must do best. {subject} stands for trigger and class noun, {class_noun} for
    the class noun alone. Of any length, with A1111's weights and BREAK: docs/sampling.md."""
    far_prompts: list[Prompt] = []
    """Other clothes, places, light and styles than the photos'; they count as much."""
    canary_prompts: list[Prompt] = []
    """What the photos contradict (short grey hair, in profile): a LoRA that draws its photos again fails here first."""
    untrained_prompts: Annotated[list[Prompt], Field(min_length=1)] = [
        "photo of a {class_noun}, portrait",
        "photo of a {class_noun}",
    ]
    """Without the trigger: if these look like the person too, the LoRA has leaked."""
    two_people_prompt: Prompt | None = None
    """The subject beside somebody else: if both look like the person, the LoRA has leaked."""
    negative_prompt: Prompt = ""
    weights: Annotated[list[Annotated[Number, Field(ge=0.01, le=2)]], Field(min_length=1)] = [0.6, 0.8, 1.0]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [1, 2]
    sampler: Literal["DPM++ 2M Karras", "DPM++ 2M", "Euler a", "Euler", "DDIM", "UniPC"] = "DPM++ 2M Karras"
    """By A1111's names."""
    steps: Annotated[int, Field(gt=0, le=1000)] = 25
    guidance_scale: Annotated[Number, Field(ge=1, le=100)] = 7.0
    batch_size: Count | None = None
    """Images drawn at once; empty: as many as the GPU has room for. Where memory runs out it is halved."""

    @model_validator(mode="after")
    def prompts_that_can_be_compared(self):
        naming = [*self.prompts, *self.far_prompts, *self.canary_prompts]
        naming += [self.two_people_prompt] if self.two_people_prompt else []
        every = [*naming, *self.untrained_prompts]
        for prompt in every:
            _check_prompt(prompt)
        _check_prompt(self.negative_prompt, negative=True)
        for prompt in naming:
            if "subject" not in _places(prompt):
                raise ValueError(f"prompt {_shown(prompt)} lacks {{subject}}; expected it in every prompt")
            if "{subject}" not in drawn_words(prompt):
                raise ValueError(
                    f"prompt {_shown(prompt)} weighs {{subject}} so that it is not drawn; expected more than 0"
                )
        for prompt in self.untrained_prompts:
            if "subject" in _places(prompt):
                raise ValueError(
                    f"untrained prompt {_shown(prompt)} has {{subject}}, which calls the person; write {{class_noun}}"
                )
        if set("{}") & set(self.negative_prompt):
            raise ValueError(
                f"negative_prompt {_shown(self.negative_prompt)} has a brace, which stands for nothing there"
            )
        for name, values in (("prompt", every), ("weight", self.weights), ("seed", self.seeds)):
            if double := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"{name} {_shown(double[0])} stands there twice; expected each {name} once")
        return self


class Select(Section):
    beta: Annotated[Number, Field(ge=0.01, le=100)] = 2.0
    """F-beta: how many times identity counts as much as prompt following."""
    copy_limit: Fraction = 0.95
    """SFace similarity to a training photo from which a picture counts as a copy of it."""
    leak_limit: Fraction = 0.5
    """Identity (0 to 1) that the untrained prompts, or the second face of the two people, may show before a checkpoint
    at a weight is out."""
    clip: Annotated[str, Field(min_length=1)] | None = None
    """Local folder or hub id of a CLIP model (openai/clip-vit-large-patch14) that tells how well a picture follows its
    prompt; empty: what can be measured of a face (smile, glasses, turn of the head, background)."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 2000
    confidence: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    seed: Seed = 0


def _or_nothing(written: Any) -> Any:
    return {} if written is None else written


Overrides = Annotated[
    dict[Literal["train", "sample", "select"], Annotated[dict[str, Any], BeforeValidator(_or_nothing)]],
    BeforeValidator(_or_nothing),
]


class Config(Section):
    base_model: Annotated[str, Field(min_length=1)]
    """A diffusers folder, a single .safetensors file, or a hub id."""
    base_revision: str | None = None
    """Branch, tag or commit of a hub id."""
    vae: Annotated[str, Field(min_length=1)] | None = None
    """A VAE of your own instead of the base model's: a diffusers folder or a single .safetensors file."""
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the base model predicts, noise or velocity (kohya's v_parameterization); empty: as the model says."""
    clip_skip: Annotated[int, Field(ge=1, le=12)] = 1
    """As in A1111: 1 reads the text encoder's last layer, 2 the one before; the same when you draw."""
    resolution: Annotated[int, Field(ge=64, le=8192, multiple_of=8)] = 512
    """Side of the training crops and of the samples, in px."""
    buckets: bool = False
    """Crops of each photo's shape (kohya's enable_bucket) instead of squares, which are better for faces."""
    subjects: Annotated[dict[Name, Subject], Field(min_length=1)]
    """By name; or the path of a table of many (.tsv), with a row for each, the columns subject, photos, trigger,
    class_noun and consent and, if need be, regularisation, regularisation_images and reference (file names with commas
    between)."""
    runs: Annotated[dict[Name, Overrides], Field(min_length=1)]
    """Named overrides of train, sample and select: a sweep is a list of runs."""
    share_with_group: bool = False
    """The group of the project's folder may read and change the results and the caches, which are else yours alone."""
    curate: Curate = Curate()
    crop: Crop = Crop()
    upscale: Upscale = Upscale()
    caption: Caption = Caption()
    train: Train = Train()
    sample: Sample
    select: Select = Select()


def checked_config(raw: dict, roots: Iterable[Path], within_job: bool = False) -> dict:
    """The configuration with every default filled in and `runs` fully written out.

    `roots` are the folders that relative paths are looked for in, in order. `within_job` is for a Snakemake that runs
    one job of another: that one has looked into all folders of photos, and each of its jobs would do so again.
    Raises LikenessError with one line per mistake.
    """
    if isinstance(table := raw.get("subjects"), str):
        raw = raw | {"subjects": _subjects_of_table(table, roots)}
    problems = list(_unusable_texts(raw, ()))
    config = None
    if not problems:
        problems, config = _validated(Config, raw, ())
    if config:
        runs, more = _runs(config, roots)
        subjects, others = _subjects(config, roots, within_job)
        problems += more + others + _without_use(runs, config.subjects) + _misunderstood(runs, config.subjects)
        problems += _reserved("subjects", config.subjects, RESERVED_SUBJECTS, "results/")
        problems += _reserved("runs", config.runs, RESERVED_RUNS, "results/{subject}/")
        if not within_job:
            problems += _models_nowhere(config, runs, roots)
        if not _is_file(words := config.caption.identity_words, roots):
            problems.append(f"caption.identity_words: no file {_shown(words)}; expected a list of words")
        if (weights := config.upscale.weights) and not _is_file(weights, roots):
            problems.append(
                f"upscale.weights: no file {weights!r}; expected a .pth or .safetensors file of RealESRGAN_x4plus"
            )
    if problems:
        shown = problems[:MAX_LINES] + [f"and {len(problems) - MAX_LINES} more"] * (len(problems) > MAX_LINES)
        raise LikenessError("config:\n  " + "\n  ".join(shown))
    return config.model_dump() | {"train": _filled_in(config.train), "runs": runs, "subjects": subjects}


def _unusable_texts(value: Any, where: tuple[str, ...]) -> Iterator[str]:
    """Texts that no file, table or command can hold; and what is nested deeper than any setting, for it may have no
    end."""
    if len(where) > MAX_DEPTH:
        yield f"{_path(where)}: is nested deeper than any setting"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unusable_texts(str(key), (*where, str(key)))
            yield from _unusable_texts(inner, (*where, str(key)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unusable_texts(inner, (*where, str(number)))
    elif isinstance(value, str):
        if bad := next((sign for sign in value if not _is_writable(sign)), None):
            yield f"{_path(where)}: has the sign {ascii(bad)}, which is no text; remove it"
        if len(value) > MAX_TEXT:
            yield f"{_path(where)}: has {len(value)} letters; expected at most {MAX_TEXT}"


def _is_writable(sign: str) -> bool:
    # Control signs, and halves of a UTF-16 pair. The ends of lines of a long prompt are spaces.
    return sign in "\n\r\t" or unicodedata.category(sign) not in ("Cc", "Cs")


def _is_section(key: str) -> bool:
    field = Config.model_fields.get(key)
    return isinstance(field and field.annotation, type) and issubclass(field.annotation, Section)


def _subjects_of_table(table: str, roots: Iterable[Path]) -> dict[str, dict]:
    """The subjects of a tab-separated file, as they would be written in config.yaml; an empty cell says nothing. Raises
    LikenessError if they cannot be read."""
    import pandas as pd  # only here: a Snakefile without a table starts without it

    path = found_below(table, roots, os.path.isfile)
    if path is None:
        raise LikenessError(f"config:\n  subjects: no file {table!r}; expected a tab-separated table of subjects")
    try:
        rows = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).to_dict("records")
    except (ValueError, pd.errors.ParserError) as error:
        raise LikenessError(f"config:\n  subjects: {table} is not a tab-separated table: {error}") from None
    names = [row.get("subject", "") for row in rows]
    if not all(names) or len(set(names)) < len(names):
        raise LikenessError(
            f"config:\n  subjects: {table} has a row without a name or two of one name; expected the column subject, "
            "with another name in every row"
        )
    subjects = {}
    for row in rows:
        said = {key: value for key, value in row.items() if value}
        name = said.pop("subject")
        if "reference" in said:
            said["reference"] = [photo.strip() for photo in said["reference"].split(",")]
        if said.get("regularisation_images", "").isdecimal():
            said["regularisation_images"] = int(said["regularisation_images"])
        subjects[name] = said
    return subjects


def _runs(config: Config, roots: Iterable[Path]) -> tuple[dict, list[str]]:
    """Every run with all its sections, and what is wrong with them."""
    runs, problems = {}, []
    for name, overrides in config.runs.items():
        runs[name] = {}
        for section, model in (("train", Train), ("sample", Sample), ("select", Select)):
            merged = getattr(config, section).model_dump(exclude_unset=True) | model.said(overrides.get(section, {}))
            more, value = _validated(model, merged, ("runs", name, section))
            problems += more
            runs[name][section] = _filled_in(value) if value else {}
        start = runs[name]["train"].get("network_weights")
        if start and not _is_file(start, roots):
            problems.append(f"runs.{name}.train.network_weights: no file {start!r}; expected a LoRA's file")
    return runs, problems


def _models_nowhere(config: Config, runs: Mapping[str, Mapping], roots: Iterable[Path]) -> list[str]:
    """Models that are neither here nor could be the hub's: it would be asked for them, and the network be blamed."""
    named = {
        "base_model": (config.base_model, "a diffusers folder, a .safetensors file"),
        "caption.model": (config.caption.model, "a folder"),
    }
    named |= {f"runs.{name}.select.clip": (run["select"].get("clip"), "a folder") for name, run in runs.items()}
    problems = [
        f"{key}: nothing at {model!r}; expected {kinds}, or a hub id such as owner/name"
        for key, (model, kinds) in named.items()
        if model and not found_below(model, roots) and not _could_be_hub_id(model, roots)
    ]
    if config.vae and not found_below(config.vae, roots):
        problems.append(f"vae: nothing at {config.vae!r}; expected a diffusers folder or a .safetensors file")
    return problems


def _could_be_hub_id(model: str, roots: Iterable[Path]) -> bool:
    """owner/name, of at most 96 letters as the hub's; not where a folder of the owner's name is here, for then a path
    was meant."""
    owner, _, _ = model.partition("/")
    is_file = Path(model).suffix.lower() in (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
    is_path = is_file or len(model) > 96 or found_below(owner, roots)
    return not is_path and bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model))


def _reserved(section: str, names: Iterable[str], reserved: frozenset[str], folder: str) -> list[str]:
    """Names whose folder would be one of the workflow's own; on some disks in large letters too."""
    return [
        f"{section}.{name}: {folder}{name.lower()} is a folder of the workflow's own; choose another name"
        for name in names
        if name.lower() in reserved
    ]


def _without_use(runs: Mapping[str, Mapping], subjects: Mapping[str, Subject]) -> list[str]:
    """What a run asks of regularisation photos that no subject has."""
    if any(subject.regularisation for subject in subjects.values()):
        return []
    return [
        f"runs.{name}.train.prior_prediction: no subject has regularisation photos; give one a folder, or write "
        f"regularisation: {GENERATE}"
        for name, run in runs.items()
        if run["train"].get("prior_prediction")
    ]


def _misunderstood(runs: Mapping[str, Mapping], subjects: Mapping[str, Subject]) -> list[str]:
    """Prompts that, with a subject's words in their places, say another thing than they should: one without the person
    that calls them all the same, or the same as another."""
    problems = []
    for name, subject in subjects.items():
        if _calls(subject.class_noun, subject.trigger):
            problems.append(
                f"subjects.{name}.trigger: {_shown(subject.trigger)} is in class_noun too, so it calls anybody of the "
                "class; choose a rare word such as ohwx"
            )
            continue
        words = {"subject": f"{subject.trigger} {subject.class_noun}", "class_noun": subject.class_noun}
        for run, sections in runs.items():
            if sample := sections["sample"]:
                where = f"runs.{run}.sample"
                problems += [f"{where}.{text}" for text in _misunderstood_prompts(sample, name, subject.trigger, words)]
    return problems


def _misunderstood_prompts(sample: Mapping, name: str, trigger: str, words: Mapping[str, str]) -> Iterator[str]:
    without = [("untrained_prompts", prompt) for prompt in sample["untrained_prompts"]]
    for key, prompt in [*without, ("negative_prompt", sample["negative_prompt"])]:
        if _calls(drawn_words(prompt), trigger):
            yield f"{key}: {_shown(prompt)} has {_shown(trigger)}, which calls {name}; leave it out"
    every = [*sample["prompts"], *sample["far_prompts"], *sample["canary_prompts"], *sample["untrained_prompts"]]
    every += [sample["two_people_prompt"]] if sample["two_people_prompt"] else []
    for prompt, count in Counter(prompt.format(**words) for prompt in every).items():
        if count > 1:
            yield f"prompts: {_shown(prompt)} stands there twice for {name}; expected each prompt once"


def _calls(text: str, trigger: str) -> bool:
    """Whether a trigger is a word of a text, as the text encoders read it: without capitals."""
    return re.search(whole_word(trigger), text, re.IGNORECASE) is not None


def _subjects(config: Config, roots: Iterable[Path], within_job: bool) -> tuple[dict, list[str]]:
    """Every subject with its folder as it was found, and what is wrong with them."""
    subjects, problems = {}, []
    for name, subject in config.subjects.items():
        try:
            folder = photo_folder(subject.photos, roots)
            subjects[name] = subject.model_dump() | {"photos": str(folder)}
            if within_job:
                continue
            names = {path.name for path in checked_photos(subject.photos, folder)}
            problems += [
                f"subjects.{name}.reference: no photo {photo!r} in {subject.photos}; expected names of files in it"
                for photo in subject.reference
                if photo not in names
            ]
        except LikenessError as error:
            problems.append(f"subjects.{name}.photos: {error}")
        try:
            _check_regularisation(subject.regularisation, roots)
            if name in subjects and _is_folder_of(subject.regularisation, subjects[name]["photos"], roots):
                raise LikenessError(f"is the folder of {name}'s own photos; expected one of other people of the class")
        except LikenessError as error:
            problems.append(f"subjects.{name}.regularisation: {error}")
    return subjects, problems


def _check_regularisation(regularisation: str | None, roots: Iterable[Path]) -> None:
    """Raises LikenessError if it is a folder without photos, or could mean two things."""
    if regularisation == GENERATE:
        if any((root / GENERATE).is_dir() and photo_files(root / GENERATE) for root in roots):
            raise LikenessError(
                f"{GENERATE} has the base model draw the pictures, but there is a folder of photos of that name too; "
                f"write ./{GENERATE} to use its photos, or rename it to have pictures drawn"
            )
    elif regularisation is not None:
        checked_photos(regularisation, photo_folder(regularisation, roots, "other people of the class"))


def _is_folder_of(regularisation: str | None, photos: str, roots: Iterable[Path]) -> bool:
    if regularisation in (None, GENERATE):
        return False
    return os.path.samefile(photo_folder(regularisation, roots), photos)


def _is_file(path: str, roots: Iterable[Path]) -> bool:
    return found_below(path, roots, os.path.isfile) is not None


def found_below(path: str, roots: Iterable[Path], is_wanted: Callable[[Path], bool] = os.path.exists) -> Path | None:
    """A path of the configuration below the first of `roots` that has it. os.path's tests say no of a name that is too
    long, where Path's raise an error."""
    return next((root / path for root in roots if is_wanted(root / path)), None)


def _filled_in(section: Section) -> dict:
    return section.with_schedule() if isinstance(section, Train) else section.model_dump()


def photo_folder(photos: str, roots: Iterable[Path], whom: str = "one person") -> Path:
    """A folder of photos, of `whom` for a sentence. Raises LikenessError if it is not there."""
    folder = found_below(photos, roots, os.path.isdir)
    if folder is None:
        raise LikenessError(f"no folder {photos!r}; expected a folder of photos of {whom}")
    return folder


def json_schema() -> dict:
    """For editors: completes and checks config.yaml while it is typed."""
    schema = Config.model_json_schema()
    subjects = schema["properties"]["subjects"]
    about = {key: subjects.pop(key) for key in ("title", "description")}
    schema["properties"]["subjects"] = about | {"anyOf": [subjects, {"type": "string"}]}
    return schema


def _validated(model: type[Section], raw: dict, where: tuple[str, ...]) -> tuple[list[str], Any]:
    try:
        return [], model.model_validate(raw)
    except ValidationError as error:
        return [_sentence(e, where) for e in error.errors()], None


def _known_keys(where: tuple[str | int, ...]) -> list[str]:
    """The keys that a place of the configuration has."""
    sections = {key: field.annotation for key, field in Config.model_fields.items() if _is_section(key)}
    sections |= {"subjects": Subject}
    return list(next((sections[part] for part in reversed(where) if part in sections), Config).model_fields)


def _path(where: Iterable[str | int]) -> str:
    """A key's path, as a line can show it."""
    parts = (part if len(part) <= 100 else f"{part[:40]}..." for part in map(str, where))
    return ".".join(part if part.isprintable() else ascii(part) for part in parts)


def _shown(found: Any) -> str:
    """What was found, as a line can show it."""
    shown = reprlib.repr(found) if isinstance(found, dict | list | set | tuple) else repr(found)
    short = shown if len(shown) <= 320 else f"{shown[:300]}..."
    return short if short.isprintable() else ascii(short)


def _sentence(error: dict, where: tuple[str, ...]) -> str:
    """One mistake: the key's path, what was found, what is expected."""
    path = _path(p for p in (*where, *error["loc"]) if p != "[key]")
    found = error["input"]
    match error["type"]:
        case "extra_forbidden" if path.endswith(".untrained_prompt"):
            return f"{path}: is a list now; write untrained_prompts: {json.dumps([found], ensure_ascii=False)}"
        case "extra_forbidden":
            known = _known_keys((*where, *error["loc"][:-1]))
            near = get_close_matches(str(error["loc"][-1])[:100], known, n=1)
            meant = f"did you mean {near[0]}?" if near else "see docs/config.md for the ones there are"
            return f"{path}: unknown key; {meant}"
        case "missing" if path.endswith(".consent"):
            return (
                f"{path}: missing; a LoRA is a likeness of a real person, so say who agreed to it: "
                "self (it is you), written (you hold their written consent) or synthetic (nobody exists)"
            )
        case "missing":
            return f"{path}: missing; expected a value"
        case "value_error":
            return f"{path}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
        case "string_pattern_mismatch":
            return f"{path}: found {_shown(found)}; expected {PATTERNS[error['ctx']['pattern']]}"
        case "string_type" if not isinstance(found, dict | list | set | tuple | None):
            return f"{path}: found {_shown(found)}, which is no text; write it between quotes"
        case _:
            expected = re.sub("^(Input|String|Dictionary|List) should (be |have )?", "", error["msg"])
            expected = re.sub(r" after validation, not \d+$| or instance of \w+$", "", expected)
            expected = expected.replace("a valid dictionary", "keys with their values")
            return f"{path}: found {_shown(found)}; expected {expected}"
