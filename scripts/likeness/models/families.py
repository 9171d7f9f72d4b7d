"""The families of Stable Diffusion that can be trained: their parts, and the configurations of these parts.

A single .safetensors file has weights and no configuration. The names of its layers tell its family, and the family
tells the configuration.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.tensors import tensor_names

if TYPE_CHECKING:
    import torch

# The noise schedule of SD 1.5. Its finetunes, SD 2 and SDXL have the same one.
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

_UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
_OPEN_CLIP = {**_CLIP, "hidden_act": "gelu", "pad_token_id": 0}


class Family(NamedTuple):
    """One kind of base model.

    `name` is used in files. `pipeline` is diffusers' class. `parts` are the names of the folders. `config` has the
    config.json of each part that has one. `keys` has the prefix of each text encoder's tensors in a single file.
    """

    name: str
    title: str
    pipeline: str
    parts: tuple[str, ...]
    config: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The parts that read captions."""
        return tuple(part for part in self.parts if part.startswith("text_encoder"))


_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
SD15 = Family(
    "sd15",
    "Stable Diffusion 1.x",
    "StableDiffusionPipeline",
    _PARTS,
    {"unet": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8}, "vae": _VAE, "text_encoder": _CLIP},
    {"text_encoder": "cond_stage_model.transformer."},
)
# SD 2 does not use the last of OpenCLIP's 24 layers, so its text encoder has 23.
SD2 = Family(
    "sd2",
    "Stable Diffusion 2.x",
    "StableDiffusionPipeline",
    _PARTS,
    {
        "unet": {
            **_UNET,
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "vae": {**_VAE, "sample_size": 768},
        "text_encoder": {
            **_OPEN_CLIP,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "projection_dim": 512,
        },
    },
    {"text_encoder": "cond_stage_model.model."},
)
SDXL = Family(
    "sdxl",
    "Stable Diffusion XL",
    "StableDiffusionXLPipeline",
    (*_PARTS, "text_encoder_2", "tokenizer_2"),
    {
        "unet": {
            **_UNET,
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": _CLIP,
        "text_encoder_2": {
            **_OPEN_CLIP,
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        },
    },
    {"text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model."},
)
FAMILIES = {family.name: family for family in (SD15, SD2, SDXL)}
PLAIN_MODEL = f"a plain model of {', '.join(family.title for family in FAMILIES.values())}"


def family_of_folder(unet: Mapping[str, Any], text_encoder: Mapping[str, Any]) -> Family:
    """The family of a diffusers folder by the config.json of two parts. kinds.py tells whether it is a plain model."""
    if unet.get("addition_embed_type") == "text_time":
        return SDXL
    return SD2 if text_encoder.get("hidden_act") == "gelu" else SD15


def family_of_file(names: Collection[str]) -> Family | None:
    """The family of a single file by the names of its tensors. None if it has no text encoder of any family."""
    return next(
        (family for family in FAMILIES.values() if any(name.startswith(tuple(family.keys.values())) for name in names)),
        None,
    )


def family_at(path: Path) -> Family | None:
    """The family of a base model that is a file or a folder here, by the file's header or the folder's configurations
    alone. None if they do not tell it; fetch_base then says why the model cannot be used."""
    try:
        if path.is_file():
            return family_of_file(tensor_names(path))
        unet, text_encoder = (
            json.loads((path / part / "config.json").read_text()) for part in ("unet", "text_encoder")
        )
        return family_of_folder(unet, text_encoder)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # missing, damaged, or no JSON object
        return None


# A tensor of SD 2 whose standard deviation is larger in v-prediction models, and the limit between the two kinds.
_SD2_SPREAD, _SD2_VELOCITY = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
# modelspec.prediction_type, as kohya's trainer and the Stability model specification write it.
_MODELSPEC = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def schedule_of_file(
    family: Family, keys: Collection[str], metadata: Mapping[str, str], tensor: Callable[[str], "torch.Tensor"]
) -> dict[str, Any]:
    """The settings of a single file's noise schedule, named as in scheduler_config.json. `tensor` reads a tensor.

    A tensor named `v_pred` marks a v-prediction model. If there is also `ztsnr`, its last step is pure noise. Without
    these tensors the header decides. If it has no entry either, the spread of one bias decides for SD 2, as in ComfyUI
    (SD20.model_type in comfy/supported_models.py: a standard deviation above 0.09 is v). All others predict the noise.
    """
    spec = _MODELSPEC.get(metadata.get("modelspec.prediction_type", ""))
    if "v_pred" in keys:
        prediction = "v_prediction"
    elif spec:
        prediction = spec
    elif family is SD2 and _SD2_SPREAD in keys:
        spread = tensor(_SD2_SPREAD).float().std(correction=0).item()
        prediction = "v_prediction" if spread > _SD2_VELOCITY else "epsilon"
    else:
        prediction = "epsilon"
    if "ztsnr" in keys and prediction == "v_prediction":
        # Lin et al. 2023 (arXiv:2305.08891): sampling has to start at the last step. Only "trailing" does.
        return {"prediction_type": prediction, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {"prediction_type": prediction, "rescale_betas_zero_snr": False}


# Every Stable Diffusion has a thousand. A file with more than ten times as many is damaged.
_MOST_STEPS = 10_000
# The noise schedules that all samplers of SAMPLERS know.
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_SPACINGS = ("leading", "trailing", "linspace")


def check_schedule(scheduler: Mapping[str, Any], what: str) -> None:
    """Raises LikenessError, with the setting's name, if a setting of scheduler_config.json is invalid."""
    steps = scheduler.get("num_train_timesteps", 1000)
    start, end = scheduler.get("beta_start", 0.0001), scheduler.get("beta_end", 0.02)
    trained = scheduler.get("trained_betas")
    problems = {
        "_class_name": (isinstance(scheduler.get("_class_name", ""), str), "the name of a class"),
        "num_train_timesteps": (_is_whole(steps) and 1 < steps <= _MOST_STEPS, f"from 2 to {_MOST_STEPS}"),
        "beta_schedule": (scheduler.get("beta_schedule", "linear") in _BETA_SCHEDULES, " or ".join(_BETA_SCHEDULES)),
        "beta_start": (_is_share(start), "above 0 and below 1"),
        "beta_end": (_is_share(end) and not (_is_share(start) and end < start), "above beta_start and below 1"),
        "trained_betas": (
            trained is None or (isinstance(trained, list) and len(trained) == steps and all(map(_is_share, trained))),
            "null, or one number above 0 and below 1 for each step",
        ),
        "timestep_spacing": (scheduler.get("timestep_spacing", "leading") in _SPACINGS, " or ".join(_SPACINGS)),
        "steps_offset": (
            _is_whole(offset := scheduler.get("steps_offset", 0)) and 0 <= offset <= 1,
            "0 or 1",
        ),
        "rescale_betas_zero_snr": (
            scheduler.get("rescale_betas_zero_snr", False) in (True, False, None),
            "true or false",
        ),
    }
    for key, (fits, expected) in problems.items():
        if not fits:
            value = repr(scheduler.get(key))
            raise LikenessError(
                f"{what}: {key} in scheduler_config.json is {value if len(value) < 80 else value[:80] + '...'}, "
                f"expected {expected}; get the right file"
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
