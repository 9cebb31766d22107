"""The proxy's copy of the route table: fed by a RouteFeed, kept on disk, compiled for look-ups by Host.

A record that cannot be compiled is skipped and counted; it never keeps another one from being served. The file on disk
lets a restarted proxy serve before anybody else is up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from control_plane.domain.errors import Rejected
from control_plane.domain.reasons import Reason
from control_plane.domain.routes import IdleRule, Route, RouteAccess, RouteChange, RouteState, RouteTable
from control_plane.proxy.activity import Activity, SpaceActivity
from control_plane.proxy.limits import Bucket
from control_plane.proxy.pool import Pool, Pools

_log = logging.getLogger("vitrine.proxy")
_SAFE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SAFE_VALUE = re.compile(r"[\t\x20-\x7e]*")
_UNSAFE_NAME = re.compile(r'[\x00-\x1f\x7f"\\]')  # names stand in log lines and labels of metrics
_SAFE_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.\-]*[a-z0-9])?")


def _check(route: Route) -> None:
    """What the data path takes for granted of a record; raises Rejected, TypeError or ValueError."""
    if not _SAFE_HOST.fullmatch(route.host) or (route.redirect_to and not _SAFE_HOST.fullmatch(route.redirect_to)):
        raise Rejected(f"not a host name: {route.host!r}")
    words = (route.space_id, route.space_name, route.revision, route.title, route.emoji, route.reason, route.message)
    if not all(isinstance(word, str) for word in words) or _UNSAFE_NAME.search(route.space_name + route.revision):
        raise Rejected("not the words of a Space")
    if route.eta_s is not None and not 0 <= route.eta_s < 1e9:  # NaN is neither
        raise Rejected(f"not a time to wait: {route.eta_s!r}")
    if route.generation < 0:
        raise Rejected("not a generation")


class Entry:
    """One route compiled: what the data path reads per request."""

    __slots__ = (
        "activity",
        "bucket",
        "host",
        "is_plain",
        "is_private",
        "is_ready",
        "kept_by_quota",
        "log_part",
        "messages_are_use",
        "pools",
        "response_suffix",
        "route",
    )

    def __init__(self, route: Route, pools: tuple[Pool, ...], activity: SpaceActivity, bucket: Bucket, embed_origin: str) -> None:
        self.route = route
        self.host = route.host.encode("ascii")
        self.log_part = f'"space":"{route.space_name}","revision":"{route.revision}",'.encode()
        self.pools = pools
        self.activity = activity
        self.bucket = bucket
        self.is_private = route.access is not RouteAccess.PUBLIC
        self.messages_are_use = route.idle_rule is not IdleRule.REQUESTS
        self.is_ready = route.state is RouteState.READY and bool(pools) and not route.redirect_to
        self.kept_by_quota = route.state is RouteState.ASLEEP and route.reason == Reason.QUOTA.value
        lines = [("X-Vitrine-Revision", route.revision), *route.headers.items()]
        if not route.allow_embedding:
            lines.append(("Content-Security-Policy", f"frame-ancestors 'self' {embed_origin}"))
        for name, value in lines:
            if not _SAFE_NAME.fullmatch(name) or not _SAFE_VALUE.fullmatch(value):
                raise Rejected(f"not a header: {name!r}")
        self.is_plain = self.is_ready and not self.is_private and len(pools) == 1
        self.response_suffix = "".join(f"\r\n{n}: {v}" for n, v in lines).encode("ascii")


class Table:
    """Host → Entry. `on_change(host)` is called after each applied change, so that waiting requests can look again."""

    def __init__(
        self, pools: Pools, activity: Activity, *, file: Path | None, embed_origin: str, space_rate: float, space_burst: float
    ) -> None:
        self._pools = pools
        self._activity = activity
        self._file = file
        self._embed_origin = embed_origin
        self._space_rate = space_rate
        self._space_burst = space_burst
        self._entries: dict[str, Entry] = {}
        self._dirty = False
        self.epoch = ""
        self.version = -1
        self.loaded = False
        self.skipped = 0
        self.on_change: Callable[[str], None] = lambda host: None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, host: str) -> Entry | None:
        return self._entries.get(host)

    def apply(self, update: RouteTable | RouteChange) -> bool:
        """False when the change does not follow on what is known (a gap): the feed will send a table."""
        if isinstance(update, RouteTable):
            gone = self._entries.keys() - update.routes.keys() if update.complete else set()
            for host in gone:
                self._remove(host)
            for host, route in update.routes.items():
                self._put(host, route)
            self.epoch, self.version, self._dirty = update.epoch, update.version, True
            self.loaded |= update.complete
            self._activity.forget(entry.route.space_id for entry in self._entries.values())
            for host in (*gone, *update.routes):
                self._changed(host)
            return True
        if update.epoch != self.epoch or update.version > self.version + 1:
            return False
        if update.version <= self.version:
            return True  # seen already
        if update.route is None:
            self._remove(update.host)
        else:
            self._put(update.host, update.route)
        self.version, self._dirty = update.version, True
        self._changed(update.host)
        return True

    def _changed(self, host: str) -> None:
        try:
            self.on_change(host)
        except Exception:  # of one Space's waiting requests: the changes of others follow
            _log.exception("route_change_failed host=%r", host)

    def _put(self, host: str, route: Route) -> None:
        known = self._entries.get(host)
        if known is not None and known.route == route:
            return
        try:
            if route.host != host:
                raise Rejected("a route under another host's name")
            _check(route)
            if known is not None and known.route.space_id == route.space_id and route.generation < known.route.generation:
                return
            pools = tuple(self._pools.acquire(endpoint) for endpoint in route.endpoints)
            try:
                activity = self._activity.of(route.space_id, route.space_name)
                bucket = known.bucket if known is not None else Bucket(self._space_rate, self._space_burst, 0.0)
                entry = Entry(route, pools, activity, bucket, self._embed_origin)
            except BaseException:
                self._release(pools)
                raise
        except (Rejected, UnicodeError, TypeError, AttributeError, ValueError) as error:
            self.skipped += 1
            _log.warning("route_skipped host=%r error=%s", host, error)
            return
        self._entries[host] = entry
        if known is not None:
            self._release(known.pools)

    def _remove(self, host: str) -> None:
        entry = self._entries.pop(host, None)
        if entry is not None:
            self._release(entry.pools)

    def _release(self, pools: tuple[Pool, ...]) -> None:
        for pool in pools:
            self._pools.release(pool)

    def load(self) -> bool:
        """Read the table of the last run. False when there is none that can be read."""
        if self._file is None:
            return False
        try:
            body = json.loads(self._file.read_bytes())
            records = dict(body["routes"])
            self.epoch, self.version = str(body["epoch"]), int(body["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        for host, record in records.items():
            try:
                self._put(host, Route.from_payload(record))
            except Rejected:
                self.skipped += 1
        self.loaded = True
        return True

    def save(self) -> None:
        """Write the table when it changed since; atomic, a failure is left for the next tick."""
        if self._file is None or not self._dirty:
            return
        self._dirty = False
        body = {"epoch": self.epoch, "version": self.version, "routes": {h: e.route.to_payload() for h, e in self._entries.items()}}
        temporary = self._file.with_name(self._file.name + f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps(body), encoding="utf-8")
            os.replace(temporary, self._file)
        except OSError:
            self._dirty = True
            with contextlib.suppress(OSError):
                temporary.unlink()
