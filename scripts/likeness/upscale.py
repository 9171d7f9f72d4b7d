"""Bringing crops to the training resolution: Real-ESRGAN for small ones, Lanczos for large ones, identity checked."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from likeness.errors import LikenessError
from likeness.files import write_atomic
from likeness.identity import similarity
from likeness.images import lanczos
from likeness.models import REALESRGAN_GRAPH, REALESRGAN_WEIGHTS, model_path

SCALE = 4
# px of picture around each tile. The network sees further, but what it sees there no longer shows: on a real face of
# 160 px in tiles of 64, tiled and whole differ by at most 34 levels of 255 with 10 px (the authors' default), by 13
# with 32 and by 3 with 48.
TILE_PAD = 48
# ncnn writes before each convolution's weights how they are stored (modelbin.cpp): 16-bit floats, or 32-bit ones.
NCNN_FLOAT16, NCNN_FLOAT32 = 0x01306B47, 0


class Upscaled(NamedTuple):
    """`image` is uint8 RGB of the size that is trained on, `method` realesrgan or lanczos, `similarity` that of the
    face before and after (SFace; None where not compared), `detail` a sentence for a person, or empty."""

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
    """A crop, uint8 RGB (h, w, 3), at `size` (width, height) px, which is of its shape.

    `enlarge` makes a picture SCALE times larger, `embed` gives the embedding of its face or None; both are called for a
    crop smaller than that only. If the enlarged face is not like the crop's own, Lanczos is used instead.
    """
    plain = lanczos(crop, *size)
    if crop.shape[1] >= size[0] and crop.shape[0] >= size[1]:
        return Upscaled(plain, "lanczos", None, "")
    enlarged = lanczos(enlarge(crop), *size)
    # Compared at one size, so that what differs is the face, not how well a small one is found.
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
    """uint8 RGB (h, w, 3) made SCALE times larger. Raises LikenessError if a tile does not fit into memory."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line per tile
        bgr, _ = upsampler.enhance(np.ascontiguousarray(image[..., ::-1]))
    return np.ascontiguousarray(bgr[..., ::-1])


def real_esrganer(models: Path, tile: int, device, weights: Path | None = None) -> Any:
    """The authors' realesrgan.RealESRGANer with the x4plus weights, in half precision on a GPU.

    `models` is the folder made by fetch_models, `tile` in px of the crop (0: the whole), `device` a torch.device,
    `weights` a file of the user's to take in place of the published ones.
    Source: Wang et al. 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data".
    """
    import torch

    with _torchvision_names():
        from basicsr.archs.rrdbnet_arch import RRDBNet
        from realesrgan import RealESRGANer

    class Network(RRDBNet):
        def forward(self, x):
            # RealESRGANer prints a RuntimeError and goes on with the tile before; this one it lets through.
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
    with tempfile.TemporaryDirectory() as folder:  # it reads its weights from a file only
        file = f"{folder}/x4plus.pth"
        write_atomic(Path(file), saved.getvalue())
        half = device.type == "cuda"
        return RealESRGANer(
            SCALE, file, model=network, tile=tile, tile_pad=TILE_PAD, pre_pad=0, half=half, device=device
        )


def state_dict(graph: Path, weights: Path, network) -> dict:
    """The weights of an ncnn model (.param, .bin) under the names of the same torch network, as float32 tensors.

    ncnn numbers its layers; they come in the order in which RRDBNet makes its own. Raises LikenessError if the files
    hold another network.
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


def own_state_dict(file: Path, network) -> dict:
    """The weights of a .pth or .safetensors file as float32 tensors: as the authors save them (`params_ema`, else
    `params`), or bare. Raises LikenessError if it cannot be read or holds another network."""
    import torch
    from safetensors.torch import load_file

    try:
        safe = file.suffix == ".safetensors"
        loaded = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        tensors = loaded.get("params_ema", loaded.get("params", loaded))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except Exception as error:  # torch, pickle, zipfile and safetensors each have their own
        raise LikenessError(
            f"upscale.weights: {file} cannot be read ({type(error).__name__}); expected a .pth or .safetensors file"
        ) from error
    if shapes != {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}:
        raise LikenessError(
            f"upscale.weights: {file} holds another network; expected RealESRGAN_x4plus (RRDBNet, 23 blocks, x4)"
        )
    return {name: tensor.float() for name, tensor in tensors.items()}


def ncnn_convolutions(graph: Path, weights: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel (out, in, k, k) and bias (out,) of every convolution of an ncnn model, float32, in the file's order.

    Source of the format: ncnn's wiki, "param and model file structure". A layer's line is type, name, number of
    inputs, of outputs, their names, then key=value; of a Convolution 0 is out, 1 is k, 6 the kernel's length.
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
    """Stand-ins for the torchvision names that basicsr and realesrgan import, none of which RealESRGANer calls.

    A torchvision that is not built for the very torch beside it makes diffusers and transformers fail, and basicsr
    wants transforms.functional_tensor, which torchvision dropped. So the environment has none, and these stand in while
    the two packages are imported; afterwards sys.modules is as it was, or diffusers would take them for the real thing.
    """

    def absent(*_, **__):
        raise NotImplementedError("torchvision is not part of this environment")

    names = {
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
