"""Certificates of the listener: one context per file pair, chosen by SNI, read again when a file changes.

A pair that cannot be read at start is an error; one that cannot be read later leaves the old one in service, so that a
half-written renewal never takes the platform down.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from control_plane.domain.errors import Rejected

_log = logging.getLogger("vitrine.proxy")
_ALPN = ["h2", "http/1.1"]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A chain in PEM and its key; one file may hold both."""

    chain: Path
    key: Path

    @property
    def changed_at(self) -> tuple[int, int]:
        """Modification times in nanoseconds; zeros while a file is missing."""
        try:
            return self.chain.stat().st_mtime_ns, self.key.stat().st_mtime_ns
        except OSError:
            return 0, 0


def certificate_files(setting: str) -> tuple[CertificateFiles, ...]:
    """`chain.pem:key.pem` pairs, comma-separated; the first answers clients that name no host we know. Raises Rejected."""
    pairs = []
    for pair in filter(None, (text.strip() for text in setting.split(","))):
        chain, _, key = pair.partition(":")
        files = CertificateFiles(Path(chain).expanduser(), Path(key or chain).expanduser())
        for path in (files.chain, files.key):
            if not path.is_file():
                raise Rejected(f"setting tls_certificates: there is no file {path}")
        pairs.append(files)
    return tuple(pairs)


class Certificates:
    """`context` is what a listener uses. Names are compared as browsers do: exact first, then one wildcard label."""

    def __init__(self, files: tuple[CertificateFiles, ...]) -> None:
        if not files:
            raise Rejected("TLS needs at least one certificate")
        self._files = files
        self._seen = tuple(pair.changed_at for pair in files)
        self._contexts, self._names = _load(files)
        self.context = _context()
        self.context.load_cert_chain(files[0].chain, files[0].key)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self.find(name or "")

    def find(self, name: str) -> ssl.SSLContext:
        """The context for a host name; the first pair's when none fits."""
        name = name.lower().rstrip(".")
        found = self._names.get(name)
        if found is None:
            found = self._names.get("*." + name.partition(".")[2])
        return found if found is not None else self._contexts[0]

    def reload(self) -> bool:
        """Read the files again when one has changed; False when nothing did or what is there cannot be used yet."""
        seen = tuple(pair.changed_at for pair in self._files)
        if seen == self._seen or (0, 0) in seen:
            return False
        try:
            self._contexts, self._names = _load(self._files)
        except Rejected as error:
            _log.warning("certificate_not_reloaded error=%s", error.message)
            return False
        self._seen = seen
        _log.info("certificates_reloaded count=%d", len(self._files))
        return True


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # what HTTP/2 allows under TLS 1.2 (RFC 9113 9.2.2)
    context.set_alpn_protocols(_ALPN)
    return context


def _load(files: tuple[CertificateFiles, ...]) -> tuple[list[ssl.SSLContext], dict[str, ssl.SSLContext]]:
    contexts = []
    names: dict[str, ssl.SSLContext] = {}
    for pair in files:
        context = _context()
        try:
            context.load_cert_chain(pair.chain, pair.key)
            for name in _names(pair.chain.read_bytes()):
                names.setdefault(name, context)
        except (OSError, ValueError) as error:
            raise Rejected(f"certificate {pair.chain} with key {pair.key} cannot be used: {error}") from error
        contexts.append(context)
    return contexts, names


def _names(pem: bytes) -> list[str]:
    """DNS names of the first certificate: the alternative names, else its common name."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [name.lower() for name in alternatives.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        return [str(name.value).lower() for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
