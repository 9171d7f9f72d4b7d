"""How to draw a picture again in ComfyUI: its nodes and their values, in words.

ComfyUI makes nodes from a file's infotext itself (pnginfo.ts, importA1111): the models, the LoRA, the prompts, the
first pass and the enlarged one. It knows nothing of a face pass, or of a picture to begin with.
"""

from collections.abc import Iterator, Mapping

from likeness.drawing.infotext import Recipe, without_loras

# A1111's names of samplers -> sampler_name and scheduler of ComfyUI's KSampler (comfy/samplers.py). All of
# drawing.sampling.SAMPLERS are here.
SAMPLERS = {
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ 2M": ("dpmpp_2m", "normal"),
    "Euler a": ("euler_ancestral", "normal"),
    "Euler": ("euler", "normal"),
    "DDIM": ("ddim", "ddim_uniform"),
    "UniPC": ("uni_pc", "normal"),
}
ENLARGING, FACE = "Hires ", "ADetailer "
DENOISE = "Denoising strength"


def comfyui_steps(recipe: Recipe, width: int, height: int, original: str = "") -> str:
    """The steps as numbered lines, for a picture that has width x height px at the end.

    `original` is the file into whose picture a face was put; "" for a picture that was drawn from noise.
    """
    lines = [*_models(recipe), *_first_pass(recipe, original), *_enlarging(recipe, width, height), *_face(recipe)]
    return "\n".join(f"{number}. {line}" for number, line in enumerate([*lines, "Save Image"], 1))


def _models(recipe: Recipe) -> Iterator[str]:
    prompt, loras = without_loras(recipe.prompt)
    yield f"Load Checkpoint: {recipe.pairs['Model']}"
    if vae := recipe.pairs.get("VAE"):
        yield f"Load VAE: {vae}"
    yield from _loaded_loras(loras)
    if skip := recipe.pairs.get("Clip skip"):
        yield f"CLIP Set Last Layer: -{skip}"
    yield f"CLIP Text Encode (positive): {prompt}"
    yield f"CLIP Text Encode (negative): {recipe.negative_prompt or 'leave it empty'}"


def _first_pass(recipe: Recipe, original: str) -> Iterator[str]:
    if original:
        yield f"Load Image: {original}"
        yield "Paint a mask over the face (right click on the picture, Open in MaskEditor)"
        yield "VAE Encode, then Set Latent Noise Mask with this mask"
    else:
        yield f"Empty Latent Image: {recipe.pairs['Size'].replace('x', ' x ')} px"
    # Without an enlarged pass the strength is that of the first one, which begins with a picture.
    yield _sampling(recipe, recipe.pairs["Steps"], recipe.pairs.get(DENOISE, "1") if original else "1")
    yield "VAE Decode"


def _enlarging(recipe: Recipe, width: int, height: int) -> Iterator[str]:
    values = _values(recipe, ENLARGING)
    if values:
        upscaler = values.get("upscaler", "Lanczos")
        yield f"Upscale Image to {width} x {height} px ({upscaler}), then VAE Encode"
        yield _sampling(recipe, values.get("steps", recipe.pairs["Steps"]), recipe.pairs.get(DENOISE, "1"))
        yield "VAE Decode"


def _face(recipe: Recipe) -> Iterator[str]:
    values = _values(recipe, FACE)
    if values:
        prompt, loras = without_loras(values.get("prompt", recipe.prompt))
        # The face may have the LoRA at another weight than the scene.
        if loras != without_loras(recipe.prompt)[1]:
            yield from (f"for the face: {line}" for line in _loaded_loras(loras))
        yield f"for the face: CLIP Text Encode (positive): {prompt}"
        sampling = _sampling(recipe, recipe.pairs["Steps"], values.get("denoising strength", "0.4"))
        yield f"FaceDetailer (of the Impact Pack), {sampling.removeprefix('KSampler: ')}"


def _loaded_loras(loras: Mapping[str, float]) -> Iterator[str]:
    for name, weight in loras.items():
        yield f"Load LoRA: {name}, strength_model {weight:g}, strength_clip {weight:g}"


def _sampling(recipe: Recipe, steps: str, denoise: str) -> str:
    pairs = recipe.pairs
    sampler, scheduler = SAMPLERS.get(pairs["Sampler"], (pairs["Sampler"], "normal"))
    return (
        f"KSampler: seed {pairs['Seed']}, steps {steps}, cfg {pairs['CFG scale']}, sampler_name {sampler}, "
        f"scheduler {scheduler}, denoise {denoise}"
    )


def _values(recipe: Recipe, prefix: str) -> dict[str, str]:
    """The pairs of one pass by what follows the prefix, in small letters."""
    return {key.removeprefix(prefix).lower(): value for key, value in recipe.pairs.items() if key.startswith(prefix)}
