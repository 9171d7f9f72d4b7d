"""Warnings about a valid configuration before the first job: settings without effect, triggers that the base model
already knows, hours on a CPU. Jobs do not import this module.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from likeness.config.paths import found_below
from likeness.config.sections import GENERATE
from likeness.photos.caption_files import by_photo, caption_files
from likeness.photos.file_kinds import photo_files
from likeness.training.optimizer_table import has_relative_step

KNOWN_WORDS = Path("resources/known_words.txt")

# Core seconds of Stable Diffusion 1.5 at 512 px: training on one picture (docs/training.md: 9.1 s on two cores, for 2
# TFLOP), and one step of drawing a picture (1.6 TFLOP). Estimates from them are lower bounds: more cores need at least
# as many core seconds, and the preserved class, regularisation and larger models need more.
CORE_SECONDS_PER_TRAINING_PICTURE, CORE_SECONDS_PER_SAMPLING_STEP = 18, 14
FULL_SIZE = 10**9  # bytes; Stable Diffusion 1.5's U-Net has 1.7 GB in half precision, the demonstration's 0.03 GB
WARN_FROM_HOURS = 1.0  # hours from which there is a warning


def _is_locon(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return run["train"]["network"] == "locon"


def _is_huber(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return run["train"]["loss"] == "huber"


def _takes_rates(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return not has_relative_step(run["train"]["optimizer"], run["train"]["optimizer_args"])


def _trains_encoder(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return run["train"]["train_text_encoder"] and _takes_rates(run, config)


def _decays(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Optimizers with a switch for the kind of decay have no decay by default."""
    return run["train"]["optimizer_args"].get("weight_decay", 0) > 0


