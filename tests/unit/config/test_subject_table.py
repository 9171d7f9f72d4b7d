"""A table of subjects says what config.yaml would say, and a mistake in it is told in the same way."""

import pytest

from likeness.config.checks import checked_config
from likeness.core.errors import LikenessError
from project import CONFIG


def test_a_table_of_subjects_says_what_config_yaml_would(roots):
    (roots[0] / "photos" / "1.jpg").touch()
    (roots[0] / "people.tsv").write_text(
        "subject\tphotos\ttrigger\tclass_noun\tconsent\treference\n"
        "ava\tphotos\tohwx\twoman\tsynthetic\t\n"
        "otto\tphotos\tsks\tman\twritten\t1.jpg, 1.jpg\n"
    )
    otto = {"photos": "photos", "trigger": "sks", "class_noun": "man", "consent": "written"}
    written = CONFIG | {"subjects": CONFIG["subjects"] | {"otto": otto | {"reference": ["1.jpg", "1.jpg"]}}}
    assert checked_config(CONFIG | {"subjects": "people.tsv"}, roots) == checked_config(written, roots)


HEADER = "subject\tphotos\ttrigger\tclass_noun\tconsent\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no file 'people.tsv'; expected a tab-separated table"),
        ("", "the first line is ''; expected the names of the columns, subject, photos"),
        ("photos\nphotos\n", "the first line is 'photos'; expected the names of the columns"),
        ("subject,photos\nava,photos\n", "the first line is 'subject,photos'; expected .* with tabs between"),
        ("subject\tphotos\tphotos\n", "the column 'photos' stands there twice"),
        ("subject\tphotos\nava\tphotos\n\nava\tphotos\n", "line 4: the name 'ava' stands there twice"),
        ("subject\tphotos\n\tphotos\n", "line 2: no name in the column subject; expected another name in every row"),
        ("subject\tphotos\nava\tphotos\tohwx\n", "line 2: has 3 cells; the first line has 2"),
        ('subject\tphotos\nava\t"photos\n', "people.tsv is not a table of subjects: unexpected end of data"),
        ("subject\tphotos\nava\tph\0otos\n", r"subjects\.ava\.photos: has the sign '\\x00'|line contains NUL"),
        (HEADER.encode("utf-16"), "people.tsv is not UTF-8; save the table as UTF-8"),
        (HEADER + "ava\n", r"subjects\.ava\.consent: missing; a LoRA is"),
        (HEADER[:-1] + "\treference\nava\tphotos\n", r"subjects\.ava\.consent: missing; a LoRA is"),
        (
            HEADER[:-1] + "\ttrigger_word\nava\tphotos\tohwx\twoman\tself\tx\n",
            "trigger_word: unknown key; did you",
        ),
        (
            "subject\tphotos\ttrigger\tclass_noun\tconsent\nava\tphotos\tohwx\twoman\t\n",
            r"subjects\.ava\.consent: missing; a LoRA is",
        ),
    ],
)
def test_a_mistake_in_the_table_is_told_like_one_in_config_yaml(roots, text, expected):
    if text is not None:
        (roots[0] / "people.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LikenessError, match=expected):
        checked_config(CONFIG | {"subjects": "people.tsv"}, roots)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff{header}{row}", id="a mark at its start"),
        pytest.param("{header}\r\n\r\n{row}\r\n", id="Windows' line ends, and lines without cells"),
        pytest.param("{header}\r{row}\r", id="line ends of an old Mac"),
        pytest.param("{header}\n{row}\t\t", id="empty cells behind a row"),
        pytest.param("{header}\t\t\n{row}\t\t", id="empty columns behind"),
        pytest.param("{padded}", id="blanks around cells"),
        pytest.param('{header}\n"ava"\t"photos"\tohwx\twoman\tsynthetic', id="cells in quotes"),
    ],
)
def test_a_table_is_read_as_spreadsheets_write_it(roots, text):
    header, row = HEADER.strip(), "ava\tphotos\tohwx\twoman\tsynthetic"
    padded = f"{header}\n{row}".replace("\t", " \t ")
    text = text.format(header=header + "\n" * ("\r" not in text and "\n" not in text), row=row, padded=padded)
    (roots[0] / "people.tsv").write_text(text, newline="")
    assert checked_config(CONFIG | {"subjects": "people.tsv"}, roots) == checked_config(CONFIG, roots)


def test_a_table_of_subjects_may_ask_for_class_pictures(roots):
    (roots[0] / "people.tsv").write_text(
        "subject\tphotos\ttrigger\tclass_noun\tconsent\tregularisation\tregularisation_images\n"
        "ava\tphotos\tohwx\twoman\tsynthetic\tgenerate\t40\n"
        "mia\tphotos\tohwx\twoman\tsynthetic\tgenerate\t\n"
    )
    ava, mia = checked_config(CONFIG | {"subjects": "people.tsv"}, roots)["subjects"].values()
    assert (ava["regularisation"], ava["regularisation_images"]) == ("generate", 40)
    assert (mia["regularisation"], mia["regularisation_images"]) == ("generate", 100)
    (roots[0] / "people.tsv").write_text((roots[0] / "people.tsv").read_text().replace("40", "many"))
    with pytest.raises(
        LikenessError, match=r"subjects\.ava\.regularisation_images: found 'many'; expected a valid int"
    ):
        checked_config(CONFIG | {"subjects": "people.tsv"}, roots)
