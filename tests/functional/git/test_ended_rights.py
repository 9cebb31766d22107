"""What was handed out, and what is under way, when the right to it ends: the platform's own answer, from its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from control_plane.accounts import people, tokens
from control_plane.accounts.sign_in import actor_of_token
from control_plane.accounts.storage import StorageRoom
from control_plane.api.push_door import PushDoor
from control_plane.domain.accounts import Account, Actor, Membership, OrgRole, TokenRole
from control_plane.domain.errors import Forbidden, Rejected
from control_plane.domain.ids import TokenId
from control_plane.domain.spaces import Repo, RepoType, Visibility
from control_plane.git.gitbin import GitBinary
from control_plane.git.policy import PushLimits, RefUpdate
from control_plane.git.smart_http import PushReceived, RepoAccess, RepoPath, Service
from control_plane.ports.space_actions import NewRepo
from tests.functional.hub_api.running import PlatformServices, make_services


@dataclass
class Place:
    """An organisation's private model; ann, who writes there, with a token."""

    services: PlatformServices
    door: PushDoor
    repo: Repo
    org: Account
    ann: Actor

    @property
    def holder(self) -> str:
        return RepoAccess(self.repo.id, self.ann, True).holder

    async def may(self, service: Service, holder: str | None = None) -> bool:
        try:
            await self.door.still_allowed(self.repo.id, self.holder if holder is None else holder, service)
        except Forbidden:
            return False
        return True

    async def push(self) -> None:
        """As far as the question whether it may be: its objects are not there."""
        update = RefUpdate("refs/heads/main", "0" * 40, "a" * 40)
        path = RepoPath(RepoType.MODEL, self.repo.owner_name, self.repo.name)
        async for _ in self.door.check_push(PushReceived(self.repo.id, path, self.ann, (update,), (), "http://hub")):
            pass


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    services = make_services(tmp_path)
    await services.uow.migrate()
    async with services.uow.write() as work:
        boss = await people.add_user(work, services.clock, "boss")
        ann = await people.add_user(work, services.clock, "ann")
        org = await people.add_org(work, services.clock, "house", creator=boss)
        await work.accounts.set_member(Membership(org.id, ann.id, OrgRole.WRITE))
        _, text = await tokens.create_token(work, services.clock, ann, "t", TokenRole.WRITE)
    repo = await services.actions.create_repo(Actor(user=boss), NewRepo(RepoType.MODEL, org, "weights", Visibility.PRIVATE))
    git = GitBinary(tmp_path / "hooks")
    room = StorageRoom(services.uow, services.clock, lambda: services.catalog, services.git.size_bytes)
    door = PushDoor(services.spaces, git, services.lfs, PushLimits(), room)
    yield Place(services, door, repo, org, await actor_of_token(services.uow, services.clock, text))
    await services.uow.close()


ENDS = ("suspended", "revoked", "put out", "removed")


@pytest.mark.parametrize("end", ENDS)
async def test_signed_addresses_and_a_push_under_way_end(place: Place, end: str) -> None:
    reads, writes = Service.LFS_DOWNLOAD, Service.LFS_PROPOSE
    assert [await place.may(service) for service in (reads, writes)] == [True, True]
    services = place.services
    assert place.ann.user is not None and place.ann.token is not None
    async with services.uow.write() as work:
        if end == "suspended":
            await people.set_suspended(work, services.signals, place.ann.user, True)
        elif end == "revoked":
            await tokens.revoke_token(work, services.clock, services.signals, TokenId(place.ann.token.id))
        elif end == "put out":
            await people.remove_member(work, services.signals, place.org, place.ann.user)
        else:
            await work.repos.remove(place.repo.id)
    assert [await place.may(service) for service in (reads, writes)] == [False, False]
    if end != "removed":
        with pytest.raises(Rejected, match="ended while the push was on its way"):
            await place.push()


async def test_a_holder_is_whom_the_rows_know(place: Place) -> None:
    """Anonymous, made up, another's token: nothing of a private repository; reading alone for who may only read."""
    services = place.services
    async with services.uow.write() as work:
        stranger = await people.add_user(work, services.clock, "eve")
    assert place.ann.user is not None and place.ann.token is not None
    for holder in (".", "", f"{stranger.id}.{place.ann.token.id}", f"{place.ann.user.id}.{'0' * 24}", f".{place.ann.token.id}", "x.y"):
        assert not await place.may(Service.LFS_DOWNLOAD, holder), holder
    async with services.uow.write() as work:
        await work.repos.save(replace(place.repo, visibility=Visibility.PUBLIC))
    assert await place.may(Service.LFS_DOWNLOAD, ".")
    assert not await place.may(Service.LFS_UPLOAD, ".")
