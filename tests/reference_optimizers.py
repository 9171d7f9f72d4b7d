"""The optimizers by the formulas of their papers, in double precision with numpy, without code of the tested ones.

Each gets the parameters (a list of arrays, `x`); `step` changes them by gradients of the same shapes.
"""

import math

import numpy as np

Arrays = list[np.ndarray]


def rms(x: np.ndarray) -> float:
    return math.sqrt((x**2).mean())


class AdamW:
    """Loshchilov & Hutter, algorithm 2."""

    def __init__(self, x: Arrays, decay: float = 0.01):
        self.x, self.decay, self.t = list(x), decay, 0
        self.m = [np.zeros_like(a) for a in x]
        self.v = [np.zeros_like(a) for a in x]

    def step(self, gradients: Arrays, lr: float | Arrays) -> None:
        self.t += 1
        for i, (g, rate) in enumerate(zip(gradients, np.broadcast_to(lr, len(gradients)), strict=True)):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            mean, spread = self.m[i] / (1 - 0.9**self.t), np.sqrt(self.v[i] / (1 - 0.999**self.t))
            self.x[i] = self.x[i] - rate * (mean / (spread + 1e-8) + self.decay * self.x[i])


class Adafactor:
    """Shazeer & Stern, algorithms 4 and 5: factored second moments, update clipping, relative step size."""

    def __init__(self, x: Arrays, scale_parameter: bool = True, warmup_init: bool = False, relative_step: bool = True):
        self.x, self.t = list(x), 0
        self.scale_parameter, self.warmup_init, self.relative_step = scale_parameter, warmup_init, relative_step
        self.row, self.col = [0.0] * len(x), [0.0] * len(x)

    def step(self, gradients: Arrays, lr: float) -> None:
        self.t += 1
        rho = min(1e-6 * self.t if self.warmup_init else 1e-2, 1 / math.sqrt(self.t)) if self.relative_step else lr
        beta = 1 - self.t**-0.8
        for i, g in enumerate(gradients):
            alpha = (max(1e-3, rms(self.x[i])) if self.scale_parameter else 1.0) * rho
            squared = g**2 + 1e-30
            self.row[i] = beta * self.row[i] + (1 - beta) * squared.mean(axis=-1, keepdims=True)
            self.col[i] = beta * self.col[i] + (1 - beta) * squared.mean(axis=-2, keepdims=True)
            update = g / np.sqrt(self.row[i] * self.col[i] / self.row[i].mean(axis=-2, keepdims=True))
            self.x[i] = self.x[i] - alpha * update / max(1, rms(update))


class Lion:
    """Chen et al., program 1."""

    def __init__(self, x: Arrays, decay: float = 0.0):
        self.x, self.decay, self.m = list(x), decay, [np.zeros_like(a) for a in x]

    def step(self, gradients: Arrays, lr: float) -> None:
        for i, g in enumerate(gradients):
            self.x[i] = self.x[i] * (1 - lr * self.decay) - lr * np.sign(0.9 * self.m[i] + 0.1 * g)
            self.m[i] = 0.99 * self.m[i] + 0.01 * g


class DAdaptAdam:
    """Defazio & Mishchenko, algorithm 5 (D-Adapted Adam), with decoupled decay."""

    def __init__(self, x: Arrays, decay: float = 0.0):
        self.x, self.decay, self.d, self.r = list(x), decay, 1e-6, 0.0
        self.m, self.v, self.s = ([np.zeros_like(a) for a in x] for _ in range(3))

    def step(self, gradients: Arrays, lr: float) -> None:
        root, d = math.sqrt(0.999), self.d * lr
        # The numerator uses the second moment of the previous step.
        inner = sum(
            float((g * s / (np.sqrt(v) + 1e-8)).sum()) for g, s, v in zip(gradients, self.s, self.v, strict=True)
        )
        self.r = root * self.r + (1 - root) * d * inner
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + 0.1 * d * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            self.s[i] = root * self.s[i] + (1 - root) * d * g
            self.x[i] = self.x[i] - d * self.decay * self.x[i] - self.m[i] / (np.sqrt(self.v[i]) + 1e-8)
        size = sum(np.abs(s).sum() for s in self.s)
        self.d = max(self.d, self.r / ((1 - root) * size))


class Prodigy:
    """Mishchenko & Defazio, algorithm 4 (Prodigy with Adam)."""

    def __init__(self, x: Arrays):
        self.x, self.x0, self.d, self.r = list(x), list(x), 1e-6, 0.0
        self.m, self.v, self.s = ([np.zeros_like(a) for a in x] for _ in range(3))

    def step(self, gradients: Arrays, lr: float) -> None:
        b3, d, scaled = math.sqrt(0.999), self.d, self.d / 1e-6 * self.d * lr
        inner = sum(float((g * (x0 - x)).sum()) for g, x0, x in zip(gradients, self.x0, self.x, strict=True))
        self.r = b3 * self.r + scaled * inner
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + 0.1 * d * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * d**2 * g**2
            self.s[i] = b3 * self.s[i] + scaled * g
        self.d = max(d, self.r / sum(np.abs(s).sum() for s in self.s))
        for i in range(len(self.x)):
            self.x[i] = self.x[i] - d * lr * self.m[i] / (np.sqrt(self.v[i]) + self.d * 1e-8)
