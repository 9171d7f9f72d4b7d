"""Train the base model's U-Net and text encoder on the chosen faces, and write the whole model as diffusers does.

    python tools/base/train_unet.py FACES VAE MODELS OUTPUT --steps 20000 [--first MODEL]

FACES is the folder of choose_faces.py, VAE the result of train_vae.py. A stopped training resumes from unet.pt beside
VAE. --first starts from the weights of a model, for example if the state is lost.

The captions describe the pictures after the autoencoder, as the workflow's detector measures them. The autoencoder
loses half of the glasses, and with captions that name lost glasses the model would learn not to draw them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from course import DEVICE, SIDE, ZOOM, half_precision, picture, trained
from likeness.captions.wording import template_caption
from likeness.core import manifests
from likeness.core.provenance import digest, file_sha256
from likeness.faces.detection import Detector
from likeness.models.families import SCHEDULER
from likeness.models.tokenizer import clip_tokenizer

TEXT_WIDTH = 64
BATCH = 16  # small, because at first the number of steps matters most
LEARNING_RATE = 4e-4
EMA_DECAY = 0.998
MIN_SNR = 5.0  # gamma of Hang et al. 2023: fewer steps to the same quality
NO_CAPTION = 0.1  # share of pictures with an empty caption, for classifier-free guidance (Ho and Salimans 2021)
NO_WORD = 0.15  # share of the parts of a caption that are left out, so that short prompts work too
# Factors on the frequency of views. Glasses are on 6 % of the views, and prompts followed this word least; children
# were drawn worst.
GLASSES, CHILD = 4, 2
# Share of captions with a name for the person: a word without another meaning, like a trigger. Without names, a trigger
# changed the text encoder's output by 4 % ("old" by 30 %), too little for a LoRA to learn.
NAMED = 0.5
TRIGGERS = ("ohwx", "sks")  # the triggers of the demonstration's people, which are no names
FIRST_NAME = 40_000  # first token of CLIP's vocabulary used as a name; later words are rare
RARE_WORD = 0.06  # first standard deviation of the embeddings: that of trained words
PREFIXES = ["", "photo of ", "photo of a ", "a photo of a "]
ENCODED_AT_ONCE = 32
COMPILED_FROM = 2000  # steps; compiling takes two minutes and a C++ compiler, and is 1.14 times as fast on two cores


class View(NamedTuple):
    """A picture of the training set: a row of faces.tsv, and a part of its picture in shares of the side."""

    row: dict
    top: float
    left: float
    side: float
    mirrored: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("faces", "vae", "models", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--first", type=Path)
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32).to(DEVICE)
    views = views_of(manifests.read_table(args.faces / "faces.tsv").to_dict("records"))
    latents, parts = encoded_views(vae, args.faces, views, args.models)
    merges = args.models / "bpe_simple_vocab_16e6.txt.gz"
    tokenizer = clip_tokenizer(merges)
    names = rare_words(tokenizer)
    frequencies = np.array([view_frequency(view_parts) for view_parts in parts], dtype=float)
    if not frequencies.any():
        sys.exit(f"no view shows a face once {args.vae} has drawn it; train it longer")
    print(f"{np.count_nonzero(frequencies)} of {len(views)} views show exactly one face once they are decoded")
    torch.manual_seed(0)
    if args.first:
        text_encoder = CLIPTextModel.from_pretrained(args.first / "text_encoder", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(args.first / "unet", torch_dtype=torch.float32)
    else:
        text_encoder, unet = small_text_encoder(tokenizer), small_unet(vae.config.latent_channels)
    # channels_last is 1.2 times as fast on a CPU, and faster for convolutions in half precision on a GPU.
    unet.to(memory_format=torch.channels_last)
    model = torch.nn.ModuleDict({"text_encoder": text_encoder.train(), "unet": unet.train()}).to(DEVICE)
    # On two cores plain attention is 1.17 times as fast as fused attention, whose backward pass is slow in bf16.
    model["unet"].set_attn_processor(AttnProcessor())
    denoise = torch.compile(model["unet"]) if args.steps >= COMPILED_FROM else model["unet"]
    scheduler = DDIMScheduler(**SCHEDULER)
    alphas_cumprod = scheduler.alphas_cumprod.to(DEVICE)
    weight = torch.clamp(MIN_SNR * (1 - alphas_cumprod) / alphas_cumprod, max=1)

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng([1, step])
        generator = torch.Generator(DEVICE).manual_seed(step)
        chosen = random.choice(len(views), size=BATCH, p=frequencies / frequencies.sum())
        captions = [caption(parts[i], names[int(views[i].row["face"])], random) for i in chosen]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(DEVICE)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator, device=DEVICE)
        timesteps = torch.randint(len(alphas_cumprod), (BATCH,), generator=generator, device=DEVICE)
        noisy_latents = scheduler.add_noise(latents[chosen].float(), noise, timesteps)
        prompt_embeds = model["text_encoder"](tokens).last_hidden_state
        model_pred = denoise(noisy_latents, timesteps, prompt_embeds).sample.float()
        return ((model_pred - noise).square().mean(dim=(1, 2, 3)) * weight[timesteps]).mean()

    state = args.vae.with_name("unet.pt")
    model = trained(model, model.parameters(), loss_of, args.steps, LEARNING_RATE, EMA_DECAY, state)
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=model["text_encoder"].eval().half(),
        tokenizer=clip_tokenizer(merges),  # a new one, because a used one would be saved with its padding
        unet=model["unet"].eval().half().to(memory_format=torch.contiguous_format),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(args.output)


def small_text_encoder(tokenizer) -> CLIPTextModel:
    """CLIP's text encoder with two layers of TEXT_WIDTH instead of SD 1.5's twelve layers of 768."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=RARE_WORD)
    return model


