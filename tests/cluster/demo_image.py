"""A Python image made from this machine's own interpreter and pushed over the registry's HTTP API: no engine is needed.

One layer holds the interpreter, its standard library and the shared libraries it loads; user 1000, no shell. Reproducible:
the same interpreter gives the same digest. https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import httpx

_SKIPPED = {"test", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "site-packages", "dist-packages", "__pycache__", "config"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def interpreter_layer() -> bytes:
    """An uncompressed tar of what `python3` needs to run."""
    python = Path(os.path.realpath(sys.executable))
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files: dict[str, Path] = {str(python): python}
    for folder, folders, names in os.walk(stdlib):
        folders[:] = sorted(d for d in folders if d not in _SKIPPED and not d.startswith("config-"))
        for name in sorted(names):
            if not name.endswith(".pyc"):
                files[str(Path(folder) / name)] = Path(folder) / name
    binaries = [python, *(p for p in files.values() if ".so" in p.name)]
    for binary in binaries:
        done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
        for path in re.findall(r"(/\S+) \(0x", done.stdout):
            files[path] = Path(os.path.realpath(path))
    for path in list(Path("/lib/x86_64-linux-gnu").glob("libnss_*.so.2")) + list(Path("/lib/aarch64-linux-gnu").glob("libnss_*.so.2")):
        files[str(path)] = Path(os.path.realpath(path))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("tmp", "data", "home/user"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, 1000, 1000
            tar.addfile(entry)
        link = tarfile.TarInfo("usr/local/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, str(python)
        tar.addfile(link)
        for name in sorted(files):
            content = files[name].read_bytes()
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size, entry.mode = len(content), 0o755 if os.access(files[name], os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def push(registry: str, repository: str = "vitrine-test/python") -> str:
    """Push the image to `host:port[/prefix]`; gives its reference by digest."""
    host, _, prefix = registry.partition("/")
    name = f"{prefix.strip('/')}/{repository}".lstrip("/")
    layer = interpreter_layer()
    packed = gzip.compress(layer, 6, mtime=0)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"User": "1000:1000", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1"], "WorkingDir": "/home/user"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    with httpx.Client(base_url=_base(host), timeout=120, follow_redirects=True, trust_env=False) as client:
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _blob(client, name, config, "application/vnd.oci.image.config.v1+json"),
                "layers": [_blob(client, name, packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
            }
        ).encode()
        answer = client.put(f"/v2/{name}/manifests/latest", content=manifest, headers={"Content-Type": _MANIFEST})
        answer.raise_for_status()
    return f"{host}/{name}@sha256:{hashlib.sha256(manifest).hexdigest()}"


def _base(host: str) -> str:
    """https, or plain http where the registry speaks only that."""
    for scheme in ("https", "http"):
        try:
            if httpx.get(f"{scheme}://{host}/v2/", timeout=10, trust_env=False).status_code < 500:
                return f"{scheme}://{host}"
        except httpx.HTTPError:
            continue
    raise RuntimeError(f"no registry answers at {host}")


def _blob(client: httpx.Client, name: str, content: bytes, media_type: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if client.head(f"/v2/{name}/blobs/{digest}").status_code != 200:
        begun = client.post(f"/v2/{name}/blobs/uploads/")
        begun.raise_for_status()
        place = httpx.URL(begun.headers["Location"])
        done = client.put(
            place.copy_merge_params({"digest": digest}), content=content, headers={"Content-Type": "application/octet-stream"}
        )
        done.raise_for_status()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}
