"""Jobs start without bitsandbytes, and nobody who wants it misses it."""

import subprocess
import sys

import pytest

MODELS = "from diffusers import UNet2DConditionModel; from transformers import CLIPTextModel; import peft"
HIDDEN = "import sys; assert sys.modules['bitsandbytes'] is None"
EIGHT_BIT = """
import torch
from likeness.training.settings import Train
from likeness.training.optimizers import optimizer
optimizer(Train(optimizer="AdamW8bit"), {"unet": [torch.nn.Parameter(torch.ones(8))]})
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(["import likeness", MODELS, HIDDEN, EIGHT_BIT], id="a job"),
        # A program of tools/: diffusers has seen bitsandbytes by then, and imports it with its first model.
        pytest.param(["import diffusers", "import likeness", MODELS], id="diffusers first"),
        pytest.param(["import peft", "import likeness", MODELS, EIGHT_BIT], id="peft first"),
    ],
)
def test_every_order_of_imports_works(root, program):
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        env={"PYTHONPATH": str(root / "scripts")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
