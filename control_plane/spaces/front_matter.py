"""The YAML block at the top of a README, read as data and nothing else. Pure.

Only maps, lists and scalars exist here: anchors, aliases, tags, duplicate keys and deep nesting are mistakes with a line
number. Scalars keep their text, so `python_version: 3.10` is not turned into the number 3.1. Parsing is by events and stops
at the first mistake, which bounds the time for hostile input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from control_plane.domain.errors import SpaceConfigError

MAX_README_BYTES = 1 << 20
MAX_BLOCK_BYTES = 64 << 10
MAX_DEPTH = 8
MAX_NODES = 4000

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel has it: about 50 times faster


@dataclass(slots=True)
class Node:
    """One value with its line in README.md (first line = 1). Exactly one of the three kinds is meant by `kind`."""

    kind: str  # "text", "list", "map"
    line: int
    text: str = ""
    is_plain: bool = False  # written without quotes: may mean a number, true, false or null
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)

    def value(self) -> Any:
        """The JSON-safe value by the YAML 1.2 core schema."""
        if self.kind == "list":
            return [item.value() for item in self.items]
        if self.kind == "map":
            return {key: node.value() for key, node in self.entries.items()}
        if not self.is_plain:
            return self.text
        lowered = self.text.lower()
        if lowered in ("", "~", "null"):
            return None
        if lowered in ("true", "false"):
            return lowered == "true"
        if _INT.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.fullmatch(self.text) else self.text


def split(readme: bytes) -> tuple[str, int] | None:
    """The block between the two `---` lines and the README line on which it starts; None when there is no block."""
    if len(readme) > MAX_README_BYTES:
        raise SpaceConfigError(f"README.md is larger than {MAX_README_BYTES >> 20} MiB", line=1)
    body = readme.removeprefix(b"\xef\xbb\xbf")
    head = re.match(rb"(?:[ \t]*\r?\n){0,20}---[ \t]*\r?\n", body)
    if head is None:
        return None
    first = body.count(b"\n", 0, head.end()) + 1
    closing = re.compile(rb"^---[ \t]*\r?$", re.MULTILINE).search(body, head.end(), head.end() + MAX_BLOCK_BYTES)
    if closing is None:
        if len(body) - head.end() > MAX_BLOCK_BYTES:
            raise SpaceConfigError(
                f"the front matter of README.md is larger than {MAX_BLOCK_BYTES >> 10} KiB or has no closing line (---)", line=first
            )
        raise SpaceConfigError("the front matter of README.md has no closing line (---)", line=first)
    raw = body[head.end() : closing.start()]
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise SpaceConfigError("the front matter of README.md is not valid UTF-8", line=first + raw.count(b"\n", 0, error.start)) from None
    found = _CONTROL.search(text)
    if found is not None:
        raise SpaceConfigError("the front matter of README.md holds a control character", line=first + text.count("\n", 0, found.start()))
    return text, first


def read(readme: bytes) -> Node | None:
    """The block as a map; None when README.md has none. Raises SpaceConfigError for anything else than plain YAML."""
    block = split(readme)
    if block is None:
        return None
    text, first = block
    loader = _LOADER(text)
    try:
        root = _compose(loader, first)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise SpaceConfigError(
            f"the front matter of README.md is not valid YAML: {problem}", line=first + (mark.line if mark else 0)
        ) from None
    finally:
        loader.dispose()
    if root is None:
        return Node("map", first)
    if root.kind != "map":
        raise SpaceConfigError("the front matter of README.md must be a list of `key: value` lines", line=root.line)
    return root


def _compose(loader: Any, first: int) -> Node | None:
    root: Node | None = None
    stack: list[tuple[Node, str | None]] = []  # open container and, in a map, the key that waits for its value
    nodes = 0

    def place(node: Node) -> None:
        nonlocal root
        if not stack:
            if root is not None:
                raise SpaceConfigError("the front matter of README.md must be one YAML document", line=node.line)
            root = node
            return
        container, key = stack[-1]
        if container.kind == "list":
            container.items.append(node)
        elif key is None:
            if node.kind != "text":
                raise SpaceConfigError("a key in the front matter must be a plain word", line=node.line)
            if node.text in container.entries:
                raise SpaceConfigError(f"the key '{node.text[:80]}' is there twice", key=node.text[:80], line=node.line)
            if node.text == "<<":
                raise SpaceConfigError("merge keys (<<) are not allowed in the front matter", key="<<", line=node.line)
            container.key_lines[node.text] = node.line
            container.entries[node.text] = node  # until its value comes
            stack[-1] = (container, node.text)
        else:
            container.entries[key] = node
            stack[-1] = (container, None)

    while True:
        event = loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            return root
        line = first + event.start_mark.line
        nodes += 1
        if nodes > MAX_NODES:
            raise SpaceConfigError(f"the front matter of README.md has more than {MAX_NODES} values", line=line)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise SpaceConfigError("anchors and aliases (& and *) are not allowed in the front matter", line=line)
        if getattr(event, "tag", None) is not None:
            raise SpaceConfigError("tags (!) are not allowed in the front matter", line=line)
        if isinstance(event, yaml.ScalarEvent):
            place(Node("text", line, event.value, is_plain=event.style is None or event.style == ""))
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(stack) >= MAX_DEPTH:
                raise SpaceConfigError(f"the front matter of README.md is nested deeper than {MAX_DEPTH} levels", line=line)
            node = Node("map" if isinstance(event, yaml.MappingStartEvent) else "list", line)
            place(node)
            stack.append((node, None))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            stack.pop()
