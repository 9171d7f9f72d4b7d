"""CLIP (Radford et al. 2021): embeddings of pictures and of texts. Their cosine says how well a text fits a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from likeness.models import pretrained

if TYPE_CHECKING:
    import torch

SETTING = "select.clip"
EXPECTED = "expected a CLIP model such as openai/clip-vit-large-patch14"


class Clip(NamedTuple):
    """Two functions that make an embedding of length 1, float32 (d,): from uint8 RGB (height, width, 3), and from a
    text."""

    of_picture: Callable[[np.ndarray], np.ndarray]
    of_words: Callable[[str], np.ndarray]


def clip_folder(name: str, roots: Sequence[Path]) -> Path:
    """The folder of a CLIP model, local or from the hub. Raises LikenessError if there is none."""
    return pretrained.model_folder(SETTING, name, roots, f"{SETTING}: null")


def load_clip(folder: Path, device: "torch.device") -> Clip:
    """Raises LikenessError if the folder does not hold a CLIP model."""
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model, images, tokenizer = pretrained.load_pretrained(
        SETTING, folder, "clip", EXPECTED, CLIPModel, CLIPImageProcessor, CLIPTokenizer
    )
    model = model.to(device).eval()

    def unit(embedding: torch.Tensor) -> np.ndarray:
        return torch.nn.functional.normalize(embedding[0].float(), dim=0).cpu().numpy()

    @torch.inference_mode()
    def of_picture(image: np.ndarray) -> np.ndarray:
        pixels = images(images=image, return_tensors="pt").pixel_values.to(device)
        return unit(model.visual_projection(model.vision_model(pixels).pooler_output))

    @torch.inference_mode()
    def of_words(words: str) -> np.ndarray:
        tokens = tokenizer(words, truncation=True, return_tensors="pt").to(device)  # the model reads 77 of them
        return unit(model.text_projection(model.text_model(**tokens).pooler_output))

    return Clip(of_picture, of_words)
