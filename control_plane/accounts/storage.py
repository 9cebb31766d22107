"""Room for bytes: what a push or an upload is about to store is reserved before it is taken in.

A reservation counts as use from the transaction that checked the quota until the repository was measured again. Whoever
dies in between leaves it behind: it still counts, and `settle_overdue` measures and ends it, as soon as it knows that the process
is gone. So parallel uploads cannot pass a limit together, and the use that a quota sees is never less than what lies on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from control_plane.accounts import quotas
from control_plane.accounts.maintenance import refuse_changes
from control_plane.domain.errors import RepoNotFound
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import RepoId, new_id
from control_plane.domain.quotas import STORAGE_HOLD, QuotaKey
from control_plane.ports.clock import Clock
from control_plane.ports.stores import UnitOfWorkFactory

_TRIES = 5


class Processes(Protocol):
    """Who of this platform's processes is gone."""

    def own(self) -> str: ...  # the mark of this process; "" = nobody could tell
    def is_gone(self, mark: str) -> bool: ...


class StorageRoom:
    """`measure` gives the bytes of a repository as they lie on disk, large files included."""

    def __init__(
        self,
        uow: UnitOfWorkFactory,
        clock: Clock,
        catalog: Callable[[], FlavorCatalog],
        measure: Callable[[RepoId], Awaitable[int]],
        processes: Processes | None = None,
    ) -> None:
        self._uow, self._clock, self._catalog, self._measure, self._processes = uow, clock, catalog, measure, processes

    async def hold(self, repo_id: RepoId, sizes: Mapping[str, int], *, life_s: float = 600.0, is_ours: bool = False) -> None:
        """Reserve bytes for the repository's owner, all of `sizes` (name in this repository → bytes) or none.

        A name that is held already is replaced. QuotaExceeded when the owner's storage has no room, Maintenance while
        that lasts. After `life_s`, `settle_overdue` ends what nobody settled; with `is_ours`, for bytes that come in one
        request to this process, as soon as this process is gone.
        """
        now = self._clock.now()
        until = (now + timedelta(seconds=life_s)).isoformat()
        by = self._processes.own() if is_ours and self._processes else ""
        async with self._uow.write() as uow:
            await refuse_changes(uow)
            repo = await uow.repos.get(repo_id)
            owner = await uow.accounts.get(repo.owner_id) if repo else None
            if repo is None or owner is None:
                raise RepoNotFound()
            more = 0
            for name, size in sizes.items():
                known = await uow.documents.get(STORAGE_HOLD, f"{repo_id}/{name}")
                more += size - (int(known["bytes"]) if known else 0)
            await quotas.check(uow, owner, QuotaKey.STORAGE_GB, max(0, more) / 1e9, catalog=self._catalog(), now=now)
            for name, size in sizes.items():
                body = {"repo_id": repo_id, "name": name, "bytes": size, "until": until, "by": by}
                await uow.documents.put(STORAGE_HOLD, f"{repo_id}/{name}", owner.id, body)

    async def keep(self, repo_id: RepoId, name: str, *, life_s: float, is_ours: bool = False) -> bool:
        """Another `life_s` for a reservation whose bytes are coming, `is_ours`: to this process. False when there is none (any more)."""
        async with self._uow.write() as uow:
            known = await uow.documents.get(STORAGE_HOLD, f"{repo_id}/{name}")
            repo = await uow.repos.get(repo_id)
            if known is None or repo is None:
                return False
            until = (self._clock.now() + timedelta(seconds=life_s)).isoformat()
            by = {"by": self._processes.own()} if is_ours and self._processes else {}
            await uow.documents.put(STORAGE_HOLD, f"{repo_id}/{name}", repo.owner_id, {**known, "until": until, **by})
        return True

    async def settle(self, repo_id: RepoId, *names: str) -> None:
        """The bytes are in place, or will not come: count what is there and end the reservations."""
        for attempt in range(_TRIES):
            async with self._uow.read() as uow:
                before = await uow.repos.get(repo_id)
            size = await self._measure(repo_id) if before else 0
            async with self._uow.write() as uow:
                current = await uow.repos.get(repo_id)
                overtaken = before is not None and current is not None and current.storage_bytes != before.storage_bytes
                if overtaken and attempt < _TRIES - 1:
                    continue  # somebody measured meanwhile, maybe later than we did: look again
                if before is not None and current is not None and current.storage_bytes != size:
                    await uow.repos.save(replace(current, storage_bytes=size))
                for name in names:
                    await uow.documents.remove(STORAGE_HOLD, f"{repo_id}/{name}")
            return

    @asynccontextmanager
    async def room(self, repo_id: RepoId, size: int) -> AsyncIterator[None]:
        """Room for `size` bytes while the block stores them."""
        name = new_id()
        await self.hold(repo_id, {name: size}, is_ours=True)
        try:
            yield
        finally:
            await self.settle(repo_id, name)

    async def settle_overdue(self) -> int:
        """Measure what was reserved and not settled in time (an upload that never came, a process that died). How many."""
        now = self._clock.now()
        async with self._uow.read() as uow:
            held = await uow.documents.list(STORAGE_HOLD)
        overdue = [body for body in held if datetime.fromisoformat(str(body["until"])) <= now or self._is_left(body)]
        for body in overdue:
            await self.settle(RepoId(str(body["repo_id"])), str(body["name"]))
        return len(overdue)

    def _is_left(self, body: Mapping[str, object]) -> bool:
        by = str(body.get("by", ""))
        return bool(by) and self._processes is not None and self._processes.is_gone(by)
