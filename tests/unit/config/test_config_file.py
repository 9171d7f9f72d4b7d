"""Every configuration file ends in a configuration or in readable lines, whatever is wrong with it."""

import copy
import json
import os
import random
import time
from pathlib import Path

import pytest
import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from likeness.config.advice import advice
from likeness.config.checks import checked_config
from likeness.config.sections import json_schema
from likeness.config.yaml_file import check_config_file, config_file
from likeness.core.errors import LikenessError
from project import CONFIG, ROOT

WRITTEN = yaml.safe_dump(CONFIG)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
SLIPS = {
    "a tab": (b"resolution: 64\n\tsample: {}\n", "line 2: while scanning for the next token, found character '\\t'"),
    "an open bracket": (b"a: [64\nb: {}\n", "line 2: while parsing a flow sequence, expected ',' or ']'"),
    "a colon in a text": (b"a: 1\nb: photo: of\n", "line 2: mapping values are not allowed here"),
    "a key twice": (b"a:\n  b: 1\n  b: 2\n", "line 3: b stands there twice, first in line 2"),
    "a key twice, in quotes": (b"a: {b: 1, 'b': 2}\n", "line 1: b stands there twice"),
    "a key twice in JSON": (b'{"a": {"b": 1, "b": 2}}', "'b' stands there twice"),
    "a number as a name": (b"runs:\n  1: {}\n", "line 2: the key 1 is not read as text; write it between quotes"),
    "Norway": (b"runs:\n  no: {}\n", "line 2: the key no is not read as text"),
    "nothing as a name": (b"runs:\n  ~: {}\n", "line 2: the key ~ is not read as text"),
    "a list as a name": (b"? [a]\n: b\n", "line 1: a list or a mapping cannot be a key"),
    "an alias of nothing": (b"a: 1\nb: *c\n", "line 2: found undefined alias 'c'"),
    "an alias of itself": (b"a: &a\n  b: *a\n", "line 2: *a stands within itself"),
    "a bomb": (BOMB.encode(), "line 6: aliases stand for more than 100000 values"),
    "a bomb of merges": (
        BOMB.replace("[x", "{x: 1, y: [x").replace("x]", "x]}").encode(),
        "line 5: aliases stand for",
    ),
    "nested in brackets": (b"a: " + b"[" * 20000, "line 1: is nested deeper than any setting"),
    "nested in JSON": (b'{"a":' * 20000, "is nested deeper than any setting"),
    "nested in lines": ("".join(" " * n + "a:\n" for n in range(300)).encode(), "line 21: is nested deeper"),
    "Python": (b"a: !!python/object/apply:os.system [x]\n", "line 1: the tag tag:yaml.org,2002:python/object/apply"),
    "a tag": (b"a: !!bool x\n", "line 1: the tag tag:yaml.org,2002:bool has no meaning here"),
    "a template": (WRITTEN.encode() + b"__use_yte__: true\nvae: ?1/0\n", "__use_yte__ would run the file as a program"),
    "a number by eights": (b"a: 1\nb: 010\n", "line 2: 010 is read as 8; write that, or put the text between quotes"),
    "a number by sixties": (b"a: 1\nb: 1:30\n", "line 2: 1:30 is read as 90; write that"),
    "a prompt that begins with a brace": (
        b"a:\n  - {subject} smiling\n",
        "line 2: while parsing a block collection, expected <block end>, but found '<scalar>'; write a text that",
    ),
    "a prompt with a colon": (b"a: photo: x\n", "line 1: mapping values are not allowed here; write a text that has"),
    "a trigger with a sign": (
        b"a: @ohwx\n",
        "line 1: while scanning for the next token, found character '@' that cannot start any token; write a text",
    ),
    "a text without its end": (
        b'a: 1\nb: "photo\nc: 1\n',
        "line 2: while scanning a quoted scalar, found unexpected end",
    ),
    "a value that is a sign": (b"a: =\n", "line 1: could not determine a constructor for the tag 'tag:yaml.org,2002:v"),
    "a path of Windows": (
        b'a: "C:\\Users"\n',
        "line 1: while scanning a double-quoted scalar, expected escape sequence",
    ),
    "no such day": (b"a: 1\nb: 2020-02-30\n", "line 2: 2020-02-30 cannot be read: day is out of range for month"),
    "5,000 digits": (b"a: 1\nb: " + b"9" * 5000, "line 2: 9999"),
    "NUL": (b"a: 1\nb: \0\n", "line 2: has the sign '\\x00'; remove it"),
    "latin-1": ("a: 1\nb: é\n".encode("latin-1"), "line 2: is not UTF-8; save the file as UTF-8"),
    "UTF-16": (WRITTEN.encode("utf-16"), "line 1: is not UTF-8"),
    "no file": (None, "is no file; write the configuration into one"),
    "half a sign": (b"a: 1\nb: \xed\xa0\x80\n", "line 2: is not UTF-8"),
    "two documents": (b"a: 1\n---\nb: 1\n", "line 2: expected a single document in the stream"),
    "nothing": (b"", "has no keys; expected lines such as base_model: ..."),
    "comments": (b"# a: 1\n", "has no keys"),
    "a list": (b"- a\n", "has no keys"),
    "a text": (b"a\n", "has no keys"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_told_by_its_line(tmp_path, name):
    data, said = SLIPS[name]
    file = tmp_path / "config.yaml"
    os.mkfifo(file) if data is None else file.write_bytes(data)
    began = time.process_time()
    with pytest.raises(LikenessError) as error:
        check_config_file(file)
    assert str(error.value).startswith(f"{file}{', ' if said.startswith('line') else ': '}") and said in str(
        error.value
    )
    assert str(error.value).isprintable() and len(str(error.value)) < 600
    assert time.process_time() - began < 1


@pytest.mark.parametrize("name", ["config.yml", "config.json", "config.yaml.txt"])
def test_a_file_of_another_name_is_not_passed_over_for_the_demonstrations(tmp_path, name):
    assert config_file(tmp_path, ROOT) == ROOT / "config.yaml"
    (tmp_path / name).write_text(WRITTEN)
    with pytest.raises(LikenessError, match=f"{name} is not read; rename it to config.yaml"):
        config_file(tmp_path, ROOT)
    (tmp_path / "config.yaml").symlink_to("nowhere")
    assert config_file(tmp_path, ROOT) == tmp_path / "config.yaml"  # whose reading fails
    with pytest.raises(FileNotFoundError):
        check_config_file(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(WRITTEN, id="YAML"),
        pytest.param(WRITTEN + "clip_skip: 0x1\nbase_revision: '010'\n", id="a number by sixteens, and digits as text"),
        pytest.param(WRITTEN.replace("\n", "\r\n"), id="of Windows"),
        pytest.param("\ufeff" + WRITTEN, id="with a mark at its start"),
        pytest.param(json.dumps(CONFIG, indent="\t"), id="JSON with tabs"),
        pytest.param(WRITTEN + "vae: &a !!str small_base\n", id="a text with its tag and an anchor"),
        pytest.param(WRITTEN.replace("train:", "train: &t") + "upscale: {<<: {tile: 64}, tile: 128}\n", id="a merge"),
    ],
)
def test_what_snakemake_reads_is_no_slip(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text, newline="")
    check_config_file(file)
    assert load_configfile(file)["train"] == CONFIG["train"]


# What a hand slips into a value.
VALUES = (
    *(None, "", " ", 0, -1, 1, 2.5, -0.0, True, False, [], {}, [None], [[]], {"a": 1}, [1, 1], ["a", "a"], [{"a": []}]),
    *(2**31, 2**63, 2**64, 10**400, 1e308, 1e-320, float("inf"), -float("inf"), float("nan"), "1e999", "1e-4", "0x1"),
    *(
        "{subject}",
        "{subject.x}",
        "{subject[a]}",
        "{{subject}}",
        "{class_noun!z}",
        "{subject:>99999999}",
        "{",
        "}",
        "{0}",
    ),
    *(
        "\ud800",
        "\udfff a",
        "a\0b",
        "a\nb",
        "a\x1bb",
        "\u202eabc",
        "../..",
        "/",
        "~",
        "-",
        "- a",
        "é",
        "日本",
        "*a",
        "&a",
    ),
    *(
        "x" * 300,
        "x" * 5000,
        "a/" * 2500,
        "é" * 130,
        ["x"] * 200,
        list(range(300)),
        "image",
        "clip",
        "dataset",
        "ohwx",
    ),
    *("woman", "(ohwx:1.5)", "<lora:x:1>", "%s%n", "$HOME", "`id`", "photos", "generate", "small_base", "owner/name"),
)
NAMES = (
    *("", " ", "a b", "a-b", "a/b", "..", "é", "1", "no", "null", "a" * 300, "\ud800", "a\0", "a\n", "{a}", "Ava", "_"),
    *("clip", "logs", "models", "CLIP", "image", "crops", "reg", "captions", "upscaled", "dataset", "samples", "index"),
)
LINES = (
    *("\t", "  ", ":", "- ", "? ", "[", "]", "{", "}", "'", '"', "|", ">", "&a ", "*a", "!!int ", "!x ", "%", "@", "`"),
    *(
        "# ",
        "---\n",
        "...\n",
        "<<: *a\n",
        "\0",
        "\ufeff",
        "\u2028",
        "\x85",
        "2020-99-99",
        "1:99",
        "0b",
        "=",
        "~",
        "\n\n",
    ),
)
SCHEMA = json_schema()
SECTIONS = ("train", "sample", "select", "crop", "curate", "caption", "upscale")


def section(config: dict, chance: random.Random) -> tuple[dict | None, list[str]]:
    """A mapping of the configuration, if it is still one, and the keys that it may have."""
    kind = chance.choice(("top", "subject", "run", *SECTIONS, *SECTIONS[:3] * 2))
    if kind == "top":
        return config, list(SCHEMA["properties"])
    if kind == "subject":
        subjects = config.get("subjects")
        found = next(iter(subjects.values()), None) if isinstance(subjects, dict) else None
        return found, list(SCHEMA["$defs"]["Subject"]["properties"])
    keys = list(SCHEMA["$defs"][(kind if kind != "run" else "train").capitalize()]["properties"])
    if kind == "run":
        runs = config.get("runs")
        run = next(iter(runs.values()), None) if isinstance(runs, dict) else None
        return run.setdefault("train", {}) if isinstance(run, dict) else None, keys
    return config.setdefault(kind, {}), keys


def slipped(config: dict, chance: random.Random) -> None:
    """Replace, add, remove, rename or misspell something."""
    inner, keys = section(config, chance)
    if not isinstance(inner, dict):
        return
    key = chance.choice(keys)
    match chance.randrange(10):
        case 0 if inner:
            del inner[chance.choice(list(inner))]
        case 1 if inner:
            inner[key[1:] + key[:1]] = inner.pop(chance.choice(list(inner)))
        case 2:
            names = chance.choice([n for n in ("subjects", "runs") if isinstance(config.get(n), dict)] or [None])
            if names and config[names]:
                config[names][chance.choice(NAMES)] = copy.deepcopy(next(iter(config[names].values())))
        case 3 if isinstance(inner.get("optimizer_args", {}), dict | None):
            argument = chance.choice(("betas", "eps", "weight_decay", "d0", "relative_step", "decouple", "growth_rate"))
            optimizer = chance.choice(("AdamW", "Prodigy", "Adafactor", "Lion", "DAdaptAdam", "AdamW8bit"))
            config["train"] = {"optimizer": optimizer, "optimizer_args": {argument: chance.choice(VALUES)}}
        case _:
            inner[key] = copy.deepcopy(chance.choice(VALUES))


def mutated_file(chance: random.Random) -> bytes:
    """A configuration file with one to three slips in its values, its keys or its text, as YAML or JSON."""
    config = copy.deepcopy(CONFIG)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        slipped(config, chance)
    if chance.random() < 0.4:
        text = json.dumps(config, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, 1, "\t")))
    else:
        text = yaml.safe_dump(config, allow_unicode=chance.random() < 0.5, default_flow_style=chance.random() < 0.1)
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                data = data[:place]
            case 1:
                data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
            case 2:
                lines = data.splitlines(keepends=True)
                data += chance.choice(lines or [b""])
            case 3:
                data = data.replace(b": ", b":", 1) if chance.random() < 0.5 else data.replace(b"  ", b"\t", 1)
            case _:
                data = data[:place] + chance.choice(LINES).encode() + data[place:]
    return data


