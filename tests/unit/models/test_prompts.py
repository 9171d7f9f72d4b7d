"""A1111's prompt syntax is read as A1111 reads it, and what we would read otherwise is refused.

The parts were read off A1111's own code (Forge's copy of it, commit dfdcbab6), run on these prompts.
"""

import pytest
import torch

from likeness.config.sections import Sample, Subject
from likeness.drawing.sampling import cells
from likeness.models.conditioning import token_ids
from likeness.models.prompt_conditioning import prompt_chunks
from likeness.models.prompts import check_prompt, drawn_words, literal, sections


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
