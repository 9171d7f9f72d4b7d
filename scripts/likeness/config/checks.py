"""The check of the whole configuration: every default is filled in, and every mistake is a line with the key's path."""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from likeness.config.bases import (
    all_bases,
    base_name,
    base_of_run,
    base_settings,
    bases_by_place,
    other_families,
    top_level_base,
    without_model,
)
from likeness.config.decisions import checked_decisions, decisions_file
from likeness.config.mistakes import hint, key_path, validated
from likeness.config.paths import found_below, is_file, photo_folder
from likeness.config.portrait_checks import checked_places, problems_of_scenes
from likeness.config.portrait_sections import Place, Scene, default_scenes
from likeness.config.prompt_checks import calls
from likeness.config.sections import GENERATE, SECTIONS_OF_A_RUN, Config, Run, Subject
from likeness.config.subject_table import subjects_of_table
from likeness.core.errors import LikenessError
from likeness.core.section import Section, quote
from likeness.models.families import Family, family_at
from likeness.models.prompts import drawn_words
from likeness.photos.file_kinds import checked_photos, matching_name, photo_files
from likeness.training.optimizer_table import endless_warm_up
from likeness.training.settings import Train

MAX_TEXT = 20_000  # letters; a prompt of 2,000 words has fewer
MAX_LINES = 50  # of mistakes in one message: a screen
MAX_DEPTH = 12  # the deepest key is runs.{name}.train.optimizer_args.betas.0, which has 6
QUOTES = tuple("“”„‟«»‘’‚‹›「」")  # of word processors
# Names of the workflow's own folders in results/, and in results/{subject}/.
RESERVED_SUBJECTS = frozenset({"clip", "logs", "models"})
RESERVED_RUNS = frozenset({"captions", "class_pictures", "crops", "image", "reg", "upscaled"})


def checked_config(raw: dict[str, Any], roots: Iterable[Path], within_job: bool = False) -> dict[str, Any]:
    """The configuration with every default filled in and every run fully written out, and `bases`, all base models.

    `roots` are the folders in which relative paths are searched, in order. `within_job` is for a Snakemake that runs
    one job of another: it need not look into all folders of photos again. Raises LikenessError with one line per
    mistake.
    """
    if isinstance(table := raw.get("subjects"), str):
        raw = raw | {"subjects": _subjects_of_table(table, roots)}
    if unusable := [*_unusable_texts(raw, ()), *_without_name(raw.get("subjects"))]:
        raise _error(unusable)
    problems, config = validated(Config, raw, (), _keys())
    if config is None:
        raise _error(problems)
    runs, of_runs = _runs(config, roots)
    subjects, of_subjects = _subjects(config, roots, within_job)
    decisions, of_decisions = _decisions(subjects, runs, roots)
    problems = (
        of_runs
        + of_subjects
        + of_decisions
        + _without_use(runs, config.subjects)
        + _misunderstood(runs, config.subjects)
    )

    @cache
    def family_of(model: str) -> Family | None:
        path = found_below(model, roots)
        return family_at(path) if path else None

    problems += other_families(runs, family_of)
    problems += _reserved("subjects", config.subjects, RESERVED_SUBJECTS, "results/")
    problems += _reserved("runs", config.runs, RESERVED_RUNS, "results/{subject}/")
    scenes = default_scenes(config.resolution) if config.portraits.scenes is None else config.portraits.scenes
    places, of_places = checked_places(config.places, config.subjects, roots, within_job)
    problems += problems_of_scenes(scenes, config.subjects) + of_places
    if not within_job:
        problems += _models_nowhere(config, runs, roots)
    install, of_install = _install(config, roots)
    problems += of_install
    if not is_file(words := config.caption.identity_words, roots):
        problems.append(f"caption.identity_words: no file {quote(words)}; expected a list of words{hint(words)}")
    if (weights := config.upscale.weights) and not is_file(weights, roots):
        problems.append(
            f"upscale.weights: no file {quote(weights)}; expected a .pth or .safetensors file of RealESRGAN_x4plus"
            f"{hint(weights)}"
        )
    if problems:
        raise _error(problems)
    portraits = config.portraits.model_dump() | {"scenes": {name: scene.model_dump() for name, scene in scenes.items()}}
    filled_in = {"train": _filled_in(config.train), "runs": runs, "subjects": subjects, "decisions": decisions}
    filled_in |= {"portraits": portraits, "places": places, "install": install}
    return config.model_dump() | filled_in | {"bases": all_bases(runs, top_level_base(config), family_of)}


