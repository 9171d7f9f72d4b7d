"""The text encoders of every family read prompts and captions of any length, and weigh the words.

The chunks' lengths and the weights in them were read off A1111's own code (Forge's copy of it, commit dfdcbab6), run on
these prompts with CLIP's tokenizer.
"""

import numpy as np
import pytest
import torch

from clip_words import HAT
from likeness.models.conditioning import conditioning, token_ids
from likeness.models.prompt_conditioning import prompt_chunks, prompt_conditioning

MARKS = torch.tensor([49406, 49407])


@pytest.fixture(scope="module", params=["sd15", "sd2", "sdxl"])
def family(request, tokenizers) -> tuple[list, list]:
    """(encoders, tokenizers) of a family, small and with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def encoder(kind, width: int, pad: int):
        numbers = {"vocab_size": 49408, "num_hidden_layers": 3, "num_attention_heads": 4}
        sizes = {"hidden_size": width, "intermediate_size": width, "projection_dim": width}
        marks = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": pad}
        made = kind(CLIPTextConfig(**numbers, **sizes, **marks)).eval()
        for name, parameter in made.named_parameters():
            if "norm" in name:  # untrained ones give states whose mean is 0
                parameter.data.normal_(1.0 if "weight" in name else 0.3, 0.5)
        return made

    torch.manual_seed(0)
    match request.param:
        case "sd15":
            return [encoder(CLIPTextModel, 32, 49407)], tokenizers[:1]
        case "sd2":
            return [encoder(CLIPTextModel, 32, 0)], tokenizers[1:]
    return [encoder(CLIPTextModel, 32, 49407), encoder(CLIPTextModelWithProjection, 48, 0)], tokenizers


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("", [0]),
        (HAT * 75, [75]),
        (HAT * 76, [75, 1]),
        (HAT * 400, [75, 75, 75, 75, 75, 25]),
        (f"{HAT * 55}, {HAT * 40}", [56, 40]),  # the comma is the 20th from the end
        (f"{HAT * 54}, {HAT * 40}", [75, 20]),  # the 21st: too far away
        (f"{HAT * 74}, {HAT * 40}", [75, 40]),
        (f"{HAT * 75}, {HAT * 40}", [75, 41]),  # the comma itself is the first that does not fit
        (f"{HAT * 60}, {HAT * 5}, {HAT * 40}", [67, 40]),  # the last of two commas
        (", " * 200, [75, 75, 50]),
        ("a BREAK b", [1, 1]),
        ("a BREAK", [1]),
        ("BREAK a", [0, 1]),
        ("a BREAK BREAK b", [1, 0, 1]),
        (f"{HAT * 75} BREAK {HAT * 80}", [75, 75, 5]),
        (f"({HAT * 40}:1.3) {HAT * 40}", [75, 5]),
    ],
)
def test_long_prompts_are_read_in_chunks_of_75_with_marks_of_their_own(tokenizers, prompt, lengths):
    for tokenizer, pad in zip(tokenizers, (49407, 0), strict=True):
        ids, weights = prompt_chunks(tokenizer, prompt)
        assert ids.shape == weights.shape == (len(lengths), 77)
        for chunk, length in zip(ids, lengths, strict=True):
            assert chunk[0] == 49406 and chunk[length + 1] == 49407 and (chunk[length + 2 :] == pad).all()
            assert not torch.isin(chunk[1 : length + 1], MARKS).any()


def test_no_word_is_lost_and_each_has_its_weight(tokenizers):
    prompt = f"{HAT * 70}(red coat, blue shoes and a green scarf:1.5), [dog]"
    ids, weights = prompt_chunks(tokenizers[0], prompt)
    words = tokenizers[0](f"{HAT * 70}red coat, blue shoes and a green scarf, dog", add_special_tokens=False).input_ids
    kept = ~torch.isin(ids, MARKS)
    assert ids[kept].tolist() == words
    assert weights[kept].tolist() == pytest.approx([1] * 70 + [1.5] * 9 + [1, 1 / 1.1])
    assert (weights[~kept] == 1).all()


def test_a_plain_prompt_is_read_to_the_last_bit_as_before_there_were_weights(family):
    encoders, tokenizers = family
    for prompt in ("photo of ohwx woman, smiling", "", HAT * 75, "写真 é: a|b {x} ohwx"):
        with torch.no_grad():
            found = prompt_conditioning(encoders, tokenizers, prompt, 1)
            expected = conditioning(encoders, token_ids(tokenizers, prompt)[None], 1)
        assert torch.equal(found.hidden, expected.hidden)
        assert found.pooled is expected.pooled is None or torch.equal(found.pooled, expected.pooled)


def test_a_weighted_prompt_is_a1111s_formula_of_what_each_chunk_says(family):
    """z w mean(z) / mean(z w), by encoder and chunk; pooled is the first chunk's, without weights. In float64 numpy."""
    encoders, tokenizers = family
    first, second = "photo of ohwx woman, smiling", "dark background"
    prompt = "photo of ohwx woman, (smiling:1.5) BREAK [dark] background"
    heavy, factors = ("smiling", "dark"), (1.5, 1 / 1.1)
    with torch.no_grad():
        found = prompt_conditioning(encoders, tokenizers, prompt, 1)
        chunks = [conditioning(encoders, token_ids(tokenizers, words)[None], 1) for words in (first, second)]
    expected = []
    for chunk, words, word, by in zip(chunks, (first, second), heavy, factors, strict=True):
        (token,) = tokenizers[0](word, add_special_tokens=False).input_ids
        at = token_ids(tokenizers, words)[0].tolist().index(token)
        states, start = chunk.hidden[0].double().numpy(), 0
        for encoder in encoders:
            z = states[:, start : start + encoder.config.hidden_size]
            w = np.ones(77)
            w[at] = by
            expected.append(z * w[:, None] * z.mean() / (z * w[:, None]).mean())
            start += encoder.config.hidden_size
    n = len(encoders)
    expected = np.vstack([np.hstack(expected[i : i + n]) for i in (0, n)])
    assert found.hidden.shape == (1, 154, expected.shape[1])
    np.testing.assert_allclose(found.hidden[0].numpy(), expected, rtol=2e-4, atol=2e-5)
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled, chunks[0].pooled)


