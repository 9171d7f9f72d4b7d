"""A reader of A1111's infotext, written from the documentation of "PNG Info" and "send to txt2img".

The infotext is the PNG's text chunk "parameters". If its last line has three or more "key: value" pairs, these are the
settings; a value is a JSON string or the text up to the next comma. The lines before are the prompt, up to a line that
begins with "Negative prompt:". <lora:name:weight> in a prompt loads a LoRA.
"""

import json
import re
import struct
import zlib
from pathlib import Path


def text_chunks(png: Path) -> dict[str, str]:
    """The tEXt and iTXt chunks of a PNG as {keyword: text}, read by the PNG specification without a library."""
    data, found, at = png.read_bytes(), {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        keyword, _, rest = body.partition(b"\0")
        if kind == b"tEXt":
            found[keyword.decode("latin-1")] = rest.decode("latin-1")
        if kind == b"iTXt":
            compressed, text = rest[0], rest[2:].split(b"\0", 2)[2]
            found[keyword.decode("latin-1")] = (zlib.decompress(text) if compressed else text).decode()
        at += 12 + length
    return found


def parameters(text: str) -> dict[str, str]:
    """The settings of an infotext, with "Prompt" and "Negative prompt"."""
    *lines, last = text.strip().split("\n")
    pairs = read_pairs(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], {}
    start = next((n for n, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:").strip()
    return {"Prompt": "\n".join(lines[:start]).strip(), "Negative prompt": negative, **pairs}


def read_pairs(line: str) -> dict[str, str]:
    pairs = {}
    while line := line.strip(", "):
        key, colon, rest = line.partition(":")
        if not colon:
            break
        rest = rest.lstrip()
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
        else:
            value = rest.partition(",")[0]
            end = len(value)
        pairs[key.strip()], line = value.strip(), rest[end:]
    return pairs


def loras(prompt: str) -> dict[str, float]:
    return {name: float(weight) for name, weight in re.findall(r"<lora:([^:<>]+):([^:<>]+)>", prompt)}


def plotted_prompts(found: dict[str, str]) -> list[list[str]]:
    """The prompts of an X/Y/Z plot with two "Prompt S/R" axes, by rows. On each axis the other values replace the
    first."""
    assert found["Script"] == "X/Y/Z plot" and {found["X Type"], found["Y Type"]} == {"Prompt S/R"}
    columns, rows = ([value.strip() for value in found[f"{axis} Values"].split(",")] for axis in "XY")
    assert columns[0] in found["Prompt"] and rows[0] in found["Prompt"], "A1111 refuses a value that is not there"
    return [[found["Prompt"].replace(columns[0], x).replace(rows[0], y) for x in columns] for y in rows]
