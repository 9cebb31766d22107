"""The depth of the broker's queue on /metrics: messages that Celery sent and nobody took, on the spool and on a real Redis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from builder.broker import BrokerOptions, broker_options, prepare_spool
from control_plane.asgi import build_app
from control_plane.bootstrap import build_services
from control_plane.settings import Settings
from tests.contract.test_build_queue import make_queue, receive, request
from tests.fakes.redis_server import RedisServer, redis_server


@pytest.fixture(params=["spool", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[BrokerOptions, RedisServer | None]]:
    with ExitStack() as stack:
        if request.param == "redis":
            server = stack.enter_context(redis_server(tmp_path))
            yield broker_options(server.url, tmp_path / "d" / "queue"), server
            return
        options = broker_options(None, tmp_path / "d" / "queue")
        prepare_spool(options)
        yield options, None


async def test_messages_that_nobody_took_are_counted(broker: tuple[BrokerOptions, RedisServer | None], tmp_path: Path) -> None:
    options, server = broker
    services = build_services(Settings(data_dir=tmp_path / "d", redis_url=server.url if server else ""))
    await services.database.migrate()
    transport = httpx.ASGITransport(build_app(services))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7860") as client:

            async def depth() -> str | None:
                text = (await client.get("/metrics")).text
                found = re.search(r"^vitrine_queue_messages (\S+)$", text, re.MULTILINE)
                return found[1] if found else None

            assert await depth() == "0.0"
            queue = make_queue(options)
            for number in range(3):
                await queue.submit(request(number))
            assert await depth() == "3.0"
            await asyncio.to_thread(receive, options, 3)
            await queue.close()
            assert await depth() == "0.0"
            if server is not None:
                server.stop()
                assert await depth() is None, "a broker that is away is no empty queue"
    finally:
        await services.bus.close()
        await services.database.close()
