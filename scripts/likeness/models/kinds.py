"""Recognises models that look like base models and are of other kinds, and names the kind for the user.

Training on such a model as if it were a plain one raises no error and gives a wrong LoRA: the model has another target,
another noise schedule, or further inputs.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from likeness.core.errors import LikenessError
from likeness.core.tensors import Header
from likeness.models.families import PLAIN_MODEL

# The kind of model by the number of channels that its U-Net reads, if that is not the number of output channels.
_CHANNELS = {
    9: "an inpainting model",
    8: "an instruct-pix2pix model",
    5: "a depth-to-image model",
    7: "an upscaler",
}
_CONDITIONED = "a model that also reads another picture"

# The kind of a file that has all parts of Stable Diffusion, by a pattern of a tensor's name.
_MARKS = {
    r"(^|\.)edm_vpred\.sigma_(max|min)$": "CosXL, which is trained on a noise schedule of its own (EDM)",
    r"(^|\.)edm_(mean|std)$": "Playground v2.5, which is trained on a noise schedule and latents of its own (EDM)",
    r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale|absmax|quant_map|comfy_quant|SCB)$": "a quantised model",
    r"\.motion_modules\.|\.temporal_transformer\.": "AnimateDiff",
    r"\.time_stack\.|\.time_mixer\.": "a video model (Stable Video Diffusion)",
    r"^depth_model\.": "a depth-to-image model",
    r"^noise_augmentor\.|^embedder\.model\.visual\.": "an unCLIP model",
    r"\.position_net\.": "GLIGEN",
    r"\.time_embed\.cond_proj\.": "a latent consistency model (LCM)",
    r"^conditioner\.embedders\.0\.model\.": "the refiner of Stable Diffusion XL",
    r"^conditioner\.embedders\.0\.open_clip\.": "a video model (Stable Video Diffusion)",
    r"^cond_stage_model\.(roberta|model\.roberta)\.": "AltDiffusion",
}
# The kind of other files, likewise. The more specific patterns come first.
_OTHER_FILES = {
    r"^(lora|lycoris)_|\.lora_(A|B|up|down)\.|[._]lora(_linear_layer)?\.(up|down)\.|\.hada_w1_a$|\.lokr_w1": "a LoRA",
    r"^ip_adapter\.|\.to_k_ip\.": "an IP-Adapter",
    r"^emb_params$|^string_to_param|^clip_[lg]$": "a textual inversion",
    r"^(control_model|input_hint_block|controlnet_cond_embedding)\.": "a ControlNet",
    r"joint_(transformer_)?blocks\.|^joint_blocks\.": "Stable Diffusion 3",
    r"\b(double_blocks|single_blocks|single_transformer_blocks|distilled_guidance_layer)\.": "Flux or a relative of it",
    r"\bdouble_layers\.": "AuraFlow",
    r"\bclip_(txt|img)_mapper\.|\beffnet_mapper\.": "Stable Cascade",
    r"\bindividual_token_refiner\.": "HunyuanVideo",
    r"\bmlp_t5\.": "Hunyuan-DiT",
    r"\bcap_embedder\.": "Lumina or Z-Image",
    r"\bpatchify_proj\.": "LTX-Video",
    r"\b(adaln_single|y_embedder|caption_projection|t_block)\.": "PixArt or Sana",
    r"\bhead\.modulation$": "Wan",
    r"\b(txt_norm|txt_in)\.": "Qwen-Image or a relative of it",
    r"^net\.": "Cosmos",
    r"\bmotion_modules\.": "AnimateDiff's motion module",
    r"^(conv_first|model\.0)\.weight$": "an upscaler (upscale.weights takes ESRGAN's)",
}
# The kind of model by a part of the name of its pipeline's class in diffusers. Other StableDiffusion pipelines can be
# used.
_PIPELINES = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "Flux",
    "Cascade": "Stable Cascade",
    "Wuerstchen": "Wuerstchen",
    "VideoDiffusion": "a video model (Stable Video Diffusion)",
    "AnimateDiff": "AnimateDiff",
    "UnCLIP": "an unCLIP model",
    "Upscale": "an upscaler",
    "Depth2Img": "a depth-to-image model",
    "Pix2Pix": "an instruct-pix2pix model",
    "LatentConsistency": "a latent consistency model (LCM)",
    "AltDiffusion": "AltDiffusion",
    "Kolors": "Kolors",
}
_SCHEDULERS = {
    "EDM": "a model on a noise schedule of its own (EDM, as CosXL and Playground v2.5)",
    "FlowMatch": "a flow-matching model",
    "LCM": "a distilled model (LCM)",
    "TCD": "a distilled model (TCD)",
    "Cosine": "CosXL, which is trained on a noise schedule of its own (EDM)",
    "Wuerstchen": "Stable Cascade or Wuerstchen",
}
# Names of distilled models. They draw in a few steps almost without guidance, and training as a plain model undoes it.
_DISTILLED = re.compile(r"turbo|lightning|hyper[-_ ]?sd|(?<![a-z])(lcm|dmd2?|tcd)(?![a-z])|distill", re.IGNORECASE)


def refuse(kind: str | None, what: str, expected: str = PLAIN_MODEL) -> None:
    """Raises LikenessError if `kind` is not empty: the model `what` is of this kind, not of the expected one."""
    if kind:
        raise LikenessError(f"{what}: this is {kind}; expected {expected}")


def kind_of_file(header: Header) -> str | None:
    """The kind of a single file that has the layers of a family. None for a plain base model."""
    if kind := _marked(_MARKS, header.entries):
        return kind
    entries = header.entries
    first, last = (entries.get(f"model.diffusion_model.{name}.weight") for name in ("input_blocks.0.0", "out.2"))
    if first and last and len(first.shape) == 4 and len(last.shape) == 4 and first.shape[1] != last.shape[0]:
        return _CHANNELS.get(first.shape[1], _CONDITIONED)
    of_class = any(name.startswith("model.diffusion_model.label_emb.") for name in entries)
    if of_class and not any(name.startswith("conditioner.") for name in entries):
        return "an unCLIP model or an upscaler"
    # Keys of Stability's model specification. Programs that merge or train models copy them.
    specification = " ".join(str(header.metadata.get(f"modelspec.{key}", "")) for key in ("title", "architecture"))
    word = distilled_word(specification)
    return f"a distilled model ({word}, by its header)" if word else None


def kind_of_other_file(header: Header) -> str:
    """The kind of a single file that has not the layers of any family; never empty."""
    names = header.entries
    if kind := _marked(_MARKS, names) or _marked(_OTHER_FILES, names):
        return kind
    starts = {name.split(".")[0] for name in names}
    if any(name.startswith("model.diffusion_model.") or "input_blocks.0.0." in name for name in names):
        return "a U-Net without text encoders"
    if {"down_blocks", "mid_block", "up_blocks"} <= starts:
        return "a U-Net alone (in diffusers' layout base_model is the folder of the whole model)"
    if {"encoder", "decoder"} <= starts or "first_stage_model" in starts:
        return "a VAE (which vae: takes)"
    if starts & {"text_model", "text_projection", "transformer"}:
        return "a text encoder"
    return "something else"


def _marked(marks: Mapping[str, str], names: Collection[str]) -> str | None:
    return next((kind for mark, kind in marks.items() if any(re.search(mark, name) for name in names)), None)


def kind_of_pipeline(model_index: Mapping[str, Any]) -> str | None:
    """The kind of a diffusers folder by its pipeline. None for a plain pipeline of Stable Diffusion."""
    name = str(model_index.get("_class_name", ""))
    for word, kind in _PIPELINES.items():
        if word in name:
            return kind
    return None if name.startswith("StableDiffusion") else f"a {name or 'model without a pipeline'}"


def kind_of_unet(unet: Mapping[str, Any], text_encoder: Mapping[str, Any]) -> str | None:
    """The kind of a model by its U-Net's config.json. None for a plain Stable Diffusion. `text_encoder` is empty if the
    model has none."""
    kind = unet.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel":
        return f"a model with a {kind}"
    read, drawn = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if read != drawn:
        return _CHANNELS.get(read, _CONDITIONED)
    if unet.get("time_cond_proj_dim"):
        return "a latent consistency model (LCM)"
    if unet.get("class_embed_type") or unet.get("num_class_embeds"):
        return "an unCLIP model or an upscaler"
    if unet.get("attention_type") in ("gated", "gated-text-image"):
        return "GLIGEN"
    if unet.get("encoder_hid_dim") or unet.get("encoder_hid_dim_type"):
        return "a model with a language model of its own (Kolors, DeepFloyd IF)"
    addition = unet.get("addition_embed_type")
    if addition == "text_time" and not text_encoder:
        return "the refiner of Stable Diffusion XL"
    if addition not in (None, "text_time"):
        return f"a model that reads more than words and size ({addition})"
    return None


def kind_of_text_encoder(config: Mapping[str, Any]) -> str | None:
    """The kind of a model by a text encoder's config.json. None for CLIP."""
    kind = config.get("model_type", "clip_text_model")
    return None if kind in ("clip_text_model", "clip") else f"a model that reads captions with {kind}, not with CLIP"