def _has_its_warm_up(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return run["train"]["lr_scheduler"] != "constant_with_warmup" or run["train"]["lr_warmup_steps"] > 0


def _reads_identity_words(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """They are removed from a captioner's captions, and from captions for the class without the person."""
    of_class = run["train"]["preserve_class"] > 0
    generates = any(subject["regularisation"] == GENERATE for subject in config["subjects"].values())
    return config["caption"]["backend"] != "template" or of_class or generates


def _has_interval(run: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """An interval needs more than one picture of each setting."""
    prompts = sum(len(run["sample"][key]) for key in ("prompts", "far_prompts", "canary_prompts"))
    return prompts * len(run["sample"]["seeds"]) > 1


# The condition under which a key has an effect, in words and as a test of a run and the whole configuration.
CONDITIONS: dict[str, tuple[str, Callable[[Mapping[str, Any], Mapping[str, Any]], bool]]] = {
    "base_revision": ("a hub id as base_model", lambda run, config: run["base_model"] not in config["models_here"]),
    "sample.base_revision": (
        "a hub id as base_model",
        lambda run, config: run["sample"]["base_model"] not in config["models_here"],
    ),
    "caption.model": (
        "caption.backend: blip or florence2",
        lambda run, config: config["caption"]["backend"] != "template",
    ),
    "caption.identity_words": (
        "caption.backend: blip or florence2, preserve_class above 0, or regularisation: generate",
        _reads_identity_words,
    ),
    "train.conv_rank": ("network: locon", _is_locon),
    "train.conv_alpha": ("network: locon", _is_locon),
    "train.learning_rate": ("optimizer_args: {relative_step: false}", _takes_rates),
    "train.text_encoder_lr": ("train_text_encoder: true, and an optimizer that takes rates", _trains_encoder),
    "train.lr_scheduler_num_cycles": (
        "lr_scheduler: cosine_with_restarts",
        lambda run, config: run["train"]["lr_scheduler"] == "cosine_with_restarts",
    ),
    "train.lr_scheduler": (
        "lr_warmup_steps above 0: constant_with_warmup is constant then",
        _has_its_warm_up,
    ),
    "train.lr_scheduler_power": (
        "lr_scheduler: polynomial",
        lambda run, config: run["train"]["lr_scheduler"] == "polynomial",
    ),
    "train.optimizer_args.decouple": ("weight_decay above 0", _decays),
    "train.optimizer_args.decoupled_weight_decay": ("weight_decay above 0", _decays),
    "train.huber_c": ("loss: huber", _is_huber),
    "train.huber_schedule": ("loss: huber", _is_huber),
    "train.preserve_class_share": ("preserve_class above 0", lambda run, config: run["train"]["preserve_class"] > 0),
    "train.prior_loss_weight": (
        "a subject with regularisation",
        lambda run, config: any(subject["regularisation"] for subject in config["subjects"].values()),
    ),
    # The first iteration adds noise at full resolution only (training/noise.py).
    "train.multires_noise_iterations": (
        "a second iteration, the first that adds coarser noise; 6 to 10 are usual",
        lambda run, config: run["train"]["multires_noise_iterations"] != 1,
    ),
    "train.multires_noise_discount": (
        "multires_noise_iterations above 1",
        lambda run, config: run["train"]["multires_noise_iterations"] > 1,
    ),
    "train.deterministic": (
        "a GPU (device: cpu gives the same bytes anyway)",
        lambda run, config: run["train"]["device"] != "cpu" or not run["train"]["deterministic"],
    ),
    "train.keep_tokens": ("shuffle_caption: true", lambda run, config: run["train"]["shuffle_caption"]),
    "sample.negative_prompt": (
        "guidance_scale above 1",
        lambda run, config: run["sample"]["guidance_scale"] > 1 or not run["sample"]["negative_prompt"],
    ),
    **dict.fromkeys(
        ("select.bootstrap", "select.confidence", "select.seed"), ("more than one prompt or seed", _has_interval)
    ),
}


def advice(raw: Mapping[str, Any], config: Mapping[str, Any], roots: Iterable[Path], cores: int | None) -> list[str]:
    """A sentence for each warning about `config`, the checked configuration; `raw` is the configuration as the user
    wrote it. `cores` is the number of CPU cores that train and draw, None if there is a GPU or the jobs run
    elsewhere."""
    models = {base["base_model"] for base in config["bases"].values()}
    here = [model for model in models if found_below(model, roots)]
    sentences = without_effect(raw, {**config, "models_here": here})
    sentences += known_triggers(config["subjects"], roots)
    if (backend := config["caption"]["backend"]) != "template" and all(map(_is_captioned, config["subjects"].values())):
        sentences.append(f"caption.backend: every photo has a caption beside it, so {backend} writes none")
    if cores and (hours := hours_on_cpu(config, roots, cores)) >= WARN_FROM_HOURS:
        sentences.append(
            f"there is no GPU here, and a Stable Diffusion of full size takes at least {hours:.0f} hours of these "
            f"{cores} cores to train and draw; use a machine with a GPU, or lower resolution, max_train_steps, and the "
            "number of prompts, seeds and weights"
        )
    return sentences


def without_effect(raw: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """A sentence for every key that is written in `raw` and has no effect in any run of `config`."""
    sentences = []
    for key, (needed, is_met) in CONDITIONS.items():
        everywhere = _is_written(raw, key)
        of_runs = [
            run for name, run in config["runs"].items() if everywhere or _is_written(_inner(raw, "runs", name), key)
        ]
        if of_runs and not any(is_met(run, config) for run in of_runs):
            sentences.append(f"{key} has no effect without {needed}")
    for name, subject in config["subjects"].items():
        written = _is_written(_inner(raw, "subjects", name), "regularisation_images")
        if written and subject["regularisation"] != GENERATE:
            sentences.append(f"subjects.{name}.regularisation_images has no effect without regularisation: {GENERATE}")
    return sentences + [
        f"{place}.{key} has no effect {why}"
        for place, drawing, written in _drawings(raw, config)
        for key, why in _idle_keys(drawing)
        if _is_written(written, key)
    ]


def _drawings(raw: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], object]]:
    """Each scene and place: its path, its checked values, and what the user wrote."""
    for name, scene in config["portraits"]["scenes"].items():
        yield f"portraits.scenes.{name}", scene, _inner(raw, "portraits", "scenes", name)
    for name, place in config["places"].items():
        yield f"places.{name}", place, _inner(raw, "places", name)


def _idle_keys(drawing: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of a scene or place that have no effect beside its others, and why."""
    if drawing["seeds"]:
        yield "count", "beside seeds"
    if drawing.get("hires") == 1:
        yield from ((key, "without hires above 1") for key in ("hires_strength", "hires_upscaler"))
    if drawing.get("face_strength") == 0:
        yield "face_prompt", "without face_strength above 0"


def _is_captioned(subject: Mapping[str, Any]) -> bool:
    """Whether the user wrote a caption for every photo of a subject."""
    folder = Path(subject["photos"])
    photos = photo_files(folder)
    return len(by_photo(photos, caption_files(folder))) == len(photos)


def _inner(raw: object, *keys: str) -> object:
    """The value at a path of keys; None if there is none."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def _is_written(raw: object, key: str) -> bool:
    return _inner(raw, *key.split(".")) is not None


def known_triggers(subjects: Mapping[str, Mapping[str, Any]], roots: Iterable[Path]) -> list[str]:
    """A sentence for every trigger that the base model knows as something else, or that is the subject's name."""
    list_of_words = found_below(str(KNOWN_WORDS), roots)
    lines = list_of_words.read_text().splitlines() if list_of_words else []
    known = {line for line in lines if not line.startswith("#")}
    sentences = []
    for name, subject in subjects.items():
        trigger = subject["trigger"]
        parts = _words(trigger)
        long = [part for part in parts if len(part) > 2]  # as those of the list are
        if long and all(part in known for part in long):
            sentences.append(
                f"subjects.{name}.trigger: the base model knows {trigger!r} as something else, or as other people, and "
                "will mix them with this person; a rare word, such as ohwx, calls nobody else"
            )
        elif parts and "".join(parts) in {"".join(_words(text)) for text in (name, Path(subject["photos"]).name)}:
            sentences.append(
                f"subjects.{name}.trigger: {trigger!r} is the subject's name; the base model may know others of that "
                "name, and prompts will tell who is on your pictures; a rare word, such as ohwx, does neither"
            )
    return sentences


def _words(text: str) -> list[str]:
    """The words of a text as the text encoders read them: in lower case, without digits and other signs."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def hours_on_cpu(config: Mapping[str, Any], roots: Iterable[Path], cores: int) -> float:
    """The hours that trainings and pictures take at least on so many cores. Runs on a base model that is smaller than
    Stable Diffusion 1.5 count nothing."""
    runs = [run for run in config["runs"].values() if _is_full_size(run["base_model"], roots)]
    if not runs:
        return 0.0
    scale = (config["resolution"] / 512) ** 2
    seconds = 0.0
    for subject in config["subjects"].values():
        photos = len(photo_files(Path(subject["photos"])))
        seconds += sum(_core_seconds(run, photos) for run in runs)
    return seconds * scale / cores / 3600


def _core_seconds(run: Mapping[str, Any], photos: int) -> float:
    """The core seconds of one run of one subject at 512 px, without the preserved class and regularisation."""
    train, sample = run["train"], run["sample"]
    batch = train["batch_size"] * train["gradient_accumulation_steps"]
    epochs, steps = train["epochs"], train["max_train_steps"]
    shown = steps * batch if steps else photos * train["repeats"] * epochs
    saved = max(1, (epochs or 1) // train["save_every_n_epochs"])
    prompts = sum(len(sample[key]) for key in ("prompts", "far_prompts", "canary_prompts", "untrained_prompts"))
    pictures = prompts * len(sample["seeds"]) * (1 + saved * len(sample["weights"]))
    return shown * CORE_SECONDS_PER_TRAINING_PICTURE + pictures * sample["steps"] * CORE_SECONDS_PER_SAMPLING_STEP


def _is_full_size(base_model: str, roots: Iterable[Path]) -> bool:
    """Whether a base model has the size of Stable Diffusion 1.5 or more; a model of the hub is assumed to have it."""
    path = found_below(base_model, roots)
    if path is None:
        return True
    return any(file.stat().st_size >= FULL_SIZE for file in _weights(path))


def _weights(path: Path) -> Iterator[Path]:
    yield from path.rglob("*.safetensors") if path.is_dir() else [path]
