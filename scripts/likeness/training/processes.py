"""One training in several processes (launch.py): each takes its share of every step's pictures."""

import os

import torch


class Processes:
    """The processes of this training; alone, nothing is exchanged. All hold the same weights, the first one writes."""

    def __init__(self, device: torch.device):
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        self.number, self.count = state.process_index, state.num_processes
        self.device = state.device if self.count > 1 else device
        if self.count > 1:  # the first one had its threads before launch.py dealt them out
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    @property
    def first(self) -> bool:
        return self.number == 0

    def share(self, size: int) -> range:
        """The places of a step's pictures that are this process's."""
        return range(self.number, size, self.count)

    def add_up(self, parameters: list[torch.nn.Parameter], *numbers: torch.Tensor) -> list[torch.Tensor]:
        """Replace every gradient by its sum over the processes; the sums of the numbers come back."""
        if self.count == 1:
            return list(numbers)
        for parameter in parameters:
            if parameter.grad is None:  # no picture was left for this process
                parameter.grad = torch.zeros_like(parameter)
        tensors = [*(parameter.grad for parameter in parameters), *numbers]
        together = torch.cat([tensor.flatten().to(tensors[0]) for tensor in tensors])
        torch.distributed.all_reduce(together)
        for tensor, total in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))
        return list(numbers)
