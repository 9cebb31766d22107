"""Settings of a Space: hardware tiers with what is free, sleep, variables and secrets."""

from __future__ import annotations

from control_plane.accounts import quotas
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import RepoNotFound
from control_plane.domain.quotas import QuotaKey
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import DesiredState, Setting
from control_plane.ports.space_actions import SettingInput
from web.services.deps import Base
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
        limits = {q.key: q.limit for q in uses}
        view = await self.d.actions.runtime_view(space)
        options = await self._options(account, limits, space.hardware, view.current_hardware or "")
        return SettingsView(
            options=options,
            quotas=tuple(QuotaRow(q.key, q.limit, q.used, q.source, q.frees_at) for q in uses),
            sleep_after_s=view.sleep_after_s,
            variables=tuple(_row(s) for s in found if not s.is_secret),
            secrets=tuple(_row(s) for s in found if s.is_secret),
            visibility=repo.visibility.value,
            desired="paused" if space.desired is DesiredState.PAUSED else "running",
            storage_bytes=repo.storage_bytes,
        )

    async def _options(self, account: Account, limits: dict[str, float | None], requested: str, current: str) -> tuple[HardwareOption, ...]:
        rows = [r for r in await self.d.pool_facts() if r["total"] is not None]
        options = []
        for flavor in self.d.catalog().flavors:
            own = [r for r in rows if r["flavor"] == flavor.name]
            total, free = sum(r["total"] for r in own), sum(r["free"] or 0 for r in own)
            queued = max((r["queued"] for r in own), default=0)
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
                    queue_position=queued + 1 if rows and total and not free else None, refusal=refusal,
                    is_requested=flavor.name == requested,
                    is_current=flavor.name == current,
                )
            )  # fmt: skip
        return tuple(options)

    async def set_hardware(self, actor: Actor, owner: str, name: str, flavor: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.request_hardware(actor, space, flavor)

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


def _row(setting: Setting) -> SettingRow:
    return SettingRow(setting.key, "" if setting.is_secret else setting.value, setting.description, setting.updated_at)
