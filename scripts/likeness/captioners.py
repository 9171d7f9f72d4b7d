"""Models that describe a picture in a sentence: BLIP (Li et al. 2022) and Florence-2 (Xiao et al. 2024)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from likeness.errors import LikenessError
from likeness.hub import hub_folder
from likeness.provenance import canonical, digest, file_sha256

DEFAULT_MODELS = {
    "blip": "Salesforce/blip-image-captioning-large",
    "florence2": "florence-community/Florence-2-base",  # the weights in the layout of transformers' own Florence-2
}
FLORENCE_TASK = "<DETAILED_CAPTION>"  # <CAPTION> is about as short as the template
# Beside the trigger this fits the 77 tokens of Stable Diffusion 1.x.
MAX_NEW_TOKENS = 64
BEAMS = 3  # as Florence-2's own configuration has it
# Share of the weights that may be absent (tied ones often are); those of another layout have other names altogether.
MISSING = 0.1
HUB_FILES = ["*.json", "*.txt", "*.safetensors"]  # never pickles


def model_folder(backend: str, model: str | None, roots: Sequence[Path]) -> Path:
    """The folder of a captioner: `model` under one of the roots, else from the hub; None is the backend's default.

    Raises LikenessError if it is neither, or has no .safetensors weights.
    """
    name = model or DEFAULT_MODELS[backend]
    folder = next((root / name for root in roots if (root / name).is_dir()), None)
    if not folder:
        advice = "check the name and the network, put the model's folder here, or set caption.backend: template"
        folder = hub_folder(name, HUB_FILES, f"caption.model {name}: not a folder here", advice)
    if not list(folder.glob("*.safetensors")):
        raise LikenessError(f"caption.model {name}: no .safetensors file in it; pickled weights are not loaded")
    return folder


def folder_digest(folder: Path) -> str:
    """One hash for every file of a captioner that is read."""
    files = sorted({path for pattern in HUB_FILES for path in folder.glob(pattern)})
    return digest(canonical({path.name: file_sha256(path) for path in files}))


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
        PreTrainedConfig,
    )

    model_class, processor_class, prompt = {
        "blip": (BlipForConditionalGeneration, BlipProcessor, {}),
        "florence2": (Florence2ForConditionalGeneration, Florence2Processor, {"text": FLORENCE_TASK}),
    }[backend]
    try:
        found = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if found == backend:
            processor = processor_class.from_pretrained(folder, local_files_only=True)
            model, loaded = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # of many kinds: a missing file, a damaged one, numbers that do not fit one another
        reason = str(error).strip().splitlines()[0]
        raise LikenessError(f"caption.model {folder}: transformers cannot load it as {backend}: {reason}") from None
    if found != backend:
        raise LikenessError(f"caption.model {folder}: a model of type {found}; caption.backend is {backend}")
    if len(loaded["missing_keys"]) > MISSING * len(model.state_dict()):
        raise LikenessError(
            f"caption.model {folder}: its weights are not in transformers' own layout of {backend}; expected a model "
            f"such as {DEFAULT_MODELS[backend]}"
        )
    model = model.to(device).eval()

    @torch.inference_mode()
    def caption(image: np.ndarray) -> str:
        inputs = processor(images=image, **prompt, return_tensors="pt").to(device)
        tokens = model.generate(**inputs, do_sample=False, num_beams=BEAMS, max_new_tokens=MAX_NEW_TOKENS)
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return caption
