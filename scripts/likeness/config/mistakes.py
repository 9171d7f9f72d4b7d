"""The messages for mistakes in a configuration: one line each, with the key's path and what to write instead."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError

from likeness.core.section import Section, quote

AnySection = TypeVar("AnySection", bound=Section)

NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
# A trigger has no characters that A1111 reads as weights, alternatives or other files, and no comma, which ends a part
# of a caption.
TRIGGER = r"^[^\s/{}()\[\]<>:|,\\]+$"
CLASS_NOUN = r"^[^/{}()\[\]<>:|\\]*[^\W_][^/{}()\[\]<>:|\\]*$"
# The patterns in words.
PATTERNS = {
    NAME: "letters from A to Z, digits and _, which is not the first",
    TRIGGER: "one word, without any of / { } ( ) [ ] < > : | , \\",
    CLASS_NOUN: "a word or some, without any of / { } ( ) [ ] < > : | \\",
}

# Texts that would be a number or a boolean without their quotes.
PLAIN = {
    "int_type": re.compile(r"\s*[+-]?(0|[1-9]\d*)\s*"),
    "float_type": re.compile(r"\s*[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?\s*"),
    "bool_type": re.compile(r"\s*(true|false|yes|no|on|off)\s*", re.IGNORECASE),
}

# Names that kohya, ai-toolkit and OneTrainer have for our keys (docs/kohya.md), and A1111 and diffusers for those of
# the section sample.
OTHER_NAMES = {
    **dict.fromkeys(("pretrained_model_name_or_path", "name_or_path", "base_model_name", "model"), "base_model"),
    **dict.fromkeys(("v_parameterization", "is_v_pred"), "prediction_type"),
    **dict.fromkeys(("enable_bucket", "aspect_ratio_bucketing"), "buckets"),
    **dict.fromkeys(("width", "height", "image_size", "max_resolution"), "resolution"),
    "text_encoder_layer_skip": "clip_skip",
    **dict.fromkeys(("datasets", "concepts"), "subjects"),
    **dict.fromkeys(("train_data_dir", "image_dir", "folder_path", "instance_data_dir"), "subjects.{name}.photos"),
    **dict.fromkeys(("reg_data_dir", "class_data_dir"), "subjects.{name}.regularisation"),
    **dict.fromkeys(("trigger_word", "instance_prompt", "token"), "subjects.{name}.trigger"),
    **dict.fromkeys(
        ("class_tokens", "class_prompt", "class_word", "diff_output_preservation_class"), "subjects.{name}.class_noun"
    ),
    "num_class_images": "subjects.{name}.regularisation_images",
    **dict.fromkeys(("network_module", "LoRA_type", "algo", "dora_wd", "peft_type"), "train.network"),
    **dict.fromkeys(("network_dim", "dim", "linear", "lora_rank"), "train.rank"),
    **dict.fromkeys(("network_alpha", "linear_alpha", "lora_alpha"), "train.alpha"),
    **dict.fromkeys(("conv_dim", "conv"), "train.conv_rank"),
    **dict.fromkeys(("network_dropout", "dropout_probability"), "train.dropout"),
    **dict.fromkeys(("lora_model_name", "lora_network_weights"), "train.network_weights"),
    "optimizer_type": "train.optimizer",
    "optimizer_params": "train.optimizer_args",
    **dict.fromkeys(("lr", "unet_lr"), "train.learning_rate"),
    **dict.fromkeys(("text_lr", "te_lr"), "train.text_encoder_lr"),
    "network_train_unet_only": "train.train_text_encoder",
    "learning_rate_scheduler": "train.lr_scheduler",
    **dict.fromkeys(("lr_num_cycles", "learning_rate_cycles"), "train.lr_scheduler_num_cycles"),
    "lr_power": "train.lr_scheduler_power",
    **dict.fromkeys(("learning_rate_warmup_steps", "lr_warmup"), "train.lr_warmup_steps"),
    **dict.fromkeys(("max_train_epochs", "num_train_epochs", "epoch"), "train.epochs"),
    "num_repeats": "train.repeats",
    **dict.fromkeys(("save_every", "sample_every", "sample_every_n_epochs"), "train.save_every_n_epochs"),
    "train_batch_size": "train.batch_size",
    "gradient_accumulation": "train.gradient_accumulation_steps",
    **dict.fromkeys(("mixed_precision", "train_dtype", "dtype"), "train.precision"),
    "output_dtype": "train.save_precision",
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn", "attention_mechanism"), "train.attention"),
    "torch_compile": "train.compile",
    **dict.fromkeys(("timestep_type", "timestep_distribution"), "train.timestep_sampling"),
    "loss_type": "train.loss",
    "debiased_estimation_loss": "train.debiased_estimation",
    "masked_training": "train.masked_loss",
    **dict.fromkeys(("inverted_mask_prior", "masked_prior_preservation_weight"), "train.masked_prior"),
    **dict.fromkeys(("diff_output_preservation", "diff_output_preservation_multiplier"), "train.preserve_class"),
    "offset_noise_weight": "train.noise_offset",
    "shuffle_tokens": "train.shuffle_caption",
    **dict.fromkeys(("ema", "ema_config"), "train.ema_decay"),
    **dict.fromkeys(("sample_prompts", "prompt", "samples"), "sample.prompts"),
    **dict.fromkeys(("neg", "negative", "negative_prompts"), "sample.negative_prompt"),
    **dict.fromkeys(("sample_sampler", "sampler_name"), "sample.sampler"),
    **dict.fromkeys(("sample_steps", "num_inference_steps"), "sample.steps"),
    **dict.fromkeys(("cfg", "cfg_scale"), "sample.guidance_scale"),
}


def validated(
    model: type[AnySection], raw: Any, where: tuple[str, ...], keys: Mapping[str, Sequence[str]]
) -> tuple[list[str], AnySection | None]:
    """The problems of a section, and the section if it has none. `keys` are as in `sentence`."""
    try:
        return [], model.model_validate(raw)
    except ValidationError as error:
        mistakes = error.errors()
        # The value of an unknown key does not matter.
        unknown = {mistake["loc"][:-1] for mistake in mistakes if mistake["loc"][-1:] == ("[key]",)}
        return [sentence(mistake, where, keys) for mistake in mistakes if mistake["loc"] not in unknown], None


def sentence(error: Mapping[str, Any], where: tuple[str, ...], keys: Mapping[str, Sequence[str]]) -> str:
    """The message for one of pydantic's errors: the key's path, the value, what is expected. `keys` are the keys of
    each place of the configuration, by the names of `_place`."""
    path = key_path(p for p in (*where, *error["loc"]) if p != "[key]")
    value = error["input"]
    match error["type"]:
        case "extra_forbidden" if path.endswith(".untrained_prompt"):
            return f"{path}: is a list now; write untrained_prompts: {json.dumps([value], ensure_ascii=False)}"
        case "extra_forbidden":
            return f"{path}: {_unknown(str(error['loc'][-1]), (*where, *error['loc'][:-1]), keys)}"
        case "missing" if path.startswith("places.") and path.endswith(".consent"):
            return (
                f"{path}: missing; say whose pictures they are: self (you are on them), written (you hold the written "
                "consent of the people on them), synthetic (nobody exists) or own picture (you made them)"
            )
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
            return f"{path}: found {quote(value)}; expected {PATTERNS[error['ctx']['pattern']]}"
        case "string_type" if isinstance(value, dict | list):
            return (
                f"{path}: found {quote(value)}; expected a text, between quotes where it begins with {{ or [ or has a "
                "colon and a space"
            )
        case "string_type" if value is False:
            return f"{path}: found False, which is no text; write it between quotes, or nothing where you mean none"
        case "string_type" if value is not None:
            return f"{path}: found {quote(value)}, which is no text; write it between quotes"
        case "int_type" | "float_type" | "bool_type" as kind if isinstance(value, str) and PLAIN[kind].fullmatch(value):
            return (
                f"{path}: found {quote(value)}, which is text; write it without quotes (within --config key={{...}} "
                "all is text: write it into a file for --configfile)"
            )
        case _:
            expected = re.sub("^(Input|String|Dictionary|List) should (be |have )?", "", error["msg"])
            expected = re.sub(r" after validation, not \d+$| or instance of \w+$", "", expected)
            expected = expected.replace("a valid dictionary", "keys with their values")
            return f"{path}: found {quote(value)}; expected {expected}"


def _unknown(key: str, where: tuple[str | int, ...], keys: Mapping[str, Sequence[str]]) -> str:
    """The message for a key that does not exist at its place. It suggests our name for another trainer's key, the same
    key at another place, or the most similar one."""
    here = _place(where)
    everywhere = [f"{place}.{name}" if place else name for place, names in keys.items() for name in names]
    same = [path for path in everywhere if path.rpartition(".")[2] == key]
    near = get_close_matches(key[:100], keys.get(here, []), n=1)
    meant = [path for path in (OTHER_NAMES.get(key), *same) if path] or near
    if here == "runs.{name}" and "train" in keys[here]:  # not a run of decisions.yaml
        meant = [path for path in meant if path.partition(".")[0] in keys[here]]
        otherwise = "a run overrides train, sample, select and the base model"
    else:
        otherwise = "see docs/config.md for the ones there are"
    at_the_top = set(keys[""]) - set(keys.get(here, []))
    names = (f"{path} at the top" if path in at_the_top else path.removeprefix(f"{here}.") for path in meant)
    return f"unknown key; {'did you mean ' + ' or '.join(names) + '?' if meant else otherwise}"


def _place(where: tuple[str | int, ...]) -> str:
    """The name in docs/config.md of the section that a path of keys leads to: "" is the top, "runs.{name}" a run."""
    match where:
        case ("subjects" | "runs" | "places" as names, _):
            return f"{names}.{{name}}"
        case ("portraits", "scenes", _):
            return "portraits.scenes.{name}"
        case ("runs", _, section, *_):
            return str(section)
        case (section, *_):
            return str(section)
    return ""


def hint(path: str) -> str:
    """The end of the message for a path that does not exist, if such a path can never exist; else empty."""
    if path.startswith("~") or re.search(r"\$\w|\$\{|%\w+%", path):
        return "; ~ and variables are not replaced, write the whole path"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", path):
        return "; this is a path of Windows, of which C:\\ is /mnt/c/ in WSL"
    return ""


def key_path(where: Iterable[str | int]) -> str:
    """The path of a key as text for a message: short, printable, in one line."""
    parts = (part if len(part) <= 100 else f"{part[:40]}..." for part in map(str, where))
    return ".".join(part if part.isprintable() else ascii(part) for part in parts)
