"""The settings that kohya_ss' GUI saves as JSON, as it hands them to sd-scripts (kohya_gui/lora_gui.py)."""

import shlex
from collections.abc import Mapping
from typing import Any

from likeness.core.errors import LikenessError
from likeness.kohya.conversion import is_empty, is_on, number, plain
from likeness.kohya.mapping import CHECKBOXES, GUI_DEFAULTS
from likeness.kohya.network_types import network_of_gui

# The GUI's names for sd-scripts' settings.
NAMES = {
    **{"max_resolution": "resolution", "optimizer": "optimizer_type", "lora_network_weights": "network_weights"},
    **{"stop_text_encoder_training_pct": "stop_text_encoder_training", "sdxl_no_half_vae": "no_half_vae"},
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
}
# Settings that the GUI does not hand over when they are 0.
ZERO_IS_NONE = (
    *("clip_skip", "seed", "min_snr_gamma", "noise_offset", "multires_noise_iterations", "save_every_n_epochs"),
    *("max_train_steps", "max_train_epochs", "unet_lr", "vae_batch_size"),
)


def sd_scripts_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under sd-scripts' names. Raises LikenessError if they are for a family that is not trained here."""
    gui = GUI_DEFAULTS | {key: value for key, value in saved.items() if not is_empty(value)}
    for checkbox, family in CHECKBOXES.items():
        if is_on(gui.pop(checkbox, False)):
            raise LikenessError(
                f"{checkbox}: the project trains {family}; here only Stable Diffusion 1.x, 2.x and XL are trained"
            )
    network = network_of_gui(gui)
    _choose_what_is_trained(gui)
    _choose_length(gui)
    _choose_noise(gui)
    attention = str(gui.pop("xformers", "none")).lower()
    attention = "xformers" if attention == "true" else attention  # it was a switch in older versions
    chosen = {attention: True} if attention in ("xformers", "sdpa") else {}
    if str(gui.pop("dynamo_backend", "no")) != "no":
        chosen["torch_compile"] = True
    more = _more_parameters(str(gui.pop("additional_parameters", "")))
    kept = {key: value for key, value in gui.items() if key not in ZERO_IS_NONE or plain(value)}
    return {NAMES.get(key, key): value for key, value in kept.items()} | network | chosen | more


def _choose_what_is_trained(gui: dict[str, Any]) -> None:
    """A learning rate of 0 beside one of the other part means that this part is not trained."""
    encoder, unet = (number(key, gui.get(key, 0)) for key in ("text_encoder_lr", "unet_lr"))
    if encoder == 0:
        gui.pop("text_encoder_lr", None)
    gui["network_train_unet_only"] = encoder == 0 and unet != 0
    gui["network_train_text_encoder_only"] = encoder != 0 and unet == 0


def _choose_length(gui: dict[str, Any]) -> None:
    """The GUI's epoch counts only if no number of steps is written; lr_warmup is in percent of the steps."""
    epoch = gui.pop("epoch")
    if not any(number(key, gui.get(key, 0)) for key in ("max_train_steps", "max_train_epochs")):
        gui["max_train_epochs"] = epoch
    gui.setdefault("lr_scheduler_num_cycles", epoch)
    percent, steps = number("lr_warmup", gui.pop("lr_warmup")), number("lr_warmup_steps", gui.get("lr_warmup_steps", 0))
    gui["lr_warmup_steps"] = int(steps) if steps else percent / 100


def _choose_noise(gui: dict[str, Any]) -> None:
    """The GUI hands over the settings of one of two kinds of noise."""
    kind = gui.pop("noise_offset_type", "Original")
    original = ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
    for key in ("multires_noise_iterations", "multires_noise_discount") if kind == "Original" else original:
        gui.pop(key, None)


def _more_parameters(text: str) -> dict[str, Any]:
    """The arguments of sd-scripts that were written by hand: --name value, --name value value, --name."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise LikenessError(f"additional_parameters: {str(error).lower()}; correct it in a copy of the file") from None
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = [value] if value else []
        elif found:
            found[list(found)[-1]].append(word)
    return {name: True if not values else values[0] if len(values) == 1 else values for name, values in found.items()}
