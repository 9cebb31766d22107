"""The gallery, a Space with its log and settings, and what its owner does to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta

from control_plane.accounts.quotas import next_month
from control_plane.domain.accounts import Actor
from control_plane.domain.errors import NameTaken, NotFound, QuotaExceeded, Rejected
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.spaces import RepoType
from tests.fakes.web_backend.world import NEW, SHA, World, timeline
from web.views import (
    AnalyticsView,
    BuildRow,
    Gallery,
    GalleryQuery,
    HardwareOption,
    HourBar,
    ImportStep,
    LiveEvent,
    LogEntry,
    LogPage,
    Measure,
    QuotaRow,
    SettingRow,
    SettingsView,
    SpaceCard,
    SpacePage,
    StageBadge,
    VolumeRow,
)


class Spaces(World):
    async def gallery(self, actor: Actor, query: GalleryQuery) -> Gallery:
        cards = [c for c in self.cards if query.q.lower() in f"{c.title} {c.description}".lower()]
        cards = [c for c in cards if (not query.sdk or c.sdk in query.sdk) and (not query.running or c.stage.tone == "run")]
        cards = [c for c in cards if not query.hardware or c.hardware in query.hardware]
        if query.sort == "likes":
            cards.sort(key=lambda c: -c.likes)
        start = (query.page - 1) * query.page_size
        names = tuple(f.name for f in DEFAULT_FLAVORS)
        return Gallery(
            tuple(cards[start : start + query.page_size]),
            len(cards) > start + query.page_size,
            len(cards),
            sum(c.stage.tone == "run" for c in cards),
            names,
        )

    async def thumbnail(self, actor: Actor, space_id: str) -> bytes:
        raise NotFound("There is no picture of this Space.")

    async def space(self, actor: Actor, owner: str, name: str) -> SpacePage:
        card = self._card(owner, name)
        own = actor.user is not None and owner == "alice"
        stage = card.stage.stage
        message = self.any_text or {
            "RUNTIME_ERROR": "The app exited; its log has the reason.",
            "BUILDING": "Waiting for a build slot." if name != "going-live" else "",
            "APP_STARTING": "All machines for the hardware 'a10g-largex4' are in use. Place 2 in the queue, about 4 min.",
        }.get(stage, "")
        runs = card.stage.tone == "run"
        return SpacePage(
            card, f"{owner}-{name}", self.app_url, self.app_url, SHA if runs else "", "" if stage == "NO_APP_FILE" else SHA,
            card.hardware, card.hardware if runs else "", message,
            {"RUNTIME_ERROR": "APP_EXITED", "APP_STARTING": "NO_CAPACITY"}.get(stage, "BUILD_FAILED" if self.any_text else ""),
            self.liked, own, own, True, timeline() if stage == "BUILDING" else None,
            f"http://127.0.0.1:7860/spaces/{owner}/{name}", asleep=stage == "SLEEPING",
            serves=runs, tags=card.tags or ("books", "search"), license="mit", discussions=2,
        )  # fmt: skip

    async def analytics(self, actor: Actor, owner: str, name: str, span: str) -> AnalyticsView:
        self._writer(actor, owner)
        asked = (0, 0, 3, 9, 14, 22, 31, 64, 80, 96, 120, 111, 98, 87, 92, 101, 77, 66, 40, 31, 22, 14, 6, 0)
        bars = tuple(HourBar(self.now - timedelta(hours=23 - i), n, n // 40, 0.2 if n else None) for i, n in enumerate(asked))
        measures = (
            Measure("Requests", "1,284"),
            Measure("Median answer", "42 ms"),
            Measure("99 of 100 within", "310 ms"),
            Measure("Server errors", "3", "0.2%"),
            Measure("Processor now", "0.4", "of 2 vCPU"),
            Measure("Memory now", "412 MB", "of 16 GB"),
            Measure("Wake-ups", "17"),
            Measure("Cost", "$0.00"),
        )
        return AnalyticsView(measures, ((self.now, "Live", "3f2a91c"), (self.now - timedelta(hours=2), "Asleep", "")), bars, span)

    async def builds(self, actor: Actor, owner: str, name: str) -> tuple[BuildRow, ...]:
        return (
            BuildRow("b1", NEW, self.commit_title, "running", self.now, None),
            BuildRow("b0", SHA, "First version", "succeeded", self.now - timedelta(hours=2), 22.5),
        )

    async def log_page(self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, tail: int) -> LogPage:
        self._writer(actor, owner)
        return LogPage(tuple(LogEntry(i, self.now, text) for i, text in enumerate(self.lines)), len(self.lines))

    async def follow_log(
        self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, after: int
    ) -> AsyncIterator[LogEntry | None]:
        self._writer(actor, owner)
        for i, text in enumerate(self.lines[after:], after):
            yield LogEntry(i, self.now, text)

    async def events(self, actor: Actor, owner: str, name: str, after: int | None) -> AsyncIterator[LiveEvent | None]:
        self._card(owner, name)
        for i in range((after or 0) + 1, 3):
            yield LiveEvent(i, "changed", {"kind": "build.phase"})
        yield None

    async def create_space(
        self,
        actor: Actor,
        owner: str,
        name: str,
        sdk: str,
        visibility: str,
        hardware: str,
        template: bool,
        files: Mapping[str, bytes],
    ) -> SpacePage:
        if any((c.owner, c.name) == (owner, name) for c in self.cards):
            raise NameTaken(f"{owner}/{name} exists already; choose another name.")
        if name == "one-too-many":
            raise QuotaExceeded(
                subject=owner, key="spaces", limit=3, used=3, asked=1, frees_at=None, how="Delete a Space, or ask an operator for more."
            )
        self.cards.append(
            SpaceCard(
                owner,
                name,
                name,
                "",
                "gray",
                "blue",
                "",
                sdk,
                hardware,
                StageBadge("NO_APP_FILE", "off", "Nothing pushed yet"),
                0,
                self.now,
                visibility,
            )
        )
        return await self.space(actor, owner, name)

    async def import_space(
        self, actor: Actor, owner: str, name: str, sdk: str, visibility: str, hardware: str, url: str, branch: str
    ) -> AsyncGenerator[ImportStep, None]:
        for words in ("Asking git.example.org", "Receiving objects: 45% (120/266), 4.1 MiB | 2.0 MiB/s", "Checking what came"):
            yield ImportStep(words)
        if "not-there" in url:
            raise Rejected("git.example.org answers 404: there is no such repository, or it is not public.")
        yield ImportStep("The Space is there", "/spaces/alice/marginalia")

    async def duplicate(self, actor: Actor, owner: str, name: str, to_owner: str, to_name: str, visibility: str) -> SpacePage:
        card = self._card(owner, name)
        return await self.create_space(actor, to_owner, to_name, card.sdk, visibility, card.hardware, False, {})

    async def pause(self, actor: Actor, owner: str, name: str) -> None:
        await self._note(actor, owner, name, "pause")

    async def restart(self, actor: Actor, owner: str, name: str, *, factory: bool) -> None:
        await self._note(actor, owner, name, "restart", factory)

    async def deploy_revision(self, actor: Actor, owner: str, name: str, revision: str) -> None:
        await self._note(actor, owner, name, "deploy", revision)

    async def cancel_build(self, actor: Actor, owner: str, name: str, build_id: str) -> None:
        await self._note(actor, owner, name, "cancel", build_id)

    async def settings(self, actor: Actor, owner: str, name: str) -> SettingsView:
        card = self._card(owner, name)
        self._writer(actor, owner)
        free = {"cpu-basic": (16, 10), "cpu-upgrade": (4, 2), "t4-small": (8, 3), "a10g-small": (4, 0), "a100-large": (2, 1)}
        options = tuple(
            HardwareOption(
                f.name,
                f.pretty_name,
                f.vcpu,
                f.memory_gb,
                f.accelerator.model if f.accelerator else "",
                f.accelerator.memory_gb * f.gpu_count if f.accelerator else 0,
                f.price_per_hour,
                free[f.name][0],
                free[f.name][1],
                2 if not free[f.name][1] else None,
                9.0 if free[f.name][1] else 240.0,
                "not in your quota; ask an operator" if f.name == "a100-large" else "",
                f.name == card.hardware,
                f.name == card.hardware,
            )
            for f in DEFAULT_FLAVORS
            if f.name in free
        )
        variables = tuple(SettingRow(k, v, "", self.now) for k, v in self.variables.items())
        return SettingsView(
            options,
            (QuotaRow("gpu-hours", 20, 1.6, frees_at=next_month(self.now)),),
            3600,
            variables,
            tuple(SettingRow(k, "", "", self.now) for k in self.secrets),
            "public",
            "running",
            storage_bytes=14_200,
            replicas_now=1,
            volumes=(VolumeRow("dataset", "alice/books", "/datasets/alice/books", "/data/books", "main", "", SHA),),
            storage_tier="small",
            storage_offers=(("small", 20 * 10**9), ("medium", 150 * 10**9)),
        )

    async def set_hardware(self, actor: Actor, owner: str, name: str, flavor: str) -> None:
        if flavor == "a100-large":
            raise QuotaExceeded(
                subject=owner, key="gpu-hours", limit=20, used=20.0, asked=0.5, frees_at=next_month(self.now),
                how=f"Wait for the new month or ask an operator to raise 'gpu-hours' of {owner}.",
            )  # fmt: skip
        await self._note(actor, owner, name, "hardware", flavor)

    async def set_replicas(self, actor: Actor, owner: str, name: str, count: int) -> None:
        await self._note(actor, owner, name, "replicas", count)

    async def request_storage(self, actor: Actor, owner: str, name: str, tier: str) -> None:
        await self._note(actor, owner, name, "storage", tier)

    async def delete_storage(self, actor: Actor, owner: str, name: str) -> None:
        await self._note(actor, owner, name, "storage", "")

    async def add_volume(
        self, actor: Actor, owner: str, name: str, kind: str, source: str, mount_path: str, revision: str, path: str
    ) -> None:
        await self._note(actor, owner, name, "volume", kind, source, mount_path, revision, path)

    async def remove_volume(self, actor: Actor, owner: str, name: str, mount_path: str) -> None:
        await self._note(actor, owner, name, "volume", "", "", mount_path)

    async def set_sleep(self, actor: Actor, owner: str, name: str, seconds: int | None) -> None:
        await self._note(actor, owner, name, "sleep", seconds)

    async def put_setting(self, actor: Actor, owner: str, name: str, key: str, value: str, description: str, *, secret: bool) -> None:
        await self._note(actor, owner, name, "put", key, secret)
        if secret:
            self.secrets.append(key)
        else:
            self.variables[key] = value

    async def remove_setting(self, actor: Actor, owner: str, name: str, key: str, *, secret: bool) -> None:
        await self._note(actor, owner, name, "remove", key, secret)

    async def set_visibility(self, actor: Actor, kind: RepoType, owner: str, name: str, visibility: str) -> None:
        await self._note(actor, owner, name, "visibility", visibility)

    async def rename(self, actor: Actor, kind: RepoType, owner: str, name: str, to_owner: str, to_name: str) -> str:
        card = self._card(owner, name)
        self.cards = [replace(c, owner=to_owner, name=to_name) if c is card else c for c in self.cards]
        return f"/spaces/{to_owner}/{to_name}"

    async def remove_repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None:
        await self._note(actor, owner, name, "delete")
