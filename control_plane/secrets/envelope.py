"""Envelope encryption: each secret has its own data key, wrapped by a master key that never enters the database.

Format: `v1.<key id>.<nonce|wrapped data key>.<nonce|ciphertext>`, URL-safe base64, AES-256-GCM (NIST SP 800-38D), the
context (which Space, which name) as associated data: a sealed value moved to another row does not open.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control_plane.domain.errors import Broken, Rejected
from control_plane.domain.sensitive import Sensitive

_NONCE = 12


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"vitrine key id" + key).hexdigest()[:12]


class EnvelopeBox:
    """ports.secret_box.SecretBox. `keys` newest first; the first one seals, all of them open.

    `reload` gives the keys as they are now: another process may have made a new one since this one started.
    """

    def __init__(self, *keys: bytes, reload: Callable[[], tuple[bytes, ...]] | None = None) -> None:
        self._reload = reload
        self.take(keys)

    def take(self, keys: tuple[bytes, ...]) -> None:
        """From now on these keys."""
        if not keys or any(len(key) != 32 for key in keys):
            raise Rejected("a master key is 32 random bytes as URL-safe base64; make one with `openssl rand -base64 32 | tr '+/' '-_'`")
        self._keys: Mapping[str, bytes] = {_key_id(key): key for key in keys}
        self._current = _key_id(keys[0])

    @property
    def newest(self) -> str:
        """Id of the key that seals."""
        return self._current

    @property
    def key_ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def seal(self, value: Sensitive, *, context: str) -> str:
        if self._reload is not None:
            self.take(self._reload())  # another process may have retired the key that we know as the newest
        data_key, aad = os.urandom(32), context.encode()
        return f"v1.{self._current}.{self._wrap(data_key, aad)}.{_encrypt(data_key, value.reveal().encode(), aad)}"

    def _wrap(self, data_key: bytes, aad: bytes) -> str:
        return _encrypt(self._keys[self._current], data_key, aad)

    def _data_key(self, sealed: str, aad: bytes) -> tuple[bytes, str]:
        try:
            version, key_id, wrapped, body = sealed.split(".")
            if key_id not in self._keys and self._reload is not None:
                self.take(self._reload())
            master = self._keys[key_id]
        except (ValueError, KeyError) as error:
            raise Broken(
                "a secret is sealed with a key this platform does not have; give the old key as a second VITRINE_SECRET_KEY"
            ) from error
        if version != "v1":
            raise Broken("a secret has an unknown format")
        return _decrypt(master, wrapped, aad), body

    def open(self, sealed: str, *, context: str) -> Sensitive:
        aad = context.encode()
        data_key, body = self._data_key(sealed, aad)
        return Sensitive(_decrypt(data_key, body, aad).decode())

    def key_id(self, sealed: str) -> str:
        return sealed.split(".")[1]

    def rewrap(self, sealed: str, *, context: str) -> str:
        aad = context.encode()
        data_key, body = self._data_key(sealed, aad)
        return f"v1.{self._current}.{self._wrap(data_key, aad)}.{body}"


def _encrypt(key: bytes, data: bytes, aad: bytes) -> str:
    nonce = os.urandom(_NONCE)
    return _b64(nonce + AESGCM(key).encrypt(nonce, data, aad))


def _decrypt(key: bytes, text: str, aad: bytes) -> bytes:
    try:
        raw = _unb64(text)
        return AESGCM(key).decrypt(raw[:_NONCE], raw[_NONCE:], aad)
    except (InvalidTag, ValueError) as error:
        raise Broken("a sealed secret was changed or belongs elsewhere") from error


def load_keys(setting: str, file: Path) -> tuple[bytes, ...]:
    """Master keys, newest first: from the setting (comma-separated), else from `file`, made on first use (mode 0600)."""
    if setting:
        try:
            return tuple(_unb64(part.strip()) for part in setting.split(","))
        except ValueError as error:
            raise Rejected("VITRINE_SECRET_KEY is not URL-safe base64") from error
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = _written(file, (os.urandom(32),))
        try:
            os.link(temporary, file)  # the first of two processes wins
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    return tuple(_unb64(line) for line in file.read_text().split())


def _written(file: Path, keys: tuple[bytes, ...]) -> Path:
    """The keys in a private file beside `file`, synced."""
    temporary = file.with_name(f".{file.name}.{os.urandom(6).hex()}")
    with open(temporary, "xb", opener=lambda p, f: os.open(p, f, 0o600)) as out:
        out.write(b"".join(_b64(key).encode() + b"\n" for key in keys))
        out.flush()
        os.fsync(out.fileno())
    return temporary


def add_key(file: Path) -> tuple[bytes, ...]:
    """A new master key before the old ones, which still open what they sealed. All keys, newest first."""
    keys = (os.urandom(32), *load_keys("", file))
    os.replace(_written(file, keys), file)
    return keys


def drop_old_keys(file: Path, *, keep_purposes: bool) -> tuple[bytes, ...]:
    """Only the newest key stays. What an older one sealed cannot be opened any more.

    With `keep_purposes`, what `purpose_keys` gave stays as it is, kept beside the key, so that cookies, links, apps and
    the platform's other processes notice nothing. Without, it comes from the newest key: every process has to start again.
    """
    beside = _purposes_file(file)
    if keep_purposes:
        os.replace(_written(beside, purpose_keys("", file)), beside)
    else:
        beside.unlink(missing_ok=True)
    keys = load_keys("", file)[:1]
    os.replace(_written(file, keys), file)
    return keys


_PURPOSES = ("signing", "worker", "registry")


def _purposes_file(file: Path) -> Path:
    return file.with_suffix(".purposes")


def purpose_keys(setting: str, file: Path) -> tuple[bytes, bytes, bytes]:
    """What signs cookies and links, what workers know the API by, what signs for a registry.

    From the oldest master key: a rotation must not part processes that started before it from those that start after it.
    Where that key was retired, as they were kept then.
    """
    beside = _purposes_file(file)
    if not setting and beside.exists():
        signing, worker, registry = (_unb64(line) for line in beside.read_text().split())
        return signing, worker, registry
    oldest = load_keys(setting, file)[-1]
    signing, worker, registry = (derive(oldest, purpose) for purpose in _PURPOSES)
    return signing, worker, registry


def derive(key: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose only (signing of cookies, worker secret …) from the master key."""
    return hmac.new(key, f"vitrine {purpose}".encode(), hashlib.sha256).digest()
