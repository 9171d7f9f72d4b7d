"""Train the base model's U-Net and text encoder on the chosen faces, and write the whole model as diffusers does.

    python tools/base/train_unet.py FACES VAE MODELS OUTPUT --steps 20000 [--first MODEL]

FACES is what choose_faces.py wrote, VAE what train_vae.py wrote. unet.pt beside VAE lets a stopped run go on;
--first begins with a model's weights, as where the state is lost.

Captions say what the workflow's own detector measures in a picture once it has been through the autoencoder: of the
drawn faces' glasses half were lost there, and a model that is told of glasses nobody sees learns not to draw them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from course import DEVICE, SIDE, ZOOM, half_precision, picture, trained
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from likeness import manifests
from likeness.captions import template_caption
from likeness.faces import Detector
from likeness.families import SCHEDULER
from likeness.provenance import digest, file_sha256
from likeness.tokenizer import clip_tokenizer

TEXT_WIDTH = 64
BATCH = 16  # at first the number of steps counts
LEARNING_RATE = 4e-4
EMA_DECAY = 0.998
MIN_SNR = 5.0  # Hang et al. 2023: fewer steps to the same quality
NO_CAPTION = 0.1  # of the pictures, for classifier-free guidance (Ho and Salimans 2021)
NO_WORD = 0.15  # of a caption's parts: short prompts must work too
# Times as often as others: glasses are on 6 % of the views, and were the word obeyed least; children were the faces
# that were drawn worst.
GLASSES, CHILD = 4, 2
# A person's name stands in so many captions: a word that means nothing else, as a trigger does. Without, a trigger
# moved what the U-Net reads by 4 %, "old" by 30 %, and a LoRA had nothing to hold on to.
NAMED = 0.5
TRIGGERS = ("ohwx", "sks")  # of the demonstration's people
FIRST_NAME = 40_000  # in CLIP's vocabulary, whose later words are rare
RARE_WORD = 0.06  # spread of the embeddings at first: what words that were trained come to have
PREFIXES = ["", "photo of ", "photo of a ", "a photo of a "]
ENCODED_AT_ONCE = 32
COMPILED_FROM = 2000  # steps: on two cores 1.14 times as fast, after two minutes, and it needs a C++ compiler


class View(NamedTuple):
    """One picture of the training set: a row of faces.tsv, and which part of its picture, in shares of the side."""

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
    often = np.array([how_often(said) for said in parts], dtype=float)
    if not often.any():
        sys.exit(f"no view shows a face once {args.vae} has drawn it; train it longer")
    print(f"{np.count_nonzero(often)} of {len(views)} views show exactly one face once they are decoded")
    torch.manual_seed(0)
    if args.first:
        text_encoder = CLIPTextModel.from_pretrained(args.first / "text_encoder", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(args.first / "unet", torch_dtype=torch.float32)
    else:
        text_encoder, unet = small_text_encoder(tokenizer), small_unet(vae.config.latent_channels)
    # channels_last: 1.2 times as fast on a CPU, and what a GPU's half precision convolutions want.
    unet.to(memory_format=torch.channels_last)
    model = torch.nn.ModuleDict({"text_encoder": text_encoder.train(), "unet": unet.train()}).to(DEVICE)
    # On two cores plain attention is 1.17 times as fast as the fused one, whose backward pass is slow in bf16.
    model["unet"].set_attn_processor(AttnProcessor())
    denoise = torch.compile(model["unet"]) if args.steps >= COMPILED_FROM else model["unet"]
    scheduler = DDIMScheduler(**SCHEDULER)
    kept = scheduler.alphas_cumprod.to(DEVICE)
    weight = torch.clamp(MIN_SNR * (1 - kept) / kept, max=1)

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng([1, step])
        generator = torch.Generator(DEVICE).manual_seed(step)
        chosen = random.choice(len(views), size=BATCH, p=often / often.sum())
        captions = [caption(parts[i], names[int(views[i].row["face"])], random) for i in chosen]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(DEVICE)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator, device=DEVICE)
        timesteps = torch.randint(len(kept), (BATCH,), generator=generator, device=DEVICE)
        noisy = scheduler.add_noise(latents[chosen].float(), noise, timesteps)
        states = model["text_encoder"](tokens).last_hidden_state
        predicted = denoise(noisy, timesteps, states).sample.float()
        return ((predicted - noise).square().mean(dim=(1, 2, 3)) * weight[timesteps]).mean()

    state = args.vae.with_name("unet.pt")
    model = trained(model, model.parameters(), loss_of, args.steps, LEARNING_RATE, EMA_DECAY, state)
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=model["text_encoder"].eval().half(),
        tokenizer=clip_tokenizer(merges),  # one that was used would be written with its padding
        unet=model["unet"].eval().half().to(memory_format=torch.contiguous_format),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(args.output)


def small_text_encoder(tokenizer) -> CLIPTextModel:
    """CLIP's text encoder, two layers of TEXT_WIDTH instead of SD 1.5's twelve of 768."""
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
    """Words of letters that are one token each, without the triggers of the demonstration's people."""
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
    """Two of every face, always the same: the whole picture and a part of it, one of them mirrored."""
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
    noun first; none where not exactly one face is found. Kept beside `faces`, as both take minutes."""
    weights = [tensor.numpy(force=True).tobytes() for tensor in vae.state_dict().values()]
    key = digest(file_sha256(faces / "faces.tsv"), str(vae.config.scaling_factor), *weights)
    cache = faces.with_name(f"latents-{key[:16]}.pt")
    if not cache.exists():
        detector, found, parts = Detector(models), [], []
        for start in tqdm(range(0, len(views), ENCODED_AT_ONCE), unit="batch", desc="latents"):
            some = views[start : start + ENCODED_AT_ONCE]
            latents, decoded = through(vae, [picture(faces / f"{view.row['face']}.jpg", *view[1:]) for view in some])
            found.append(latents)
            parts += [caption_parts(view.row, image, detector) for view, image in zip(some, decoded, strict=True)]
        torch.save({"latents": torch.cat(found), "parts": parts}, cache)
    kept = torch.load(cache, map_location=DEVICE, weights_only=True)
    return kept["latents"], kept["parts"]


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: list[torch.Tensor]) -> tuple[torch.Tensor, np.ndarray]:
    """Pictures' scaled latents (the means, as their small spread adds nothing to noise), and what the decoder draws of
    them: uint8 RGB (pictures, SIDE, SIDE, 3)."""
    with half_precision():
        mean = vae.encode(torch.stack(pictures).to(DEVICE)).latent_dist.mean
        drawn = vae.decode(mean).sample
    pixels = ((drawn.float().permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte()
    return (mean.float() * vae.config.scaling_factor).half(), pixels.numpy(force=True)


def caption_parts(row: dict, image: np.ndarray, detector: Detector) -> list[str]:
    """What the workflow's own template says of a picture, the noun first; nothing where there is not one face."""
    found = detector.faces(image)
    if len(found) != 1:
        return []
    [face] = found
    noun = f"{row['age']} {row['noun']}".strip()
    attributes, fraction = json.loads(face["attributes"]), face["face_height"] / SIDE
    return template_caption("", noun, attributes, face["yaw"], face["pitch"], fraction).strip().split(", ")


def how_often(parts: list[str]) -> int:
    """How often a view is learned, by its caption's parts; never if it has none."""
    return bool(parts) * (GLASSES if "wearing glasses" in parts else 1) * (CHILD if "child" in parts else 1)


def caption(parts: list[str], name: str, random: np.random.Generator) -> str:
    """A caption that says all of a view or only some, with the person's name or without, or nothing."""
    if random.random() < NO_CAPTION:
        return ""
    said = [part for part, left_out in zip(parts[1:], random.random(len(parts) - 1), strict=True) if left_out > NO_WORD]
    noun = f"{name} {parts[0]}" if random.random() < NAMED else parts[0]
    return PREFIXES[random.integers(len(PREFIXES))] + ", ".join([noun, *said])


if __name__ == "__main__":
    main()
