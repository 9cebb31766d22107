"""Room that is announced and never used is free again soon; bytes that come keep it, however slowly."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from control_plane.accounts.storage import StorageRoom
from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account, AccountKind, Actor, Via
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import AccountId, RepoId, new_id
from control_plane.domain.spaces import Repo, RepoType, Visibility
from control_plane.git.lfs import FileLfsStore
from control_plane.git.lfs_http import LfsDeps, lfs_router
from control_plane.git.smart_http import RepoAccess, RepoPath, Service
from tests.fakes.clock import FixedClock

HELD_S, GB = 1800.0, 1e9
ONE, TWO = os.urandom(3000), os.urandom(3000)  # the owner has room for one of them


@dataclass
class Place:
    client: httpx.AsyncClient
    room: StorageRoom
    clock: FixedClock
    db: Database
    owner: Account

    async def announce(self, data: bytes) -> tuple[int, str]:
        item = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
        body = {"operation": "upload", "objects": [item]}
        reply = await self.client.post("/Ann/demo.git/info/lfs/objects/batch", json=body)
        return reply.status_code, reply.json()["objects"][0]["actions"]["upload"]["href"] if reply.status_code == 200 else ""

    async def used(self) -> int:
        async with self.db.read() as work:
            return (await work.quotas.held(self.owner.id)).storage_bytes


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    db = create_database(f"sqlite:///{tmp_path / 'v.db'}")
    await db.migrate()
    clock, repo_id = FixedClock(), RepoId(new_id())
    owner = Account(AccountId(new_id()), AccountKind.USER, "Ann", "Ann", clock.now())
    async with db.write() as work:
        await work.accounts.add(owner)
        await work.quotas.set_limit("ann", "storage-gb", 5000 / GB)
        at = clock.now()
        await work.repos.add(Repo(repo_id, RepoType.MODEL, owner.id, "Ann", "demo", Visibility.PUBLIC, at, at, owner.id))
    lfs = FileLfsStore(tmp_path / "lfs")

    async def measure(of: RepoId) -> int:
        return sum([await lfs.has(of, hashlib.sha256(data).hexdigest()) or 0 for data in (ONE, TWO)])

    async def authorize(path: RepoPath, service: Service, headers: Mapping[str, str], address: str) -> RepoAccess:
        return RepoAccess(repo_id, Actor(via=Via.TOKEN, user=owner), True, "")

    async def still_allowed(repo_id: RepoId, holder: str, service: Service) -> None:
        assert holder == f"{owner.id}."

    room = StorageRoom(db, clock, lambda: FlavorCatalog(()), measure)
    app = FastAPI()
    deps = LfsDeps(lfs, authorize, still_allowed, b"k" * 32, storage=room, held_s=HELD_S, now=lambda: clock.now().timestamp())
    app.include_router(lfs_router(deps))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
        yield Place(client, room, clock, db, owner)
    await db.close()


async def test_an_upload_that_never_comes_gives_its_room_back(place: Place) -> None:
    status, one = await place.announce(ONE)
    assert status == 200
    assert (await place.announce(TWO))[0] == 507
    place.clock.advance(HELD_S + 1)
    assert await place.room.settle_overdue() == 1
    status, two = await place.announce(TWO)
    assert status == 200
    late: Any = await place.client.put(one, content=ONE)
    assert late.status_code == 507, "its address is still good, and its room is another's now"
    assert (await place.client.put(two, content=TWO)).status_code == 200
    assert await place.used() == 3000
    assert (await place.client.put(two, content=TWO)).status_code == 200, "sent again: nothing more is asked for"


async def test_a_late_upload_gets_room_again_where_there_is_some(place: Place) -> None:
    _, one = await place.announce(ONE)
    place.clock.advance(HELD_S + 1)
    assert await place.room.settle_overdue() == 1
    assert (await place.client.put(one, content=ONE)).status_code == 200
    assert await place.used() == 3000


async def test_bytes_that_come_slowly_keep_the_room(place: Place) -> None:
    _, one = await place.announce(ONE)

    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, 3000, 1000):
            yield ONE[start : start + 1000]
            place.clock.advance(HELD_S * 0.6)
            assert await place.room.settle_overdue() == 0
            assert (await place.announce(TWO))[0] == 507

    assert (await place.client.put(one, content=slowly())).status_code == 200
    assert await place.used() == 3000
