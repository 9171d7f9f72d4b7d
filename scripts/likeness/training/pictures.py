"""The pictures of a data set as tensors, stacked for a batch. The subject's pictures come first, then the
regularisation pictures."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from likeness.models.conditioning import Conditioning, token_ids
from likeness.training.losses import head_weights
from likeness.training.noise import BARE_CLASS_CAPTION, EMPTY_CAPTION, shuffled
from likeness.training.settings import Settings

STATES = ("hidden", "pooled")  # the prompt_embeds of a caption; only SDXL has pooled


class Pictures:
    """All latents and text states of a data set on one device. A picture is identified by its number, its index in
    `items`.

    `dataset` is dataset.json, `latents` the result of load_latents. `tokenizers` are only used to shuffle captions.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Mapping[str, Any],
        latents: Mapping[str, Any],
        device: torch.device,
        tokenizers: Sequence[Any],
    ):
        groups = ("images", "regularisation")
        self.items = [item for group in groups for item in dataset[group]]
        self.device, self._settings, self._tokenizers = device, settings, tokenizers
        names = {name for group in groups for name in latents[group]}
        self._tensors = {
            name: [tensor.to(device) for group in groups for tensor in latents[group].get(name, [])] for name in names
        }
        self._empty = {name: tensors[0].to(device) for name, tensors in latents["empty"].items()}
        self._bare_class = {name: tensors[0].to(device) for name, tensors in latents["bare_class"].items()}
        prior = len(dataset["regularisation"])
        self._first_prior = len(self.items) - prior
        weights = [1.0] * (len(self.items) - prior) + [settings.prior_loss_weight] * prior
        self._weights = torch.tensor(weights, device=device)
        self._masks = [
            head_weights(item.get("face"), *mean.shape[-2:]).to(device)
            for item, mean in zip(self.items, self._tensors["mean"], strict=True)
        ]

    def shape(self, numbers: Sequence[int]) -> tuple[int, int, int, int]:
        """The shape of the latents of a batch. Its pictures have one size."""
        return (len(numbers), *self._tensors["mean"][numbers[0]].shape)

    def clean(self, numbers: Sequence[int], posterior: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
        """Latents (n, 4, h, w): mean + std * `posterior`, which is normal noise. Those of the mirrored pictures where
        `flipped`."""
        mean, std = (self._mirrored_where(flipped, name, numbers) for name in ("mean", "std"))
        return mean + std * posterior

    def masks(self, numbers: Sequence[int], flipped: torch.Tensor) -> torch.Tensor | None:
        """The weight of each latent pixel in the loss, (n, 1, h, w); None without masked_loss."""
        if not self._settings.masked_loss:
            return None
        masks = torch.stack([self._masks[number] for number in numbers])
        return torch.where(flipped[:, None, None, None], masks.flip(-1), masks)

    def is_prior(self, number: int) -> bool:
        """True for a regularisation picture."""
        return number >= self._first_prior

    def weights(self, numbers: Sequence[int]) -> torch.Tensor:
        """The weight of each picture in the loss, (n,): 1, or prior_loss_weight for a regularisation picture."""
        return torch.stack([self._weights[number] for number in numbers])

    def text(self, numbers: Sequence[int], dropped: torch.Tensor) -> Conditioning:
        """The cached prompt_embeds of the captions; those of the empty caption where `dropped`."""
        states = {
            name: self._unless_dropped(torch.stack([self._tensors[name][number] for number in numbers]), name, dropped)
            for name in STATES
            if name in self._empty
        }
        return Conditioning(states["hidden"], states.get("pooled"))

    def tokens(self, numbers: Sequence[int], dropped: torch.Tensor, seeds: Sequence[str]) -> torch.Tensor:
        """The captions' tokens, int64 (n, encoders, 77), or (n, encoders, chunks, 77) if max_token_length is above 75.
        With shuffle_caption, each caption is shuffled by one of `seeds`."""
        if self._settings.shuffle_caption:
            captions = [
                shuffled(self.items[number]["caption"], self._settings.keep_tokens, random.Random(seed))
                for number, seed in zip(numbers, seeds, strict=True)
            ]
            length = self._settings.max_token_length
            tokens = torch.stack([token_ids(self._tokenizers, caption, length) for caption in captions]).to(self.device)
        else:
            tokens = torch.stack([self._tensors["tokens"][number] for number in numbers])
        return self._unless_dropped(tokens, "tokens", dropped)

    def class_text(self, numbers: Sequence[int], words: torch.Tensor) -> Conditioning:
        """The cached prompt_embeds of the captions without the person. `words` is class_words of noise.sample, (n,)."""
        states = {name: self._class_states(name, numbers, words) for name in STATES if name in self._empty}
        return Conditioning(states["hidden"], states.get("pooled"))

    def class_tokens(self, numbers: Sequence[int], words: torch.Tensor) -> torch.Tensor:
        """The tokens of the captions without the person, in the shape of `tokens`."""
        return self._class_states("tokens", numbers, words)

    def _class_states(self, name: str, numbers: Sequence[int], words: torch.Tensor) -> torch.Tensor:
        states = torch.stack([self._tensors[f"class_{name}"][number] for number in numbers])
        words = words.reshape(-1, *[1] * (states.dim() - 1))
        states = torch.where(words == BARE_CLASS_CAPTION, self._bare_class[name], states)
        return torch.where(words == EMPTY_CAPTION, self._empty[name], states)

    def _mirrored_where(self, flipped: torch.Tensor, name: str, numbers: Sequence[int]) -> torch.Tensor:
        unmirrored = torch.stack([self._tensors[name][number] for number in numbers])
        if not self._settings.flip_aug:
            return unmirrored
        mirrored = torch.stack([self._tensors[f"flipped_{name}"][number] for number in numbers])
        return torch.where(flipped[:, None, None, None], mirrored, unmirrored)

    def _unless_dropped(self, states: torch.Tensor, name: str, dropped: torch.Tensor) -> torch.Tensor:
        if not self._settings.caption_dropout_rate:
            return states
        return torch.where(dropped.reshape(-1, *[1] * (states.dim() - 1)), self._empty[name], states)