def outcome(file: Path, roots: list[Path]) -> str:
    """What became of a file on the way that the Snakefile takes; "" if it is a configuration."""
    try:
        check_config_file(file)
        config: dict = {}
        update_config(config, load_configfile(file))
        whole = checked_config(config, roots)
        sentences = advice(config, whole, roots, 2)
    except LikenessError as error:
        return str(error)
    json.dumps(whole, allow_nan=False).encode()
    assert all(sentence.isprintable() for sentence in sentences)
    return ""


def test_a_thousand_mutated_files_end_in_readable_lines_or_in_a_configuration(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    (tmp_path / "small_base").mkdir()
    roots, file, chance, ends = [tmp_path, ROOT], tmp_path / "config.yaml", random.Random(18), {"": 0}
    for number in range(1000):
        file.write_bytes(mutated_file(chance))
        began = time.process_time()
        try:
            said = outcome(file, roots)
        except BaseException:
            print(f"file {number}: {file.read_bytes()[:6000]!r}")
            raise
        assert time.process_time() - began < 2, file.read_bytes()
        kind = "" if not said else "lines" if said.startswith("config:\n") else "the file"
        ends[kind] = ends.get(kind, 0) + 1
        lines = said.splitlines()
        assert len(lines) <= 52 and all(line.isprintable() and len(line) < 1000 for line in lines), said
        assert kind != "lines" or (len(lines) > 1 and all(line.startswith("  ") for line in lines[1:])), said
    assert min(ends.values()) > 100 and len(ends) == 3, ends
