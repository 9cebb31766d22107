"""The facts of an audit event as one line for people: what was before, what is after."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SHA = re.compile(r"[0-9a-f]{40}\Z")
_LEFT_OUT: tuple[object, ...] = (None, "", {}, [])


def change_words(facts: Mapping[str, object]) -> str:
    """`spaces: 5 → 3`, `cpu-basic → t4-small`, `id 6f1f…, role read`; "" when there is nothing to tell."""
    return ", ".join(_parts(facts))


def _parts(facts: Mapping[str, object]) -> list[str]:
    parts = [f"{_word(facts['before'])} → {_word(facts['after'])}"] if {"before", "after"} <= set(facts) else []
    for name, value in facts.items():
        if parts and name in ("before", "after"):
            continue
        if name == "keys" and isinstance(value, Mapping):
            parts += _parts(value)
        elif isinstance(value, Mapping):
            parts.append(f"{name}: {', '.join(_parts(value))}")
        elif value not in _LEFT_OUT:
            parts.append(f"{name} {_word(value)}")
    return parts


def _word(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_word, value))
    text = str(value)
    return text[:7] if _SHA.match(text) else text
