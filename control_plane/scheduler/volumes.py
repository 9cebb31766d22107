"""Removes the bytes of volumes that their owners gave up, once no replica can have them open any more."""

from __future__ import annotations

import asyncio
import logging

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import SpaceId
from control_plane.domain.storage import VOLUME_GONE
from control_plane.ports.stores import UnitOfWorkFactory
from control_plane.ports.volumes import Volumes

log = logging.getLogger("vitrine.scheduler")
_LOOK_S = 5.0


class VolumeRemover:
    """Works from the documents that `spaces.configure.delete_storage` leaves, so a crash or another leader forgets nothing."""

    def __init__(self, uow: UnitOfWorkFactory, volumes: Volumes) -> None:
        self._uow, self._volumes = uow, volumes

    async def run(self, *, every_s: float = _LOOK_S) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except VitrineError as error:
                log.warning("volume.not_removed", extra={"error": error.message})
            except Exception:
                log.exception("volume.not_removed")
            await asyncio.sleep(every_s)

    async def look(self) -> int:
        """How many were removed. A replica of a generation before the removal may still write into it: those are waited for."""
        removed = 0
        async with self._uow.read() as uow:
            gone = await uow.documents.list(VOLUME_GONE)
        for row in gone:
            space_id, key = SpaceId(row["space_id"]), str(row["key"])
            async with self._uow.read() as uow:
                in_use = any(r.generation < row["generation"] for r in await uow.deployments.replicas(space_id))
            if in_use:
                continue
            await self._volumes.remove(space_id, str(row["space_name"]), key)
            async with self._uow.write() as uow:
                await uow.documents.remove(VOLUME_GONE, f"{space_id}/{key}")
            removed += 1
        return removed
