r"""A1111's prompt syntax is read as A1111 reads it, of any length, by the text encoders of every family.

The parts, the chunks' lengths and the weights in them were read off A1111's own code (Forge's copy of it, commit
dfdcbab6), run on these prompts with CLIP's tokenizer.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import score_checkpoint
from infotext_reader import parameters, text_chunks
from likeness.conditioning import conditioning, token_ids
from likeness.config import Sample, Subject
from likeness.infotext import UsedLora, infotext
from likeness.marking import marked_png
from likeness.prompt_conditioning import prompt_chunks, prompt_conditioning
from likeness.prompts import check_prompt, drawn_words, literal, sections
from likeness.sampling import Cell, cells, drawn, load_pipeline
from likeness.scoring import Measurement, prompt_score
from likeness.tokenizer import clip_tokenizer

MARKS = torch.tensor([49406, 49407])


@pytest.fixture(scope="module")
def tokenizers(model_files) -> list:
    """CLIP's as SD 1.x pads it, and as SD 2.x and SDXL's second one do."""
    first, second = (clip_tokenizer(model_files / "bpe_simple_vocab_16e6.txt.gz") for _ in range(2))
    second.pad_token = "!"
    return [first, second]


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
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                *[("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55)],
                *[(", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)],
            ],
        ),
        ("[[calm]] x", [("calm", 1 / 1.21), (" x", 1.0)]),
        ("a ] b ) c :1.2) d: e", [("a ] b ) c :1.2) d: e", 1.0)]),
        ("smil(ing: 1.4 )", [("smil", 1.0), ("ing", 1.4)]),
        ("(a:0) (b:-.5)", [("a", 0.0), (" ", 1.0), ("b", -0.5)]),
        (r"back\slash \\ end", [(r"backslash \ end", 1.0)]),
        ("a, b: c|d BREAKfast", [("a, b: c|d BREAKfast", 1.0)]),
    ],
)
def test_weights_and_escapes_are_read_as_a1111_reads_them(prompt, expected):
    (found,) = sections(prompt)
    assert [part.text for part in found] == [text for text, _ in expected]
    assert [part.weight for part in found] == pytest.approx([weight for _, weight in expected])


def test_break_divides_a_prompt():
    assert [[p.text for p in s] for s in sections("a , BREAK (b:1.2) BREAK BREAK")] == [
        ["a ,"],
        ["", "b", ""],
        [""],
        [""],
    ]


HAT = "hat "


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


# --- captions --------------------------------------------------------------------------------------------------------


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


CELL = Cell(0.0, "photo of ohwx woman", "near", 1)
SETTINGS = {"negative_prompt": "blurred", "steps": 2, "guidance_scale": 5.0, "batch_size": 4, "clip_skip": 1}


@pytest.fixture(scope="module")
def pipeline(base_manifest):
    return load_pipeline(base_manifest, None, torch.device("cpu"))


def pictures(pipeline, prompts: list[str], **changes) -> dict[str, np.ndarray]:
    wanted = [CELL._replace(prompt=prompt) for prompt in prompts]
    return {
        cell.prompt: np.asarray(image).astype(int) for cell, image in drawn(pipeline, wanted, SETTINGS | changes, 64)
    }


def test_every_word_of_a_long_prompt_changes_the_picture_whatever_stands_beside_it(pipeline):
    long, longer = f"{HAT * 80}smiling", f"{HAT * 80}crying"
    prompts = [CELL.prompt, long, longer, f"{HAT * 160}", "photo of ohwx woman, (smiling:1.4)"]
    together = pictures(pipeline, prompts)
    assert list(together) == prompts
    for prompt in prompts:
        assert np.abs(together[prompt] - pictures(pipeline, [prompt])[prompt]).max() <= 1
    assert np.abs(together[long] - together[longer]).max() > 1
    (other,) = pictures(pipeline, [long], negative_prompt=f"{HAT * 80}blurred").values()
    assert np.abs(together[long] - other).max() > 1, "a long negative prompt"
    (plain,) = pictures(pipeline, [r"photo of ohwx (woman:1)"]).values()
    assert (plain == together[CELL.prompt]).all(), "a weight of 1 is none"


def test_two_lengths_are_drawn_as_a1111_draws_them_one_after_the_other(pipeline):
    """One step of the U-Net for the long prompt and for the short negative one, each at its own length."""
    unet, seen = pipeline.diffusers.unet, {}

    def note(module, inputs, options, output):
        seen.setdefault("latents", inputs[0])
        seen.setdefault("text", options["encoder_hidden_states"])
        seen.setdefault("timestep", inputs[1])
        seen.setdefault("answer", output[0])

    hook = unet.register_forward_hook(note, with_kwargs=True)
    try:
        pictures(pipeline, [f"{HAT * 80}smiling"], negative_prompt="blurred")
    finally:
        hook.remove()
    assert seen["text"].shape[:2] == (2, 154)
    for row, text in enumerate((seen["text"][:1, :77], seen["text"][1:])):
        with torch.no_grad():
            alone = unet(seen["latents"][row : row + 1], seen["timestep"], encoder_hidden_states=text).sample
        torch.testing.assert_close(seen["answer"][row : row + 1], alone, rtol=1e-4, atol=1e-5)


# --- what was drawn, and nothing else, is scored ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("photo of ohwx woman, (smiling:1.5)", "photo of ohwx woman, smiling"),
        ("photo of ohwx woman, (smiling:0), [dark] background", "photo of ohwx woman, , dark background"),
        ("photo, (glasses:-1), smil(ing)", "photo, , smiling"),
        ("dark (red:0) background BREAK smiling", "dark background, smiling"),
        (r"a \(smiling\) woman", "a (smiling) woman"),
    ],
)
def test_the_drawn_words_of_a_prompt(prompt, words):
    assert drawn_words(prompt) == words


FACE = {"smile": 0.9, "glasses": 1.0, "background": 0.1, "yaw": 0.0, "face_fraction": 0.45}


def seen(**attributes) -> Measurement:
    return Measurement(1, None, None, FACE | attributes, broken=False)


@pytest.mark.parametrize(
    ("prompt", "score"),
    [
        ("photo of ohwx woman (smiling:1.5)", 0.2),
        ("photo of ohwx woman [smil(ing)]", 0.2),
        ("photo of ohwx woman (smiling:0)", 1.0),
        ("photo of ohwx woman (smiling:-1), with glasses", 1.0),
        (f"photo of ohwx woman, {HAT * 100}, smiling", 0.2),
    ],
)
def test_a_word_is_scored_where_it_is_drawn(prompt, score):
    assert prompt_score(prompt, seen(smile=0.1), seen())[0] == pytest.approx(score)


def test_the_clip_score_reads_the_words_without_brackets(monkeypatch, tmp_path):
    """What score_checkpoint asks CLIP for: plain words, the trigger left out, inside weights too."""
    asked = []

    class Items:
        def get(self, compute, *key):
            asked.append(key[-1])
            return SimpleNamespace(read_text=lambda: "")

    monkeypatch.setattr(score_checkpoint.pretrained, "read_manifest", lambda path: (tmp_path, "weights"))
    monkeypatch.setattr(score_checkpoint, "decode_embedding", lambda text: np.ones(1))
    subject = SimpleNamespace(trigger="ohwx", class_noun="woman")
    args = SimpleNamespace(clip=[tmp_path], config=SimpleNamespace(subject=subject))
    prompts = ["photo of (ohwx woman:1.3), [smiling]", "photo of (ohwx) woman", "photo of a (woman:1.2)"]
    score_checkpoint._clip_view(pd.DataFrame({"prompt": prompts, "image": "x.png", "pixels": "p"}), args, Items())
    assert asked == [*"ppp", "photo of woman, smiling", "photo of woman", "photo of a woman"]


# --- the subject's words, and the infotext ---------------------------------------------------------------------------


def drawn_prompts(sample: Sample, trigger: str, class_noun: str = "woman") -> dict[str, str]:
    subject = {"trigger": trigger, "class_noun": class_noun}
    return {cell.kind: cell.prompt for cell in cells(sample.model_dump(), subject, epoch=0)}


@pytest.mark.parametrize("trigger", ["ohwx", "ohwx(1)", "[ava]", "a\\b", "BREAK", "AND"])
def test_the_subjects_words_are_drawn_as_they_are_inside_weights(tokenizers, trigger):
    sample = Sample(prompts=["photo of ({subject}:1.3), smiling"], untrained_prompts=["photo of a [{class_noun}]"])
    prompts = drawn_prompts(sample, trigger)
    for prompt in prompts.values():
        check_prompt(prompt)
    ids, weights = prompt_chunks(tokenizers[0], prompts["near"])
    expected = tokenizers[0](f"{trigger} woman", add_special_tokens=False).input_ids
    assert len(ids) == 1 and ids[0, 3 : 3 + len(expected)].tolist() == expected
    assert weights[0, 3 : 3 + len(expected)].tolist() == pytest.approx([1.3] * len(expected))
    assert drawn_words(prompts["near"]).lower() == f"photo of {trigger} woman, smiling".lower()
    assert drawn_words(prompts["untrained"]) == "photo of a woman"


@pytest.mark.parametrize("text", ["a (b:1.2) [c] \\ d", "BREAK AND x", "((", "a|b: :1) #1", "写真 😀"])
def test_a_literal_text_is_drawn_as_it_stands(tokenizers, text):
    ids, weights = prompt_chunks(tokenizers[0], literal(text))
    assert torch.equal(ids[0], token_ids(tokenizers[:1], text)[0]) and (weights == 1).all()


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("{subject} <lora:a:1>", "calls another file"),
        ("{subject} <hypernet:a:1", "calls another file"),
        ("{subject} [smiling:crying:0.5]", "prompt editing"),
        ("{subject} [smiling:10]", "prompt editing"),
        ("{subject} [smiling:-1e1]", "prompt editing"),
        ("{subject} [[(smiling)]: .5]", "prompt editing"),
        ("{subject} [red|blue] hat", "alternating"),
        ("{subject} AND a hat", "two prompts at once"),
        ("{subject} #smiling", "comment"),
        ("{subject} at 10:30", "ends with ':30'"),
        ("{subject} : 1.5", "ends with ': 1.5'"),
        ("Negative prompt: {subject}", "begin with other words"),
        ("({subject} BREAK hat:1.2)", "BREAK in brackets"),
        ("({subject} BREAK hat", "BREAK in brackets"),
        ("({subject}:1.2.3)", "has the weight '1.2.3'"),
        ("({subject}:.)", "has the weight '.'"),
        ("({subject}:11)", "weight 11; expected at most 10"),
        (f"({{subject}}:{'9' * 400})", "weight inf"),
        ("(" * 30 + "{subject}", "expected at most 10"),
        ("photo, ({subject}:0)", "weighs {subject} so that it is not drawn"),
    ],
)
def test_what_a1111_reads_otherwise_is_refused_in_a_line(prompt, what):
    with pytest.raises(ValueError, match="sample|prompt") as caught:
        Sample(prompts=[prompt])
    (mistake,) = caught.value.errors()
    assert what in mistake["msg"] and "\n" not in mistake["msg"]


@pytest.mark.parametrize(
    "prompt",
    [
        *["{subject} (smiling:1.5)", "{subject} [calm], x: y", r"{subject} \[a|b\] \(c:1\)", "{subject} BREAK hat"],
        *["{subject} Sand AND1", "{subject} [a:b]", "{subject} a | b", "{subject} at 10:30,", "{subject} ((x:1.2), [y"],
    ],
)
def test_what_is_drawn_as_in_a1111_is_taken(prompt):
    Sample(prompts=[prompt], negative_prompt="(bad:1.4), [x], cats AND dogs:1")


@pytest.mark.parametrize("trigger", ["ohwx#1", "a#"])
def test_a_trigger_that_no_prompt_can_say_is_refused(trigger):
    with pytest.raises(ValueError, match="comment in A1111"):
        Subject(photos="x", trigger=trigger, class_noun="woman", consent="self")


def test_an_infotext_has_the_prompt_as_it_was_drawn(tmp_path):
    base = {"model": "sd15", "digest": "0" * 64}
    prompt, negative = r"photo of (ohwx woman:1.3), [x], \(y\) BREAK hat", "(bad: 1.4), [worse]"
    settings = {"steps": 25, "sampler": "Euler", "guidance_scale": 7.0, "clip_skip": 1, "negative_prompt": negative}
    text = infotext(prompt, 1, 64, settings, base, UsedLora("ava-000001", 0.8, "abc"))
    (tmp_path / "a.png").write_bytes(marked_png(np.zeros((8, 8, 3), np.uint8), text))
    found = parameters(text_chunks(tmp_path / "a.png")["parameters"])
    assert found["Prompt"] == f"{prompt} <lora:ava-000001:0.8>" and found["Negative prompt"] == negative
    called = found["Prompt"].removesuffix("<lora:ava-000001:0.8>")  # A1111 takes it out
    assert [[p.text.strip() for p in s] for s in sections(called)] == [
        [p.text.strip() for p in s] for s in sections(prompt)
    ]
