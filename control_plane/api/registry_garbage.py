"""Images in the registry that no Space can come back to: found by comparing tags with rows; forgotten, or only told.

A build pushes `PREFIX/<space>:<build>` and a Deployment names it by digest. Deleting a manifest makes the image unreachable; the
registry gives its layers' space back at its own `garbage-collect`.
https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from typing import Any

import httpx

from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import BuildId
from control_plane.net.registry import connect
from control_plane.ports.clock import Clock
from control_plane.ports.stores import UnitOfWorkFactory

GRACE = timedelta(hours=1)  # a younger build's success may be about to be recorded
_PAGE = 200
_KINDS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)  # fmt: skip


class RegistryImages:
    """`address` is `host:port[/prefix]`, as builders push to it. Raises Unavailable when the registry does not answer or refuses."""

    def __init__(self, address: str, auth: httpx.Auth | None = None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.host, _, prefix = address.partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._auth, self._transport = auth, transport

    async def garbage(
        self, uow: UnitOfWorkFactory, clock: Clock, known: Collection[str], kept: Collection[str], *, dry_run: bool
    ) -> list[dict[str, Any]]:
        """`known`: ids of Spaces. `kept`: refs (`host/name@digest`) that deployments name. A digest named once keeps all of its tags."""
        found: list[dict[str, Any]] = []
        digests = {ref.rpartition("@")[2] for ref in kept if "@" in ref}
        client = await connect(self.host, self._auth, self._transport)
        try:
            async for name in self._repositories(client):
                why = "no deployment names it" if name.removeprefix(self._prefix) in known else "its Space is gone"
                tags = {tag: await self._digest(client, name, tag) for tag in await self._tags(client, name)}
                going_on = {digest for tag, digest in tags.items() if not await _is_over(uow, clock, tag)}
                for tag, digest in tags.items():
                    if not digest or digest in digests | going_on:
                        continue
                    found.append({"kind": "image", "name": f"{self.host}/{name}:{tag}", "why": why, "bytes": 0})
                    if not dry_run:
                        await self._asked(client, "DELETE", f"/v2/{name}/manifests/{digest}")
        finally:
            await client.aclose()
        return found

    async def _asked(self, client: httpx.AsyncClient, method: str, path: str) -> httpx.Response | None:
        """None for what is gone already."""
        try:
            answer = await client.request(method, path, headers={"Accept": _KINDS})
        except httpx.HTTPError as error:
            raise Unavailable(f"the registry {self.host} does not answer") from error
        if answer.status_code == 404:
            return None
        if answer.status_code == 405:
            raise Unavailable(f"the registry {self.host} deletes nothing; set REGISTRY_STORAGE_DELETE_ENABLED=true there")
        if answer.status_code >= 400:
            raise Unavailable(f"the registry {self.host} answered {answer.status_code} to {method} {path}")
        return answer

    async def _repositories(self, client: httpx.AsyncClient) -> AsyncIterator[str]:
        """Ours: `PREFIX<space id>`; what others keep beside is left alone."""
        last = ""
        while True:
            answer = await self._asked(client, "GET", f"/v2/_catalog?n={_PAGE}" + (f"&last={last}" if last else ""))
            names = answer.json().get("repositories") or [] if answer else []
            for name in names:
                rest = name.removeprefix(self._prefix)
                if name.startswith(self._prefix) and len(rest) == 24 and set(rest) <= set("0123456789abcdef"):
                    yield name
            if len(names) < _PAGE:
                return
            last = names[-1]

    async def _tags(self, client: httpx.AsyncClient, name: str) -> list[str]:
        answer = await self._asked(client, "GET", f"/v2/{name}/tags/list")
        return sorted(answer.json().get("tags") or []) if answer else []

    async def _digest(self, client: httpx.AsyncClient, name: str, tag: str) -> str:
        answer = await self._asked(client, "HEAD", f"/v2/{name}/manifests/{tag}")
        return answer.headers.get("docker-content-digest", "") if answer else ""


async def _is_over(uow: UnitOfWorkFactory, clock: Clock, tag: str) -> bool:
    """Whether the build that pushed this tag can have nothing more to say."""
    async with uow.read() as work:
        build = await work.builds.get(BuildId(tag))
    return build is None or (build.status.is_terminal and build.finished_at is not None and clock.now() - build.finished_at > GRACE)
