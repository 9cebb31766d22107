"""Port-forward against a server that speaks its protocol: data both ways, ends, errors, refusals; and a whole way over a Unix socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp.web
import pytest
from kubernetes.client import Configuration

from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import ReplicaId
from control_plane.runtimes.kubernetes.api import KubeApi, plain_client
from control_plane.runtimes.kubernetes.forward import Forwards
from control_plane.runtimes.kubernetes.pod_stream import PodDoor

PORT = (7860).to_bytes(2, "little")


@dataclass
class Kubelet:
    """Answers with what came, doubled; some words make it do something else."""

    asked: list[str] = field(default_factory=list)
    signed_in: list[str] = field(default_factory=list)
    open: int = 0

    async def forward(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        self.asked.append(str(request.rel_url))
        self.signed_in.append(request.headers.get("Authorization", ""))
        if request.match_info["pod"] == "forbidden":
            return aiohttp.web.json_response({"kind": "Status"}, status=403)
        door = aiohttp.web.WebSocketResponse(protocols=["v4.channel.k8s.io"], max_msg_size=0)
        await door.prepare(request)
        self.open += 1
        try:
            await door.send_bytes(b"\0" + PORT)
            await door.send_bytes(b"\1" + PORT)
            async for message in door:
                data = bytes(message.data)
                assert data[0] == 0
                if data[1:] == b"end":
                    await door.send_bytes(b"\0last words")
                    break
                if data[1:] == b"break":
                    assert request.transport is not None
                    request.transport.abort()
                    break
                if data[1:] == b"error":
                    await door.send_bytes(b"\1connection refused")
                    continue
                await door.ping(b"are you there")
                await door.send_bytes(b"\0" + data[1:] * 2)
        finally:
            self.open -= 1
        return door


@asynccontextmanager
async def kubelet() -> AsyncIterator[tuple[Kubelet, KubeApi]]:
    far = Kubelet()
    app = aiohttp.web.Application()
    app.router.add_get("/prefix/api/v1/namespaces/{namespace}/pods/{pod}/portforward", far.forward)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    settings = Configuration()
    settings.host = f"http://127.0.0.1:{runner.addresses[0][1]}/prefix/"
    settings.api_key = {"authorization": "Bearer word"}
    api = KubeApi(plain_client(settings))
    try:
        yield far, api
    finally:
        api.close()
        await runner.cleanup()


async def test_data_goes_both_ways_and_an_end_is_an_end() -> None:
    async with kubelet() as (far, api):
        stream = await PodDoor(api).open("apps", "one", 7860)
        assert (far.asked, far.signed_in) == (["/prefix/api/v1/namespaces/apps/pods/one/portforward?ports=7860"], ["Bearer word"])
        for size in (1, 125, 126, 30_000):
            sent = os.urandom(size)
            await stream.write(sent)
            assert await stream.read() == sent * 2
        await stream.write(b"end")
        assert await stream.read() == b"last words"
        assert await stream.read() == b""
        await stream.close()


async def test_what_is_long_is_sent_in_parts() -> None:
    async with kubelet() as (_, api):
        stream = await PodDoor(api).open("apps", "one", 7860)
        sent = os.urandom(100_000)
        writing = asyncio.create_task(stream.write(sent))
        got = b""
        while len(got) < 2 * len(sent):
            got += await stream.read()
        await writing
        assert sent[:32_768] * 2 == got[:65_536]
        await stream.close()


async def test_an_error_of_the_kubelet_and_a_lost_connection_end_it() -> None:
    async with kubelet() as (_, api):
        for word, said in ((b"error", "connection refused"), (b"break", "")):
            stream = await PodDoor(api).open("apps", "one", 7860)
            await stream.write(word)
            assert await stream.read() == b""
            assert stream.error == said
            await stream.close()


async def test_a_refusal_and_a_server_that_is_not_there_are_unavailable() -> None:
    async with kubelet() as (_, api):
        with pytest.raises(Unavailable, match="403"):
            await PodDoor(api).open("apps", "forbidden", 7860)
    with pytest.raises(Unavailable, match="no way"):
        await PodDoor(api).open("apps", "one", 7860)


@pytest.mark.parametrize("word", [b"end", b"break", b"error"])
async def test_whoever_ends_first_the_other_side_hears_of_it(word: bytes, tmp_path: Path) -> None:
    """A proxy keeps connections for later: one whose far end is gone has to be seen to be gone."""
    async with kubelet() as (far, api):
        ways = Forwards(api, tmp_path)
        try:
            path = await ways.socket_of("uid", ReplicaId("r1"), "apps", "one", 7860)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello")
            assert await reader.readexactly(10) == b"hellohello"
            writer.write(word)
            async with asyncio.timeout(60):
                assert await reader.read() == (b"last words" if word == b"end" else b"")
            writer.close()
            _, leaves = await asyncio.open_unix_connection(path)
            leaves.close()
            async with asyncio.timeout(60):
                while far.open or len(far.asked) < 2:
                    await asyncio.sleep(0.01)
            refused, one = await asyncio.open_unix_connection(await ways.socket_of("other", ReplicaId("r2"), "apps", "forbidden", 1))
            assert await refused.read() == b""
            one.close()
        finally:
            await ways.close()
