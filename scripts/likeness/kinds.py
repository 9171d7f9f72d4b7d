"""Models that are handed round like base models and are of other kinds: named, so that the user knows what they have.

A LoRA trained on one of them as if it were a plain model learns a wrong thing in silence: another target, another noise
schedule, inputs that are not there.
"""

import re
from collections.abc import Collection, Mapping

from likeness.errors import LikenessError
from likeness.families import PLAIN_MODEL
from likeness.tensors import Header

# What the channels that a U-Net reads beyond those it draws are for.
_CHANNELS = {
    9: "an inpainting model",
    8: "an instruct-pix2pix model",
    5: "a depth-to-image model",
    7: "an upscaler",
}
_CONDITIONED = "a model that also reads another picture"

# What the name of a tensor gives away of a file that has all parts of Stable Diffusion.
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
# And of one that has not. First come those whose names say more than the next ones'.
_OTHER_FILES = {
    r"^lora_(unet|te)|\.lora_(A|B|up|down)\.|\.lora\.(up|down)\.|\.hada_w1_a$|\.lokr_w1": "a LoRA",
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
# diffusers' classes of pipelines, by a word in their names; others that draw from Stable Diffusion's parts can be used.
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
# How distilled models are called: drawn in few steps almost without guidance, which training as a plain model undoes.
_DISTILLED = re.compile(r"turbo|lightning|hyper[-_ ]?sd|(?<![a-z])(lcm|dmd2?|tcd)(?![a-z])|distill", re.IGNORECASE)


def refuse(kind: str | None, what: str, expected: str = PLAIN_MODEL) -> None:
    """Raises LikenessError if a model is of another kind than expected; `what` names the model."""
    if kind:
        raise LikenessError(f"{what}: this is {kind}; expected {expected}")


def kind_of_file(header: Header) -> str | None:
    """What a single file with the layers of a family is, where something in it says that it is no plain base model."""
    if kind := _marked(_MARKS, header.entries):
        return kind
    entries = header.entries
    first, last = (entries.get(f"model.diffusion_model.{name}.weight") for name in ("input_blocks.0.0", "out.2"))
    if first and last and len(first.shape) == 4 and len(last.shape) == 4 and first.shape[1] != last.shape[0]:
        return _CHANNELS.get(first.shape[1], _CONDITIONED)
    of_class = any(name.startswith("model.diffusion_model.label_emb.") for name in entries)
    if of_class and not any(name.startswith("conditioner.") for name in entries):
        return "an unCLIP model or an upscaler"
    # Stability's model specification; mergers and trainers copy it.
    said = " ".join(str(header.metadata.get(f"modelspec.{key}", "")) for key in ("title", "architecture"))
    word = distilled_word(said)
    return f"a distilled model ({word}, by its header)" if word else None


def kind_of_other_file(header: Header) -> str:
    """What a single file without the layers of a family is."""
    names = header.entries
    if kind := _marked(_MARKS, names) or _marked(_OTHER_FILES, names):
        return kind
    starts = {name.split(".")[0] for name in names}
    if any(name.startswith("model.diffusion_model.") for name in names):
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


def kind_of_pipeline(model_index: Mapping) -> str | None:
    """What a diffusers folder is by its pipeline, where that is none of Stable Diffusion's plain ones."""
    name = str(model_index.get("_class_name", ""))
    for word, kind in _PIPELINES.items():
        if word in name:
            return kind
    return None if name.startswith("StableDiffusion") else f"a {name or 'model without a pipeline'}"


def kind_of_unet(unet: Mapping, text_encoder: Mapping) -> str | None:
    """What a U-Net's config.json says, where it is no plain Stable Diffusion's. `text_encoder` is empty where there is
    none."""
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
    if unet.get("encoder_hid_dim") or unet.get("encoder_hid_dim_type"):
        return "a model with a language model of its own (Kolors, DeepFloyd IF)"
    addition = unet.get("addition_embed_type")
    if addition == "text_time" and not text_encoder:
        return "the refiner of Stable Diffusion XL"
    if addition not in (None, "text_time"):
        return f"a model that reads more than words and size ({addition})"
    return None


def kind_of_text_encoder(config: Mapping) -> str | None:
    """What a text encoder's config.json says, where it is not CLIP's."""
    kind = config.get("model_type", "clip_text_model")
    return None if kind in ("clip_text_model", "clip") else f"a model that reads captions with {kind}, not with CLIP"


def kind_of_scheduler(scheduler: Mapping) -> str | None:
    """What a scheduler_config.json says, where the model is not trained on Stable Diffusion's schedule."""
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


def kind_of_vae(vae: Mapping) -> str | None:
    """What a VAE's config.json says, where its latents are not Stable Diffusion's."""
    kind = vae.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        return f"a VAE of another kind ({kind})"
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.get(key) is not None:
            return f"a VAE whose latents are moved (its config.json has {key}), as Playground v2.5's and Flux's"
    return None


def distilled_word(name: str) -> str | None:
    """The word in a model's name that says that it is a distilled one."""
    found = _DISTILLED.search(name)
    return found[0].lower() if found else None
