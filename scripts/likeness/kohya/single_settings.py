"""Kohya's settings whose values mean something else here: the model, resolution, precision, noise, loss, captions."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from likeness.config.paths import found_below
from likeness.core.section import quote
from likeness.kohya.conversion import Conversion, is_on
from likeness.kohya.paths_here import path_here

PRECISIONS = {"no": "fp32", "float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


def convert_model(conversion: Conversion, roots: Sequence[Path], here: Path) -> None:
    """The base model, its VAE and a LoRA to continue from: paths, or a hub id."""
    is_sdxl = is_on(conversion.left.get("sdxl"))
    for key, path in (
        ("pretrained_model_name_or_path", "base_model"),
        ("vae", "vae"),
        ("network_weights", "train.network_weights"),
    ):
        if written := conversion.take(key):
            found = found_below(str(written), roots)
            conversion.put(path, path_here(found, here) if found else str(written), key)
    if conversion.switch("v_parameterization"):
        conversion.config["prediction_type"] = "v_prediction"
    clip_skip = conversion.take("clip_skip", 1)
    if is_sdxl and str(clip_skip) != "1":
        conversion.without_place["clip_skip"] = "kohya ignores it for SDXL"
    else:
        conversion.put("clip_skip", clip_skip, "clip_skip")


def convert_resolution(conversion: Conversion) -> None:
    """The resolution: "512", "512,768", 512 or [512, 768]."""
    written = conversion.take("resolution")
    sides = [int(number) for number in re.findall(r"\d+", str(written))]
    if len(sides) not in (1, 2):
        if written is not None:
            conversion.without_place["resolution"] = f"found {quote(written)}; expected one or two sides"
        return
    area = sides[0] * sides[-1]
    side = math.isqrt(area) // 8 * 8
    if (side, side) != (sides[0], sides[-1]):
        conversion.inexact.append(
            f"resolution {written}: one side here, a multiple of 8; {side} is written, for crops of about this area"
        )
    conversion.put("resolution", side, "resolution")


def convert_precision(conversion: Conversion) -> None:
    for key, path in (("mixed_precision", "train.precision"), ("save_precision", "train.save_precision")):
        written = str(conversion.take(key))
        conversion.put(path, PRECISIONS.get(written, written), key)


def convert_attention(conversion: Conversion) -> None:
    """All kinds of attention compute the same; without one, kohya's is the slowest, and ours is PyTorch's."""
    with_xformers = conversion.switch("xformers")
    conversion.take("sdpa")
    conversion.config["train.attention"] = "xformers" if with_xformers else "sdpa"


def convert_noise_and_loss(conversion: Conversion) -> None:
    if not conversion.left.get("multires_noise_iterations"):
        conversion.take("multires_noise_discount")  # without effect, in the GUI often 0
    loss, schedule = str(conversion.take("loss_type", "l2")), conversion.take("huber_schedule", "snr")
    scale = conversion.take("huber_c", 0.1)
    if loss in ("l2", "huber"):
        conversion.config["train.loss"] = loss
    else:
        conversion.inexact.append(f"loss_type {quote(loss)} is not supported; train.loss: l2 is written")
    if loss == "huber":
        conversion.put("train.huber_c", scale, "huber_c")
        conversion.put("train.huber_schedule", schedule, "huber_schedule")
    if conversion.switch("debiased_estimation_loss"):
        if conversion.left.get("min_snr_gamma"):
            conversion.without_place["debiased_estimation_loss"] = "beside min_snr_gamma: two weights for one thing"
        else:
            conversion.config["train.debiased_estimation"] = True
    if conversion.switch("masked_loss"):
        conversion.config["train.masked_loss"] = True
        conversion.inexact.append("masked_loss: kohya's masks are files; here the head is the mask")


def convert_captions(conversion: Conversion) -> None:
    shuffled = conversion.switch("shuffle_caption")
    conversion.config["train.shuffle_caption"] = shuffled
    kept = conversion.take("keep_tokens", 0)
    if shuffled:
        conversion.put("train.keep_tokens", kept, "keep_tokens")
