"""The BuildQueue port, on the spool of the embedded default and on Redis where one can be started."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection

from builder.broker import BrokerOptions, broker_options, prepare_spool
from control_plane.domain.builds import TASK_NAME, BuildRequest, SourceKind
from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import BuildId, Sha, SpaceId
from control_plane.queue.celery_queue import CeleryBuildQueue


def request(number: int = 0) -> BuildRequest:
    return BuildRequest(
        build_id=BuildId(f"{number:024x}"), space_id=SpaceId("a" * 24), space_name="alice/demo", tenant="alice", revision=Sha("c" * 40),
        sdk="gradio", sdk_version=None, python_version=None, app_file="app.py", app_port=7860, target=SourceKind.PROCESS,
    )  # fmt: skip


def make_queue(options: BrokerOptions) -> CeleryBuildQueue:
    return CeleryBuildQueue(
        options.url, transport=options.transport, transport_options=options.transport_options, queue=options.queue, send_timeout_s=2
    )


@pytest.fixture(params=["spool", "redis"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerOptions]:
    if request.param == "spool":
        spool = broker_options(None, tmp_path / "queue")
        prepare_spool(spool)
        yield spool
        return
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server on this machine")
    folder = tempfile.mkdtemp(prefix="v")
    socket = f"{folder}/r.sock"
    process = subprocess.Popen([server, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"eady to accept connections" in line:
                break
        yield broker_options(f"redis+socket://{socket}", tmp_path)
    finally:
        process.terminate()
        process.communicate(timeout=10)
        shutil.rmtree(folder)


def receive(options: BrokerOptions, count: int, timeout_s: float = 10.0) -> list[tuple[str, list[object]]]:
    """(task name, arguments) of messages, taken and acknowledged as a worker does."""
    got: list[tuple[str, list[object]]] = []
    transport = options.transport or None
    with Connection(options.url, transport=transport, transport_options=dict(options.transport_options)) as connection:

        def on_message(body: object, message: object) -> None:
            arguments = body[0] if isinstance(body, list) else []
            got.append((message.headers["task"], arguments))  # type: ignore[attr-defined]
            message.ack()  # type: ignore[attr-defined]

        app = Celery(broker=options.url, set_as_current=False)
        app.conf.task_default_queue = options.queue
        with connection.Consumer(app.amqp.queues[options.queue], callbacks=[on_message], accept=["json"]):
            while len(got) < count:
                connection.drain_events(timeout=timeout_s)
        app.close()
    return got


async def test_a_submitted_request_arrives_whole(options: BrokerOptions) -> None:
    queue = make_queue(options)
    await queue.submit(request())
    ((name, arguments),) = await asyncio.to_thread(receive, options, 1)
    await queue.close()
    assert name == TASK_NAME
    assert BuildRequest.from_payload(arguments[0]) == request()  # type: ignore[arg-type]


async def test_requests_keep_their_order(options: BrokerOptions) -> None:
    queue = make_queue(options)
    for number in range(5):
        await queue.submit(request(number))
    got = await asyncio.to_thread(receive, options, 5)
    await queue.close()
    assert [arguments[0]["build_id"] for _, arguments in got] == [request(n).build_id for n in range(5)]  # type: ignore[index]


async def test_it_knows_what_nobody_has_taken(options: BrokerOptions) -> None:
    queue = make_queue(options)
    assert await queue.waiting() == frozenset()
    for number in range(3):
        await queue.submit(request(number))
    await queue.submit(replace(request(2), attempt=2))
    await asyncio.to_thread(receive, options, 2)
    expected = {(request(2).build_id, 1), (request(2).build_id, 2)}
    assert (await queue.waiting(), await queue.waiting()) == (expected, expected), "to look takes nothing away"
    await asyncio.to_thread(receive, options, 2)
    assert await queue.waiting() == frozenset()
    await queue.close()


async def test_many_at_once_all_arrive(options: BrokerOptions) -> None:
    queue = make_queue(options)
    await asyncio.gather(*(queue.submit(request(number)) for number in range(20)))
    got = await asyncio.to_thread(receive, options, 20)
    await queue.close()
    assert {arguments[0]["build_id"] for _, arguments in got} == {request(n).build_id for n in range(20)}  # type: ignore[index]


async def test_a_broker_that_is_away_is_unavailable(tmp_path: Path) -> None:
    for options in (broker_options(None, tmp_path / "never-made"), broker_options("redis://127.0.0.1:1/0", tmp_path)):
        queue = make_queue(options)
        with pytest.raises(Unavailable):
            await queue.submit(request())
        with pytest.raises(Unavailable):
            await queue.waiting()
        await queue.close()


def test_two_readers_never_get_the_same_message(tmp_path: Path) -> None:
    options = broker_options(None, tmp_path / "queue")
    prepare_spool(options)
    queue = make_queue(options)
    for number in range(10):
        asyncio.run(queue.submit(request(number)))
    got: list[tuple[str, list[object]]] = []
    threads = [threading.Thread(target=lambda: got.extend(receive(options, 5))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(queue.close())
    assert len({arguments[0]["build_id"] for _, arguments in got}) == 10  # type: ignore[index]


def test_files_that_are_no_messages_are_set_aside(tmp_path: Path) -> None:
    options = broker_options(None, tmp_path / "queue")
    prepare_spool(options)
    inbox = Path(options.transport_options["data_folder_in"])
    for name, content in (("1", b""), ("2", b"\xff\x00"), ("3", b"[]"), ("4", json.dumps({"body": "x"}).encode())):
        (inbox / f"0{name}.{options.queue}.msg").write_bytes(content)
    (inbox / ".half.part").write_bytes(b"{")
    queue = make_queue(options)
    asyncio.run(queue.submit(request(7)))
    ((_, arguments),) = receive(options, 1)
    asyncio.run(queue.close())
    assert arguments[0]["build_id"] == request(7).build_id  # type: ignore[index]
