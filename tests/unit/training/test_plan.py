"""The plan of a training says which pictures each step shows, and which run a training belongs to."""

from collections import Counter

from likeness.training.plan import batches, run_key
from likeness.training.schedule import schedule
from trained_run import short_settings


def test_regularisation_photos_come_as_often_as_the_subjects():
    train = short_settings(batch_size=4)
    shown = [
        number
        for epoch in (1, 2)
        for batch in batches(train, epoch, 4, [(64, 64)] * 5, [(64, 64)] * 3)
        for number in batch
    ]
    counts = Counter(shown)
    assert [counts[number] for number in range(5)] == [8] * 5
    assert sorted(counts[number] for number in range(5, 8)) == [13, 13, 14], "in turn over both epochs"


def test_pictures_of_different_sizes_never_share_a_batch():
    images = [(64, 64)] * 3 + [(64, 96)] * 2
    train = short_settings(batch_size=2, max_train_steps=None, repeats=3)
    made = batches(train, 1, 3, images, [])
    assert len(made) == schedule(train, images).steps_per_epoch == 5 + 3
    assert all(len({images[number] for number in batch}) == 1 for batch in made)
    assert Counter(number for batch in made for number in batch) == dict.fromkeys(range(5), 3)


DATASET = {"images": [{"name": "a", "sha256": "1", "caption_sha256": "2", "size": [64, 64], "face": [0, 0, 1, 1]}]}
DATASET["images"][0] |= {"class_caption_sha256": "3"}
DATASET |= {"regularisation": [], "heldout": [], "bare_class": {"caption_sha256": "4"}}


def test_run_key_knows_rank_from_alpha_and_ignores_what_changes_nothing():
    def key(dataset=DATASET, weights="", **changes):
        return run_key(short_settings(**changes), dataset, {"digest": "base"}, weights, "code")

    assert key() != key(rank=16)
    assert key() != key(epochs=4), "cosine is stretched over all epochs"
    assert key(lr_scheduler="constant", max_train_steps=1) == key(lr_scheduler="constant", max_train_steps=1, epochs=4)
    assert key() == key(device="cpu") == key(gpus=2) == key(save_every_n_epochs=2) == key(network_weights="a")
    assert key() != key(weights="sha256 of another file")
    assert key() == key(DATASET | {"heldout": DATASET["images"]}), "validation changes nothing of the LoRA"
    moved = DATASET | {"images": [DATASET["images"][0] | {"face": [0, 0, 0.5, 1]}]}
    assert key() == key(moved) and key(masked_loss=True) != key(moved, masked_loss=True)
    assert key() == key(preserve_class_share=1.0), "of nothing"
    other_class = DATASET | {"bare_class": {"caption_sha256": "5"}}
    assert key() == key(other_class) and key(preserve_class=1.0) != key(other_class, preserve_class=1.0)
