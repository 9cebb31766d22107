"""One connection to a pod's port through the API server, in the event loop: a WebSocket client for `v4.channel.k8s.io`.

The official client's needs a thread for each connection and leaves our end open when the far one fails. Channel 0 carries data,
channel 1 the kubelet's words on an error; each begins with the port's number.
https://kubernetes.io/docs/reference/using-api/websockets/ and RFC 6455
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
from typing import Any
from urllib.parse import urlsplit

from kubernetes.client import Configuration

from control_plane.domain.errors import Unavailable
from control_plane.runtimes.kubernetes.api import KubeApi

_OPEN_S = 15.0
_CHUNK = 1 << 15
_LONGEST_FRAME = 1 << 24
_CONTINUED, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA


class PodStream:
    """Reading and writing may go on side by side; one reader and one writer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._begun: set[int] = set()  # channels whose port number has come
        self._channel = 0  # of the message that is going on
        self.error = ""  # what the kubelet said, once it said something

    async def read(self) -> bytes:
        """The app's next bytes; b"" when its side has ended."""
        while not self.error:
            try:
                data = await self._message()
            except (asyncio.IncompleteReadError, OSError):
                return b""
            if data is None:
                return b""
            if data:
                return data
        return b""

    async def write(self, data: bytes) -> None:
        """Raises OSError when the connection is gone."""
        for start in range(0, len(data), _CHUNK):
            self._writer.write(_frame(_BINARY, b"\x00" + data[start : start + _CHUNK]))
            await self._writer.drain()

    async def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(_frame(_CLOSE, b"\x03\xe8"))  # 1000: normal
            self._writer.close()
            await self._writer.wait_closed()

    async def _message(self) -> bytes | None:
        """One frame's data for the app; b"" for a frame that held none, None for the end."""
        first, second = await self._reader.readexactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        if second & 0x80 or size > _LONGEST_FRAME:
            return None  # no server masks, and none sends that much at once
        data = await self._reader.readexactly(size)
        match first & 0x0F:
            case code if code == _BINARY and data:
                self._channel, data = data[0], data[1:]
            case code if code == _CONTINUED:
                pass
            case code if code == _PING:
                self._writer.write(_frame(_PONG, data))
                return b""
            case code if code == _CLOSE:
                return None
            case _:
                return b""
        if self._channel not in self._begun:
            self._begun.add(self._channel)
            data = data[2:]
        if self._channel == 1:
            self.error += data.decode("utf-8", "replace")
            return b""
        return data


class PodDoor:
    """Opens streams with the credentials of `api`."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._tls: ssl.SSLContext | None = None

    async def open(self, namespace: str, pod: str, port: int) -> PodStream:
        """Raises Unavailable when the API server does not let us, or does not answer."""
        settings: Any = self._api.configuration
        host = urlsplit(settings.host)
        secure = host.scheme == "https"
        try:
            async with asyncio.timeout(_OPEN_S):
                if secure and self._tls is None:
                    self._tls = await asyncio.to_thread(tls_of, settings)
                authorization = await asyncio.to_thread(_authorization, settings)
                reader, writer = await asyncio.open_connection(
                    host.hostname, host.port or (443 if secure else 80), ssl=self._tls,
                    server_hostname=(settings.tls_server_name or host.hostname) if secure else None,
                )  # fmt: skip
                try:
                    path = f"{host.path.rstrip('/')}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
                    await _upgrade(reader, writer, host.netloc.rpartition("@")[2], path, authorization)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"the API server opens no way to the pod {pod}: {type(error).__name__}") from error
        return PodStream(reader, writer)


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str, authorization: str) -> None:
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Protocol: v4.channel.k8s.io",
        *((f"Authorization: {authorization}",) if authorization else ()),
    ]  # fmt: skip
    writer.write("\r\n".join((*lines, "", "")).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = head.split(" ", 2)[1:2]
    if status != ["101"]:
        raise Unavailable(f"the API server answered {' '.join(status)} to a port-forward")


def tls_of(settings: Configuration) -> ssl.SSLContext:
    """What the kubeconfig says about the server's certificate and ours."""
    found: Any = settings
    context = ssl.create_default_context(cafile=found.ssl_ca_cert)
    if found.cert_file:
        context.load_cert_chain(found.cert_file, found.key_file)
    if not found.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif found.assert_hostname is False:
        context.check_hostname = False
    return context


def _authorization(settings: Any) -> str:
    """May run the kubeconfig's credential plugin."""
    return str(settings.get_api_key_with_prefix("authorization") or "") or (settings.get_basic_auth_token() if settings.username else "")


def _frame(code: int, data: bytes) -> bytes:
    """A whole message of a client: masked, as the protocol wants it."""
    key, size = os.urandom(4), len(data)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    mask = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
    return bytes([0x80 | code]) + length + key + masked
