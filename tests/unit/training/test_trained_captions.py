"""A training reads its captions in full: cached or anew, shuffled or long."""

import pytest
import safetensors.torch

import train_lora
from likeness.core.errors import LikenessError
from trained_run import WIDTH, made_up_data, trained

pytestmark = pytest.mark.usefixtures("every_step_is_reported")


def test_a_missing_caption_is_an_error_before_anything_is_loaded():
    dataset, _ = made_up_data(WIDTH)
    train_lora.refuse_missing_captions(dataset)
    dataset["images"][2]["caption"] = " "
    with pytest.raises(LikenessError, match=r"no caption for 02; write a \.txt beside the photo"):
        train_lora.refuse_missing_captions(dataset)


def test_shuffled_captions_are_read_anew_at_every_step(tmp_path, base_manifest):
    """With every caption the same, cached or not, shuffled after its last part, nothing changes."""
    fixed = trained(tmp_path / "fixed", base_manifest, shuffle_caption=True, keep_tokens=4)
    free = trained(tmp_path / "free", base_manifest, shuffle_caption=True, keep_tokens=1)
    assert [row["loss"] for row in fixed.metrics] != [row["loss"] for row in free.metrics]
    dataset, latents = made_up_data(WIDTH)
    from likeness.models.conditioning import load_text_encoders, load_tokenizers
    from likeness.training.latents import encoded_caption

    texts = load_tokenizers(base_manifest), load_text_encoders(base_manifest)
    for group in ("images", "heldout"):
        read = [safetensors.torch.load(encoded_caption(*texts, item["caption"], 1)) for item in dataset[group]]
        latents[group] |= {name: [one[name] for one in read] for name in ("tokens", "hidden")}
    cached = trained(tmp_path / "cached", base_manifest, (dataset, latents))
    read = trained(tmp_path / "read", base_manifest, (dataset, latents), shuffle_caption=True, keep_tokens=4)
    assert [row["loss"] for row in read.metrics] == pytest.approx([row["loss"] for row in cached.metrics], rel=1e-5)


def test_captions_of_150_tokens_are_trained_on_as_they_are_cached_and_read(tmp_path, base_manifest):
    """The words behind the 75th token too, by a frozen text encoder and by one that learns."""
    from likeness.models.conditioning import load_text_encoders, load_tokenizers
    from likeness.training.latents import encoded_caption

    texts = load_tokenizers(base_manifest), load_text_encoders(base_manifest)
    losses, runs = {}, {"cached": {}, "read": {"shuffle_caption": True, "keep_tokens": 4}}
    runs["learning"] = {"train_text_encoder": True}
    for last in ("smiling", "crying"):
        dataset, latents = made_up_data(WIDTH)
        for group in ("images", "heldout"):
            for item in dataset[group]:
                item["caption"] = f"ohwx woman, light, {'hat ' * 100}, {last}"
            read = [safetensors.torch.load(encoded_caption(*texts, item["caption"], 1, 150)) for item in dataset[group]]
            latents[group] |= {name: [one[name] for one in read] for name in ("tokens", "hidden")}
        for name, changes in runs.items():
            changes |= {"max_token_length": 150, "max_train_steps": 1, "epochs": 1}
            run = trained(tmp_path / f"{last}_{name}", base_manifest, (dataset, latents), **changes)
            losses[last, name] = [row["loss"] for row in run.metrics]
        assert losses[last, "read"] == pytest.approx(losses[last, "cached"], rel=1e-5)
    assert all(losses["smiling", name] != losses["crying", name] for name in runs)
