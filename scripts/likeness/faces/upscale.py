"""Resizing crops to the training resolution: small ones by Real-ESRGAN, with a check of the identity, large ones by
Lanczos."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.pinned_models import REALESRGAN_GRAPH, REALESRGAN_WEIGHTS, model_path
from likeness.faces.identity import similarity
from likeness.photos.images import lanczos

if TYPE_CHECKING:
    import torch

SCALE = 4
# px of the picture around each tile. The network's receptive field is larger, but the rest has no visible effect: on a
# real face of 160 px in tiles of 64, tiled and whole results differ by at most 34 levels of 255 with 10 px (the
# authors' default), by 13 with 32 and by 3 with 48.
TILE_PAD = 48
# ncnn's tags before the weights of a convolution (modelbin.cpp): 16-bit floats or 32-bit floats follow.
NCNN_FLOAT16, NCNN_FLOAT32 = 0x01306B47, 0


class Upscaled(NamedTuple):
    """`image` is uint8 RGB at the training size, `method` is realesrgan or lanczos, `similarity` is that of the face
    before and after (SFace; None if it was not compared), `detail` is a sentence for the user, or empty."""

    image: np.ndarray
    method: str
    similarity: float | None
    detail: str


def upscaled(
    crop: np.ndarray,
    size: tuple[int, int],
    enlarge: Callable[[np.ndarray], np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray | None],
    min_similarity: float,
) -> Upscaled:
    """A crop, uint8 RGB (h, w, 3), resized to `size` (width, height) px, which has the same shape.

    `enlarge` makes a picture SCALE times larger, `embed` returns the embedding of its face or None. Both are called
    only for a crop that is smaller than `size`. If the enlarged face is not similar to the crop's own, Lanczos is used
    instead.
    """
    plain = lanczos(crop, *size)
    if crop.shape[1] >= size[0] and crop.shape[0] >= size[1]:
        return Upscaled(plain, "lanczos", None, "")
    enlarged = lanczos(enlarge(crop), *size)
    # Both are compared at one size, so that the result does not depend on how well a small face is detected.
    before, after = embed(plain), embed(enlarged)
    if before is None or after is None:
        which = "crop" if before is None else "picture enlarged by Real-ESRGAN"
        return Upscaled(plain, "lanczos", None, f"no face found in the {which}, so Lanczos was used")
    alike = similarity(before, after)
    if alike < min_similarity:
        detail = f"Real-ESRGAN changed the face (similarity {alike:.2f}, below {min_similarity:g}), so Lanczos was used"
        return Upscaled(plain, "lanczos", alike, detail)
    return Upscaled(enlarged, "realesrgan", alike, "")


def enlarged(image: np.ndarray, upsampler: Any) -> np.ndarray:
    """uint8 RGB (h, w, 3), SCALE times larger. Raises LikenessError if a tile does not fit into memory."""
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints a line per tile
        bgr, _ = upsampler.enhance(np.ascontiguousarray(image[..., ::-1]))
    return np.ascontiguousarray(bgr[..., ::-1])


def real_esrganer(models: Path, tile: int, device: "torch.device", weights: Path | None = None) -> Any:
    """The authors' realesrgan.RealESRGANer with the x4plus weights, in half precision on a GPU.

    `models` is the folder made by fetch_models, `tile` is in px of the crop (0: the whole crop), `weights` is a file of
    the user's that replaces the published weights.
    Source: Wang et al. 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data".
    """
    import torch

    with _torchvision_names():
        from basicsr.archs.rrdbnet_arch import RRDBNet
        from realesrgan import RealESRGANer

    class Network(RRDBNet):  # type: ignore[misc]  # basicsr has no types
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            # RealESRGANer catches a RuntimeError, prints it and continues with the tile before; it does not catch a
            # LikenessError.
            try:
                return super().forward(x)
            except RuntimeError as error:
                raise LikenessError(
                    f"Real-ESRGAN failed ({error}); a smaller upscale.tile needs less memory"
                ) from error

    network = Network(3, 3, scale=SCALE, num_feat=64, num_block=23, num_grow_ch=32)
    if weights:
        tensors = own_state_dict(weights, network)
    else:
        tensors = state_dict(model_path(models, REALESRGAN_GRAPH), model_path(models, REALESRGAN_WEIGHTS), network)
    saved = io.BytesIO()
    torch.save({"params_ema": tensors}, saved)
    with tempfile.TemporaryDirectory() as folder:  # RealESRGANer reads its weights only from a file
        file = f"{folder}/x4plus.pth"
        write_atomic(Path(file), saved.getvalue())
        half = device.type == "cuda"
        return RealESRGANer(
            SCALE, file, model=network, tile=tile, tile_pad=TILE_PAD, pre_pad=0, half=half, device=device
        )


def state_dict(graph: Path, weights: Path, network: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The weights of an ncnn model (.param, .bin) under the names of the same torch network, as float32 tensors.

    ncnn numbers its layers; their order is that of RRDBNet's modules. Raises LikenessError if the files hold another
    network.
    """
    import torch

    layers = ncnn_convolutions(graph, weights)
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    if len(layers) != len(names):
        raise LikenessError(f"{graph}: {len(layers)} convolutions, expected {len(names)}; delete it and run again")
    tensors = {}
    for name, (kernel, bias) in zip(names, layers, strict=True):
        tensors[f"{name}.weight"] = torch.from_numpy(kernel)
        tensors[f"{name}.bias"] = torch.from_numpy(bias)
    return tensors


