"""Whether Snakemake can read a configuration file, told before it reads it: the line of a slip, keys that stand there
twice, and what would take it hours. Jobs do not import this module.
"""

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from likeness.errors import LikenessError

MAX_DEPTH = 20  # runs.{name}.train.optimizer_args.betas.0 is the deepest there is: 6
# What aliases stand for. Ten lines of them can stand for more than fits into memory, and readers write it all out.
MAX_ALIASED = 100_000
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def check_config_file(file: Path) -> None:
    """Raises LikenessError with the line, where there is one, if it cannot be read, or is read in another way than it
    was meant. JSON is read as Snakemake reads it: first."""
    text = _text(file)
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise LikenessError(f"{file}: is nested deeper than any setting") from None
    except ValueError:
        content = _yaml(file, text)
    except LikenessError as error:
        raise LikenessError(f"{file}: {error}") from None
    if not isinstance(content, dict) or not content:
        raise LikenessError(f"{file}: has no keys; expected lines such as base_model: ..., see docs/config.md")
    if "__use_yte__" in content:
        raise LikenessError(f"{file}: __use_yte__ would run the file as a program; write out what it computes")


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LikenessError(f"{file}, line {line}: is not UTF-8; save the file as UTF-8") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict:
    """The pairs of a JSON object. Raises LikenessError for a key of which only the last would count."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise LikenessError(f"{ascii(twice[0])} stands there twice; expected each key once")
    return dict(pairs)


def _yaml(file: Path, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except _Slip as slip:
        raise LikenessError(f"{file}, line {slip.line}: {slip}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        tab = "; indent with spaces" if "'\\t'" in said else ""
        raise LikenessError(f"{file}, line {mark.line + 1}: {_shown(said)}{tab}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise LikenessError(f"{file}, line {line}: has the sign {ascii(chr(error.character))}; remove it") from None


class _Slip(Exception):
    """What is wrong in a line."""

    def __init__(self, node: yaml.Node | yaml.Event, said: str):
        super().__init__(said)
        self.line = node.start_mark.line + 1


class _Loader(yaml.SafeLoader):
    """Raises _Slip where PyYAML's own would take the last of several keys, write out aliases without an end, take a key
    for something else than a text, or end in an error without a line."""

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
            return super().construct_object(node, deep)
        except ValueError as error:  # a date without such a day, a number of more digits than Python reads
            raise _Slip(node, f"{_shown(node.value)} cannot be read: {str(error).split(';')[0]}") from None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
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
    """What a line can show of a text."""
    short = text if len(text) <= 200 else f"{text[:200]}..."
    return short if short.isprintable() else ascii(short)
