"""What a LoRA file says about itself: the ss_* keys that A1111 reads, modelspec, and hashes. No time stamps."""

from collections import Counter

from likeness.provenance import canonical, digest

# What the readers' model pages show as the kind of network.
NETWORK_MODULES = {"lora": "networks.lora", "locon": "networks.lora"}

# (family, prediction): the names of Stability's modelspec 1.0. Its SD 2 that predicts noise is the one for 512 px.
ARCHITECTURES = {
    ("sd15", "epsilon"): "stable-diffusion-v1",
    ("sd15", "v"): "stable-diffusion-v1",
    ("sd2", "epsilon"): "stable-diffusion-v2-512",
    ("sd2", "v"): "stable-diffusion-v2-768-v",
    ("sdxl", "epsilon"): "stable-diffusion-xl-v1-base",
    ("sdxl", "v"): "stable-diffusion-xl-v1-base",
}
# Whose code the layers are named after, as modelspec calls it.
IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
VERSIONS = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def lora_metadata(name: str, train: dict, steps: dict, dataset: dict, base: dict) -> dict[str, str]:
    """str -> str, as safetensors wants it. Names as in kohya's train_network.py and Stability's modelspec."""
    resolution = dataset["resolution"]
    prediction = "v" if base["prediction_type"] == "v_prediction" else "epsilon"
    words = Counter(word.strip() for item in dataset["images"] for word in item["caption"].split(","))
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[base['family'], prediction]}/lora",
        "modelspec.implementation": IMPLEMENTATIONS.get(base["family"], "diffusers"),
        "modelspec.title": name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": prediction,
        # A1111 tells the families apart by these two.
        "ss_base_model_version": VERSIONS[base["family"]],
        "ss_v2": str(base["family"] == "sd2"),
        "ss_sd_model_name": base["model"],
        "ss_output_name": name,
        "ss_network_module": NETWORK_MODULES.get(train["network"], "lycoris.kohya"),
        "ss_network_dim": str(train["rank"]),
        "ss_network_alpha": f"{train['alpha']:g}",
        "ss_network_args": canonical(_network_args(train)),
        "ss_learning_rate": f"{train['learning_rate']:g}",
        "ss_unet_lr": f"{train['learning_rate']:g}",
        "ss_text_encoder_lr": f"{train['text_encoder_lr']:g}" if train["train_text_encoder"] else "None",
        "ss_optimizer": train["optimizer"],
        "ss_lr_scheduler": train["lr_scheduler"],
        "ss_mixed_precision": {"fp32": "no"}.get(train["precision"], train["precision"]),
        "ss_min_snr_gamma": str(train["min_snr_gamma"]),
        "ss_noise_offset": str(train["noise_offset"]),
        "ss_seed": str(train["seed"]),
        "ss_num_epochs": str(steps["epochs"]),
        "ss_max_train_steps": str(steps["total_steps"]),
        "ss_num_train_images": str(steps["images"] * steps["repeats"]),
        "ss_num_reg_images": str(steps["shown"] - steps["images"] * steps["repeats"]),
        "ss_num_batches_per_epoch": str(steps["steps_per_epoch"]),
        "ss_total_batch_size": str(train["batch_size"] * train["gradient_accumulation_steps"]),
        "ss_gradient_accumulation_steps": str(train["gradient_accumulation_steps"]),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_multires_noise_iterations": str(train["multires_noise_iterations"] or None),
        "ss_multires_noise_discount": str(train["multires_noise_discount"]),
        "ss_debiased_estimation": str(train["debiased_estimation"]),
        "ss_loss_type": train["loss"],
        "ss_prior_loss_weight": str(train["prior_loss_weight"]),
        "ss_caption_dropout_rate": str(train["caption_dropout_rate"]),
        "ss_network_dropout": str(train["dropout"] or None),
        "ss_lr_warmup_steps": str(train["lr_warmup_steps"]),
        "ss_max_grad_norm": "1.0",
        "ss_gradient_checkpointing": str(train["gradient_checkpointing"]),
        "ss_cache_latents": "True",
        "ss_clip_skip": str(train["clip_skip"]),
        "ss_max_token_length": str({75: None}.get(train["max_token_length"], train["max_token_length"])),
        "ss_tag_frequency": canonical({dataset["folder"].split("/")[-1]: dict(words)}),
        "likeness.dataset": digest(
            canonical([[i["name"], i["sha256"], i["caption_sha256"]] for i in dataset["images"]])
        ),
        "likeness.base_model": base["digest"],
        "likeness.preserve_class": f"{train['preserve_class']:g}",
    }


def _network_args(train: dict) -> dict[str, str]:
    more = {} if train["loraplus_lr_ratio"] == 1 else {"loraplus_lr_ratio": f"{train['loraplus_lr_ratio']:g}"}
    match train["network"]:
        case "lora":
            return more
        case "locon":
            return {"conv_dim": str(train["conv_rank"]), "conv_alpha": f"{train['conv_alpha']:g}"} | more
        case "dora":
            return {"algo": "lora", "dora_wd": "True"} | more
        case kind:
            return {"algo": kind}
