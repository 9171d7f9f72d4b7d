"""Files of kohya's trainer, as its users have them: concept folders, the GUI's JSON, a TOML of sd-scripts."""

import shutil
from pathlib import Path
from typing import Any

from project import ROOT

PHOTO = next(iter(sorted((ROOT / "resources/people/ava").glob("*.jpg"))))


def concept(folder: Path, photos: int = 4) -> Path:
    """A folder of photos with a caption beside the first."""
    folder.mkdir(parents=True)
    for number in range(photos):
        shutil.copy(PHOTO, folder / f"{number}.jpg")
    (folder / "0.txt").write_text("ohwx woman, smiling")
    return folder


# Numbers, texts and switches are mixed as the GUI saves them.
GUI: dict[str, Any] = {
    **{"pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5", "v2": False, "v_parameterization": False},
    **{"sdxl": False, "train_data_dir": "mia/img", "reg_data_dir": "mia/reg", "output_dir": "mia/model", "vae": ""},
    **{"LoRA_type": "Standard", "network_dim": 32, "network_alpha": "16", "network_dropout": 0, "conv_dim": 8},
    **{"learning_rate": "0.0001", "unet_lr": 0.0001, "text_encoder_lr": 5e-05, "optimizer": "AdamW8bit"},
    **{"optimizer_args": "weight_decay=0.05 betas=0.9,0.99", "lr_scheduler": "cosine_with_restarts"},
    **{"lr_scheduler_num_cycles": "3", "lr_scheduler_power": "", "lr_warmup": 10, "max_resolution": "768,768"},
    **{"train_batch_size": 2, "gradient_accumulation_steps": 2.0, "epoch": 10, "max_train_steps": "", "seed": "1234"},
    **{"save_every_n_epochs": 2, "mixed_precision": "fp16", "save_precision": "fp16", "clip_skip": "2"},
    **{"enable_bucket": True, "min_bucket_reso": 256, "max_bucket_reso": 2048, "bucket_no_upscale": True},
    **{"noise_offset_type": "Original", "noise_offset": 0.05, "adaptive_noise_scale": 0.005, "min_snr_gamma": 5},
    **{"multires_noise_iterations": 8, "multires_noise_discount": 0.2, "scale_weight_norms": 1, "max_grad_norm": 1},
    **{"caption_dropout_rate": 0.1, "keep_tokens": "1", "shuffle_caption": True, "max_token_length": "150"},
    **{"gradient_checkpointing": True, "xformers": "xformers", "cache_latents": True, "caption_extension": ".txt"},
    **{"loss_type": "l2", "huber_c": 0.1, "huber_schedule": "snr", "huber_scale": 1, "max_timestep": 1000},
    **{"sample_sampler": "euler_a", "sample_every_n_epochs": 0, "flux1_checkbox": False, "flux1_t5xxl": "x"},
    **{"discrete_flow_shift": 3, "my_own_key": 7},
    "sample_prompts": "# faces\n"
    "photo of ohwx woman, smiling --n blurry --s 28\nohwx in a park --n blurry --s 28\na dog",
}

SD_SCRIPTS = """
[model]
pretrained_model_name_or_path = "owner/model"
v_parameterization = true
[data]
train_data_dir = "mia/img"
resolution = "512"
[training]
network_module = "networks.lora"
network_dim = 16
network_alpha = 8
network_args = ["conv_dim=8"]
optimizer_type = "prodigy"
optimizer_args = ["decouple=True", "d_coef=2"]
learning_rate = 1.0
max_train_steps = 1500
mixed_precision = "bf16"
"""
