"""The words of a prompt that were drawn, and no others, are scored."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import score_checkpoint
from clip_words import HAT
from likeness.choosing.scoring import Measurement, prompt_score

FACE = {"smile": 0.9, "glasses": 1.0, "background": 0.1, "yaw": 0.0, "face_fraction": 0.45}


def seen(**attributes) -> Measurement:
    return Measurement(1, None, None, FACE | attributes, broken=False)


@pytest.mark.parametrize(
    ("prompt", "score"),
    [
        ("photo of ohwx woman (smiling:1.5)", 0.2),
        ("photo of ohwx woman [smil(ing)]", 0.2),
        ("photo of ohwx woman (smiling:0)", 1.0),
        ("photo of ohwx woman (smiling:-1), with glasses", 1.0),
        (f"photo of ohwx woman, {HAT * 100}, smiling", 0.2),
    ],
)
def test_a_word_is_scored_where_it_is_drawn(prompt, score):
    assert prompt_score(prompt, seen(smile=0.1), seen())[0] == pytest.approx(score)


def test_the_clip_score_reads_the_words_without_brackets(monkeypatch, tmp_path):
    """What score_checkpoint asks CLIP for: plain words, the trigger left out, inside weights too."""
    asked = []

    class Items:
        def get(self, compute, *key):
            asked.append(key[-1])
            return SimpleNamespace(read_text=lambda: "")

    monkeypatch.setattr(score_checkpoint.pretrained, "read_manifest", lambda path: (tmp_path, "weights"))
    monkeypatch.setattr(score_checkpoint, "decode_embedding", lambda text: np.ones(1))
    subject = SimpleNamespace(trigger="ohwx", class_noun="woman")
    args = SimpleNamespace(clip=[tmp_path], config=SimpleNamespace(subject=subject))
    prompts = ["photo of (ohwx woman:1.3), [smiling]", "photo of (ohwx) woman", "photo of a (woman:1.2)"]
    score_checkpoint._clip_view(pd.DataFrame({"prompt": prompts, "image": "x.png", "pixels": "p"}), args, Items())
    assert asked == [*"ppp", "photo of woman, smiling", "photo of woman", "photo of a woman"]
