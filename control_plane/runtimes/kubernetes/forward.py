"""A way to an app for a proxy that has no route to pods: a Unix socket here, the API server's port-forward behind it.

    proxy ── Unix socket ──▶ this process ── WebSocket, the scheduler's credentials ──▶ API server ──▶ kubelet ──▶ the app's port

One WebSocket per connection. Made for platforms that run outside of their cluster; inside, pods are reached directly.
https://kubernetes.io/docs/reference/using-api/websockets/
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import ReplicaId
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.facts import Item
from control_plane.runtimes.kubernetes.pod_stream import PodDoor, PodStream

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16


class Forwards:
    """`folder` holds the sockets; None = forwarding is not possible here."""

    def __init__(self, api: KubeApi, folder: Path | None) -> None:
        self._door, self._folder = PodDoor(api), folder
        self._open: dict[str, tuple[ReplicaId, Path, asyncio.Server, set[asyncio.Task[None]]]] = {}  # by pod uid

    async def socket_of(self, uid: str, replica_id: ReplicaId, namespace: str, pod: str, port: int) -> str:
        """The socket of this pod; opened at the first call."""
        known = self._open.get(uid)
        if known is not None:
            return str(known[1])
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{uid[:13]}.sock"
        path.unlink(missing_ok=True)
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._carry(reader, writer, namespace, pod, port)
            except asyncio.CancelledError:
                writer.close()  # the pod goes; the stream's own callback has no use for the cancellation
            finally:
                tasks.discard(task)

        server = await asyncio.start_unix_server(serve, path=str(path))
        os.chmod(path, 0o600)
        self._open[uid] = (replica_id, path, server, tasks)
        return str(path)

    async def drop(self, replica_id: ReplicaId) -> None:
        """Close what leads to this replica's pods."""
        for uid, (owner, path, server, tasks) in list(self._open.items()):
            if owner == replica_id:
                del self._open[uid]
                server.close()
                for task in tasks:
                    task.cancel()
                path.unlink(missing_ok=True)

    async def close(self) -> None:
        for replica_id in {owner for owner, *_ in self._open.values()}:
            await self.drop(replica_id)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, namespace: str, pod: str, port: int) -> None:
        """Until one side ends: HTTP needs no half-closed connections, and the protocol knows none."""
        try:
            stream = await self._door.open(namespace, pod, port)
        except VitrineError as error:
            logger.info("forward.refused", extra={"pod": pod, "error": error.message})
            writer.close()
            return
        try:
            ways = {asyncio.create_task(_up(reader, stream)), asyncio.create_task(_down(stream, writer))}
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            if stream.error:
                logger.info("forward.broken", extra={"pod": pod, "error": stream.error[:300]})
            writer.close()
            await stream.close()


async def _up(reader: asyncio.StreamReader, stream: PodStream) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await stream.write(data)


async def _down(stream: PodStream, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await stream.read():
            writer.write(data)
            await writer.drain()


async def is_reachable(address: str, timeout_s: float = 1.0) -> bool:
    """Whether this process gets a connection to a pod's `host:port`.

    A pod address that only the default route knows does not count: behind it may be anybody, a gateway that answers for every
    address included. Clusters whose pods are reached that way set `kube_reach` to `pod`.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not has_own_route(host):
        return False
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True  # the pod answered: there is a route, and nobody listens yet
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def has_own_route(host: str, proc: Path = Path("/proc/net")) -> bool:
    """Whether the kernel has a route for this address other than the default one (proc(5): net/route, net/ipv6_route)."""
    address = ipaddress.ip_address(host)
    if address.is_loopback:
        return True
    try:
        if address.version == 4:
            rows = [line.split() for line in (proc / "route").read_text().splitlines()[1:]]
            value = int.from_bytes(address.packed, "little")
            return any(int(row[7], 16) and value & int(row[7], 16) == int(row[1], 16) for row in rows)
        rows = [line.split() for line in (proc / "ipv6_route").read_text().splitlines()]
        networks = (ipaddress.IPv6Network((int(row[0], 16), int(row[1], 16))) for row in rows if int(row[1], 16) and row[9] != "lo")
        return any(address in network for network in networks)
    except (OSError, ValueError, IndexError):
        return False


class Reach:
    """Which address the proxy gets for a pod. `mode`: `pod`, `forward`, or `auto`: the pod's own address when there is a route to it
    and our own policy lets this proxy in (`is_let_in`). A route without that is open by accident, until somebody enforces the policy."""

    def __init__(self, api: KubeApi, mode: str, folder: Path | None, *, is_let_in: bool = False) -> None:
        self._mode = "pod" if folder is None else "forward" if mode == "auto" and not is_let_in else mode
        self._forwards = Forwards(api, folder)
        self._routed: dict[str, bool] = {}  # pod uid → its own address can be used

    async def endpoint(self, found: Endpoint, pod: Item, *, is_final: bool = True) -> Endpoint:
        """`is_final`: the answer of now is kept; before that each call looks again."""
        if self._mode == "pod":
            return found
        metadata = pod["metadata"]
        uid = metadata["uid"]
        routed = self._routed.get(uid)
        if routed is None:
            routed = self._mode == "auto" and await is_reachable(found.address)
            if is_final:
                self._routed[uid] = routed
        if routed or not found.replica_id:
            return found
        port = int(found.address.rpartition(":")[2])
        path = await self._forwards.socket_of(uid, ReplicaId(found.replica_id), metadata["namespace"], metadata["name"], port)
        return replace(found, kind=EndpointKind.UNIX, address=path)

    async def drop(self, replica_id: ReplicaId, pods: Iterable[Item]) -> None:
        for pod in pods:
            self._routed.pop(pod["metadata"]["uid"], None)
        await self._forwards.drop(replica_id)

    async def close(self) -> None:
        await self._forwards.close()
