"""The API as a page: its calls by family, from the same document that machines read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApiValue:
    """A parameter or a field of a body. `place`: path, query, header or body; `kind` in the words of JSON."""

    name: str
    place: str
    kind: str
    is_needed: bool


@dataclass(frozen=True, slots=True)
class ApiCall:
    """`answers`: status codes of success."""

    method: str
    path: str
    title: str
    words: str
    values: tuple[ApiValue, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApiFamily:
    name: str
    calls: tuple[ApiCall, ...]

    @property
    def anchor(self) -> str:
        return self.name.lower().replace(" ", "-")
