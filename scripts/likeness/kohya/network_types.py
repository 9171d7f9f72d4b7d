"""Kohya's networks as ours: the module and its arguments, ranks and alphas."""

from typing import Any

from likeness.core.section import quote
from likeness.kohya.conversion import Conversion, is_empty, is_on, named_arguments, number, plain

LYCORIS = "lycoris.kohya"
MODULES = {"networks.lora": "lora", "networks.loha": "loha", "networks.lokr": "lokr"}
# LyCORIS calls what it makes of "lora" and "locon" LoCon; without algo it is "lora".
ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
# The arguments that the GUI gives each of its types of LoRA; of its other types nothing is trained here.
_BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas")
_STANDARD = (*_BLOCKS, "conv_block_dims", "conv_block_alphas", "rank_dropout", "module_dropout")
_CONV = ("conv_dim", "conv_alpha")
_LYCORIS = (
    *(*_CONV, "preset", "use_tucker", "rank_dropout", "bypass_mode", "dora_wd", "module_dropout", "use_scalar"),
    *("rank_dropout_scale", "train_norm"),
)
LORA_TYPES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Standard": ("networks.lora", "", _STANDARD),
    "Kohya LoCon": ("networks.lora", "", (*_STANDARD, *_CONV)),
    **dict.fromkeys(("LoCon", "LyCORIS/LoCon"), (LYCORIS, "locon", _LYCORIS)),
    "LyCORIS/LoHa": (LYCORIS, "loha", _LYCORIS),
    "LyCORIS/LoKr": (LYCORIS, "lokr", (*_LYCORIS, "factor", "use_cp", "decompose_both")),
    "Kohya LoHa": ("networks.loha", "", (*_CONV, "use_tucker", "rank_dropout", "module_dropout")),
    "Kohya LoKr": ("networks.lokr", "", (*_CONV, "use_tucker", "factor", "rank_dropout", "module_dropout")),
}
LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
# Every key that the GUI makes an argument of some network.
GUI_ARGUMENTS = {
    *{key for _, _, keys in LORA_TYPES.values() for key in keys},
    *("constrain", "rescaled", "train_on_input", "unit"),
}
# LyCORIS' presets that adapt the layers that our networks adapt: those of the transformers, or only their attention.
PRESETS = {"attn-mlp": "all", "attn-only": "attention"}


def network_of_gui(gui: dict[str, Any]) -> dict[str, Any]:
    """The GUI's LoRA_type and its arguments as it hands them to sd-scripts. They are taken out of `gui`, and with them
    those that the GUI does not hand over."""
    name = str(gui.pop("LoRA_type"))
    module, algorithm, keys = LORA_TYPES.get(name, (name, "", ()))
    if "LyCORIS_preset" in gui:
        gui["preset"] = gui.pop("LyCORIS_preset")
    written = {key: gui.pop(key) for key in GUI_ARGUMENTS if key in gui}
    arguments = {key: value for key, value in written.items() if key in keys}
    arguments |= {key: value for key in LORA_PLUS if plain(value := gui.pop(key, 0))}
    arguments = {key: value for key, value in arguments.items() if key in _CONV or plain(value)}
    return {"network_module": module, "network_args": arguments | ({"algo": algorithm} if algorithm else {})}


def convert_network(conversion: Conversion) -> None:
    module = str(conversion.take("network_module"))
    written = conversion.take("network_args")
    arguments = written if isinstance(written, dict) else named_arguments("network_args", written)
    arguments = {key: plain(value) for key, value in arguments.items() if not is_empty(value)}
    algorithm = str(arguments.pop("algo", "lora" if module == LYCORIS else ""))
    kind = MODULES.get(module) or (ALGORITHMS.get(algorithm) if module == LYCORIS else None)
    if kind is None:
        name = f"{module} {algorithm}".strip()
        conversion.inexact.append(f"{name} is not a network of this workflow; train.network: lora is written")
        if lost := sorted(set(arguments) - set(LORA_PLUS)):
            conversion.without_place[f"network_args {', '.join(lost)}"] = f"they are for {name}"
        arguments = {key: arguments[key] for key in LORA_PLUS if key in arguments}
        module, kind = "networks.lora", "lora"
    preset = str(arguments.pop("preset", "full" if module == LYCORIS else "attn-mlp"))
    _convert_preset(conversion, preset)
    rank, alpha = _put_rank_and_alpha(conversion)
    if module == LYCORIS and preset in PRESETS:  # they adapt no large convolution
        arguments = {key: value for key, value in arguments.items() if key not in _CONV}
    elif module == LYCORIS:
        arguments = {"conv_dim": rank, "conv_alpha": alpha} | arguments  # where these are not written, as LyCORIS does
    conversion.put("train.network", _with_convolutions(conversion, kind, arguments), "network_module")
    # What is left is looked at with the other settings, under its own name.
    conversion.left |= arguments


def _put_rank_and_alpha(conversion: Conversion) -> tuple[float, float]:
    """Write rank and alpha. Returns kohya's."""
    rank = conversion.number("network_dim")
    conversion.put("train.rank", rank, "network_dim")
    alpha = conversion.number("network_alpha") or rank  # networks/lora.py: an alpha of 0 is the rank
    if "train.rank" not in conversion.config:
        conversion.without_place["network_alpha"] = "it is a part of the rank"
        return rank, alpha
    _put_alpha(conversion, "train.alpha", alpha, "train.rank", "network_alpha")
    return rank, alpha


def _put_alpha(conversion: Conversion, path: str, alpha: float, rank_path: str, key: str) -> None:
    """Write an alpha. One above the rank is refused here, so the rank is written instead."""
    rank = conversion.config.get(rank_path)
    if rank is not None and alpha > rank:
        conversion.inexact.append(
            f"{key} {alpha:g} is above the rank {rank}, which multiplies the LoRA by {alpha / rank:g}; here at most by "
            f"1, so {path}: {rank} is written, and the LoRA learns more slowly"
        )
        alpha = rank
    conversion.put(path, alpha, key)


def _with_convolutions(conversion: Conversion, kind: str, arguments: dict[str, Any]) -> str:
    """The network with what its arguments say of the large convolutions and of magnitudes. These are taken out."""
    rank, alpha = number("conv_dim", arguments.pop("conv_dim", 0)), number("conv_alpha", arguments.pop("conv_alpha", 1))
    is_dora = is_on(arguments.pop("dora_wd", False))
    if is_dora and kind == "lora":
        kind = "dora"
    elif is_dora:
        conversion.without_place["dora_wd"] = f"magnitudes are learned with network: dora, not with {kind}"
    if rank and kind != "lora":
        conversion.without_place["conv_dim"] = (
            f"the large convolutions are trained with network: locon, not with {kind}"
        )
    elif rank:
        kind = "locon"
        conversion.put("train.conv_rank", rank, "conv_dim")
        _put_alpha(conversion, "train.conv_alpha", alpha or rank, "train.conv_rank", "conv_alpha")
    return kind


def _convert_preset(conversion: Conversion, preset: str) -> None:
    """LyCORIS' preset, the layers that it adapts. kohya's own networks adapt the layers that ours adapt."""
    if preset in PRESETS:
        conversion.put("train.layers", PRESETS[preset], "preset")
    else:
        what = "also adapts conv_in, conv_out and the time embedding" if preset == "full" else "is a list of layers"
        conversion.inexact.append(f"LyCORIS' preset {quote(preset)} {what}; train.layers: all is used")
