"""Faults of generated pictures that do not depend on the person."""

import numpy as np

# A second face counts if it has at least half the width of the first. Smaller ones are pictures on a wall, or false
# detections.
SECOND_FACE = 0.5

# Broken pictures: a VAE gives a flat colour for NaN; a LoRA that is far too strong gives clipped colours or noise.
FLAT = 8.0  # standard deviation of the luminance in levels of 255; portraits lie above 30
CLIPPED = 0.9  # share of pixels whose channels are all 0 or 255; a dark studio background reaches 0.5
NOISY = 0.75  # mean step between neighbours / standard deviation: 1.13 for white noise, below 0.3 for photos


def is_broken(image: np.ndarray) -> bool:
    """Whether uint8 RGB (height, width, 3) is one flat colour, clipped nearly everywhere, or noise."""
    luminance = image.mean(axis=2)
    spread = float(luminance.std())
    if spread < FLAT:
        return True
    clipped = float(np.isin(image, (0, 255)).all(axis=2).mean())
    steps = (np.abs(np.diff(luminance, axis=0)).mean() + np.abs(np.diff(luminance, axis=1)).mean()) / 2
    return clipped > CLIPPED or float(steps) / spread > NOISY
