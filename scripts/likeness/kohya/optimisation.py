"""Kohya's optimizers, learning rates, schedules and lengths as ours."""

import ast
import math
from collections.abc import Sequence
from typing import Any

from likeness.core.section import quote
from likeness.kohya.concepts import Concept, photo_count
from likeness.kohya.conversion import Conversion, named_arguments, number, plain
from likeness.training.optimizer_table import OPTIMIZERS, has_relative_step
from likeness.training.settings import Train

BY_LOWER_CASE = {name.lower(): name for name in OPTIMIZERS}  # sd-scripts ignores case
# Optimizers that make the same steps as one of ours, and what is different.
LIKE_OURS = {
    "pagedadamw8bit": ("AdamW8bit", "its states stay in the GPU's memory"),
    "pagedadamw": ("AdamW", "its states stay in the GPU's memory"),
    "pagedadamw32bit": ("AdamW", "its states stay in the GPU's memory"),
    "lion8bit": ("Lion", "its states have 32 bits"),
    "pagedlion8bit": ("Lion", "its states have 32 bits"),
    "dadaptation": ("DAdaptAdam", "kohya's DAdaptation is an earlier version of it"),
    "dadaptadampreprint": ("DAdaptAdam", "DAdaptAdamPreprint is an earlier version of it"),
}
SCHEDULES = Train.model_fields["lr_scheduler"].annotation.__args__  # type: ignore[union-attr]


def convert_optimizer(conversion: Conversion) -> None:
    is_8bit, is_lion = conversion.switch("use_8bit_adam"), conversion.switch("use_lion_optimizer")
    written = str(conversion.take("optimizer_type"))
    written = "AdamW8bit" if is_8bit else "Lion" if is_lion else written
    name, difference = LIKE_OURS.get(written.lower(), (BY_LOWER_CASE.get(written.lower()), ""))
    if difference:
        conversion.inexact.append(f"optimizer {written}: train.optimizer: {name} is written; {difference}")
    written_arguments = named_arguments("optimizer_args", conversion.take("optimizer_args"))
    arguments = {key: _python_value(value) for key, value in written_arguments.items()}
    if name is None:
        conversion.inexact.append(f"optimizer {written} is not one of this workflow; train.optimizer: AdamW is written")
        conversion.config["train.optimizer"] = "AdamW"
        if arguments:
            conversion.without_place["optimizer_args"] = f"they are for {written}"
        return
    conversion.config["train.optimizer"] = name
    kept = {key: value for key, value in arguments.items() if key in OPTIMIZERS[name].arguments}
    for key in sorted(set(arguments) - set(kept)):
        conversion.without_place[f"optimizer_args {key}"] = f"{name} has no such argument here"
    if name == "DAdaptAdam":
        kept.setdefault("decouple", False)  # dadaptation's own default; ours is true
    if name == "Adafactor" and kept.get("warmup_init") and not kept.get("relative_step", True):
        kept["relative_step"] = True  # as sd-scripts does
    kept = {key: value for key, value in kept.items() if value is not None}
    if kept:
        conversion.put("train.optimizer_args", kept, "optimizer_args")


