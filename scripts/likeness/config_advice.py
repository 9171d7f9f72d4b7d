"""What a configuration that is right is warned about before the first job: settings that do nothing, triggers that mean
something already, hours on a CPU. Jobs do not import this module.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from likeness.config import GENERATE, found_below
from likeness.photos import photo_files
from likeness.training.optimizers import has_relative_step

KNOWN_WORDS = Path("resources/known_words.txt")

# Core seconds of Stable Diffusion 1.5 at 512 px: a picture trained on (docs/training.md: 9.1 s on two cores, for 2
# TFLOP), and a step of drawing one (1.6 TFLOP). More cores take as many core seconds at best, and the preserved class,
# regularisation and a larger model more, so what follows from them is a lower bound.
TRAINED, DRAWN = 18, 14
FULL_SIZE = 10**9  # bytes; Stable Diffusion 1.5's U-Net has 1.7 GB in half precision, the demonstration's 0.03 GB
WORTH_A_WORD = 1.0  # hours


def _is_locon(run: Mapping, config: Mapping) -> bool:
    return run["train"]["network"] == "locon"


def _is_huber(run: Mapping, config: Mapping) -> bool:
    return run["train"]["loss"] == "huber"


def _takes_rates(run: Mapping, config: Mapping) -> bool:
    return not has_relative_step(run["train"])


def _trains_encoder(run: Mapping, config: Mapping) -> bool:
    return run["train"]["train_text_encoder"] and _takes_rates(run, config)


def _decays(run: Mapping, config: Mapping) -> bool:
    """No optimizer with a switch for the kind of decay has any by default."""
    return run["train"]["optimizer_args"].get("weight_decay", 0) > 0


# What another setting must be for a key to do anything, in words and as a test of a run and the whole configuration.
NEEDED: dict[str, tuple[str, Callable[[Mapping, Mapping], bool]]] = {
    "base_revision": ("a hub id as base_model", lambda run, config: not config["base_model_is_here"]),
    "caption.model": (
        "caption.backend: blip or florence2",
        lambda run, config: config["caption"]["backend"] != "template",
    ),
    "train.conv_rank": ("network: locon", _is_locon),
    "train.conv_alpha": ("network: locon", _is_locon),
    "train.learning_rate": ("optimizer_args: {relative_step: false}", _takes_rates),
    "train.text_encoder_lr": ("train_text_encoder: true, and an optimizer that takes rates", _trains_encoder),
    "train.lr_scheduler_num_cycles": (
        "lr_scheduler: cosine_with_restarts",
        lambda run, config: run["train"]["lr_scheduler"] == "cosine_with_restarts",
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
    "train.multires_noise_discount": (
        "multires_noise_iterations above 0",
        lambda run, config: run["train"]["multires_noise_iterations"] > 0,
    ),
    "train.keep_tokens": ("shuffle_caption: true", lambda run, config: run["train"]["shuffle_caption"]),
    "sample.negative_prompt": (
        "guidance_scale above 1",
        lambda run, config: run["sample"]["guidance_scale"] > 1 or not run["sample"]["negative_prompt"],
    ),
}


def advice(raw: Mapping, config: Mapping, roots: Iterable[Path], cores: int | None) -> list[str]:
    """A sentence for everything worth a word in `config`, the checked configuration; `raw` is what was written. `cores`
    are those of the CPU that has to train and draw, None where there is a GPU or the jobs run elsewhere."""
    is_here = found_below(config["base_model"], roots) is not None
    sentences = without_effect(raw, {**config, "base_model_is_here": is_here})
    sentences += known_triggers(config["subjects"], roots)
    if cores and (hours := hours_on_cpu(config, roots, cores)) >= WORTH_A_WORD:
        sentences.append(
            f"there is no GPU here, and a Stable Diffusion of full size takes at least {hours:.0f} hours of these "
            f"{cores} cores to train and draw; use a machine with a GPU, or lower resolution, max_train_steps, and the "
            "number of prompts, seeds and weights"
        )
    return sentences


def without_effect(raw: Mapping, config: Mapping) -> list[str]:
    """A sentence for every key that is written in `raw` and does nothing in any run of `config`."""
    sentences = []
    for key, (needed, is_met) in NEEDED.items():
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
    return sentences


def _inner(raw: object, *keys: str) -> object:
    """What stands at a path of keys; None where nothing does."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def _is_written(raw: object, key: str) -> bool:
    return _inner(raw, *key.split(".")) is not None


def known_triggers(subjects: Mapping[str, Mapping], roots: Iterable[Path]) -> list[str]:
    """A sentence for every trigger that the base model knows as something else, or that is the person's name."""
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
        elif "".join(parts) in {"".join(_words(text)) for text in (name, Path(subject["photos"]).name)}:
            sentences.append(
                f"subjects.{name}.trigger: {trigger!r} is the subject's name; the base model may know others of that "
                "name, and prompts will tell who is on your pictures; a rare word, such as ohwx, does neither"
            )
    return sentences


def _words(text: str) -> list[str]:
    """The words of a text, as the text encoders read them: without capitals, signs and digits."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def hours_on_cpu(config: Mapping, roots: Iterable[Path], cores: int) -> float:
    """How long trainings and pictures take at least on so many cores; 0 for a base model that is smaller than Stable
    Diffusion 1.5."""
    if not _is_full_size(config["base_model"], roots):
        return 0.0
    scale = (config["resolution"] / 512) ** 2
    seconds = 0.0
    for subject in config["subjects"].values():
        photos = len(photo_files(Path(subject["photos"])))
        seconds += sum(_core_seconds(run, photos) for run in config["runs"].values())
    return seconds * scale / cores / 3600


def _core_seconds(run: Mapping, photos: int) -> float:
    """Of one run of one subject at 512 px, without what the preserved class and regularisation take."""
    train, sample = run["train"], run["sample"]
    batch = train["batch_size"] * train["gradient_accumulation_steps"]
    epochs, steps = train["epochs"], train["max_train_steps"]
    shown = steps * batch if steps else photos * train["repeats"] * epochs
    saved = max(1, (epochs or 1) // train["save_every_n_epochs"])
    prompts = sum(len(sample[key]) for key in ("prompts", "far_prompts", "canary_prompts", "untrained_prompts"))
    pictures = prompts * len(sample["seeds"]) * (1 + saved * len(sample["weights"]))
    return shown * TRAINED + pictures * sample["steps"] * DRAWN


def _is_full_size(base_model: str, roots: Iterable[Path]) -> bool:
    """Whether a base model is Stable Diffusion 1.5 or larger; one of the hub is taken to be."""
    path = found_below(base_model, roots)
    if path is None:
        return True
    return any(file.stat().st_size >= FULL_SIZE for file in _weights(path))


def _weights(path: Path) -> Iterator[Path]:
    yield from path.rglob("*.safetensors") if path.is_dir() else [path]
