"""lfs.memory, lfs.upload, lfs.download: a 1 GB file up and down; lfs.bystander: a small request beside 200 downloads.

The 200 downloads are one `curl` of its own; only the small request is asked by this process, so that it waits for no other client.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import Platform, start_platform, stop_platform

_SIZE, _DOWNLOADS, _SHARED = 1 << 30, 200, 20 << 20


def rows() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        platform = start_platform(Path(name) / "d")
        try:
            large = _large(platform, Path(name) / "large")
            os.sync()  # the disk has nothing more to do for the rows before
            return [*large, asyncio.run(_bystander(platform))]
        finally:
            stop_platform(platform)


def _large(platform: Platform, path: Path) -> list[dict[str, Any]]:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(_SIZE >> 20):
            piece = os.urandom(1 << 20)
            digest.update(piece)
            file.write(piece)
    began = time.monotonic()
    with path.open("rb") as file, open(Path(path.parent) / "plain", "wb") as copy:
        while piece := file.read(1 << 20):
            copy.write(piece)
        os.fsync(copy.fileno())
    plain = time.monotonic() - began
    servers = [pid for pid in _children(platform.process.pid) if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    before = {pid: _peak(pid) for pid in servers}
    began = time.monotonic()
    _put(platform, "large", digest.hexdigest(), _SIZE, path)
    up = time.monotonic() - began
    began, received = time.monotonic(), 0
    head = {"Host": f"localhost:{platform.port}"}
    with httpx.stream("GET", f"http://127.0.0.1:{platform.port}/admin/large/resolve/main/f.bin", headers=head, timeout=600) as reply:
        for piece in reply.iter_raw(1 << 20):
            received += len(piece)
    down = time.monotonic() - began
    assert received == _SIZE
    grown = max((_peak(pid) - before[pid]) / 1e6 for pid in servers)
    reference = {"reference": "copy on the same disk", "reference_value": round(plain, 2), "n": 1}
    return [
        {"name": "lfs.memory", "value": round(grown, 1), "unit": "MB grown", "reference": "64 MB allowed", "reference_value": 64, "n": 1},
        {"name": "lfs.upload", "value": round(up, 2), "unit": "s", **reference, "ratio": round(plain / up, 3)},
        {"name": "lfs.download", "value": round(down, 2), "unit": "s", **reference, "ratio": round(plain / down, 3)},
    ]


async def _bystander(platform: Platform) -> dict[str, Any]:
    data = os.urandom(_SHARED)
    path = platform.data_dir.parent / "shared"
    path.write_bytes(data)
    _put(platform, "shared", hashlib.sha256(data).hexdigest(), _SHARED, path)
    head = {"Host": f"localhost:{platform.port}"}
    base = f"http://127.0.0.1:{platform.port}"
    platform.create("small", "static")
    platform.until("small", "RUNNING")  # what its start costs is over
    async with httpx.AsyncClient(base_url=base, headers=head, timeout=60) as client:

        async def ask() -> float:
            began = time.perf_counter()
            (await client.get("/api/spaces/admin/small")).raise_for_status()
            return (time.perf_counter() - began) * 1000

        alone = [await ask() for _ in range(200)]
        # Programs of their own at a steady 2 MB/s each, as people on a network are: 400 MB/s together.
        listed = "\n".join(f'url = "{base}/admin/shared/resolve/main/f.bin"\noutput = "/dev/null"' for _ in range(_DOWNLOADS))
        config = path.with_name("urls")
        config.write_text(listed)
        many = ("--parallel", "--parallel-immediate", "--parallel-max", str(_DOWNLOADS), "--limit-rate", "2M", "--no-progress-meter")
        curl = await asyncio.create_subprocess_exec("curl", *many, "-H", f"Host: {head['Host']}", "-K", str(config))
        beside = []
        while curl.returncode is None:
            beside.append(await ask())
            await asyncio.sleep(0.02)
        await curl.wait()
    p99 = [round(statistics.quantiles(times, n=100)[98], 1) for times in (alone, beside)]
    about = {"unit": "ms p99", "reference": "alone", "reference_value": p99[0], "ratio": round(p99[1] / p99[0], 2)}
    return {"name": "lfs.bystander", "value": p99[1], **about, "n": len(beside)}


def _put(platform: Platform, name: str, oid: str, size: int, path: Path) -> None:
    """A new public model repository with the file as `f.bin`."""
    platform.api("POST", "/api/repos/create", json={"name": name, "type": "model"}).raise_for_status()
    asked = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    answer = platform.api("POST", f"/admin/{name}.git/info/lfs/objects/batch", json=asked).json()
    href = str(answer["objects"][0]["actions"]["upload"]["href"]).replace("localhost", "127.0.0.1", 1)
    with path.open("rb") as file:
        headers = {"Host": f"localhost:{platform.port}", "Content-Length": str(size)}
        httpx.put(href, content=iter(lambda: file.read(1 << 20), b""), headers=headers, timeout=600).raise_for_status()
    lines = (
        {"key": "header", "value": {"summary": "Add"}},
        {"key": "lfsFile", "value": {"path": "f.bin", "algo": "sha256", "oid": oid, "size": size}},
    )
    content = "\n".join(json.dumps(line) for line in lines)
    platform.api("POST", f"/api/models/admin/{name}/commit/main", content=content).raise_for_status()


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def _peak(pid: int) -> int:
    """Bytes of memory at the most, ever."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10
