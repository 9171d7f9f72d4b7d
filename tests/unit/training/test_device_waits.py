"""No step of a training waits for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from likeness.training import loop, optimizers
from trained_run import short_settings, trained


class HostReads(TorchDispatchMode):
    """Counts how often Python reads a tensor's number, which on a GPU waits for all that was asked of it."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **keywords or {})


def test_no_step_waits_for_the_device(tmp_path, base_manifest, monkeypatch):
    """Python reads as many numbers in a training of many steps as in one of few, while none is due to be shown."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", 1000)
    counts = []
    for repeats in (1, 4):
        with HostReads() as reads:
            settings = {"epochs": 1, "repeats": repeats, "max_train_steps": None, "preserve_class": 2.0}
            run = trained(tmp_path / str(repeats), base_manifest, **settings)
        assert len(run.metrics) == (3 if repeats == 1 else 10)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_adafactors_rate_is_known_without_waiting_for_the_device():
    settings = short_settings(optimizer="Adafactor", lr_scheduler="constant")
    parameters = [torch.nn.Parameter(torch.full((2, 3), size)) for size in (0.5, 2.0)]
    optimizer = optimizers.optimizer(settings, {"unet": parameters})
    assert optimizers.rates(optimizer) == [0.0]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with HostReads() as reads:
        rates = optimizers.rates(optimizer)
    assert reads.count == 0
    assert [float(rate) for rate in rates] == pytest.approx([2.0 * 1e-2]), "that of the largest parameter"
