"""Sealing secrets at rest with a key that is not in the database."""

from __future__ import annotations

from typing import Protocol

from control_plane.domain.sensitive import Sensitive


class SecretBox(Protocol):
    def seal(self, value: Sensitive, *, context: str) -> str:
        """Text for the database: key id, wrapped data key, ciphertext. `context` is bound in and must match to open."""

    def open(self, sealed: str, *, context: str) -> Sensitive:
        """Raises Broken when the key is unknown or the text was changed."""

    def key_id(self, sealed: str) -> str: ...

    def rewrap(self, sealed: str, *, context: str) -> str: ...
