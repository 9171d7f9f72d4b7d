"""Batches of pictures that fill the device's memory, and smaller ones where it runs out."""

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import torch

from likeness.core.devices import out_of_memory

Item = TypeVar("Item")
Picture = TypeVar("Picture")

# The batch size on a CPU for pictures of up to 512 x 512 px: faster than one picture at a time on the demonstration's
# base (docs/sampling.md). Twice as many were 9 % faster there, but take twice the memory: at 512 px the VAE needs about
# 0.4 GB for each picture.
CPU_BATCH = 4
CPU_BATCH_PIXELS = CPU_BATCH * 512 * 512
# The share of a GPU's free memory that the batch size is computed from: the allocator leaves gaps between its blocks. A
# share that is too large is no error: the batch is drawn again in halves.
PLANNED_SHARE = 0.9


class Batches:
    """The batches of pictures of one size. The batch size is kept from one call to the next."""

    def __init__(self, device: torch.device, size: tuple[int, int], given: int | None = None):
        """`size` is (width, height) in px. `given` is the batch size that the user chose."""
        self._device = device
        # On a GPU the first picture is drawn alone, to measure the memory that a picture needs.
        self._measuring = given is None and device.type == "cuda"
        on_cpu = min(CPU_BATCH, max(1, CPU_BATCH_PIXELS // (size[0] * size[1])))
        self._count = 1 if self._measuring else given or on_cpu

    def drawn(
        self,
        items: Sequence[Item],
        alike: Callable[[Item], Any],
        draw: Callable[[Sequence[Item]], Sequence[Picture]],
    ) -> Iterator[tuple[Item, Picture]]:
        """Each item with its picture. The items of a batch have the same value of `alike`. A batch for which memory ran
        out is drawn in halves; what `draw` raises for a single item is raised."""
        waiting = list(items)
        while waiting:
            first = alike(waiting[0])
            batch = list(takewhile(lambda item: alike(item) == first, waiting[: self._count]))  # noqa: B023
            pictures = self._drawn_batch(batch, draw)
            if pictures is None:
                self._count, self._measuring = len(batch) // 2, False
                continue
            yield from zip(batch, pictures, strict=True)
            waiting = waiting[len(batch) :]
            if self._measuring:
                self._count, self._measuring = _batch_size_that_fits(self._device), False

    def _drawn_batch(
        self, batch: Sequence[Item], draw: Callable[[Sequence[Item]], Sequence[Picture]]
    ) -> Sequence[Picture] | None:
        """The pictures of a batch; None if there is not enough memory for all of them."""
        if self._measuring:
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            return draw(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error, {}):
                raise
        # After the except block: within it the error still refers to the tensors of its frames.
        free_memory(self._device)
        return None


def free_memory(device: torch.device) -> None:
    """Give a GPU's memory that is not in use back to it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _batch_size_that_fits(device: torch.device) -> int:
    """The batch size for a GPU, by the peak memory of the batch before, which had one picture."""
    allocated = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - allocated
    return max(1, int(PLANNED_SHARE * free / (torch.cuda.max_memory_allocated(device) - allocated)))
