"""Looking after a platform: audit log, maintenance, keys, backup, garbage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from control_plane.accounts import key_rotation, maintenance
from control_plane.domain.errors import Rejected
from control_plane.http.long_work import Tell, follow

if TYPE_CHECKING:
    from control_plane.api.admin import Door

_EXPORT_PAGE = 1000


class MaintenanceChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    on: bool
    message: str = Field(default=maintenance.DEFAULT_WORDS, max_length=maintenance.MAX_WORDS)


class KeyChange(BaseModel):
    """`rotate`: a new key, then everything is wrapped with it. `rewrap`: only the second half. `retire`: old keys go.

    `signing`, with `retire`: what signs cookies and links goes too, at the next start of every process.
    """

    model_config = ConfigDict(extra="forbid")
    rotate: bool = False
    retire: bool = False
    signing: bool = False


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def routes(api: APIRouter, door: Door) -> None:
    _audit(api, door)
    _maintenance(api, door)
    _keys(api, door)
    _data(api, door)


def _audit(api: APIRouter, door: Door) -> None:
    uow = door.services.uow

    @api.get("/audit")
    async def list_audit(request: Request, since: datetime | None = None, actor: str | None = None, limit: int = 1000) -> JSONResponse:
        await door.admin(request)
        if since is not None and since.tzinfo is None:
            raise Rejected("since needs a time zone, for example 2026-08-01T00:00:00Z")
        async with uow.read() as work:
            rows = await work.audit.list(since=since, actor=actor, limit=max(1, min(limit, 100_000)))
        shown = ("id", "actor", "action", "subject", "address", "facts", "hash")
        return JSONResponse({"items": [{"at": _when(row["at"]), **{key: row[key] for key in shown}} for row in rows]})

    @api.get("/audit/verification")
    async def verify_audit(request: Request) -> Response:
        await door.admin(request)

        async def verify(tell: Tell) -> dict[str, Any]:
            good = 0

            def checked(count: int) -> None:
                nonlocal good
                good += count
                tell("events checked", good, total)

            async with uow.read() as work:
                total = await work.audit.count_before(door.services.clock.now() + timedelta(days=1))
                broken = await work.audit.verify(checked)
            return {"whole": broken is None, "first_broken_id": broken}

        return await follow(request, verify)

    @api.get("/audit/export")
    async def export_audit(request: Request) -> StreamingResponse:
        """Every row, oldest first, one JSON object a line, with the hashes that chain them: it can be checked elsewhere."""
        actor = await door.admin(request)
        async with uow.write() as work:
            await door.note(work, actor, "audit.export", "platform")
            total = await work.audit.count_before(door.services.clock.now() + timedelta(days=1))

        async def lines() -> AsyncIterator[bytes]:
            seen = 0
            while True:
                async with uow.read() as work:
                    page = await work.audit.page(after_id=seen, limit=_EXPORT_PAGE)
                for row in page:
                    seen = row["id"]
                    at = row["at"].isoformat(timespec="microseconds")
                    yield json.dumps({**row, "at": at}, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
                if len(page) < _EXPORT_PAGE:
                    return

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"X-Vitrine-Expected-Lines": str(total)})


def _maintenance(api: APIRouter, door: Door) -> None:
    uow, clock = door.services.uow, door.services.clock

    def shown(notice: maintenance.Notice | None) -> dict[str, Any]:
        if notice is None:
            return {"on": False, "message": "", "by": None, "since": None}
        return {"on": True, "message": notice.message, "by": notice.by, "since": _when(notice.since)}

    @api.get("/maintenance")
    async def show(request: Request) -> dict[str, Any]:
        await door.admin(request)
        async with uow.read() as work:
            return shown(await maintenance.current(work))

    @api.put("/maintenance")
    async def change(request: Request, body: MaintenanceChange) -> dict[str, Any]:
        actor = await door.admin(request)
        words = " ".join(body.message.split())
        if body.on and not (words and words.isprintable()):
            raise Rejected("the message of a maintenance is one printable line")
        notice = maintenance.Notice(words, actor.name, clock.now()) if body.on else None
        async with uow.write() as work:
            before = await maintenance.current(work)
            await maintenance.switch(work, notice)
            facts = {"before": before.message if before else "off", "after": words if body.on else "off"}
            await door.note(work, actor, "platform.maintenance", "platform", **facts)
        return shown(notice)


def _keys(api: APIRouter, door: Door) -> None:
    uow = door.services.uow

    async def shown() -> dict[str, Any]:
        box = door.services.keys.box
        async with uow.read() as work:
            counts = await key_rotation.keys_in_use(work, box)
        known = [{"id": key, "seals": key == box.newest, "known": True, "secrets": counts.pop(key, 0)} for key in box.key_ids]
        return {"items": [*known, *({"id": key, "seals": False, "known": False, "secrets": n} for key, n in counts.items())]}

    @api.get("/keys")
    async def show(request: Request) -> dict[str, Any]:
        """Ids of the master keys and how many secrets each one wraps; never a key."""
        await door.admin(request)
        return await shown()

    @api.post("/keys")
    async def change(request: Request, body: KeyChange) -> Response:
        actor = await door.admin(request)
        services = door.services
        before = services.keys.box.newest
        if body.retire:
            found = [row for row in (await shown())["items"] if not row["seals"] and row["secrets"]]
            if found:
                raise Rejected(f"{found[0]['secrets']} secrets are wrapped with the old key {found[0]['id']}; run `key rewrap` first")
        if body.rotate or body.retire:
            services.change_master_key(retire=body.retire, signing=body.signing)

        async def rewrap(tell: Tell) -> dict[str, Any]:
            async with uow.write() as work:
                changed, lost = await key_rotation.rewrap_all(
                    work, services.keys.box, services.keys.box.newest, lambda done, total: tell("secrets", done, total)
                )
                facts = {"before": before, "after": services.keys.box.newest, "rewrapped": changed, "unreadable": lost}
                await door.note(work, actor, "platform.retire_keys" if body.retire else "platform.rotate_key", "platform", **facts)
            return {"key": services.keys.box.newest, "rewrapped": changed, "unreadable": lost, **await shown()}

        return await follow(request, rewrap)


def _data(api: APIRouter, door: Door) -> None:
    uow = door.services.uow

    @api.get("/backup")
    async def backup(request: Request) -> StreamingResponse:
        from control_plane.api.backup import expected_bytes, stream_backup

        actor = await door.admin(request)
        async with uow.write() as work:
            await door.note(work, actor, "platform.backup", "platform")
        data_dir = door.services.settings.data_dir
        headers = {"X-Vitrine-Expected-Bytes": str(await asyncio.to_thread(expected_bytes, data_dir))}
        return StreamingResponse(stream_backup(door.services.database, data_dir), media_type="application/x-tar", headers=headers)

    @api.post("/gc")
    async def collect(request: Request, dry_run: bool = True) -> Response:
        from control_plane.api.garbage import collect_garbage

        actor = await door.admin(request)

        async def run(tell: Tell) -> dict[str, Any]:
            found = await collect_garbage(door.services, dry_run=dry_run, tell=tell)
            total = sum(entry["bytes"] for entry in found)
            if not dry_run:
                async with uow.write() as work:
                    await door.note(work, actor, "platform.gc", "platform", freed_bytes=total, entries=len(found))
            return {"dry_run": dry_run, "items": found, "bytes": total}

        return await follow(request, run)
