"""Container images without an engine: layers as tar archives, a configuration, a manifest, pushed over the registry's HTTP API.

https://github.com/opencontainers/image-spec, https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import ssl
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import httpx

from builder.errors import BuildFailed
from builder.registry_login import RegistryLogin
from builder.reporter import CancelToken
from control_plane.domain.reasons import Reason

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CHUNK = 1 << 20
_LEVEL = 1  # registries are near; a build waits for this


@dataclass(frozen=True, slots=True)
class Layer:
    """A packed layer on disk. `digest` is of the packed bytes, `diff_id` of the unpacked ones; `size` counts packed bytes."""

    path: Path
    digest: str
    diff_id: str
    size: int

    def as_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "diff_id": self.diff_id, "size": self.size}


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer: `source` None = a folder, a `link` = a symbolic link. Owner is root unless `uid` says else."""

    name: str
    source: Path | None = None
    link: str = ""
    mode: int = 0o755
    uid: int = 0
    mtime: int = 0
    content: bytes | None = None


class _Packer(io.RawIOBase):
    """A file object for tarfile: digests the tar, compresses, digests what comes out."""

    def __init__(self, sink: IO[bytes]) -> None:
        super().__init__()
        self._sink = sink
        self._zip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self.plain, self.packed, self.size = hashlib.sha256(), hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.plain.update(data)
        self._out(self._zip.compress(data))
        return len(data)

    def finish(self) -> None:
        self._out(self._zip.flush())

    def _out(self, data: bytes) -> None:
        self.packed.update(data)
        self.size += len(data)
        self._sink.write(data)


def pack(entries: Iterable[Entry], path: Path, cancel: CancelToken) -> Layer:
    """Write a layer. The same entries give the same digest: names are sorted, times are the entries' own, gzip has no time."""
    with path.open("wb") as sink:
        packer = _Packer(sink)
        with tarfile.open(fileobj=packer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for entry in sorted(entries, key=lambda e: e.name):
                cancel.check()
                _add(tar, entry)
        packer.finish()
    return Layer(path, f"sha256:{packer.packed.hexdigest()}", f"sha256:{packer.plain.hexdigest()}", packer.size)


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.name.lstrip("/"))
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.uid, entry.mtime
    if entry.link:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
        tar.addfile(info)
    elif entry.content is not None:
        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))
    elif entry.source is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        with entry.source.open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            tar.addfile(info, file)


def tree_entries(root: Path, prefix: str, *, uid: int = 0, keep_times: bool = False, skip: Sequence[str] = ()) -> Iterator[Entry]:
    """Everything under `root` as entries under `prefix`. Special files are left out; links stay links, wherever they point."""
    yield Entry(prefix, uid=uid)
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skip)
        for name in (*folders, *sorted(names)):
            path = Path(folder, name)
            found = path.lstat()
            inside = f"{prefix}/{path.relative_to(root)}"
            mtime = int(found.st_mtime) if keep_times else 0
            if stat.S_ISLNK(found.st_mode):
                yield Entry(inside, link=os.readlink(path), mode=0o777, uid=uid, mtime=mtime)
            elif stat.S_ISDIR(found.st_mode):
                yield Entry(inside, uid=uid, mtime=mtime)
            elif stat.S_ISREG(found.st_mode):
                yield Entry(inside, path, mode=0o755 if found.st_mode & 0o100 else 0o644, uid=uid, mtime=mtime)


class Registry:
    """`address` is `host:port[/prefix]`; `login` is (name, password). Raises BuildFailed(REGISTRY_UNAVAILABLE)."""

    def __init__(self, address: str, login: tuple[str, str] | None = None) -> None:
        self._host, _, prefix = address.partition("/")
        self._prefix = prefix.strip("/")
        self._login = RegistryLogin(self._host, *login) if login else None

    def push(
        self, repository: str, layers: Sequence[Layer], config: Mapping[str, Any], tag: str, cancel: CancelToken, *, token: str = ""
    ) -> str:
        """Blobs that the registry has are not sent again. `token` signs in instead of `login`. Gives `host/name@sha256:…`."""
        name = f"{self._prefix}/{repository}".lstrip("/")
        body = json.dumps(
            {
                "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": dict(config),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            },
            sort_keys=True,
        ).encode()
        try:
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            auth = None if token else self._login
            with httpx.Client(
                base_url=self._base(), auth=auth, headers=bearer, timeout=300, follow_redirects=True, trust_env=False, verify=trust()
            ) as client:
                for layer in layers:
                    cancel.check()
                    _send(client, name, layer.digest, layer.path, cancel)
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                _send(client, name, digest, body, cancel)
                manifest = json.dumps(
                    {
                        "schemaVersion": 2,
                        "mediaType": _MANIFEST,
                        "config": {"mediaType": _CONFIG, "digest": digest, "size": len(body)},
                        "layers": [{"mediaType": _LAYER, "digest": layer.digest, "size": layer.size} for layer in layers],
                    }
                ).encode()
                answer = client.put(f"/v2/{name}/manifests/{tag}", content=manifest, headers={"Content-Type": _MANIFEST})
                answer.raise_for_status()
        except httpx.HTTPError as error:
            raise BuildFailed(Reason.REGISTRY_UNAVAILABLE, f"The image could not be pushed to {self._host}: {_words(error)}") from error
        return f"{self._host}/{name}@sha256:{hashlib.sha256(manifest).hexdigest()}"

    def _base(self) -> str:
        """https, or plain http where the registry speaks only that; not where its certificate is somebody's we do not know."""
        for scheme in ("https", "http"):
            try:
                if httpx.get(f"{scheme}://{self._host}/v2/", timeout=10, trust_env=False, verify=trust()).status_code < 500:
                    return f"{scheme}://{self._host}"
            except httpx.HTTPError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise BuildFailed(
                        Reason.REGISTRY_UNAVAILABLE, f"The certificate of the registry {self._host} is not trusted: set SSL_CERT_FILE."
                    ) from error
        raise BuildFailed(Reason.REGISTRY_UNAVAILABLE, f"No registry answers at {self._host}.")


@cache
def trust() -> ssl.SSLContext:
    """Whose certificates count: the public authorities, or those of SSL_CERT_FILE, and those of this machine."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def _send(client: httpx.Client, name: str, digest: str, source: Path | bytes, cancel: CancelToken) -> None:
    if client.head(f"/v2/{name}/blobs/{digest}").status_code == 200:
        return
    begun = client.post(f"/v2/{name}/blobs/uploads/")
    begun.raise_for_status()
    place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    client.put(place, content=_chunks(source, cancel), headers=headers).raise_for_status()


def _chunks(source: Path | bytes, cancel: CancelToken) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            cancel.check()
            yield chunk


def _words(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.response.status_code} {error.response.text[:200]}"
    return type(error).__name__
