"""Settings of a Space: hardware tiers with what is free, sleep, variables and secrets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.accounts import quotas
from control_plane.accounts.mounting import granted, shown
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Rejected, RepoNotFound
from control_plane.domain.ids import SpaceId
from control_plane.domain.quotas import QuotaKey
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.repo_volumes import MAX_VOLUMES, parse_orders
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import DesiredState, Replica, Setting
from control_plane.ports.space_actions import SettingInput
from web.services.deps import Base
from web.services.mounted import volume_rows
from web.views import HardwareOption, QuotaRow, SettingRow, SettingsView


class SettingsFamily(Base):
    async def settings(self, actor: Actor, owner: str, name: str) -> SettingsView:
        repo, space = await self.space_for(actor, owner, name, Action.WRITE)
        async with self.d.uow.read() as uow:
            found = await uow.spaces.settings(space.id)
            account = await uow.accounts.get(repo.owner_id)
            if account is None:
                raise RepoNotFound()
            uses = await quotas.show(uow, account, self.d.catalog(), self.d.clock.now())
            waiting = [r for r in await uow.deployments.open_replicas() if r.state is ReplicaState.PENDING]
            starts = [d.live_at - d.created_at for d in await uow.deployments.of_space(space.id, 10) if d.live_at]
        waits = _Waits(statistics.median(s.total_seconds() for s in starts) if starts else None, waiting, SpaceId(space.id))
        limits = {q.key: q.limit for q in uses}
        view = await self.d.actions.runtime_view(space)
        async with self.d.uow.read() as uow:
            volumes = volume_rows(await shown(uow, actor, view.volumes))
        options = await self._options(limits, space.hardware, view.current_hardware or "", waits)
        return SettingsView(
            options=options,
            quotas=tuple(QuotaRow(q.key, q.limit, q.used, q.source, q.frees_at) for q in uses),
            sleep_after_s=view.sleep_after_s,
            variables=tuple(_row(s) for s in found if not s.is_secret),
            secrets=tuple(_row(s) for s in found if s.is_secret),
            visibility=repo.visibility.value,
            desired="paused" if space.desired is DesiredState.PAUSED else "running",
            storage_bytes=repo.storage_bytes,
            replicas=view.requested_replicas,
            replicas_now=view.current_replicas,
            storage_tier=space.storage_tier,
            volumes=volumes,
            storage_offers=tuple((tier.value, size) for tier, size in self.d.tiers.items() if size >= space.storage_bytes),
        )

    async def _options(self, limits: dict[str, float | None], requested: str, current: str, waits: _Waits) -> tuple[HardwareOption, ...]:
        rows = [r for r in await self.d.pool_facts() if r["total"] is not None]
        options = []
        for flavor in self.d.catalog().flavors:
            own = [r for r in rows if r["flavor"] == flavor.name]
            total, free = sum(r["total"] for r in own), sum(r["free"] or 0 for r in own)
            has_room = bool(total and free)
            refusal = ""
            if limits.get(f"{QuotaKey.RUNNING}.{flavor.name}", 1.0) == 0.0:
                refusal = "not in your quota; ask an operator"
            elif rows and total == 0:
                refusal = "no machine of this kind here"
            options.append(
                HardwareOption(
                    name=flavor.name, pretty_name=flavor.pretty_name, vcpu=flavor.vcpu, memory_gb=flavor.memory_gb,
                    gpu=flavor.accelerator.model if flavor.accelerator else "",
                    gpu_memory_gb=flavor.accelerator.memory_gb * flavor.accelerator.count if flavor.accelerator else 0,
                    price_per_hour=flavor.price_per_hour,
                    units_total=total if rows else None, units_free=free if rows else None,
                    queue_position=waits.place(flavor.name) if rows and total and not free else None,
                    wait_s=waits.start_s if has_room else waits.wait_s(flavor.name) if total else None, refusal=refusal,
                    is_requested=flavor.name == requested,
                    is_current=flavor.name == current,
                )
            )  # fmt: skip
        return tuple(options)

    async def set_hardware(self, actor: Actor, owner: str, name: str, flavor: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.request_hardware(actor, space, flavor)

    async def set_replicas(self, actor: Actor, owner: str, name: str, count: int) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.set_replicas(actor, space, count)

    async def request_storage(self, actor: Actor, owner: str, name: str, tier: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.request_storage(actor, space, tier)

    async def delete_storage(self, actor: Actor, owner: str, name: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.delete_storage(actor, space)

    async def add_volume(
        self, actor: Actor, owner: str, name: str, kind: str, source: str, mount_path: str, revision: str, path: str
    ) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        wanted = {"type": kind, "source": source, "mountPath": mount_path, "revision": revision or None, "path": path or None}
        made = await granted(self.d.uow, self.d.git, actor, parse_orders([wanted]))
        if len(space.volumes) >= MAX_VOLUMES:
            raise Rejected(f"a Space mounts at most {MAX_VOLUMES} volumes; remove one first")
        await self.d.actions.set_volumes(actor, space, (*space.volumes, *made))

    async def remove_volume(self, actor: Actor, owner: str, name: str, mount_path: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        left = tuple(volume for volume in space.volumes if volume.mount_path != mount_path)
        if len(left) == len(space.volumes):
            raise Rejected(f"nothing is mounted at {mount_path[:100]}")
        await self.d.actions.set_volumes(actor, space, left)

    async def set_sleep(self, actor: Actor, owner: str, name: str, seconds: int | None) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.set_sleep_time(actor, space, -1 if seconds is None else seconds)

    async def put_setting(self, actor: Actor, owner: str, name: str, key: str, value: str, description: str, *, secret: bool) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        put = self.d.actions.put_secret if secret else self.d.actions.put_variable
        await put(actor, space, SettingInput(key, Sensitive(value), description))

    async def remove_setting(self, actor: Actor, owner: str, name: str, key: str, *, secret: bool) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await (self.d.actions.delete_secret if secret else self.d.actions.delete_variable)(actor, space, key)


@dataclass(frozen=True, slots=True)
class _Waits:
    """`start_s`: how long this Space usually takes from an order to its answer; None without history."""

    start_s: float | None
    waiting: Sequence[Replica]
    space_id: SpaceId

    def place(self, flavor: str) -> int:
        """The place in line: the one that this Space holds, else behind everybody who waits."""
        line = [r for r in self.waiting if r.hardware == flavor]
        own = next((r.queue_position for r in line if r.space_id == self.space_id and r.queue_position), None)
        return own or len(line) + 1

    def wait_s(self, flavor: str) -> float | None:
        """The scheduler's estimate for this Space, else for the last in line; None when nobody can tell."""
        line = [r for r in self.waiting if r.hardware == flavor and r.eta_s is not None]
        own = next((r.eta_s for r in line if r.space_id == self.space_id), None)
        return own if own is not None else max((r.eta_s for r in line if r.eta_s is not None), default=None)


def _row(setting: Setting) -> SettingRow:
    return SettingRow(setting.key, "" if setting.is_secret else setting.value, setting.description, setting.updated_at)