@pytest.mark.parametrize(("chunks", "max_token_length"), [(1, 75), (2, 150), (3, 225)])
@pytest.mark.parametrize("count", [0, 10, 74, 75, 76, 150, 226])
def test_captions_are_read_in_kohyas_chunks(family, chunks, max_token_length, count):
    """Tokens and states of the chunks, each read by itself: one begin, the words of all, one end; the rest is cut.

    sd-scripts' own strategies (commit 48d368fa), run beside this, gave the same tokens and states to the last bit.
    """
    encoders, tokenizers = family
    tokens = token_ids(tokenizers, f"(hat:1.5) {HAT * count}"[: 4 * count], max_token_length)
    with torch.no_grad():
        found = conditioning(encoders, tokens[None], 1)
    if chunks == 1:
        assert tokens.shape == (len(encoders), 77)
        return
    assert tokens.shape == (len(encoders), chunks, 77)
    words = tokenizers[0](f"(hat:1.5) {HAT * count}"[: 4 * count], add_special_tokens=False).input_ids
    parts = [words[start : start + 75] for start in range(0, 75 * chunks, 75)]
    for encoder_tokens, tokenizer in zip(tokens, tokenizers, strict=True):
        for chunk, part in zip(encoder_tokens, parts, strict=True):
            padding = [tokenizer.pad_token_id] * (75 - len(part))
            assert chunk.tolist() == [49406, *part, 49407, *padding]
    with torch.no_grad():
        alone = [conditioning(encoders, tokens[None, :, number], 1) for number in range(chunks)]
    states = [alone[0].hidden[:, :1], *(read.hidden[:, 1:-1] for read in alone), alone[-1].hidden[:, -1:]]
    assert found.hidden.shape[1] == max_token_length + 2
    torch.testing.assert_close(found.hidden, torch.cat(states, dim=1))
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled, alone[0].pooled)