def kind_of_numbers(config: Mapping[str, Any]) -> str | None:
    """The kind of a model by a part's config.json: quantised weights need a library of their own. None for others."""
    return "a quantised model" if config.get("quantization_config") else None


def kind_of_scheduler(scheduler: Mapping[str, Any]) -> str | None:
    """The kind of a model by its scheduler_config.json. None if it was trained on Stable Diffusion's schedule."""
    name = str(scheduler.get("_class_name", ""))
    for word, kind in _SCHEDULERS.items():
        if word in name:
            return f"{kind}; its scheduler is {name}"
    own = any(scheduler.get(key) is not None for key in ("sigma_data", "sigma_max", "sigma_min"))
    if own or scheduler.get("timestep_type") == "continuous":
        return _SCHEDULERS["EDM"]
    if scheduler.get("use_flow_sigmas") or scheduler.get("prediction_type") == "flow_prediction":
        return _SCHEDULERS["FlowMatch"]
    return None


def kind_of_vae(vae: Mapping[str, Any]) -> str | None:
    """The kind of a VAE by its config.json. None if its latents are those of Stable Diffusion."""
    kind = vae.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        return f"a VAE of another kind ({kind})"
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.get(key) is not None:
            return f"a VAE whose latents are moved (its config.json has {key}), as Playground v2.5's and Flux's"
    for key in ("in_channels", "out_channels"):
        if vae.get(key, 3) != 3:
            return f"a VAE of pictures with {vae[key]} channels (LDM3D's have depth)"
    levels = vae.get("block_out_channels", [0] * 4)
    if isinstance(levels, list) and len(levels) != 4:
        return f"a VAE of {len(levels)} levels, which makes pictures {2 ** (len(levels) - 1)} times smaller, not 8"
    return None


def distilled_word(name: str) -> str | None:
    """The word of a model's name that marks a distilled model, in small letters; None if there is none."""
    found = _DISTILLED.search(name)
    return found[0].lower() if found else None
