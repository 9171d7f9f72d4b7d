"""Models that describe a picture in a sentence: BLIP (Li et al. 2022) and Florence-2 (Xiao et al. 2024)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from likeness.models import pretrained

if TYPE_CHECKING:
    import torch

SETTING = "caption.model"
DEFAULT_MODELS = {
    "blip": "Salesforce/blip-image-captioning-large",
    "florence2": "florence-community/Florence-2-base",  # the weights in the layout of transformers' own Florence-2
}
FLORENCE_TASK = "<DETAILED_CAPTION>"  # <CAPTION> is about as short as the template
# With the trigger in front, this fits into the 77 tokens of Stable Diffusion 1.x.
MAX_NEW_TOKENS = 64
BEAMS = 3  # as in Florence-2's own configuration


def model_folder(backend: str, model: str | None, roots: Sequence[Path]) -> Path:
    """The folder of a captioner: `model` below one of the roots, else from the hub. None means the backend's default.

    Raises LikenessError if the model is in neither place, or has no .safetensors weights.
    """
    return pretrained.model_folder(SETTING, model or DEFAULT_MODELS[backend], roots, "caption.backend: template")


def load_captioner(backend: str, folder: Path, device: "torch.device") -> Callable[[np.ndarray], str]:
    """A function from uint8 RGB (height, width, 3) to the model's sentence. The same picture gives the same text.

    Raises LikenessError if the folder holds no model of this backend.
    """
    import torch
    from transformers import (
        BlipForConditionalGeneration,
        BlipProcessor,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    model_class, processor_class, prompt = {
        "blip": (BlipForConditionalGeneration, BlipProcessor, {}),
        "florence2": (Florence2ForConditionalGeneration, Florence2Processor, {"text": FLORENCE_TASK}),
    }[backend]
    expected = f"expected a model such as {DEFAULT_MODELS[backend]}, or another caption.backend"
    model, processor = pretrained.load_pretrained(SETTING, folder, backend, expected, model_class, processor_class)
    model = model.to(device).eval()

    @torch.inference_mode()
    def caption(image: np.ndarray) -> str:
        inputs = processor(images=image, **prompt, return_tensors="pt").to(device)
        tokens = model.generate(**inputs, do_sample=False, num_beams=BEAMS, max_new_tokens=MAX_NEW_TOKENS)
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return caption
