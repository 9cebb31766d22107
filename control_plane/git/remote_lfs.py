"""The large files of another git server's repository, by the git-lfs batch API (transfer `basic`) of its address.

Every host that is asked, also where a file is handed out or a redirect leads, is looked up and judged as the repository's own,
and reached through a door that leads only there. What comes counts as large files of the new repository once its hash is right.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import RepoId
from control_plane.git.connect_proxy import ConnectProxy
from control_plane.net.public_address import addresses_of
from control_plane.ports.git import LfsPointer, LfsStore
from control_plane.ports.git_import import Say

_MEDIA_TYPE = "application/vnd.git-lfs+json"
_OBJECTS_PER_BATCH = 100
_ANSWER_BYTES = 4 << 20
_CHUNK = 1 << 20
_HOPS = 4
_SILENCE_S = 60.0
_FIELD_NAME = re.compile(r"[A-Za-z0-9-]{1,100}")
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "range", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class _Download:
    url: str
    headers: Mapping[str, str]


class RemoteLargeFiles:
    """`allow`: `host:port` that may be asked although private or plain HTTP. `ca_file`: whose certificates count, "" = the usual."""

    def __init__(self, lfs: LfsStore, allow: Collection[str], ca_file: str) -> None:
        self._lfs, self._allow = lfs, frozenset(allow)
        self._trust = ssl.create_default_context(cafile=ca_file or None)

    async def bring(self, url: str, wanted: Sequence[LfsPointer], into: RepoId, say: Say) -> None:
        """Fetch all of `wanted` from the repository at `url` into `into`. Rejected in words when one cannot be had."""
        host, done, total = urlsplit(url).hostname or "", 0, sum(p.size for p in wanted)
        for start in range(0, len(wanted), _OBJECTS_PER_BATCH):
            batch = wanted[start : start + _OBJECTS_PER_BATCH]
            offers = await self._offers(url, host, batch)
            for number, pointer in enumerate(batch, start + 1):
                say(f"Large file {number} of {len(wanted)}: {done >> 20:,} of {total >> 20:,} MiB")
                await self._fetch(offers[pointer.oid], pointer, into)
                done += pointer.size

    async def _offers(self, url: str, host: str, batch: Sequence[LfsPointer]) -> dict[str, _Download]:
        """Where each object can be had: oid → download."""
        order = {
            "operation": "download",
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": p.oid, "size": p.size} for p in batch],
        }
        endpoint = (url if url.endswith(".git") else f"{url.rstrip('/')}.git") + "/info/lfs/objects/batch"
        async with self._answer("POST", endpoint, {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}, _ANSWER_BYTES, order) as answer:
            text = b"".join([chunk async for chunk in answer.aiter_bytes()])
        try:
            offers = {str(o["oid"]): o for o in httpx.Response(200, content=text).json()["objects"]}
        except (ValueError, KeyError, TypeError):
            raise Rejected(f"{host} does not speak git-lfs: the large files cannot be had from there.") from None
        return {p.oid: _offer(offers.get(p.oid), p, host) for p in batch}

    async def _fetch(self, offer: _Download, pointer: LfsPointer, into: RepoId) -> None:
        async with self._answer("GET", offer.url, offer.headers, pointer.size + (1 << 20)) as answer:
            await self._lfs.put(into, pointer.oid, pointer.size, answer.aiter_raw(_CHUNK))

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, url: str, headers: Mapping[str, str], max_bytes: int, body: object = None
    ) -> AsyncIterator[httpx.Response]:
        """The good answer of `url`, redirects of a GET followed. At most `max_bytes` come. Raises Rejected."""
        for _ in range(_HOPS):
            async with self._one(method, url, headers, max_bytes, body) as answer:
                if method == "GET" and answer.is_redirect and "location" in answer.headers:
                    there = urljoin(url, answer.headers["location"])
                    if urlsplit(there).netloc != urlsplit(url).netloc:
                        headers = {}  # what one server gave us is no other's to see
                    url = there
                    continue
                if answer.status_code != 200:
                    raise Rejected(f"{urlsplit(url).hostname} answers {answer.status_code} for its large files: they cannot be had.")
                yield answer
                return
        raise Rejected(f"{urlsplit(url).hostname} sends elsewhere again and again.")

    @contextlib.asynccontextmanager
    async def _one(self, method: str, url: str, headers: Mapping[str, str], max_bytes: int, body: object) -> AsyncIterator[httpx.Response]:
        host, port, is_tls, is_allowed = self._place(url)
        found = await addresses_of(host.strip("[]"), port, allow_private=is_allowed)
        door = ConnectProxy(f"{host}:{port}", found, port, max_bytes + (1 << 16))  # its TLS counts too
        try:
            async with (
                door.listening() as proxy,
                httpx.AsyncClient(
                    proxy=proxy if is_tls else None, verify=self._trust, trust_env=False, follow_redirects=False, timeout=_SILENCE_S
                ) as client,
                client.stream(method, url, headers={**headers, "Accept-Encoding": "identity"}, json=body) as answer,
            ):
                yield answer
        except httpx.HTTPError as error:
            raise Rejected(f"{host} {_why(door, error)}: its large files cannot be had.") from error

    def _place(self, url: str) -> tuple[str, int, bool, bool]:
        """(host, port, is TLS, is named by the operator) of an address that another server gave. Rejected when it may not be asked."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
        except ValueError:
            raise Rejected("The server names an address for its large files that is none.") from None
        shown = f"[{host}]" if ":" in host else host
        is_allowed = f"{shown}:{port}" in self._allow
        if not host or (parts.scheme != "https" and not (parts.scheme == "http" and is_allowed)):
            raise Rejected("The server hands its large files out over plain HTTP; only https:// is asked.")
        return shown, port, parts.scheme == "https", is_allowed


def _offer(found: Any, pointer: LfsPointer, host: str) -> _Download:
    """One object of a batch answer. Rejected when it is not on offer."""
    known = _mapping(found)
    download = _mapping(_mapping(known.get("actions")).get("download"))
    if isinstance(download.get("href"), str):
        return _Download(download["href"], {k: v for k, v in _mapping(download.get("header")).items() if _may_send(k, v)})
    if why := _mapping(known.get("error")).get("message"):
        raise Rejected(f"{host} does not give the large file {pointer.oid[:12]}…: {str(why)[:200]}")
    raise Rejected(f"{host} does not have the large file {pointer.oid[:12]}… that the repository names.")


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _why(door: ConnectProxy, error: httpx.HTTPError) -> str:
    if door.is_spent:
        return "sends more than it said"
    return "has a certificate that is not trusted here" if "CERTIFICATE" in str(error) else "stopped answering"


def _may_send(name: object, value: object) -> bool:
    return (
        isinstance(name, str) and isinstance(value, str) and _FIELD_NAME.fullmatch(name) is not None
        and name.lower() not in _OURS and value.isascii() and value.isprintable() and len(value) < 8192
    )  # fmt: skip
