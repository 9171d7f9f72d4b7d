"""A small Stable Diffusion model of the real classes with random weights, which uses all code paths."""

from pathlib import Path


def small_pipeline(merge_list: Path, resolution: int, width: int = 32, text_width: int = 64, seed: int = 0):
    """StableDiffusionPipeline with SD 1.5's blocks, narrower and fewer: 8x smaller latents, 4 channels, 77 tokens.

    `width` is the channels of the first U-Net level (SD 1.5: 320), `text_width` the text encoder's (SD 1.5: 768).
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from likeness.models.families import SCHEDULER
    from likeness.models.tokenizer import clip_tokenizer

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(merge_list)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=text_width,
            intermediate_size=4 * text_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=resolution // 8,
        block_out_channels=(width, 2 * width, 4 * width),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=text_width,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(width // 2, width, width, width),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=resolution,
        scaling_factor=0.18215,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def saved_small_base(model_files: Path, folder: Path, seed: int) -> Path:
    """A small model for 64 px pictures, saved as a diffusers folder. Another seed gives other weights."""
    merge_list = model_files / "bpe_simple_vocab_16e6.txt.gz"
    small_pipeline(merge_list, 64, width=16, text_width=32, seed=seed).save_pretrained(folder)
    return folder
