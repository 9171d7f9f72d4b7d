"""What the class is preserved by: the base model's own answer, whatever is trained and however it is placed."""

import pytest
import torch

from likeness.models.base_model import load_part
from likeness.models.conditioning import conditioning, load_text_encoders
from likeness.training import noise, step
from likeness.training.processes import Processes
from likeness.training.run import new_run
from trained_run import base_width, made_up_data, short_settings

CPU = torch.device("cpu")
BATCH = [0, 2, 4]


def training(base: dict, **changes):
    """A training in which every number of the LoRA has moved."""
    dataset, latents = made_up_data(base_width(base), regularisation=2)
    run = new_run(short_settings(preserve_class=2.0, **changes), dataset, latents, base, 10, Processes(CPU), None)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in run.parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return run, latents


def drawn_for(run, batch: list[int]) -> dict[str, torch.Tensor]:
    return noise.sample(run.settings, 3, run.pictures.shape(batch), 1000)


@pytest.mark.parametrize(
    "changes",
    [{"network": kind} for kind in ("lora", "locon", "dora", "loha", "lokr")]
    + [{"train_text_encoder": True}, {"train_text_encoder": True, "network": "dora"}],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_the_base_model_answers_without_the_lora_and_reads_without_it(base_manifest, changes):
    run, latents = training(base_manifest, **changes)
    noisy_latents, timesteps = torch.randn(3, 4, 8, 8), torch.tensor([10, 400, 900])
    words = torch.tensor([noise.CLASS_CAPTION, noise.BARE_CLASS_CAPTION, noise.EMPTY_CAPTION])
    found = step._base_pred(run, noisy_latents, timesteps, lambda: step._class_prompt_embeds(run, BATCH, words))
    moved = step._model_pred(run, noisy_latents, timesteps, step._class_prompt_embeds(run, BATCH, words))

    tokens = [latents["images"]["class_tokens"][0], latents["bare_class"]["tokens"][0], latents["empty"]["tokens"][0]]
    hidden = [latents["images"]["class_hidden"][0], latents["bare_class"]["hidden"][0], latents["empty"]["hidden"][0]]
    with torch.no_grad():
        if changes.get("train_text_encoder"):
            text = conditioning(load_text_encoders(base_manifest), torch.stack(tokens), 1).hidden
        else:
            text = torch.stack(hidden)
        expected = load_part(base_manifest, "unet")(noisy_latents, timesteps, text).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (moved - expected).abs().max() > 1e-3 and not found.requires_grad and moved.requires_grad
    assert all(parameter.requires_grad for parameter in run.parameters), "and the LoRA is trained on"


def test_nothing_is_dropped_from_what_is_preserved(base_manifest):
    run, _ = training(base_manifest, dropout=0.5)
    drawn = drawn_for(run, BATCH)

    def parts(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        first, second = step._losses(run, BATCH, drawn, ["a", "b", "c"], [0, 2])
        assert len(first.loss) == 3 and len(second.preservation) == 2
        assert not len(first.preservation) and not len(second.loss)
        return [first.loss, second.preservation]

    one, other = parts(1), parts(2)
    assert not torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("changes", [{}, {"train_text_encoder": True}, {"precision": "bf16"}], ids=str)
def test_one_call_of_the_u_net_gives_what_two_give(base_manifest, changes):
    gradients = []
    for checkpointing in (False, True):
        run, _ = training(base_manifest, gradient_checkpointing=checkpointing, **changes)
        parts = 0
        for part in step._losses(run, BATCH, drawn_for(run, BATCH), ["a", "b", "c"], [0, 2]):
            (part.loss.sum() + part.preservation.sum()).backward()
            parts += 1
        assert parts == (2 if checkpointing else 1)
        gradients.append([parameter.grad for parameter in run.parameters])
    tolerance = 5e-2 if changes.get("precision") == "bf16" else 1e-4
    for one, two in zip(*gradients, strict=True):
        assert (one - two).abs().max() <= tolerance * max(one.abs().max(), 1e-3)


def test_regularisation_pictures_are_not_preserved_again(base_manifest):
    run, _ = training(base_manifest, preserve_class_share=1.0, batch_size=3)
    both, run.step = [0, 5, 6], 3
    numbers, _ = step.optimisation_step(run, both, False)
    of_subject = training(base_manifest, preserve_class_share=1.0, batch_size=3)[0]
    (part,) = step._losses(of_subject, both, drawn_for(of_subject, both), ["a", "b", "c"], [0])
    assert float(numbers[2]) == pytest.approx(float(part.preservation.detach()), rel=1e-5)
    run.step = 4
    assert step.optimisation_step(run, [5, 6], False)[0][2] == -1, "none of them is the subject's"


def test_the_share_is_kept_over_the_steps_and_every_kind_of_words_is_shown():
    settings = short_settings(preserve_class=1.0, preserve_class_share=0.3)
    drawn = [noise.sample(settings, number, (4, 4, 2, 2), 1000) for number in range(500)]
    chosen = torch.stack([one["preserved"] for one in drawn])
    assert float(chosen.float().mean()) == pytest.approx(0.3, abs=0.02) and set(chosen.sum(1).tolist()) == {1, 2}
    assert chosen.float().mean(0) == pytest.approx([0.3] * 4, abs=0.06)
    words = torch.cat([one["class_words"] for one in drawn]).bincount() / 2000
    assert words.tolist() == pytest.approx([0.7, 0.15, 0.15], abs=0.03)


@pytest.mark.parametrize("sizes", [(4, 1), (1,), (3, 2, 1)], ids=str)
def test_the_share_is_right_for_steps_of_any_size(sizes):
    settings = short_settings(preserve_class=1.0, preserve_class_share=0.25)
    drawn = [noise.sample(settings, number, (sizes[number % len(sizes)], 4, 2, 2), 1000) for number in range(3000)]
    for size in sizes:
        chosen = [one["preserved"].float().mean() for one in drawn if len(one["preserved"]) == size]
        assert float(torch.stack(chosen).mean()) == pytest.approx(0.25, abs=0.04), size


def test_what_is_drawn_for_a_step_is_the_same_with_and_without_it():
    without, kept = (noise.sample(short_settings(preserve_class=p), 3, (4, 4, 8, 8), 1000) for p in (0.0, 1.0))
    same = ("posterior", "noise", "timesteps", "dropped", "flipped")
    assert all(torch.equal(without[name], kept[name]) for name in same)
    assert not without["preserved"].any() and kept["preserved"].sum() == 2
