"""A training loop like diffusers' examples/text_to_image/train_text_to_image_lora.py, for comparison with ours."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from bench_task import CAPTION, Task, Turns
from likeness.models.base_model import load_manifest, load_part
from likeness.models.lora_file import DTYPES, unet_modules


def plain(task: Task, folder: Path, device, turns: Turns) -> None:
    """Decode and encode the photos and encode the captions at every step, as the example does."""
    plain_loop(task, folder, device, turns, cached=False)


def plain_cached(task: Task, folder: Path, device, turns: Turns) -> None:
    plain_loop(task, folder, device, turns, cached=True)


def plain_loop(task: Task, folder: Path, device, turns: Turns, cached: bool) -> None:
    """The example's loop with one difference: with precision bf16 the LoRA is fp32, as in our trainer. The example has
    a LoRA in bf16."""
    from diffusers.training_utils import cast_training_params

    settings, dtype = task.settings(), DTYPES[task.precision]
    base = load_manifest(folder / "base.json")
    accelerator = Accelerator(
        mixed_precision="no" if task.precision == "fp32" else task.precision, cpu=device.type == "cpu"
    )
    noise_scheduler = load_part(base, "scheduler")
    text_encoder, vae, unet = (load_part(base, part).to(device, dtype) for part in ("text_encoder", "vae", "unet"))
    unet.add_adapter(lora_config(unet.config, task))
    if task.precision != "fp32":
        cast_training_params(unet, dtype=torch.float32)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    turns.trained = sum(parameter.numel() for parameter in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=1e-2)
    lr_scheduler = get_scheduler("constant", optimizer)

    def latents(pixels: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels.to(dtype)).latent_dist.sample() * vae.config.scaling_factor

    data = Photos(folder / "photos", load_part(base, "tokenizer"))
    if cached:
        with torch.no_grad():
            data = [
                {
                    "latents": latents(item["pixels"][None].to(device))[0],
                    "hidden": text_encoder(item["tokens"][None].to(device))[0][0],
                }
                for item in data
            ]
        del vae, text_encoder
    loader = torch.utils.data.DataLoader(data, batch_size=task.batch, shuffle=True)
    unet, optimizer, loader, lr_scheduler = accelerator.prepare(unet, optimizer, loader, lr_scheduler)
    unet.train()
    bar = tqdm(total=settings.max_train_steps, desc="Steps")
    while True:
        for batch in loader:
            with accelerator.accumulate(unet):
                clean = batch["latents"] if cached else latents(batch["pixels"])
                noise = torch.randn_like(clean)
                times = torch.randint(0, noise_scheduler.config.num_train_timesteps, clean.shape[:1], device=device)
                noisy = noise_scheduler.add_noise(clean, noise, times)
                hidden = batch["hidden"] if cached else text_encoder(batch["tokens"], return_dict=False)[0]
                predicted = unet(noisy, times, hidden, return_dict=False)[0]
                loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
                train_loss = accelerator.gather(loss.repeat(task.batch)).mean().item()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            bar.update(1)
            accelerator.log({"train_loss": train_loss})  # without a tracker
            bar.set_postfix(step_loss=loss.detach().item(), lr=lr_scheduler.get_last_lr()[0])
            turns.step()


class Photos(torch.utils.data.Dataset):
    """A data set that opens a photo at each access: pixels fp32 (3, h, w) in -1 to 1, tokens int64 (77,)."""

    def __init__(self, folder: Path, tokenizer):
        self._paths, self._tokenizer = sorted(folder.glob("*.png")), tokenizer

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        with Image.open(self._paths[number]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return {"pixels": pixels, "tokens": self._tokenizer(CAPTION, **options).input_ids[0]}


def lora_config(unet_config, task: Task):
    """The config of a LoRA on the layers that our trainer uses."""
    from peft import LoraConfig

    targets = [module.path for module in unet_modules(unet_config)]
    alpha = task.settings().alpha
    return LoraConfig(r=task.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=targets)
