"""The settings of a training: the section `train` of config.yaml, and the other keys that the trainer reads."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, WrapValidator, model_validator

from likeness.core.section import Count, Number, Section, Seed, Steps, Weight, quote
from likeness.training.optimizer_table import (
    ADAFACTOR_EPS,
    ADAPTIVE_RATES,
    ARGUMENTS,
    OPTIMIZERS,
    endless_warm_up,
    has_relative_step,
)

Rank = Annotated[int, Field(gt=0, le=1280)]  # the width of the widest layers: a higher rank adds nothing
# With a smaller alpha the LoRA would vanish in rounding.
Alpha = Annotated[Number, Field(ge=0.001)]
Rate = Annotated[Number, Field(ge=1e-9, le=10)]


def _validate_argument(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Raise one error for all kinds of an argument; pydantic would raise one for each kind."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError(f"found {quote(value)}; expected true, false, a number or a list of numbers") from None


Argument = Annotated[bool | int | Number | list[Number], WrapValidator(_validate_argument)]


class Train(Section):
    network: Literal["lora", "locon", "dora", "loha", "lokr"] = "lora"
    """Kind of network. locon is a LoRA that also has layers for the convolutions. diffusers does not read loha and
    lokr. dora also learns magnitudes; only this workflow draws it as it was trained: A1111, InvokeAI and diffusers ruin
    it."""
    rank: Rank = 128
    """Rank of the LoRA's matrices (kohya's network_dim). Higher: it can learn more, and the file is larger."""
    alpha: Alpha = 64
    """The LoRA is multiplied by alpha / rank (kohya's network_alpha), so lower weakens it. At most rank."""
    conv_rank: Rank = 8
    """Rank of LoCon's 3x3 convolutions (kohya's conv_dim)."""
    conv_alpha: Alpha = 4
    """LoCon's 3x3 convolutions are multiplied by conv_alpha / conv_rank (kohya's conv_alpha)."""
    dropout: Annotated[Number, Field(ge=0, le=0.9)] = 0.0
    """Share of the adapter that is switched off at random in each step of the training (kohya's network_dropout). 0:
    off."""
    layers: Literal["all", "attention"] = "all"
    """Which layers get a LoRA: all layers of the transformers, or only their attention."""
    network_weights: Annotated[str, Field(min_length=1)] | None = None
    """A LoRA file to continue from, of the same kind, rank, alpha and layers (kohya's network_weights)."""
    optimizer: Literal["AdamW", "AdamW8bit", "Adafactor", "DAdaptAdam", "Prodigy", "Lion"] = "AdamW"
    """The optimizer. DAdaptAdam and Prodigy find the step size themselves."""
    optimizer_args: dict[str, Argument] = {}
    """Arguments of the optimizer, as in kohya: {weight_decay: 0.01, betas: [0.9, 0.99], relative_step: false, ...}."""
    learning_rate: Rate = 1e-4
    """Learning rate of the U-Net's LoRA. Write 1 for DAdaptAdam and Prodigy."""
    train_text_encoder: bool = False
    """true: the text encoder gets a LoRA too. What that gains: docs/likeness.md."""
    text_encoder_lr: Rate = 5e-5
    """Learning rate of the text encoder's LoRA."""
    loraplus_lr_ratio: Annotated[Number, Field(ge=1, le=1000)] = 1.0
    """LoRA+: the learning rate of the second matrices (lora_up) is this many times that of the first (kohya's
    network_args). 1: off."""
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = "cosine_with_restarts"
    """How the learning rate changes during the training. constant and constant_with_warmup keep it, the others let it
    fall to nearly 0."""
    lr_scheduler_num_cycles: Count = 3
    """For cosine_with_restarts: how often the rate falls from its full value to 0."""
    lr_scheduler_power: Annotated[Number, Field(gt=0, le=100)] = 1.0
    """For polynomial: 1 falls in a straight line, a larger power falls faster at first."""
    lr_warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Number of steps at the start in which the learning rate rises from 0."""
    max_train_steps: Steps | None = None
    """Optimisation steps in all. Two of max_train_steps, epochs and repeats determine the third. If none is set: 2000
    steps in 10 epochs."""
    epochs: Count | None = None
    """How often the training goes through the photos and their repeats."""
    repeats: Count | None = None
    """How often each photo is shown in an epoch (the number before a kohya folder's name)."""
    save_every_n_epochs: Count = 1
    """A checkpoint is saved and judged after every so many epochs, and after the last one."""
    batch_size: Count = 2
    """Pictures in each batch (kohya's train_batch_size). More need more memory."""
    gradient_accumulation_steps: Count = 1
    """Number of batches whose gradients are added up for one optimisation step."""
    gradient_checkpointing: bool = False
    """true: activations are computed twice instead of being kept. Slower, with much less memory."""
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"
    """Precision of the frozen base model and of the activations. The LoRA itself is always trained in fp32."""
    save_precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Precision of the numbers in the LoRA file. kohya_ss saves fp16."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """PyTorch's own attention (sdpa), or that of xformers (GPU only)."""
    compile: bool = False
    """true: torch.compile of the U-Net, on a GPU with CUDA graphs. The first step takes minutes, the later ones are
    faster."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: a GPU if there is one. cuda: without a GPU the run ends with an error, instead of training for days."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of GPUs of one machine for one training. Each takes its share of the pictures of every step, so batch_size
    x gradient_accumulation_steps should be a multiple of it. Except for rounding, the result is that of one GPU."""
    deterministic: bool = False
    """true: a repeated training on a GPU gives the same bytes, with slower kernels. On a CPU this is always so."""
    timestep_sampling: Literal["uniform", "sigmoid"] = "uniform"
    """Which timesteps are trained. uniform: all equally often. sigmoid: mostly the middle ones (ai-toolkit's
    timestep_type: sigmoid)."""
    loss: Literal["l2", "huber"] = "l2"
    """The loss: squared error (l2), or pseudo-Huber, which counts large errors less (kohya's loss_type)."""
    huber_c: Annotated[Number, Field(ge=1e-4, le=1)] = 0.1
    """For loss: huber. The error at which the loss changes from squared to absolute (kohya's huber_c). Lower: large
    errors count less."""
    huber_schedule: Literal["snr", "exponential", "constant"] = "snr"
    """For loss: huber. How the value depends on the noise, as in kohya: snr and exponential use up to 1 at little noise
    and huber_c at much; constant uses huber_c always."""
    min_snr_gamma: Annotated[Number, Field(ge=0.01, le=1e6)] | None = None
    """Timesteps with little noise get less weight: min(SNR, gamma) / SNR, for v_prediction / (SNR + 1) (kohya's
    min_snr_gamma). Lower: less weight for them. Empty: off."""
    debiased_estimation: bool = False
    """true: timesteps are weighted by 1 / sqrt(SNR), for v_prediction 1 / (SNR + 1), so those with little noise count
    less (kohya's debiased_estimation_loss). Not together with min_snr_gamma."""
    dco_beta: Annotated[Number, Field(ge=0.01, le=1e6)] | None = None
    """Direct consistency optimisation: the more a picture's loss is already below that of the base model, the less the
    picture teaches. Higher: a stronger effect (its authors' code has 1000). Empty: off."""
    masked_loss: bool = False
    """true: what lies outside the head counts a tenth, so less of the background is learned."""
    masked_prior: Weight = 0.0
    """Weight of a part of the loss outside the head, with masked_loss: there the LoRA shall predict what the base model
    predicts, so that rooms and clothes are not learned (OneTrainer's masked prior preservation, ai-toolkit's
    inverted_mask_prior). 0: off."""
    preserve_class: Weight = 1.0
    """Weight of the second part of the loss: for the caption without the person ("a woman, smiling") the LoRA shall
    predict what the base model predicts, so that "a woman" stays anybody (ai-toolkit's
    diff_output_preservation_multiplier; kohya's diff_output_preservation). Regularisation photos have no such part.
    0: off."""
    preserve_class_share: Annotated[Number, Field(ge=0.01, le=1)] = 0.5
    """Share of the pictures of a step to which preserve_class is applied. Lower is faster."""
    prior_loss_weight: Annotated[Number, Field(gt=0, le=10_000)] = 1.0
    """Weight of the regularisation photos in the loss. 1: the same as the subject's."""
    prior_prediction: bool = False
    """true: for regularisation photos the LoRA learns what the base model predicts, not the photos themselves
    (OneTrainer's prior prediction), so the looks of these photos are not learned."""
    noise_offset: Annotated[Number, Field(ge=0, le=10)] = 0.0
    """Adds to the noise a random shift of each whole channel, of this size, so that very dark and very bright pictures
    can be learned (as in kohya). 0: off."""
    multires_noise_iterations: Annotated[int, Field(ge=0, le=100)] = 0
    """Number of coarser noises that are added to the noise, each 2 to 4 times coarser than the one before (as in
    kohya). 0: off."""
    multires_noise_discount: Annotated[Number, Field(ge=0.01, le=1)] = 0.3
    """Each coarser noise counts this many times as much as the one before (as in kohya). Lower: less coarse noise."""
    caption_dropout_rate: Annotated[Number, Field(ge=0, le=0.9)] = 0.0
    """Share of the pictures that are shown with an empty caption."""
    shuffle_caption: bool = False
    """true: the parts of a caption between commas are shuffled each time."""
    keep_tokens: Annotated[int, Field(ge=0, le=255)] = 1
    """How many parts stay in front when the others are shuffled. The first part names the subject."""
    max_token_length: Literal[75, 150, 225] = 75
    """Number of tokens of a caption that are read, in chunks of 75 as in kohya. The rest is cut. Brackets in captions
    are words, not weights."""
    flip_aug: bool = False
    """true: mirrors pictures at random, half of them. Faces are not symmetric: a LoRA that saw both sides looks less
    like the person."""
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Saves the moving average of the LoRA's numbers instead of the last ones. The average keeps this share of itself
    at each step (0.99 to 0.999): higher averages over more steps. Empty: off."""
    seed: Seed = 42
    """Seed of the training: noise, timesteps, order of the pictures, the LoRA's first numbers."""

    @model_validator(mode="after")
    def settings_that_fit_together(self) -> Self:
        if self.alpha > self.rank:
            raise ValueError(f"alpha {self.alpha:g} is larger than rank {self.rank}; expected at most rank")
        if self.conv_alpha > self.conv_rank:
            raise ValueError(f"conv_alpha {self.conv_alpha:g} is larger than conv_rank {self.conv_rank}")
        if self.debiased_estimation and self.min_snr_gamma is not None:
            raise ValueError("debiased_estimation and min_snr_gamma are two weights for one thing; set one of them")
        if self.masked_prior and not self.masked_loss:
            raise ValueError("masked_prior is about what masked_loss leaves out; set masked_loss: true as well")
        if None not in (self.max_train_steps, self.epochs, self.repeats):
            raise ValueError("max_train_steps, epochs and repeats: two of them give the third; set one of them to null")
        if self.gpus > self.batch_size * self.gradient_accumulation_steps:
            raise ValueError(
                f"gpus: {self.gpus}, and a step has {self.batch_size * self.gradient_accumulation_steps} pictures "
                "(batch_size x gradient_accumulation_steps); lower gpus, or raise one of them"
            )
        if self.device == "cpu" and self.attention == "xformers":
            raise ValueError("attention: xformers needs a GPU, and device is cpu; write attention: sdpa")
        if mistakes := optimizer_problems(self):
            raise ValueError("; ".join(mistakes))
        return self

    def filled_in(self) -> Self:
        """The settings, with defaults for max_train_steps and epochs if fewer than two of max_train_steps, epochs and
        repeats are set."""
        values = {key: getattr(self, key) for key in ("max_train_steps", "epochs", "repeats")}
        # Guides for faces recommend 2000 steps; with 10 epochs there is a checkpoint after every 200 steps.
        for key, value in (("epochs", 10), ("max_train_steps", 2000)):
            if list(values.values()).count(None) > 1:
                values[key] = values[key] or value
        return self.model_copy(update=values)


def optimizer_problems(train: Train) -> list[str]:
    """A message for each contradiction between the optimizer, its arguments, the learning rates and the schedule. Each
    message tells what to write instead."""
    name, arguments = train.optimizer, train.optimizer_args
    kind = OPTIMIZERS[name]
    problems = [
        f"optimizer_args.{key}: {name} has no such argument; it takes {', '.join(sorted(kind.arguments))}"
        for key in sorted(set(arguments) - kind.arguments)
    ]
    for key in sorted(set(arguments) & kind.arguments):
        values = ADAFACTOR_EPS if (name, key) == ("Adafactor", "eps") else ARGUMENTS[key]
        if not values.fit(arguments[key]):
            problems.append(f"optimizer_args.{key}: found {arguments[key]!r:.200}; expected {values.expected}")
    low, high = ADAPTIVE_RATES
    rates = {"learning_rate": train.learning_rate}
    if train.train_text_encoder:
        rates["text_encoder_lr"] = train.text_encoder_lr
    if kind.adaptive:
        problems += [
            f"{key}: {rate:g} with {name}, which finds the step size itself and takes this as a factor on it; "
            f"write {key}: 1"
            for key, rate in rates.items()
            if not low <= rate <= high
        ]
        if len(set(rates.values())) > 1:
            problems.append(f"text_encoder_lr: {name} has one step size for all; write the same as learning_rate")
    if train.lr_warmup_steps and train.lr_scheduler == "constant":
        problems.append("lr_warmup_steps: constant has no warm-up; write lr_scheduler: constant_with_warmup")
    problems += endless_warm_up(train.lr_warmup_steps, train.max_train_steps)
    if train.loraplus_lr_ratio != 1:
        if train.network in ("loha", "lokr"):
            problems.append(f"loraplus_lr_ratio: network {train.network} has no second matrix; expected lora or locon")
        if kind.adaptive or has_relative_step(name, arguments):
            problems.append(f"loraplus_lr_ratio: {name} finds the step sizes itself; expected AdamW, AdamW8bit or Lion")
    if has_relative_step(name, arguments) and train.lr_scheduler != "constant":
        problems.append(
            f"lr_scheduler: {train.lr_scheduler} with Adafactor's relative_step, which is a schedule itself; write "
            "lr_scheduler: constant, or optimizer_args: {relative_step: false}"
        )
    if arguments.get("warmup_init") and not has_relative_step(name, arguments):
        problems.append("optimizer_args.warmup_init: needs relative_step: true")
    return problems


class Settings(Train):
    """The settings that the trainer gets: the section `train`, filled in, and clip_skip of the top level."""

    clip_skip: Annotated[int, Field(ge=1, le=12)] = 1
