"""A long prompt is drawn to its last word, whatever stands beside it."""

import numpy as np
import pytest
import torch

from clip_words import HAT
from likeness.drawing.sampling import Cell, draw_pictures, load_pipeline

CELL = Cell(0.0, "photo of ohwx woman", "near", 1)
SETTINGS = {"negative_prompt": "blurred", "steps": 2, "guidance_scale": 5.0, "batch_size": 4, "clip_skip": 1}


@pytest.fixture(scope="module")
def pipeline(base_manifest):
    return load_pipeline(base_manifest, None, torch.device("cpu"))


def pictures(pipeline, prompts: list[str], **changes) -> dict[str, np.ndarray]:
    wanted = [CELL._replace(prompt=prompt) for prompt in prompts]
    return {
        cell.prompt: np.asarray(image).astype(int)
        for cell, image in draw_pictures(pipeline, wanted, SETTINGS | changes, (64, 64))
    }


def test_every_word_of_a_long_prompt_changes_the_picture_whatever_stands_beside_it(pipeline):
    long, longer = f"{HAT * 80}smiling", f"{HAT * 80}crying"
    prompts = [CELL.prompt, long, longer, f"{HAT * 160}", "photo of ohwx woman, (smiling:1.4)"]
    together = pictures(pipeline, prompts)
    assert list(together) == prompts
    for prompt in prompts:
        assert np.abs(together[prompt] - pictures(pipeline, [prompt])[prompt]).max() <= 1
    assert np.abs(together[long] - together[longer]).max() > 1
    (other,) = pictures(pipeline, [long], negative_prompt=f"{HAT * 80}blurred").values()
    assert np.abs(together[long] - other).max() > 1, "a long negative prompt"
    (plain,) = pictures(pipeline, [r"photo of ohwx (woman:1)"]).values()
    assert (plain == together[CELL.prompt]).all(), "a weight of 1 is none"


def test_two_lengths_are_drawn_as_a1111_draws_them_one_after_the_other(pipeline):
    """One step of the U-Net for the long prompt and for the short negative one, each at its own length."""
    unet, seen = pipeline.diffusers.unet, {}

    def note(module, inputs, options, output):
        seen.setdefault("latents", inputs[0])
        seen.setdefault("text", options["encoder_hidden_states"])
        seen.setdefault("timestep", inputs[1])
        seen.setdefault("answer", output[0])

    hook = unet.register_forward_hook(note, with_kwargs=True)
    try:
        pictures(pipeline, [f"{HAT * 80}smiling"], negative_prompt="blurred")
    finally:
        hook.remove()
    assert seen["text"].shape[:2] == (2, 154)
    for row, text in enumerate((seen["text"][:1, :77], seen["text"][1:])):
        with torch.no_grad():
            alone = unet(seen["latents"][row : row + 1], seen["timestep"], encoder_hidden_states=text).sample
        torch.testing.assert_close(seen["answer"][row : row + 1], alone, rtol=1e-4, atol=1e-5)
