"""The weights of a base model's parts: the files they are in, and whether they are what the part is made of.

transformers and diffusers fill what is missing with random numbers. So the names and shapes of every tensor are
compared with those of an empty model of the part's own config.json, and each number is looked at.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from likeness.errors import LikenessError
from likeness.provenance import canonical
from likeness.tensors import FLOATS, Entry, read_header

# The double in another precision that is read where there is no other: "" is the weights themselves.
VARIANTS = ("", "fp16", "bf16", "fp32")


class WeightFiles(NamedTuple):
    """The files of a part's weights: one, or the table of several (`index`) and these."""

    variant: str
    files: tuple[Path, ...]
    index: Path | None


def stem(part: str) -> str:
    """What transformers and diffusers call the file of a part's weights, without its ending."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def weight_files(folder: Path, part: str, what: str) -> WeightFiles:
    """The files that a part's weights are read from, by their names alone.

    Raises LikenessError if there are none, or one of several is missing; `what` names the model.
    """
    for variant in VARIANTS:
        middle = f".{variant}" if variant else ""
        single = folder / f"{stem(part)}{middle}.safetensors"
        index = folder / f"{stem(part)}.safetensors.index{middle}.json"
        # Where there are both, diffusers reads the several and transformers the one.
        if index.is_file() and not (part.startswith("text_encoder") and single.is_file()):
            return WeightFiles(variant, _shards(index, what), index)
        if single.is_file():
            return WeightFiles(variant, (single,), None)
    other = sorted(
        p.name for p in folder.glob("*") if p.suffix.lower() in (".bin", ".safetensors", ".ckpt", ".msgpack")
    )
    other = [name for name in other if not name.startswith(".")]
    there = f"there is only {other[0]}, which is not read" if other else "the download is incomplete, get it again"
    raise LikenessError(f"{what}: no {folder.name}/{stem(part)}.safetensors; {there}")


def _shards(index: Path, what: str) -> tuple[Path, ...]:
    folder = index.parent
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        inside = all(Path(name).name == name for name in names)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LikenessError(
            f"{what}: {folder.name}/{index.name} is damaged or half downloaded ({error!r}); get it again"
        ) from None
    if not names or not inside:
        raise LikenessError(f"{what}: {folder.name}/{index.name} names no files of this folder; get it again")
    for name in names:
        if not (folder / name).is_file():
            raise LikenessError(
                f"{what}: no {folder.name}/{name}, which {index.name} names; the download is incomplete, get it again"
            )
    return tuple(folder / name for name in names)


def empty_model(part: str, config: Mapping, what: str):
    """The model of a part's config.json, without numbers. Raises LikenessError if there can be none."""
    try:
        return _empty_model(part, canonical(dict(config)))
    except Exception as error:  # of many kinds: numbers that are none, or do not fit one another
        raise LikenessError(
            f"{what}: {part}/config.json describes no model ({one_line(error)}); get the right one"
        ) from None


@cache
def _empty_model(part: str, config: str):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    numbers = json.loads(config)
    with torch.device("meta"):
        match part:
            case "unet":
                return UNet2DConditionModel.from_config(numbers)
            case "vae":
                return AutoencoderKL.from_config(numbers)
        kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        return kind(CLIPTextConfig.from_dict(numbers.get("text_config", numbers)))


def shapes(model) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model's weights."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_weights(folder: Path, part: str, model, what: str) -> None:
    """Raises LikenessError, with the tensor's name, if the weights of a part in diffusers' layout are not those of its
    (empty) model: one is missing, of another shape or kind of number, or not finite."""
    found: dict[str, Entry] = {}
    for path in weight_files(folder, part, what).files:
        try:
            entries = read_header(path).entries
        except ValueError as error:
            raise LikenessError(
                f"{what}: {folder.name}/{path.name} is damaged or half downloaded ({error}); get it again"
            ) from None
        found |= {_today(name, part): entry for name, entry in entries.items()}
    expected = {_today(name, part): shape for name, shape in shapes(model).items()}
    what = f"{what}: {part}"
    if missing := [name for name in expected if name not in found]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise LikenessError(f"{what}: no tensor {missing[0]}{more}; the model is not whole, get it again")
    for name, shape in expected.items():
        check_entry(found[name], found[name].shape, shape, what)
    for name in expected:
        check_finite(found[name].read(), found[name].name, what)


def check_entry(entry: Entry, found: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Raises LikenessError if a file's tensor, of shape `found` as the model would have it, cannot be the model's."""
    if entry.dtype not in FLOATS:
        raise LikenessError(
            f"{what}: {entry.name} is of {entry.dtype}, so the model is a quantised one; get it in fp16 or fp32"
        )
    if without_ones(found) != without_ones(expected):
        raise LikenessError(
            f"{what}: {entry.name} is of shape {list(found)}, expected {list(expected)}; the model is damaged or of "
            "another kind"
        )


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape but for ones at its end: a linear layer is a convolution of one pixel, and is kept as either."""
    return without_ones(shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else shape


def check_finite(tensor, name: str, what: str) -> None:
    """Raises LikenessError if a tensor has numbers that are none."""
    import torch

    # float8 has no test of its own.
    finite = torch.isfinite(tensor.half() if tensor.itemsize == 1 else tensor)
    if not finite.all():
        raise LikenessError(
            f"{what}: {name} has {int((~finite).sum())} numbers that are infinite or none (NaN); the file is damaged, "
            "or was made by a merge that failed"
        )


def one_line(error: BaseException, longest: int = 200) -> str:
    """What an error says, on one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def _today(name: str, part: str) -> str:
    """What a tensor is called by today's libraries; they read the names of before, too."""
    if part.startswith("text_encoder"):
        return name.removeprefix("text_model.")
    if part == "vae" and ".attentions." in name:
        for before, after in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            name = name.replace(f".{before}.", f".{after}.")
    return name