def rare_words(tokenizer) -> list[str]:
    """Words of ASCII letters that are one token each, without the triggers of the demonstration's people."""
    tokens = tokenizer.convert_ids_to_tokens(range(FIRST_NAME, tokenizer.bos_token_id))
    words = [token.removesuffix("</w>") for token in tokens if token.endswith("</w>")]
    return [word for word in words if word.isascii() and word.isalpha() and word not in TRIGGERS]


def small_unet(latent_channels: int) -> UNet2DConditionModel:
    """SD 1.5's U-Net, with three levels instead of four, one block in each, and a fourth of its channels."""
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 160, 224),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,  # diffusers' name for the number of heads (its issue 2011)
        cross_attention_dim=TEXT_WIDTH,
    )


def views_of(rows: list[dict]) -> list[View]:
    """Two views of every face, the same in every run: the whole picture and a part of it, one of them mirrored."""
    views = []
    for row in rows:
        random = np.random.default_rng([2, int(row["face"])])
        side = random.uniform(ZOOM, 1)
        top, left = random.uniform(0, 1 - side, size=2)
        mirrored = bool(random.integers(2))
        views += [View(row, 0.0, 0.0, 1.0, mirrored), View(row, top, left, side, not mirrored)]
    return views


def encoded_views(
    vae: AutoencoderKL, faces: Path, views: list[View], models: Path
) -> tuple[torch.Tensor, list[list[str]]]:
    """The views' scaled latents, float16 (views, channels, SIDE / 8, SIDE / 8), and the parts of their captions, the
    noun first. A view without exactly one face has no parts. Both are stored beside `faces`, because they take
    minutes."""
    weights = [tensor.numpy(force=True).tobytes() for tensor in vae.state_dict().values()]
    key = digest(file_sha256(faces / "faces.tsv"), str(vae.config.scaling_factor), *weights)
    cache = faces.with_name(f"latents-{key[:16]}.pt")
    if not cache.exists():
        detector, batches, parts = Detector(models), [], []
        for start in tqdm(range(0, len(views), ENCODED_AT_ONCE), unit="batch", desc="latents"):
            some = views[start : start + ENCODED_AT_ONCE]
            latents, decoded = autoencoded(
                vae, [picture(faces / f"{view.row['face']}.jpg", *view[1:]) for view in some]
            )
            batches.append(latents)
            parts += [caption_parts(view.row, image, detector) for view, image in zip(some, decoded, strict=True)]
        torch.save({"latents": torch.cat(batches), "parts": parts}, cache)
    stored = torch.load(cache, map_location=DEVICE, weights_only=True)
    return stored["latents"], stored["parts"]


@torch.no_grad()
def autoencoded(vae: AutoencoderKL, pictures: list[torch.Tensor]) -> tuple[torch.Tensor, np.ndarray]:
    """The scaled latents of pictures, and the decoded pictures, uint8 RGB (pictures, SIDE, SIDE, 3). The latents are
    means, because their std is small beside the noise."""
    with half_precision():
        mean = vae.encode(torch.stack(pictures).to(DEVICE)).latent_dist.mean
        decoded = vae.decode(mean).sample
    pixels = ((decoded.float().permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte()
    return (mean.float() * vae.config.scaling_factor).half(), pixels.numpy(force=True)


def caption_parts(row: dict, image: np.ndarray, detector: Detector) -> list[str]:
    """The parts of the workflow's template caption for a picture, the noun first; [] without exactly one face."""
    faces = detector.faces(image)
    if len(faces) != 1:
        return []
    [face] = faces
    noun = f"{row['age']} {row['noun']}".strip()
    attributes, fraction = json.loads(face["attributes"]), face["face_height"] / SIDE
    return template_caption("", noun, attributes, face["yaw"], face["pitch"], fraction).strip().split(", ")


def view_frequency(parts: list[str]) -> int:
    """The relative frequency of a view by the parts of its caption; 0 if it has none."""
    return bool(parts) * (GLASSES if "wearing glasses" in parts else 1) * (CHILD if "child" in parts else 1)


def caption(parts: list[str], name: str, random: np.random.Generator) -> str:
    """A random caption of a view: empty, or with all or some of its parts, and with or without the person's name."""
    if random.random() < NO_CAPTION:
        return ""
    details = [part for part, chance in zip(parts[1:], random.random(len(parts) - 1), strict=True) if chance > NO_WORD]
    noun = f"{name} {parts[0]}" if random.random() < NAMED else parts[0]
    return PREFIXES[random.integers(len(PREFIXES))] + ", ".join([noun, *details])


if __name__ == "__main__":
    main()
