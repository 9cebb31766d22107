"""Proxies come and go under load: `kill -HUP` of the platform, `kill -9` of a proxy, and TLS from the settings alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Platform, patience, start_platform, stop_platform
from tests.functional.proxy.certificates import certificate

VISITORS = 8


@pytest.fixture(scope="module")
def two_proxies() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="vitrine-renewal-") as folder:
        started = start_platform(
            Path(folder), env={"VITRINE_PROXY_PROCESSES": "2", "VITRINE_DRAIN_S": "5", "VITRINE_ACCESS_LOG": f"{folder}/access.log"}
        )
        try:
            yield started
        finally:
            stop_platform(started)


def _proxies(platform: Platform) -> set[int]:
    """Process ids of the platform's proxies, as the system tells."""
    found = set()
    for child in Path(f"/proc/{platform.process.pid}/task/{platform.process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it may have ended since it was listed
            if b"\0proxy\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


def _wait(what: str, condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds * patience()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.05)


async def _visit(port: int, going: asyncio.Event, counts: list[int], *, keep: bool) -> None:
    """Ask again and again, over new connections or one that is kept as long as the server keeps it."""
    while not going.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while not going.is_set():
                close = b"" if keep else b"Connection: close\r\n"
                writer.write(b"GET /-/proxy/healthz HTTP/1.1\r\nHost: localhost\r\n" + close + b"\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 15)
                assert head.startswith(b"HTTP/1.1 200"), head
                await reader.readexactly(15)
                counts[0] += 1
                if not keep or b"onnection: close" in head:
                    break
        finally:
            writer.close()


async def _under_load(port: int, deed: object) -> int:
    """Run `deed` in a thread while visitors ask; every answer must be a whole one. Gives their number."""
    going, counts = asyncio.Event(), [0]
    visitors = [asyncio.create_task(_visit(port, going, counts, keep=number % 2 == 0)) for number in range(VISITORS)]
    try:
        await asyncio.to_thread(deed)  # type: ignore[arg-type]
        before = counts[0]
        while counts[0] < before + 50:
            await asyncio.sleep(0.01)
            assert all(not visitor.done() for visitor in visitors), [v.exception() for v in visitors if v.done()]
    finally:
        going.set()
        results = await asyncio.gather(*visitors, return_exceptions=True)
    assert [error for error in results if error is not None] == []
    return counts[0]


def test_hup_renews_every_proxy_without_a_failed_request(two_proxies: Platform) -> None:
    before = _proxies(two_proxies)
    assert len(before) == 2

    def renew() -> None:
        os.kill(two_proxies.process.pid, signal.SIGHUP)
        _wait("the old proxies leave", lambda: len(_proxies(two_proxies)) == 2 and not _proxies(two_proxies) & before)

    assert asyncio.run(_under_load(two_proxies.port, renew)) > 100
    assert two_proxies.process.poll() is None


def test_a_killed_proxy_comes_back_and_its_port_never_refuses(two_proxies: Platform) -> None:
    victim = min(_proxies(two_proxies))

    async def knock(going: asyncio.Event) -> int:
        """Connections of their own, one after the other: accepted or waiting, never refused."""
        done = 0
        while not going.is_set():
            _reader, writer = await asyncio.open_connection("127.0.0.1", two_proxies.port)
            writer.close()
            done += 1
            await asyncio.sleep(0.002)
        return done

    async def main() -> int:
        going = asyncio.Event()
        knocking = asyncio.create_task(knock(going))
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(_wait, "a new proxy", lambda: len(_proxies(two_proxies) - {victim}) == 2)
        going.set()
        return await knocking

    assert asyncio.run(main()) > 50
    _wait("an answer", lambda: two_proxies.api("GET", "/api/whoami-v2").status_code == 200)


def test_the_access_log_is_where_the_setting_says(two_proxies: Platform) -> None:
    assert two_proxies.api("GET", "/api/whoami-v2?secret=1").status_code == 200
    file = two_proxies.data_dir / "access.log"
    _wait("the line", lambda: "/api/whoami-v2" in file.read_text())
    line = json.loads(next(entry for entry in file.read_text().splitlines() if "/api/whoami-v2" in entry))
    assert {"id", "client", "host", "status", "code", "connect_us", "service_us", "bytes"} <= line.keys()
    assert "secret" not in json.dumps(line)


def test_https_from_the_settings_alone(tmp_path: Path) -> None:
    pair = certificate(tmp_path, "platform", "localhost", "*.localhost")
    with tempfile.TemporaryDirectory(prefix="vitrine-tls-") as folder:
        started = start_platform(Path(folder), env={"VITRINE_TLS_CERTIFICATES": pair})
        try:
            assert started.url.startswith("https://localhost:")
            context = ssl.create_default_context(cafile=str(tmp_path / "platform.crt"))
            with httpx.Client(verify=context, http2=True, trust_env=False, base_url=started.url) as client:
                answer = client.get("/api/whoami-v2", headers={"Authorization": f"Bearer {started.token}"})
                assert (answer.http_version, answer.json()["name"]) == ("HTTP/2", "admin")
                page = client.get("/login")
                assert all("Secure" in cookie for cookie in page.headers.get_list("set-cookie"))
            plain = httpx.get(f"http://127.0.0.1:{started.port}/spaces", headers={"Host": f"localhost:{started.port}"})
            assert (plain.status_code, plain.headers["location"]) == (308, f"{started.url}/spaces")
        finally:
            stop_platform(started)
