"""Tokens for a registry that asks for them: signed here, checked there by certificate.

Docker Registry v2 token authentication, https://distribution.github.io/distribution/spec/auth/jwt/. The key is derived from the
master key, so every process that holds that one signs alike, and builders, which do not, get ready-made tokens for one Space each.
The certificate may be made again at any time: registries trust the key in it.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ISSUER = "vitrine"
SERVICE = "vitrine-registry"
_NODES = "vitrine-nodes"  # whom passwords are for: the registry itself takes none
_SKEW = timedelta(minutes=1)
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of the group P-256 (FIPS 186-4)
_BEGINS, _ENDS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)
_AUTHORITY = "Vitrine registry authority"

Access = Mapping[str, Sequence[str]]  # "repository:NAME" or "registry:catalog" → actions


class RegistryTokens:
    """`key`: 32 bytes for this purpose only."""

    def __init__(self, key: bytes) -> None:
        self._key = ec.derive_private_key(int.from_bytes(key, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
        leaf = self._certificate("Vitrine registry tokens", is_authority=False)  # a chain's parts need different names
        self._chain = [base64.b64encode(leaf.public_bytes(serialization.Encoding.DER)).decode()]

    def certificate(self) -> str:
        """PEM for the registry's `auth.token.rootcertbundle`."""
        return self._certificate(_AUTHORITY, is_authority=True).public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, access: Access, now: datetime, *, life_s: float) -> str:
        """A bearer token that gives these actions and nothing else, for `life_s` seconds."""
        listed = [
            {"type": kind.partition(":")[0], "name": kind.partition(":")[2], "actions": list(actions)} for kind, actions in access.items()
        ]
        claims = {
            "iss": ISSUER, "sub": "", "aud": SERVICE, "jti": secrets.token_hex(16), "access": listed,
            "iat": int(now.timestamp()), "nbf": int((now - _SKEW).timestamp()), "exp": int(now.timestamp() + life_s),
        }  # fmt: skip
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._chain})

    def password(self, repository: str, now: datetime, *, life_s: float) -> str:
        """For somebody who keeps it and cannot ask for another: the word with which `/v2/token` gives tokens that pull this repository."""
        claims = {"iss": ISSUER, "aud": _NODES, "sub": repository, "exp": int(now.timestamp() + life_s)}
        return jwt.encode(claims, self._key, algorithm="ES256")

    def repository_of(self, password: str, now: datetime) -> str:
        """What this password is good for; "" = nothing."""
        checked: Any = {"verify_exp": False, "require": ["exp", "sub"]}  # against our clock, not the library's
        try:
            claims = jwt.decode(password, self._key.public_key(), algorithms=["ES256"], audience=_NODES, issuer=ISSUER, options=checked)
        except jwt.InvalidTokenError:
            return ""
        return str(claims["sub"]) if float(claims["exp"]) > now.timestamp() else ""

    def _certificate(self, name: str, *, is_authority: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(_AUTHORITY))
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGINS)
            .not_valid_after(_ENDS)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
