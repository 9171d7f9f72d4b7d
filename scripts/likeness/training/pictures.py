"""What training sees of the pictures, stacked for a batch: the subject's first, then the regularisation ones."""

import random
from collections.abc import Mapping, Sequence

import torch

from likeness.conditioning import token_ids
from likeness.training.losses import head_weights
from likeness.training.noise import BARE_CLASS_CAPTION, EMPTY_CAPTION, shuffled


class Pictures:
    """All latents and text states of a dataset on one device; a picture is known by its number.

    `dataset` is dataset.json, `latents` what load_latents gives. `tokenizers` are needed to shuffle captions.
    """

    def __init__(self, train: Mapping, dataset: Mapping, latents: Mapping, device: torch.device, tokenizers: Sequence):
        groups = ("images", "regularisation")
        self.items = [item for group in groups for item in dataset[group]]
        self.device, self._train, self._tokenizers = device, train, tokenizers
        names = {name for group in groups for name in latents[group]}
        self._tensors = {
            name: [tensor.to(device) for group in groups for tensor in latents[group].get(name, [])] for name in names
        }
        self._empty = {name: tensors[0].to(device) for name, tensors in latents["empty"].items()}
        self._bare_class = {name: tensors[0].to(device) for name, tensors in latents["bare_class"].items()}
        prior = len(dataset["regularisation"])
        self._first_prior = len(self.items) - prior
        weights = [1.0] * (len(self.items) - prior) + [train["prior_loss_weight"]] * prior
        self._weights = torch.tensor(weights, device=device)
        self._masks = [
            head_weights(item.get("face"), *mean.shape[-2:]).to(device)
            for item, mean in zip(self.items, self._tensors["mean"], strict=True)
        ]

    def shape(self, numbers: Sequence[int]) -> tuple[int, int, int, int]:
        """Of the latents of a batch, whose pictures are of one size."""
        return (len(numbers), *self._tensors["mean"][numbers[0]].shape)

    def clean(self, numbers: Sequence[int], posterior: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
        """Latents (n, 4, h, w) drawn from their spread by `posterior`; of the mirrored picture where `flipped`."""
        mean, std = (self._either(name, numbers, flipped) for name in ("mean", "std"))
        return mean + std * posterior

    def masks(self, numbers: Sequence[int], flipped: torch.Tensor) -> torch.Tensor | None:
        """(n, 1, h, w), how much each place counts; None where every place counts the same."""
        if not self._train["masked_loss"]:
            return None
        straight = torch.stack([self._masks[number] for number in numbers])
        return torch.where(flipped[:, None, None, None], straight.flip(-1), straight)

    def is_prior(self, number: int) -> bool:
        """Whether it is a regularisation picture."""
        return number >= self._first_prior

    def weights(self, numbers: Sequence[int]) -> torch.Tensor:
        """(n,): 1, and prior_loss_weight for regularisation pictures."""
        return torch.stack([self._weights[number] for number in numbers])

    def text(self, name: str, numbers: Sequence[int], dropped: torch.Tensor) -> torch.Tensor | None:
        """Cached "hidden" or "pooled" states, the empty caption's where `dropped`; None where the family has none."""
        if name not in self._empty:
            return None
        return self._unless_dropped(torch.stack([self._tensors[name][number] for number in numbers]), name, dropped)

    def tokens(self, numbers: Sequence[int], dropped: torch.Tensor, seeds: Sequence[str]) -> torch.Tensor:
        """int64 (n, encoders, 77), or (n, encoders, chunks, 77) by max_token_length. Where captions are shuffled, each
        is by its own of `seeds`."""
        if self._train["shuffle_caption"]:
            captions = [
                shuffled(self.items[number]["caption"], self._train["keep_tokens"], random.Random(seed))
                for number, seed in zip(numbers, seeds, strict=True)
            ]
            length = self._train["max_token_length"]
            found = torch.stack([token_ids(self._tokenizers, caption, length) for caption in captions]).to(self.device)
        else:
            found = torch.stack([self._tensors["tokens"][number] for number in numbers])
        return self._unless_dropped(found, "tokens", dropped)

    def class_text(self, name: str, numbers: Sequence[int], words: torch.Tensor) -> torch.Tensor | None:
        """Cached "hidden" or "pooled" states, or "tokens", of captions without the person, by noise.py's `class_words`,
        (n,); None where the family has none."""
        if name not in self._empty:
            return None
        states = torch.stack([self._tensors[f"class_{name}"][number] for number in numbers])
        words = words.reshape(-1, *[1] * (states.dim() - 1))
        states = torch.where(words == BARE_CLASS_CAPTION, self._bare_class[name], states)
        return torch.where(words == EMPTY_CAPTION, self._empty[name], states)

    def _either(self, name: str, numbers: Sequence[int], flipped: torch.Tensor) -> torch.Tensor:
        straight = torch.stack([self._tensors[name][number] for number in numbers])
        if not self._train["flip_aug"]:
            return straight
        mirrored = torch.stack([self._tensors[f"flipped_{name}"][number] for number in numbers])
        return torch.where(flipped[:, None, None, None], mirrored, straight)

    def _unless_dropped(self, states: torch.Tensor, name: str, dropped: torch.Tensor) -> torch.Tensor:
        if not self._train["caption_dropout_rate"]:
            return states
        return torch.where(dropped.reshape(-1, *[1] * (states.dim() - 1)), self._empty[name], states)