def _error(problems: Sequence[str]) -> LikenessError:
    lines = [*problems[:MAX_LINES], *[f"and {len(problems) - MAX_LINES} more"] * (len(problems) > MAX_LINES)]
    return LikenessError("config:\n  " + "\n  ".join(lines))


def _without_name(subjects: Any) -> Iterator[str]:
    """A message if `subjects` has the keys of a subject where the subjects' names are expected."""
    if isinstance(subjects, Mapping):
        keys = [key for key, value in subjects.items() if key in Subject.model_fields and isinstance(value, str | list)]
        if keys:
            yield (
                f"subjects: {', '.join(keys)} without the name of a subject above; write subjects: "
                f"{{mia: {{{keys[0]}: ...}}}}"
            )


def _unusable_texts(value: Any, where: tuple[str, ...]) -> Iterator[str]:
    """Messages for texts that no file, table or command can contain, and for values that are nested deeper than any
    setting and may have no end."""
    if len(where) > MAX_DEPTH:
        yield f"{key_path(where)}: is nested deeper than any setting"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unusable_texts(str(key), (*where, str(key)))
            yield from _unusable_texts(inner, (*where, str(key)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unusable_texts(inner, (*where, str(number)))
    elif isinstance(value, str):
        if bad := next((sign for sign in value if not _is_writable(sign)), None):
            yield f"{key_path(where)}: has the sign {ascii(bad)}, which is no text; remove it"
        if value[:1] in QUOTES and value[-1:] in QUOTES:
            yield f"{key_path(where)}: has {value[0]}{value[-1]} around it, which are letters; write straight quotes"
        if len(value) > MAX_TEXT:
            yield f"{key_path(where)}: has {len(value)} letters; expected at most {MAX_TEXT}"


def _is_writable(sign: str) -> bool:
    # Not control characters and halves of a UTF-16 pair. Line breaks are allowed: prompts turn them into spaces.
    return sign in "\n\r\t" or unicodedata.category(sign) not in ("Cc", "Cs")


def _subjects_of_table(table: str, roots: Iterable[Path]) -> dict[str, dict[str, Any]]:
    path = found_below(table, roots, os.path.isfile)
    if path is None:
        raise LikenessError(
            f"config:\n  subjects: no file {quote(table)}; expected a tab-separated table of subjects{hint(table)}"
        )
    return subjects_of_table(table, path)


def _runs(config: Config, roots: Iterable[Path]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Every run with its base model and all its sections, and the problems of them. `sample` has the base model that
    draws."""
    runs: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    # Thousands of runs share these.
    plain = {section: _filled_in(getattr(config, section)) for section in SECTIONS_OF_A_RUN}
    top = top_level_base(config)
    for name, run in config.runs.items():
        base = base_of_run(run, top)
        sections: dict[str, Section | None] = {section: getattr(config, section) for section in SECTIONS_OF_A_RUN}
        runs[name] = base | plain
        for section, model in SECTIONS_OF_A_RUN.items():
            if section not in run.model_fields_set:
                continue
            values = getattr(run, section)
            merged = without_model(getattr(config, section).model_dump(exclude_unset=True), values)
            whole, where = merged | model.without_empty(values), ("runs", name, section)
            more, sections[section] = validated(model, whole, where, _keys())
            problems += more
            runs[name][section] = _filled_in(value) if (value := sections[section]) else {}
        if sample := sections["sample"]:
            runs[name]["sample"] = runs[name]["sample"] | base_settings(sample, base)
            runs[name]["drawing_base"] = base_name(runs[name]["sample"], top)
            runs[name]["portraits"] = base_settings(config.portraits, runs[name]["sample"])
            runs[name]["portrait_base"] = base_name(runs[name]["portraits"], top)
        if train := runs[name]["train"]:
            problems += _problems_of_training(train, f"runs.{name}.train", roots)
    return runs, problems


def _problems_of_training(train: Mapping[str, Any], where: str, roots: Iterable[Path]) -> Iterator[str]:
    """The problems of a run's training that only its complete settings show."""
    if (start := train["network_weights"]) and not is_file(start, roots):
        yield f"{where}.network_weights: no file {quote(start)}; expected a LoRA's file{hint(start)}"
    yield from (
        f"{where}: {sentence}" for sentence in endless_warm_up(train["lr_warmup_steps"], train["max_train_steps"])
    )


def _models_nowhere(config: Config, runs: Mapping[str, Mapping[str, Any]], roots: Iterable[Path]) -> list[str]:
    """Messages for models that do not exist here and have no hub id. Jobs would ask the hub for them, and report an
    error of the network."""
    named: dict[str, tuple[str | None, str]] = {"caption.model": (config.caption.model, "a folder")}
    named |= {f"runs.{name}.select.clip": (run["select"].get("clip"), "a folder") for name, run in runs.items()}
    bases = bases_by_place(runs, top_level_base(config))
    # Several base models may have one model or one VAE. Each is reported at its first place.
    models = {base["base_model"]: f"{place}base_model" for place, base in reversed(bases.items())}
    vaes = {base["vae"]: f"{place}vae" for place, base in reversed(bases.items())}
    named |= {key: (model, "a diffusers folder, a .safetensors file") for model, key in models.items()}
    problems = [
        f"{key}: nothing at {quote(model)}; expected {kinds}, or a hub id such as owner/name{hint(model)}"
        for key, (model, kinds) in named.items()
        if model and not found_below(model, roots) and not _could_be_hub_id(model, roots)
    ]
    problems += [
        f"{key}: nothing at {quote(vae)}; expected a diffusers folder or a .safetensors file{hint(vae)}"
        for vae, key in vaes.items()
        if vae and not found_below(vae, roots)
    ]
    return problems


def _install(config: Config, roots: Iterable[Path]) -> tuple[dict[str, Any], list[str]]:
    """The section with the paths of its folders below a root, and its problems."""
    problems, folders = [], []
    for written in config.install.folders:
        folder = found_below(written, roots, os.path.isdir)
        if folder is None:
            problems.append(f"install.folders: no folder {quote(written)}; make it, or correct the path{hint(written)}")
        elif not os.access(folder, os.W_OK):
            problems.append(f"install.folders: {quote(written)} cannot be written to; give yourself the right to")
        else:
            folders.append(str(folder))
    run = config.install.every_epoch
    if run is not None and run not in config.runs:
        problems.append(f"install.every_epoch: no run {quote(run)}; expected one of {', '.join(config.runs)}")
    return {"folders": folders, "every_epoch": run}, problems


def _could_be_hub_id(model: str, roots: Iterable[Path]) -> bool:
    """Whether a model is owner/name with at most 96 letters, the limit of the hub. If a folder with the owner's name
    exists here, it is a path."""
    owner, _, _ = model.partition("/")
    is_file = Path(model).suffix.lower() in (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
    is_path = is_file or len(model) > 96 or found_below(owner, roots)
    return not is_path and bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model))


def _reserved(section: str, names: Iterable[str], reserved: frozenset[str], folder: str) -> list[str]:
    """Messages for names whose folders would be the workflow's own. Case is ignored, as some file systems do."""
    return [
        f"{section}.{name}: {folder}{name.lower()} is a folder of the workflow's own; choose another name"
        for name in names
        if name.lower() in reserved
    ]


def _without_use(runs: Mapping[str, Mapping[str, Any]], subjects: Mapping[str, Subject]) -> list[str]:
    """Messages for runs with a setting about regularisation photos, if no subject has any."""
    if any(subject.regularisation for subject in subjects.values()):
        return []
    return [
        f"runs.{name}.train.prior_prediction: no subject has regularisation photos; give one a folder, or write "
        f"regularisation: {GENERATE}"
        for name, run in runs.items()
        if run["train"].get("prior_prediction")
    ]


def _misunderstood(runs: Mapping[str, Mapping[str, Any]], subjects: Mapping[str, Subject]) -> list[str]:
    """Messages for prompts that are wrong with a subject's words in them: a prompt without the person that contains the
    trigger, or two prompts that become the same."""
    problems = []
    # Of runs that draw the same pictures, only the first is checked: there may be thousands of runs and of subjects.
    samples: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for run, sections in runs.items():
        samples.setdefault(json.dumps(sections["sample"]), (run, sections["sample"]))
    for name, subject in subjects.items():
        if calls(subject.class_noun, subject.trigger):
            problems.append(
                f"subjects.{name}.trigger: {quote(subject.trigger)} is in class_noun too, so it calls anybody of the "
                "class; choose a rare word such as ohwx"
            )
            continue
        words = {"subject": f"{subject.trigger} {subject.class_noun}", "class_noun": subject.class_noun}
        for run, sample in samples.values():
            if sample:
                messages = _misunderstood_prompts(sample, name, subject.trigger, words)
                problems += [f"runs.{run}.sample.{message}" for message in messages]
    return problems


def _misunderstood_prompts(
    sample: Mapping[str, Any], name: str, trigger: str, words: Mapping[str, str]
) -> Iterator[str]:
    without = [("untrained_prompts", prompt) for prompt in sample["untrained_prompts"]]
    for key, prompt in [*without, ("negative_prompt", sample["negative_prompt"])]:
        if calls(drawn_words(prompt), trigger):
            yield f"{key}: {quote(prompt)} has {quote(trigger)}, which calls {name}; leave it out"
    every = [*sample["prompts"], *sample["far_prompts"], *sample["canary_prompts"], *sample["untrained_prompts"]]
    every += [sample["two_people_prompt"]] if sample["two_people_prompt"] else []
    for prompt, count in Counter(prompt.format(**words) for prompt in every).items():
        if count > 1:
            yield f"prompts: {quote(prompt)} stands there twice for {name}; expected each prompt once"


def _decisions(
    subjects: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Mapping[str, Any]], roots: Iterable[Path]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What a person decided about each subject, and the problems of it. `subjects` have the paths of their folders."""
    decisions: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, subject in subjects.items():
        folder = Path(subject["photos"])
        try:
            file = decisions_file(subject["decisions"], folder, roots)
            names = {path.name for path in folder.iterdir()} if file else set()
            decisions[name] = checked_decisions(file, names, runs)
        except LikenessError as error:
            problems.append(f"subjects.{name}.decisions: {error}")
    return decisions, problems


def _subjects(config: Config, roots: Iterable[Path], within_job: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Every subject, with the path of its folder below a root, and the problems of them."""
    subjects: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, subject in config.subjects.items():
        try:
            folder = photo_folder(subject.photos, roots)
            subjects[name] = subject.model_dump() | {"photos": str(folder)}
            if within_job:
                continue
            names = {path.name for path in checked_photos(subject.photos, folder)}
            problems += [
                f"subjects.{name}.reference: no photo {quote(photo)} in {quote(subject.photos)}; expected names of "
                "files in it"
                for photo in subject.reference
                if matching_name(photo, names) is None
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
    """Raises LikenessError if it is a folder without photos, or is ambiguous."""
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


def _filled_in(section: Section) -> dict[str, Any]:
    return (section.filled_in() if isinstance(section, Train) else section).model_dump()


@cache
def _keys() -> dict[str, list[str]]:
    """The keys of each place of the configuration."""
    places: dict[str, type[Section]] = {
        **{"": Config, "subjects.{name}": Subject, "runs.{name}": Run},
        **{"portraits.scenes.{name}": Scene, "places.{name}": Place},
    }
    for key, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            places[key] = field.annotation
    return {place: list(model.model_fields) for place, model in places.items()}
