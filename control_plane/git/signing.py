"""Addresses and tokens that carry their own permission: what for, which repository, until when, sealed with a key of ours. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping

from control_plane.domain.errors import Forbidden


class Signer:
    """HMAC-SHA256 over labelled fields. `key` must be at least 32 random bytes; `purpose` keeps uses of one key apart."""

    def __init__(self, key: bytes, purpose: str) -> None:
        if len(key) < 32:
            raise ValueError("a signing key needs at least 32 bytes")
        self._key = hmac.digest(key, f"vitrine:{purpose}".encode(), hashlib.sha256)

    def sign(self, fields: Mapping[str, str | int]) -> str:
        """Length-safe: JSON with sorted keys, so that no two sets of fields have one text."""
        text = json.dumps({k: str(v) for k, v in fields.items()}, sort_keys=True, separators=(",", ":"))
        return base64.urlsafe_b64encode(hmac.digest(self._key, text.encode(), hashlib.sha256)).decode().rstrip("=")

    def check(self, fields: Mapping[str, str | int], signature: str, *, expires: str, now: float) -> None:
        """Forbidden when the signature is not ours or its time is over."""
        if not hmac.compare_digest(self.sign(fields).encode(), signature.encode(errors="replace")):
            raise Forbidden("The address was not signed by this server or was changed.", code="BadSignature")
        if not expires.isascii() or not expires.isdigit() or int(expires) < now:
            raise Forbidden("The address has expired; ask for a new one.", code="Expired")

    def seal(self, fields: Mapping[str, str | int]) -> str:
        """A token that carries its fields (readable, not secret)."""
        body = base64.urlsafe_b64encode(json.dumps({k: str(v) for k, v in fields.items()}, sort_keys=True).encode()).decode().rstrip("=")
        return f"{body}.{self.sign(fields)}"

    def open(self, token: str, *, now: float) -> dict[str, str]:
        """The fields of a sealed token with an `exp` field in unix seconds. Forbidden when it is not ours or over."""
        body, _, signature = token.partition(".")
        try:
            fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            fields = {}
        if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
            fields = {}
        self.check(fields, signature, expires=fields.get("exp", "0"), now=now)
        return fields