def own_state_dict(file: Path, network: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The weights of a .pth or .safetensors file as float32 tensors. They are under `params_ema` or `params`, where the
    authors save them, or at the top. Raises LikenessError if the file cannot be read or holds another network."""
    try:
        loaded = _load(file)
        tensors = loaded.get("params_ema", loaded.get("params", loaded))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except Exception as error:  # torch, pickle, zipfile and safetensors each have their own exceptions
        raise LikenessError(
            f"upscale.weights: {file} cannot be read ({type(error).__name__}); expected a .pth or .safetensors file"
        ) from error
    if shapes != {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}:
        raise LikenessError(
            f"upscale.weights: {file} holds another network; expected RealESRGAN_x4plus (RRDBNet, 23 blocks, x4)"
        )
    return {name: tensor.float() for name, tensor in tensors.items()}


def _load(file: Path) -> Any:
    """The content of a .pth or .safetensors file, which may be any object."""
    import torch
    from safetensors.torch import load_file

    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)


def ncnn_convolutions(graph: Path, weights: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel (out, in, k, k) and bias (out,) of every convolution of an ncnn model, float32, in the file's order.

    Source of the format: ncnn's wiki, "param and model file structure". The line of a layer has its type, name, number
    of inputs, number of outputs, their names, then key=value. Of a Convolution, key 0 is out, 1 is k, and 6 is the
    length of the kernel.
    """
    data = weights.read_bytes()
    at = 0

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal at
        if at + count * np.dtype(kind).itemsize > len(data):
            raise LikenessError(f"{weights}: cut short; delete it and run again")
        values = np.frombuffer(data, kind, count, at)
        at += values.nbytes
        return values

    layers = []
    for kind, _, inputs, outputs, *rest in map(str.split, graph.read_text().splitlines()[2:]):
        if kind != "Convolution":
            continue
        keys = dict(pair.split("=") for pair in rest[int(inputs) + int(outputs) :])
        out, size, length = int(keys["0"]), int(keys["1"]), int(keys["6"])
        storage = int(take("<u4", 1)[0])
        if storage not in (NCNN_FLOAT16, NCNN_FLOAT32):
            raise LikenessError(f"{weights}: weights stored in a way that is not read here; delete it and run again")
        kernel = take("<f2" if storage == NCNN_FLOAT16 else "<f4", length).astype(np.float32)
        at += -at % 4  # 16-bit weights are filled up to whole words
        layers.append((kernel.reshape(out, -1, size, size), take("<f4", out).astype(np.float32)))
    if at != len(data):
        raise LikenessError(f"{weights}: {len(data)} bytes, expected {at}; delete it and run again")
    return layers


@contextlib.contextmanager
def _torchvision_names() -> Iterator[None]:
    """Stand-ins for the torchvision names that basicsr and realesrgan import. RealESRGANer calls none of them.

    The environment has no torchvision: one that is built for another torch makes diffusers and transformers fail, and
    basicsr needs transforms.functional_tensor, which torchvision has removed. The stand-ins exist only while the two
    packages are imported; then sys.modules is restored, because diffusers would mistake them for torchvision.
    """

    def absent(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError("torchvision is not part of this environment")

    names: dict[str, dict[str, Any]] = {
        "torchvision": {},
        "torchvision.models": {"vgg": None},
        "torchvision.models.vgg": {},
        "torchvision.ops": {},
        "torchvision.utils": {"make_grid": absent},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"normalize": absent},
        "torchvision.transforms.functional_tensor": {"rgb_to_grayscale": absent},
    }
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "torchvision"}
    for name, members in names.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(members, __version__="0")
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)
