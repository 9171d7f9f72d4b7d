"""A model's sentence loses the words for what the person is, and keeps what may change."""

import pytest

from likeness.captions.identity_words import identity_words, model_caption
from likeness.core.errors import LikenessError

# What BLIP and Florence-2 write, in their manner, and what of it is left: nothing of what the person is.
SENTENCES = [
    ("a young woman with long blonde hair and blue eyes smiling in front of a brick wall",
     "smiling in front of a brick wall"),
    ("a man in a black suit and tie sitting on a bench next to a brown dog",
     "in a black suit and tie sitting on a bench next to a brown dog"),
    # A hairdo is put up in a minute: it stays. The hair itself does not.
    ("a woman with her hair in a ponytail", "in a ponytail"),
    ("a woman with long blonde hair tied back in a ponytail wearing a red dress", "in a ponytail wearing a red dress"),
    ("a woman with long hair blowing in the wind on a beach", "in the wind on a beach"),
    ("a man with a beard", ""),
    ("a man with a beard and glasses", "with glasses"),
    ("a man with a beard, glasses and a hat", "with glasses and a hat"),
    ("a man with glasses and a beard", "with glasses"),
    ("a man in his thirties with short brown hair, a beard and glasses standing in the rain",
     "with glasses standing in the rain"),
    ("an older man wearing a hat", "wearing a hat"),
    ("a bald man with a white beard holding a baby", "holding a baby"),
    ("a smiling young woman in a white shirt", "smiling, in a white shirt"),
    ("a shirtless man with tattoos on his arm", "shirtless"),
    ("a little girl with freckles on her face", ""),
    ("a blonde woman in front of an old building", "in front of an old building"),
    ("a blonde with green eyes wearing a scarf", "wearing a scarf"),
    ("a woman with red lipstick and brown eyes looking at the camera", "with red lipstick looking at the camera"),
    ("a girl with dark skin and curly black hair is laughing", "laughing"),
    ("a woman who looks young and happy in the sun", "happy in the sun"),
    ("A woman has blonde hair and is wearing sunglasses.", "wearing sunglasses"),
    ("a woman with blue and green eyes smiling", "smiling"),
    ("a woman with a tattoo of a dragon on her arm", ""),
    ("a woman with flowers in her hair", "with flowers"),
    ("girl, smiling, long hair, blue dress", "smiling, blue dress"),
    ("a Chinese man eating Chinese food", "eating Chinese food"),
    ("she is wearing a black hat", "wearing a black hat"),
    # The kind of picture may change, and so may eyes that are closed.
    ("black and white photo of a woman", "black and white photo"),
    ("a close up of a person wearing a hat", "wearing a hat, close-up"),
    ("a close up of a woman's face with her eyes closed", "with her eyes closed, close-up"),
    ("portrait of a handsome young man, studio lighting, gray background",
     "studio lighting, gray background, portrait"),
    # BLIP's own word for a person, and its way to go on.
    ("arafed man in a suit and tie smiling for a picture", "in a suit and tie smiling for a picture"),
    ("there is a woman that is smiling and wearing a necklace", "smiling and wearing a necklace"),
    # The first person is the subject; another is named, but not described.
    ("a man and a woman sitting on a bench", "with another person, sitting on a bench"),
    ("two women standing next to each other", "with another person, standing next to each other"),
    ("a group of people standing in front of a building", "with other people, standing in front of a building"),
    ("a woman standing next to a young man with a beard", "standing next to a man"),
    ("an old woman and her dog in a park", "with her dog in a park"),
    # Nobody was seen.
    ("a beautiful garden with flowers", "a beautiful garden with flowers"),
    # Florence-2 writes several sentences.
    ("The image shows a young woman with long blonde hair and blue eyes, wearing a white shirt and smiling at the "
     "camera. She is standing in front of a brick wall. Her hair is long and wavy.",
     "wearing a white shirt and smiling at the camera, standing in front of a brick wall"),
    ("The image is a portrait of a middle-aged man with a beard and mustache. He is wearing a blue shirt and has a "
     "serious expression on his face. The background is blurred.",
     "portrait, wearing a blue shirt and with a serious expression on his face, the background is blurred"),
    ("The image is a close-up portrait of a young woman. She has long, wavy, dark brown hair that is styled in loose "
     "curls and falls over her shoulders. She is wearing gold earrings and has a slight smile on her face.",
     "close-up, wearing gold earrings and with a slight smile on her face"),
    ("In this image I can see a person wearing a white dress and the person is smiling.",
     "wearing a white dress and smiling"),
    ("This is a photo of an elderly Asian lady sitting at a table with a cup of coffee.",
     "sitting at a table with a cup of coffee"),
    ("In this image we can see a woman wearing spectacles and smiling. In the background there are trees.",
     "wearing spectacles and smiling, in the background there are trees"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "left"), SENTENCES)
def test_a_models_sentence_loses_what_the_person_is(root, sentence, left):
    words = identity_words(root / "resources/identity_words.txt")
    assert model_caption(sentence, "ohwx", "woman", words) == ", ".join(filter(None, ["ohwx woman", left]))


def test_the_list_of_identity_words_is_the_users(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("[people]\nwoman # and nobody else\n[features]\nnose ring\n[traits]\n")
    said = model_caption("a woman with a Nose Ring and a beard", "ohwx", "woman", identity_words(own))
    assert said == "ohwx woman, with a beard"


def test_a_word_without_a_heading_is_named(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("beard\n[people]\nwoman\n")
    with pytest.raises(LikenessError, match=r"own.txt: 'beard' stands under no known heading; expected .*features"):
        identity_words(own)
