"""Copying bytes between an app's connection and the outside: counted, paced, with back-pressure and half-closes.

Standard library only; part of the gateway (`egress.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import cast

# Per replica. The gateway shares a core with the scheduler, so no app may have all of it; models still arrive quickly.
SEND_BYTES_PER_S = 20 << 20
RECEIVE_BYTES_PER_S = 100 << 20


class Traffic:
    """What one replica moves: bytes since start, the paces, and the connections that are open."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.send_pace = Pace(SEND_BYTES_PER_S)
        self.receive_pace = Pace(RECEIVE_BYTES_PER_S)
        self.transports: set[asyncio.Transport] = set()


class Pace:
    """A rate with a second of burst. Pure: `take` gives the seconds to wait after `count` bytes at time `now`."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0

    def take(self, count: int, now: float) -> float:
        self._free_at = max(self._free_at, now - 1.0) + count / self._rate
        return max(0.0, self._free_at - now)


class Pipe(asyncio.Protocol):
    """One side of a connection; what it reads goes to the other side, no faster than that side and the pace allow."""

    def __init__(self, traffic: Traffic, *, sends: bool) -> None:
        self._traffic = traffic
        self._sends = sends
        self._pace = traffic.send_pace if sends else traffic.receive_pace
        self._has_ended = False
        self._holds = {"start"}  # why this side is not read from now
        self._peer: Pipe | None = None
        self._early: list[bytes] = []  # uvloop may deliver one read although reading was paused at once
        self.transport: asyncio.Transport | None = None

    def join(self, other: Pipe) -> None:
        self._peer, other._peer = other, self
        for side, opposite in ((self, other), (other, self)):
            if side.transport is None or side.transport.is_closing():
                if opposite.transport is not None:
                    opposite.transport.abort()
            else:
                if opposite.transport is not None:
                    opposite.transport.writelines(side._early)
                    if side._has_ended:
                        with contextlib.suppress(OSError, RuntimeError):
                            opposite.transport.write_eof()
                side._early.clear()
                side.release("start")

    def hold(self, why: str) -> None:
        if not self._holds and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self._holds.add(why)

    def release(self, why: str) -> None:
        self._holds.discard(why)
        if not self._holds and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's transports have the methods, not the base class
        self.transport = stream
        self._traffic.transports.add(stream)
        stream.pause_reading()  # until both sides are there

    def data_received(self, data: bytes) -> None:
        if self._sends:
            self._traffic.sent_bytes += len(data)
        else:
            self._traffic.received_bytes += len(data)
        if self._peer is None:
            self._early.append(data)
        elif self._peer.transport is not None:
            self._peer.transport.write(data)
        wait_s = self._pace.take(len(data), time.monotonic())
        if wait_s > 0:
            self.hold("pace")
            asyncio.get_running_loop().call_later(wait_s, self.release, "pace")

    def eof_received(self) -> bool:
        """Pass a half-close on and keep the other half; when both halves have ended, end the connection."""
        self._has_ended = True
        if self._peer is None:
            return True  # `join` passes it on
        if self._peer.transport is None or self._peer._has_ended:
            return False  # asyncio then closes us, and connection_lost closes the other side
        with contextlib.suppress(OSError, RuntimeError):
            self._peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer.hold("peer")

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer.release("peer")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self._traffic.transports.discard(self.transport)
        if self._peer is not None and self._peer.transport is not None:
            self._peer.transport.close()
