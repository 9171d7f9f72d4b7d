"""A check of a configuration file before Snakemake reads it. It reports syntax errors with their line, duplicate keys,
and aliases that would take hours to read. Jobs do not import this module.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from likeness.core.errors import LikenessError

MAX_DEPTH = 20  # the deepest key is runs.{name}.train.optimizer_args.betas.0, which has 6
# The number of values that aliases stand for. Readers expand them, and ten lines of aliases can stand for more than
# fits into memory.
MAX_ALIASED = 100_000
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def config_file(here: Path, project: Path) -> Path:
    """The config.yaml of a working directory; if there is none, the project's, which is the demonstration's. Raises
    LikenessError if a file has a similar name: without the error, the demonstration would be trained in its place."""
    file = here / "config.yaml"
    if os.path.lexists(file):  # true for a broken link, too, which is an error later
        return file
    for name in ("config.yml", "config.json", "config.yaml.txt"):
        if (here / name).exists():
            raise LikenessError(f"{here / name} is not read; rename it to config.yaml")
    return project / "config.yaml"


def check_config_file(file: Path) -> None:
    """Raises LikenessError, if possible with the line, if the file cannot be read, or would be read in another way than
    its author meant."""
    content = file_content(file)
    if not isinstance(content, dict) or not content:
        raise LikenessError(f"{file}: has no keys; expected lines such as base_model: ..., see docs/config.md")
    if "__use_yte__" in content:
        raise LikenessError(f"{file}: __use_yte__ would run the file as a program; write out what it computes")


def file_content(file: Path) -> Any:
    """The content of a YAML or JSON file. As Snakemake does, it tries JSON before YAML. Raises LikenessError, if
    possible with the line, if the file cannot be read, or has a key twice."""
    if file.is_fifo():  # a pipe can be read only once, or waits for ever
        raise LikenessError(f"{file}: is no file; write the configuration into one")
    text = file_text(file)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise LikenessError(f"{file}: is nested deeper than any setting") from None
    except ValueError:
        return _yaml(file, text)
    except LikenessError as error:
        raise LikenessError(f"{file}: {error}") from None


def file_text(file: Path) -> str:
    """The text of a file. Raises LikenessError with the line if it is not UTF-8."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LikenessError(f"{file}, line {line}: is not UTF-8; save the file as UTF-8") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises LikenessError for a duplicate key."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise LikenessError(f"{ascii(twice[0])} stands there twice; expected each key once")
    return dict(pairs)


def _yaml(file: Path, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except _Slip as slip:
        raise LikenessError(f"{file}, line {slip.line}: {slip}") from None
    except yaml.MarkedYAMLError as error:
        # If something is not closed, the line where it begins is more useful than the end of the file.
        unfinished = "end of stream" in (error.problem or "") and error.context_mark
        mark = unfinished or error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise LikenessError(f"{file}, line {mark.line + 1}: {_shown(message)}{_advice(message)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise LikenessError(f"{file}, line {line}: has the sign {ascii(chr(error.character))}; remove it") from None


def _advice(message: str) -> str:
    """Advice on a syntax error that usually has one reason; else empty."""
    if "'\\t'" in message:
        return "; indent with spaces"
    if "escape" in message:
        return "; between double quotes \\ begins an escape: write / in paths, or single quotes"
    if "mapping values" in message:
        return "; write a text that has a colon and a space between quotes"
    unquoted = "block (end|mapping|collection|scalar)|start any token|alphabetic|undefined alias|constructor"
    if re.search(unquoted, message):
        return "; write a text that begins with a bracket or a sign, such as {subject}, between quotes"
    return ""


class _Slip(Exception):
    """A mistake in a line."""

    def __init__(self, node: yaml.Node | yaml.Event, message: str):
        super().__init__(message)
        self.line = node.start_mark.line + 1


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Raises _Slip where PyYAML's own loader would use the last of duplicate keys, expand aliases without an end, read
    a key as something else than a text, or raise an error without a line."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = self.count = self.aliased = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._count_alias(event)
            return super().compose_node(parent, index)
        tag = event.tag
        if tag not in (None, "!", TEXT):
            raise _Slip(event, f"the tag {_shown(tag)} has no meaning here; leave it out")
        if self.depth > MAX_DEPTH:
            raise _Slip(event, "is nested deeper than any setting")
        before = self.count
        self.count += 1
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if event.anchor:
            self.sizes[event.anchor] = self.count - before
        return node

    def _count_alias(self, event: yaml.AliasEvent) -> None:
        if event.anchor in self.anchors and event.anchor not in self.sizes:
            raise _Slip(event, f"*{event.anchor} stands within itself; it would have no end")
        more = self.sizes.get(event.anchor, 0)
        self.count += more
        self.aliased += more
        if self.aliased > MAX_ALIASED:
            raise _Slip(event, f"aliases stand for more than {MAX_ALIASED} values; write less of them")

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except ValueError as error:  # a date that does not exist, a number with more digits than Python reads
            raise _Slip(node, f"{_shown(node.value)} cannot be read: {str(error).split(';')[0]}") from None
        # YAML 1.1 reads 010 as an octal and 1:30 as a sexagesimal number.
        decimal = re.fullmatch(r"[-+]?[\d_]+", node.value) if isinstance(value, int) else None
        if isinstance(value, int | float) and (":" in node.value or (decimal and int(decimal[0]) != value)):
            raise _Slip(node, f"{_shown(node.value)} is read as {value}; write that, or put the text between quotes")
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key, _ in node.value:
            if key.tag == MERGE:
                continue
            if key.tag != TEXT:
                if not isinstance(key, yaml.ScalarNode):
                    raise _Slip(key, "a list or a mapping cannot be a key")
                raise _Slip(key, f"the key {_shown(key.value)} is not read as text; write it between quotes")
            if key.value in seen:
                raise _Slip(
                    key,
                    f"{_shown(key.value)} stands there twice, first in line {seen[key.value]}; expected each key once",
                )
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _shown(text: str) -> str:
    """A text for a message: short, printable, in one line."""
    short = text if len(text) <= 200 else f"{text[:200]}..."
    return short if short.isprintable() else ascii(short)
