"""A training in several processes (started by launch.py). Each process trains its share of the pictures of a step."""

import os

import torch


class Processes:
    """The processes of this training. All have the same weights; only the first one writes files. A single process
    exchanges nothing."""

    def __init__(self, device: torch.device):
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        self.number, self.count = state.process_index, state.num_processes
        self.device = state.device if self.count > 1 else device
        if self.count > 1:  # launch.py sets the number of threads too late for the first process
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    @property
    def first(self) -> bool:
        return self.number == 0

    def share(self, size: int) -> range:
        """The positions, within a step of `size` pictures, of the pictures of this process."""
        return range(self.number, size, self.count)

    def add_up(self, parameters: list[torch.nn.Parameter], *numbers: torch.Tensor) -> list[torch.Tensor]:
        """Replace every gradient by its sum over the processes, and return the sums of `numbers`."""
        if self.count == 1:
            return list(numbers)
        tensors = [*map(_gradient, parameters), *numbers]
        flat = torch.cat([tensor.flatten().to(tensors[0]) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))
        return list(numbers)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gradient of a parameter. It is set to zeros if this process had no picture in the step."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
