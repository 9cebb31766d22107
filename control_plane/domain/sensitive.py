"""A secret value that cannot be printed by accident."""

from __future__ import annotations


class Sensitive:
    """Holds one secret string. `repr`, `str` and format all give a redaction; `reveal()` is the one way in.

    Opened only where the environment of a replica or a build is made.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Sensitive(•••)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sensitive) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Sensitive value is not pickled; send its name instead")
