"""The metadata of a LoRA file: the ss_* keys that A1111 reads, modelspec, and hashes. It has no time stamps."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from likeness.core.provenance import canonical, digest
from likeness.training.schedule import Schedule
from likeness.training.settings import Settings

# The kind of network that other programs show. All kinds that are missing here are LyCORIS'.
NETWORK_MODULES = {"lora": "networks.lora", "locon": "networks.lora"}

# The architecture by (family, prediction), as named in Stability's modelspec 1.0. There, the SD 2 that predicts noise
# is the model for 512 px.
ARCHITECTURES = {
    ("sd15", "epsilon"): "stable-diffusion-v1",
    ("sd15", "v"): "stable-diffusion-v1",
    ("sd2", "epsilon"): "stable-diffusion-v2-512",
    ("sd2", "v"): "stable-diffusion-v2-768-v",
    ("sdxl", "epsilon"): "stable-diffusion-xl-v1-base",
    ("sdxl", "v"): "stable-diffusion-xl-v1-base",
}
# modelspec's name for the code after which the layers are named.
IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
VERSIONS = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def lora_metadata(
    name: str, settings: Settings, steps: Schedule, dataset: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, str]:
    """The metadata of all epochs as strings, because safetensors allows nothing else. The names are those of kohya's
    train_network.py and of Stability's modelspec."""
    resolution = dataset["resolution"]
    prediction = "v" if base["prediction_type"] == "v_prediction" else "epsilon"
    tag_counts = Counter(tag.strip() for item in dataset["images"] for tag in item["caption"].split(","))
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[base['family'], prediction]}/lora",
        "modelspec.implementation": IMPLEMENTATIONS.get(base["family"], "diffusers"),
        "modelspec.title": name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": prediction,
        # A1111 recognises the family of the base model by these two.
        "ss_base_model_version": VERSIONS[base["family"]],
        "ss_v2": str(base["family"] == "sd2"),
        "ss_sd_model_name": base["model"],
        "ss_output_name": name,
        "ss_network_module": NETWORK_MODULES.get(settings.network, "lycoris.kohya"),
        "ss_network_dim": str(settings.rank),
        "ss_network_alpha": f"{settings.alpha:g}",
        "ss_network_args": canonical(_network_args(settings)),
        "ss_learning_rate": f"{settings.learning_rate:g}",
        "ss_unet_lr": f"{settings.learning_rate:g}",
        "ss_text_encoder_lr": f"{settings.text_encoder_lr:g}" if settings.train_text_encoder else "None",
        "ss_optimizer": settings.optimizer,
        "ss_lr_scheduler": settings.lr_scheduler,
        "ss_mixed_precision": {"fp32": "no"}.get(settings.precision, settings.precision),
        "ss_min_snr_gamma": str(settings.min_snr_gamma),
        "ss_noise_offset": str(settings.noise_offset),
        "ss_seed": str(settings.seed),
        "ss_num_epochs": str(steps.epochs),
        "ss_max_train_steps": str(steps.total_steps),
        "ss_num_train_images": str(steps.images * steps.repeats),
        "ss_num_reg_images": str(steps.shown - steps.images * steps.repeats),
        "ss_num_batches_per_epoch": str(steps.steps_per_epoch),
        "ss_total_batch_size": str(settings.batch_size * settings.gradient_accumulation_steps),
        "ss_gradient_accumulation_steps": str(settings.gradient_accumulation_steps),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_multires_noise_iterations": str(settings.multires_noise_iterations or None),
        "ss_multires_noise_discount": str(settings.multires_noise_discount),
        "ss_debiased_estimation": str(settings.debiased_estimation),
        "ss_loss_type": settings.loss,
        "ss_prior_loss_weight": str(settings.prior_loss_weight),
        "ss_caption_dropout_rate": str(settings.caption_dropout_rate),
        "ss_network_dropout": str(settings.dropout or None),
        "ss_lr_warmup_steps": str(settings.lr_warmup_steps),
        "ss_max_grad_norm": "1.0",
        "ss_gradient_checkpointing": str(settings.gradient_checkpointing),
        "ss_cache_latents": "True",
        "ss_clip_skip": str(settings.clip_skip),
        "ss_max_token_length": str({75: None}.get(settings.max_token_length, settings.max_token_length)),
        "ss_tag_frequency": canonical({dataset["folder"].split("/")[-1]: dict(tag_counts)}),
        "likeness.dataset": digest(
            canonical([[i["name"], i["sha256"], i["caption_sha256"]] for i in dataset["images"]])
        ),
        "likeness.base_model": base["digest"],
        "likeness.preserve_class": f"{settings.preserve_class:g}",
    }


def _network_args(settings: Settings) -> dict[str, str]:
    """The network_args with which kohya's trainer would make the same network."""
    loraplus = {} if settings.loraplus_lr_ratio == 1 else {"loraplus_lr_ratio": f"{settings.loraplus_lr_ratio:g}"}
    match settings.network:
        case "lora":
            return loraplus
        case "locon":
            return {"conv_dim": str(settings.conv_rank), "conv_alpha": f"{settings.conv_alpha:g}"} | loraplus
        case "dora":
            return {"algo": "lora", "dora_wd": "True"} | loraplus
        case kind:
            return {"algo": kind}
