"""The weights of a base model's parts: the files that they are in, and checks that they are complete and finite.

transformers and diffusers fill missing tensors with random numbers. So the name and the shape of every tensor are
compared with those of an empty model made from the part's config.json, and all numbers are checked.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.provenance import canonical
from likeness.core.tensors import FLOATS, Entry, read_header

if TYPE_CHECKING:
    import torch

# The variants of weights, in the order in which they are looked for; "" is the file without a variant in its name.
VARIANTS = ("", "fp16", "bf16", "fp32")


class WeightFiles(NamedTuple):
    """The files of a part's weights: a single file, or several shards with the `shard_index` that lists them."""

    variant: str
    files: tuple[Path, ...]
    shard_index: Path | None


def stem(part: str) -> str:
    """The name that transformers and diffusers give to the file of a part's weights, without its suffix."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def weight_files(folder: Path, part: str, what: str) -> WeightFiles:
    """The files that a part's weights are read from, by their names; the content is not checked.

    Raises LikenessError if there are none, or if a shard is missing; `what` names the model.
    """
    for variant in VARIANTS:
        middle = f".{variant}" if variant else ""
        single = folder / f"{stem(part)}{middle}.safetensors"
        index = folder / f"{stem(part)}.safetensors.index{middle}.json"
        # If there are both, diffusers reads the shards and transformers the single file.
        if index.is_file() and not (part.startswith("text_encoder") and single.is_file()):
            return WeightFiles(variant, _shards(index, what), index)
        if single.is_file():
            return WeightFiles(variant, (single,), None)
    other = sorted(
        p.name
        for p in folder.glob("*")
        if p.is_file() and p.suffix.lower() in (".bin", ".safetensors", ".ckpt", ".msgpack")
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


def empty_model(part: str, config: Mapping[str, Any], what: str) -> Any:
    """The model of a part's config.json, without numbers. Raises LikenessError if the config is invalid."""
    try:
        return _empty_model(part, canonical(dict(config)))
    except Exception as error:  # for example wrong types, or numbers that contradict one another
        raise LikenessError(
            f"{what}: {part}/config.json describes no model ({one_line(error)}); get the right one"
        ) from None


@cache
def _empty_model(part: str, config: str) -> Any:
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


def shapes(model: "torch.nn.Module") -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model's weights, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_weights(folder: Path, part: str, model: "torch.nn.Module", what: str) -> None:
    """Raises LikenessError, with the tensor's name, if the weights of a part in diffusers' layout do not fit its empty
    model: a tensor is missing, has another shape or is quantised, or is not finite."""
    entries: dict[str, Entry] = {}
    for path in weight_files(folder, part, what).files:
        try:
            header = read_header(path)
        except ValueError as error:
            raise LikenessError(
                f"{what}: {folder.name}/{path.name} is damaged or half downloaded ({error}); get it again"
            ) from None
        entries |= {_current_name(name, part): entry for name, entry in header.entries.items()}
    expected = {_current_name(name, part): shape for name, shape in shapes(model).items()}
    what = f"{what}: {part}"
    if missing := [name for name in expected if name not in entries]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise LikenessError(f"{what}: no tensor {missing[0]}{more}; the model is not whole, get it again")
    for name, shape in expected.items():
        check_entry(entries[name], entries[name].shape, shape, what)
    for name in expected:
        check_numbers(entries[name].read(), entries[name].name, what)


def check_entry(entry: Entry, shape: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Raises LikenessError if a file's tensor is quantised, or if its `shape`, converted to the model's layout, is not
    the expected one."""
    if entry.dtype not in FLOATS:
        raise LikenessError(
            f"{what}: {entry.name} is of {entry.dtype}, so the model is a quantised one; get it in fp16 or fp32"
        )
    if without_ones(shape) != without_ones(expected):
        raise LikenessError(
            f"{what}: {entry.name} is of shape {list(shape)}, expected {list(expected)}; the model is damaged or of "
            "another kind"
        )


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end: files store a linear layer as a matrix or as a 1x1 convolution."""
    return without_ones(shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else shape


def check_numbers(tensor: "torch.Tensor", name: str, what: str) -> None:
    """Raises LikenessError if a tensor has numbers that are not finite in fp32, or if all weights of a norm are 0."""
    import torch

    # torch.isfinite does not support float8. A finite number in fp64 may be infinite in fp32, in which it is used.
    numbers = {1: tensor.half, 8: tensor.float}.get(tensor.itemsize, lambda: tensor)()
    finite = torch.isfinite(numbers)
    if not finite.all():
        raise LikenessError(
            f"{what}: {name} has {int((~finite).sum())} numbers that are infinite or none (NaN); the file is damaged, "
            "or was made by a merge that failed"
        )
    # Other tensors may be all 0: the demonstration's VAE has convolutions without an effect.
    if tensor.dim() == 1 and name.endswith(".weight") and not numbers.any():
        raise LikenessError(
            f"{what}: {name} has zeros alone, as a download has that was not finished; get the file again"
        )


def one_line(error: object, longest: int = 200) -> str:
    """The text of an error on one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def _current_name(name: str, part: str) -> str:
    """The name that the current libraries give to a tensor. They also read files with the older names."""
    if part.startswith("text_encoder"):
        return name.removeprefix("text_model.")
    if part == "vae" and ".attentions." in name:
        for before, after in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            name = name.replace(f".{before}.", f".{after}.")
    return name
