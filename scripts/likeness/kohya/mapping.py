"""Kohya's settings as data: which key of ours each has, what kohya's programs assume where one is not written, and why
some have no place here. docs/kohya.md has the same table; a test compares them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from likeness.config.mistakes import OTHER_NAMES

# Kohya's keys under other names than ours.
_RENAMED = (
    *("pretrained_model_name_or_path", "v_parameterization", "max_resolution", "enable_bucket"),
    *("train_data_dir", "image_dir", "num_repeats", "class_tokens", "reg_data_dir"),
    *("network_module", "LoRA_type", "algo", "dora_wd", "network_dim", "network_alpha", "network_dropout"),
    *("conv_dim", "lora_network_weights", "network_train_unet_only", "unet_lr", "optimizer_type", "lr_warmup"),
    *("max_train_epochs", "epoch", "train_batch_size", "mixed_precision", "xformers", "sdpa", "torch_compile"),
    *("loss_type", "debiased_estimation_loss", "sample_prompts", "sample_sampler"),
)
# Keys with the same name here: those of the top level, and those of the section train.
_AT_THE_TOP = ("vae", "clip_skip", "resolution")
_OF_TRAIN = (
    *("network_weights", "conv_alpha", "loraplus_lr_ratio", "optimizer", "optimizer_args", "learning_rate"),
    *("text_encoder_lr", "lr_scheduler", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_warmup_steps"),
    *("max_train_steps", "save_every_n_epochs", "save_precision", "batch_size", "gradient_accumulation_steps"),
    *("gradient_checkpointing", "huber_c", "huber_schedule", "min_snr_gamma", "masked_loss", "prior_loss_weight"),
    *("noise_offset", "multires_noise_iterations", "multires_noise_discount", "caption_dropout_rate"),
    *("shuffle_caption", "keep_tokens", "max_token_length", "flip_aug", "seed"),
)
PLACES = {
    **{key: OTHER_NAMES[key] for key in _RENAMED},
    **{key: key for key in _AT_THE_TOP},
    **{key: f"train.{key}" for key in _OF_TRAIN},
}

# What sd-scripts assumes where a key is not written and we would assume something else (commit 48d368fa).
SD_SCRIPTS_DEFAULTS: dict[str, Any] = {
    **{"network_module": "networks.lora", "network_dim": 4, "network_alpha": 1, "optimizer_type": "AdamW"},
    **{"learning_rate": 2e-6, "lr_scheduler": "constant", "lr_scheduler_num_cycles": 1, "max_train_steps": 1600},
    **{"train_batch_size": 1, "mixed_precision": "no", "save_precision": "float", "keep_tokens": 0},
}
# What the GUI shows where its saved JSON lacks a key (commit 45088f04).
GUI_DEFAULTS: dict[str, Any] = {
    **{"LoRA_type": "Standard", "network_dim": 8, "network_alpha": 1, "optimizer": "AdamW8bit", "epoch": 1},
    **{"learning_rate": 1e-4, "unet_lr": 1e-4, "text_encoder_lr": 1e-4, "lr_scheduler": "cosine", "lr_warmup": 10},
    **{"train_batch_size": 1, "mixed_precision": "fp16", "save_precision": "fp16", "max_resolution": "512,512"},
    **{"enable_bucket": True, "keep_tokens": 0},
}

# Keys of the GUI, of a subset and of network_args, which sd-scripts does not read among its other settings.
NOT_READ = {
    *("max_resolution", "LoRA_type", "lora_network_weights", "optimizer", "lr_warmup", "epoch"),
    *("image_dir", "num_repeats", "class_tokens", "batch_size", "algo", "dora_wd", "conv_dim", "conv_alpha"),
}
OF_REGULARISATION = " of the regularisation photos"  # after a key of a subset of them


class NoPlace(NamedTuple):
    """Why a setting has no place here, and the values with which it does nothing, besides empty ones, 0 and false."""

    reason: str
    without_effect: tuple[Any, ...] = ()


def _alike(reason: str, keys: Iterable[str]) -> dict[str, NoPlace]:
    return dict.fromkeys(keys, NoPlace(reason))


_FAMILY = "the family is read from the model"
_ALWAYS = "always so here"
_RESULTS = "results/ has its own layout (docs/results.md)"
_SHAPES = "the shapes of buckets follow from the photos"
_LENGTHS = "the length of a training follows from max_train_steps, epochs and repeats"
_KEPT = "checkpoints are saved after whole epochs, and all are kept and judged"
_STATE = "a training always goes on from its last state by itself"
_LOG = "the log and its curves are in results/{subject}/{run}/log"
_HUB = "nothing leaves the machine"
_MEMORY = "the program decides this"
_NOT = "not supported"
_CAPTION = "not supported; captions are used as they are written"
_SCHEDULE = "not supported; the schedules have no such argument here"
_LAUNCH = "train.gpus and --resources gpu=... say which GPUs train (docs/gpu.md)"
_HELD_OUT = "photos are held out for judging instead: curate.held_out"
_DRAWN = "every saved epoch is drawn (sample, docs/sampling.md)"
_NETWORK = "not supported for the networks of this workflow"
_BLOCKS = "not supported; all blocks have one rank, alpha and learning rate"
NO_PLACE: dict[str, NoPlace] = {
    **_alike(_FAMILY, ("v2", "sdxl")),
    **_alike(_ALWAYS, ("cache_latents", "cache_latents_to_disk", "cache_text_encoder_outputs")),
    **_alike(_ALWAYS, ("cache_text_encoder_outputs_to_disk", "no_half_vae")),
    "max_grad_norm": NoPlace("always 1.0 here", (1,)),
    **_alike(_RESULTS, ("output_dir", "output_name", "training_comment", "no_metadata", "model_list")),
    **_alike(_RESULTS, (f"metadata_{key}" for key in ("author", "description", "license", "tags", "title"))),
    "save_model_as": NoPlace("a LoRA is always a .safetensors file", ("safetensors", "same as source model")),
    **_alike("a LoRA is always a .safetensors file", ("use_safetensors",)),
    **_alike(_KEPT, ("save_every_n_steps", "save_n_epoch_ratio", "save_last_n_epochs", "save_last_n_steps")),
    **_alike(_STATE, ("save_state", "save_state_on_train_end", "save_last_n_epochs_state", "save_last_n_steps_state")),
    **_alike(_STATE, ("resume", "skip_until_initial_step", "initial_epoch", "initial_step")),
    **_alike(_LOG, ("logging_dir", "log_with", "log_prefix", "log_config", "log_tracker_name", "log_tracker_config")),
    **_alike(_LOG, ("wandb_api_key", "wandb_run_name")),
    **_alike(_HUB, ("huggingface_repo_id", "huggingface_token", "huggingface_repo_type", "async_upload")),
    **_alike(_HUB, ("huggingface_repo_visibility", "huggingface_path_in_repo", "save_state_to_huggingface")),
    **_alike(_HUB, ("resume_from_huggingface",)),
    "min_bucket_reso": NoPlace(_SHAPES, (256,)),
    "max_bucket_reso": NoPlace(_SHAPES, (1024, 2048)),
    "bucket_reso_steps": NoPlace(_SHAPES, (64,)),
    "bucket_no_upscale": NoPlace("faces smaller than the resolution are enlarged: the section upscale"),
    "resize_interpolation": NoPlace(_MEMORY),
    "dataset_repeats": NoPlace(_LENGTHS, (1,)),
    "random_crop": NoPlace("the face is cut out: the section crop"),
    "face_crop_aug_range": NoPlace("the face is cut out: the section crop"),
    "color_aug": NoPlace(_NOT),
    "alpha_mask": NoPlace("no masks from files; masked_loss has the head as its mask"),
    "conditioning_data_dir": NoPlace("no masks from files; masked_loss has the head as its mask"),
    **_alike("captions are .txt or .caption files beside the photos", ("in_json", "dataset_class")),
    "caption_extension": NoPlace("captions are .txt or .caption files; rename yours", (".txt", ".caption")),
    "caption_extention": NoPlace("captions are .txt or .caption files; rename yours", (".txt", ".caption")),
    **_alike(_CAPTION, ("caption_prefix", "caption_suffix", "keep_tokens_separator", "secondary_separator")),
    **_alike(_CAPTION, ("enable_wildcard", "caption_tag_dropout_rate", "caption_dropout_every_n_epochs")),
    "weighted_captions": NoPlace("not supported; brackets in a caption are words"),
    "caption_separator": NoPlace(_CAPTION, (",",)),
    "token_warmup_min": NoPlace(_CAPTION, (1,)),
    "token_warmup_step": NoPlace(_CAPTION),
    **_alike(_SCHEDULE, ("lr_scheduler_args", "lr_scheduler_type", "lr_decay_steps", "lr_scheduler_timescale")),
    **_alike(_SCHEDULE, ("lr_scheduler_min_lr_ratio",)),
    **_alike("the LoRA itself is always trained in fp32", ("full_fp16", "full_bf16", "fp8_base", "fp8_base_unet")),
    "mem_eff_attn": NoPlace("attention: sdpa saves the same memory"),
    **_alike(_NOT, ("noise_offset_random_strength", "adaptive_noise_scale", "ip_noise_gamma", "zero_terminal_snr")),
    **_alike(_NOT, ("ip_noise_gamma_random_strength", "v_pred_like_loss", "scale_v_pred_loss_like_noise_pred")),
    **_alike(_NOT, ("scale_weight_norms", "train_inpainting", "base_weights", "base_weights_multiplier")),
    **_alike(_NOT, ("train_lora_ggpo", "ggpo_sigma", "ggpo_beta", "t5xxl_lr", "network_multiplier")),
    "huber_scale": NoPlace(_NOT, (1,)),
    "min_timestep": NoPlace("not supported; all timesteps are trained"),
    "max_timestep": NoPlace("not supported; all timesteps are trained", (1000,)),
    "stop_text_encoder_training": NoPlace("not supported; kohya ignores it too"),
    "network_train_text_encoder_only": NoPlace("not supported; the U-Net is always trained"),
    **_alike(_NETWORK, ("dim_from_weights", "rank_dropout", "module_dropout", "use_tucker", "use_cp", "use_scalar")),
    **_alike(_NETWORK, ("rank_dropout_scale", "bypass_mode", "train_norm", "decompose_both", "constraint")),
    **_alike(_NETWORK, ("rescaled", "train_on_input", "unit", "block_size", "constrain", "full_matrix")),
    **_alike(_NETWORK, ("rs_lora", "unbalanced_factorization", "wd_on_output", "use_conv_cp", "disable_conv_cp")),
    "factor": NoPlace(_NETWORK, (-1,)),
    "custom_attributes": NoPlace("train.preserve_class is what diff_output_preservation is, and is on"),
    "dynamo_backend": NoPlace(_MEMORY, ("no", "inductor")),
    "loraplus_unet_lr_ratio": NoPlace("loraplus_lr_ratio is for the U-Net and the text encoder"),
    "loraplus_text_encoder_lr_ratio": NoPlace("loraplus_lr_ratio is for the U-Net and the text encoder"),
    **_alike(_BLOCKS, ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims")),
    **_alike(_BLOCKS, ("block_alphas", "conv_block_dims", "conv_block_alphas")),
    **_alike(_HELD_OUT, ("validation_split", "validation_seed", "validate_every_n_epochs", "validate_every_n_steps")),
    **_alike(_HELD_OUT, ("max_validation_steps",)),
    **_alike(_DRAWN, ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")),
    **_alike(
        _MEMORY, ("vae_batch_size", "text_encoder_batch_size", "max_data_loader_n_workers", "highvram", "lowvram")
    ),
    **_alike(_MEMORY, ("lowram", "persistent_data_loader_workers", "skip_cache_check", "cache_info", "debug_dataset")),
    **_alike(
        _MEMORY, ("tokenizer_cache_dir", "disable_mmap_load_safetensors", "fused_backward_pass", "no_token_padding")
    ),
    **_alike(_MEMORY, ("dynamo_mode", "dynamo_use_fullgraph", "dynamo_use_dynamic", "num_cpu_threads_per_process")),
    "dynamo_mode": NoPlace(_MEMORY, ("default",)),
    "num_cpu_threads_per_process": NoPlace(_MEMORY, (1, 2)),
    "num_processes": NoPlace(_LAUNCH, (1,)),
    "num_machines": NoPlace(_LAUNCH, (1,)),
    **_alike(_LAUNCH, ("multi_gpu", "gpu_ids", "main_process_port", "extra_accelerate_launch_args", "ddp_timeout")),
    **_alike(_LAUNCH, ("ddp_gradient_as_bucket_view", "ddp_static_graph")),
}

# The GUI saves the keys of all families that it trains. Without their checkbox they have no effect in kohya either.
CHECKBOXES = {
    **{"flux1_checkbox": "Flux", "sd3_checkbox": "Stable Diffusion 3", "hunyuan_image_checkbox": "HunyuanImage"},
    **{"anima_checkbox": "Anima", "lumina_checkbox": "Lumina"},
}
_PREFIXES = ("flux1_", "sd3_", "hunyuan_", "anima_", "lumina_")
_OF_OTHER_FAMILIES = {
    *("model_type", "ae", "clip_l", "clip_g", "t5xxl", "discrete_flow_shift", "model_prediction_type", "split_mode"),
    *("timestep_sampling", "train_blocks", "t5xxl_max_token_length", "enable_all_linear", "guidance_scale"),
    *("mem_eff_save", "apply_t5_attn_mask", "split_qkv", "train_t5xxl", "cpu_offload_checkpointing"),
    *("blocks_to_swap", "single_blocks_to_swap", "double_blocks_to_swap", "show_timesteps", "img_attn_dim"),
    *("show_timesteps_resolution", "img_mlp_dim", "img_mod_dim", "single_dim", "txt_attn_dim", "txt_mlp_dim"),
    *("txt_mod_dim", "single_mod_dim", "in_dims", "train_double_block_indices", "train_single_block_indices"),
    *("clip_g_dropout_rate", "clip_l_dropout_rate", "logit_mean", "logit_std", "mode_scale", "t5_dropout_rate"),
    *("pos_emb_random_crop_rate", "enable_scaled_pos_embed", "save_clip", "save_t5xxl", "t5xxl_device"),
    *("t5xxl_dtype", "weighting_scheme"),
}


def is_of_another_family(key: str) -> bool:
    """Whether a key is for other models than Stable Diffusion 1.x, 2.x and XL."""
    return key in _OF_OTHER_FAMILIES or key.startswith(_PREFIXES)
