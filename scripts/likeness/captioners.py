"""Models that describe a picture in a sentence: BLIP (Li et al. 2022) and Florence-2 (Xiao et al. 2024)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from likeness import pretrained

SETTING = "caption.model"
DEFAULT_MODELS = {
    "blip": "Salesforce/blip-image-captioning-large",
    "florence2": "florence-community/Florence-2-base",  # the weights in the layout of transformers' own Florence-2
}
FLORENCE_TASK = "<DETAILED_CAPTION>"  # <CAPTION> is about as short as the template
# Beside the trigger this fits the 77 tokens of Stable Diffusion 1.x.
MAX_NEW_TOKENS = 64
BEAMS = 3  # as Florence-2's own configuration has it


def model_folder(backend: str, model: str | None, roots: Sequence[Path]) -> Path:
    """The folder of a captioner: `model` under one of the roots, else from the hub; None is the backend's default.

    Raises LikenessError if it is neither, or has no .safetensors weights.
    """
    return pretrained.model_folder(SETTING, model or DEFAULT_MODELS[backend], roots, "caption.backend: template")


def load_captioner(backend: str, folder: Path, device) -> Callable[[np.ndarray], str]:
    """A function from uint8 RGB (height, width, 3) to the model's sentence: the same picture gives the same text.

    Raises LikenessError if the folder does not hold a model of this backend.
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
