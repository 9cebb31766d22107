"""The gate of maintenance: one dependency of every route of the API process.

What only reads passes whatever its method is; so do operators (`/api/admin`, `/admin`), the platform's own processes and signing
in. Bytes of pushes and uploads are refused further in, by `accounts.storage`, where the person who pushes reads why.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import Request

from control_plane.accounts.maintenance import refuse_changes
from control_plane.ports.stores import UnitOfWorkFactory

_READING = ("GET", "HEAD", "OPTIONS")
_PASSES = re.compile(
    r"/(?:api/admin|admin|internal|sign-in|sign-out|oauth|-|api/telemetry)(?:/.*)?"
    r"|/.+/(?:git-upload-pack|git-receive-pack|info/lfs/objects/batch)|/v1/telemetry"
    r"|/api/(?:validate-yaml|tokens/revoke-leaked)"
    r"|/api/[^/]+/[^/]+/[^/]+/(?:paths-info|preupload)/.*"
)


def maintenance_gate(uow: UnitOfWorkFactory) -> Callable[[Request], Awaitable[None]]:
    """Raises Maintenance (503 with Retry-After) for a request that changes something while maintenance lasts."""

    async def gate(request: Request) -> None:
        if request.method in _READING or _PASSES.fullmatch(request.scope["path"]):
            return
        async with uow.read() as work:
            await refuse_changes(work)

    return gate