def _python_value(text: str) -> Any:
    """The value of an argument. sd-scripts reads it as Python."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return plain(text)
    return list(value) if isinstance(value, tuple) else value


def convert_rates(conversion: Conversion) -> None:
    """The learning rates. sd-scripts uses learning_rate where unet_lr or text_encoder_lr is not written."""
    rate = conversion.number("learning_rate")
    unet_rate = conversion.number("unet_lr", rate)
    encoder_rates = conversion.take("text_encoder_lr", rate)
    encoder_rates = encoder_rates if isinstance(encoder_rates, list) else [encoder_rates]
    encoder_rates = [number("text_encoder_lr", value) for value in encoder_rates]
    encoder_rate = encoder_rates[0]
    trains_encoder = not conversion.switch("network_train_unet_only") and encoder_rate > 0
    if unet_rate == 0:
        conversion.without_place["unet_lr"] = "0 trains the text encoder alone; here the U-Net is always trained"
    else:
        conversion.put("train.learning_rate", unet_rate, "unet_lr")
    conversion.config["train.train_text_encoder"] = trains_encoder
    if not trains_encoder:
        return
    if len(set(encoder_rates)) > 1:
        conversion.inexact.append(
            f"text_encoder_lr {encoder_rates}: the text encoders have one rate here; {encoder_rate:g} is written"
        )
    if OPTIMIZERS[conversion.config["train.optimizer"]].adaptive and encoder_rate != unet_rate and unet_rate > 0:
        conversion.inexact.append(
            f"text_encoder_lr {encoder_rate:g} beside unet_lr {unet_rate:g}: such an optimizer has one step size for "
            f"all, in kohya too; train.text_encoder_lr: {unet_rate:g} is written"
        )
        encoder_rate = unet_rate
    conversion.put("train.text_encoder_lr", encoder_rate, "text_encoder_lr")


def convert_length(conversion: Conversion, concepts: Sequence[Concept], has_regularisation: bool) -> None:
    """Epochs, steps and warm-up."""
    epochs, steps = conversion.number("max_train_epochs"), conversion.number("max_train_steps")
    repeats = concepts[0].repeats
    conversion.put("train.repeats", repeats, "num_repeats")
    if epochs:  # sd-scripts then ignores max_train_steps
        conversion.put("train.epochs", epochs, "max_train_epochs")
        conversion.inexact.append(
            f"{epochs:g} epochs of {repeats} repeats have fewer steps than kohya's, because held-out and dropped "
            "photos are not trained on"
        )
        batch = math.prod(
            conversion.config.get(f"train.{key}", 1) for key in ("batch_size", "gradient_accumulation_steps")
        )
        shown = min(map(photo_count, concepts)) * repeats * (2 if has_regularisation else 1)
        steps = math.ceil(shown * epochs / batch)
    else:
        conversion.put("train.max_train_steps", steps, "max_train_steps")
        conversion.inexact.append(f"{steps:g} steps end within an epoch in kohya; here the last epoch is completed")
    _convert_warm_up(conversion, int(steps))


def _convert_warm_up(conversion: Conversion, steps: int) -> None:
    """The warm-up and its schedule. A share of the steps is one of kohya's `steps`."""
    written = plain(conversion.take("lr_warmup_steps", 0))
    if isinstance(written, str) and written.strip().endswith("%"):
        written = number("lr_warmup_steps", written.strip().removesuffix("%")) / 100
    warm_up = number("lr_warmup_steps", written)
    if isinstance(written, float) and warm_up < 1:  # sd-scripts takes a whole number for steps
        warm_up = int(warm_up * steps)
        if warm_up:
            conversion.inexact.append(
                f"a warm-up of {written:.3g} of the steps: train.lr_warmup_steps: {warm_up} is written, from kohya's "
                f"{steps} steps"
            )
    _convert_schedule(conversion, int(warm_up))


def _convert_schedule(conversion: Conversion, warm_up: int) -> None:
    schedule = str(conversion.take("lr_scheduler"))
    cycles, power = conversion.take("lr_scheduler_num_cycles", 1), conversion.take("lr_scheduler_power", 1)
    config = conversion.config
    if has_relative_step(config["train.optimizer"], config.get("train.optimizer_args", {})):
        if schedule not in ("adafactor", "constant"):
            conversion.inexact.append(
                "Adafactor's relative_step is a schedule itself, in kohya too; constant is written"
            )
        schedule, warm_up = "constant", 0
    elif schedule not in SCHEDULES:
        conversion.inexact.append(f"lr_scheduler {quote(schedule)} is not supported; constant is written")
        schedule = "constant"
    if schedule == "constant" and warm_up:
        conversion.inexact.append("lr_scheduler constant has no warm-up; constant_with_warmup is written")
        schedule = "constant_with_warmup"
    config["train.lr_scheduler"] = schedule
    conversion.put("train.lr_warmup_steps", warm_up, "lr_warmup_steps")
    if schedule == "cosine_with_restarts":
        conversion.put("train.lr_scheduler_num_cycles", cycles, "lr_scheduler_num_cycles")
    if schedule == "polynomial":
        conversion.put("train.lr_scheduler_power", power, "lr_scheduler_power")
