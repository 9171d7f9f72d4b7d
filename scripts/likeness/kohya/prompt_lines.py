"""Kohya's sample prompts ("photo of ohwx woman --n blurry --s 28") as the prompts of the section sample."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.captions.identity_words import whole_word
from likeness.config.paths import found_below
from likeness.core.section import quote
from likeness.kohya.conversion import Conversion

# sd-scripts' samplers that are ours; it draws with the k_ ones in the same way.
SAMPLERS = {
    **{"ddim": "DDIM", "dpmsolver++": "DPM++ 2M"},
    **dict.fromkeys(("euler", "k_euler"), "Euler"),
    **dict.fromkeys(("euler_a", "k_euler_a"), "Euler a"),
}
# The options of a prompt that have a place, if all prompts have the same: the key, and its value's pattern.
OPTIONS = {"n": "sample.negative_prompt", "s": "sample.steps", "l": "sample.guidance_scale"}
PROMPTS = ["photo of {subject}, portrait", "photo of {subject} smiling, upper body, in a park"]  # as in examples/


def convert_samples(conversion: Conversion, subjects: Mapping[str, Mapping[str, Any]], roots: Sequence[Path]) -> None:
    """The prompts that call a subject; where there is none, two of ours."""
    sampler = conversion.take("sample_sampler")
    if sampler is not None and str(sampler) in SAMPLERS:
        conversion.put("sample.sampler", SAMPLERS[str(sampler)], "sample_sampler")
    elif sampler is not None:
        conversion.without_place["sample_sampler"] = f"{quote(sampler)} is not one of this workflow"
    lines = _lines(conversion, str(conversion.take("sample_prompts", "")), roots)
    prompts = {}
    for line in lines:
        text, *options = re.split(r"\s--(?=\w+\s)", line)
        if prompt := _naming_subject(text.strip(), subjects):
            prompts[prompt] = dict(option.strip().partition(" ")[::2] for option in options)
        else:
            conversion.without_place[f"sample_prompts {quote(text)}"] = "does not name a subject by its trigger"
    conversion.config["sample.prompts"] = list(prompts) or PROMPTS
    _convert_options(conversion, list(prompts.values()))


def _lines(conversion: Conversion, written: str, roots: Sequence[Path]) -> list[str]:
    """The prompts of a text or of the .txt file that it names, without comments."""
    is_path = written.endswith((".txt", ".toml", ".json")) and "\n" not in written
    file = found_below(written, roots) if is_path else None
    if is_path and (file is None or not written.endswith(".txt")):
        why = "no such file" if file is None else "only .txt files are read"
        conversion.without_place["sample_prompts"] = f"{quote(written)}: {why}; write the prompts into sample.prompts"
        return []
    text = file.read_text(errors="replace") if file else written
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _naming_subject(prompt: str, subjects: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A prompt with {subject} in the place of a subject's words; None if it has none."""
    for subject in subjects.values():
        if not subject["trigger"]:
            continue
        words = rf"{whole_word(subject['trigger'])}(?:\s+{whole_word(subject['class_noun'])})?"
        replaced, count = re.subn(words, "{subject}", prompt, flags=re.IGNORECASE)
        if count:
            return replaced
    return None


def _convert_options(conversion: Conversion, of_prompts: Iterable[Mapping[str, str]]) -> None:
    """Options that all prompts share. Size and seed have places of their own: resolution and sample.seeds."""
    of_prompts = list(of_prompts)
    for name in sorted({name for options in of_prompts for name in options}):
        values = {options.get(name) for options in of_prompts}
        if name not in OPTIONS:
            conversion.without_place[f"sample_prompts --{name}"] = "pictures have the resolution and sample.seeds"
        elif len(values) > 1:
            conversion.without_place[f"sample_prompts --{name}"] = f"{OPTIONS[name]} is the same for all prompts"
        else:
            conversion.put(OPTIONS[name], values.pop(), f"sample_prompts --{name}")
