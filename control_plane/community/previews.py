"""A running app for a pull request: a Space of its own that follows the request's ref until it is merged or closed.

It belongs to the owner of the repository, is started by somebody who may write there (it runs on their quota), has the
repository's variables and none of its secrets, and is left out of the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.community.discussions import Discussion
from control_plane.domain.accounts import PLATFORM, Account, Actor
from control_plane.domain.errors import Conflict, Rejected, RepoNotFound
from control_plane.domain.ids import RepoId, Sha, SpaceId
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Repo, RepoType
from control_plane.ports.git import GitStore
from control_plane.ports.space_actions import NewRepo, SettingInput, SpaceActions
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

KIND = "preview"
MAIN = "refs/heads/main"
PULLS = "refs/pr/"
_NAME_MAX = 96


def origin_of(repo: Repo, num: int | str) -> str:
    """What a preview says about where it comes from; the `#` tells it from a duplicate."""
    return f"{repo.full_name}#{num}"


@dataclass(frozen=True, slots=True)
class Previews:
    uow: UnitOfWorkFactory
    git: GitStore
    actions: SpaceActions

    async def find(self, uow: UnitOfWork, repo: Repo, num: int | str) -> Repo | None:
        """The preview's repository, None when there is none (any more)."""
        body = await uow.documents.get(KIND, f"{repo.id}/{num}")
        return await uow.repos.get(RepoId(body["space_id"])) if body else None

    async def start(self, actor: Actor, repo: Repo, pull: Discussion) -> Repo:
        """Make the preview. The caller has checked the right to write. Conflict when the request is over, quota errors as ever."""
        if repo.type is not RepoType.SPACE or not pull.is_pull:
            raise Rejected("only a pull request of a Space has a preview")
        if pull.status in ("merged", "closed"):
            raise Conflict(f"this pull request is {pull.status}")
        async with self.uow.read() as uow:
            known = await self.find(uow, repo, pull.num)
            space = await uow.spaces.get(SpaceId(repo.id))
            owner: Account | None = await uow.accounts.get(repo.owner_id)
            if space is None or owner is None:
                raise RepoNotFound()
            settings = [s for s in await uow.spaces.settings(space.id) if not s.is_secret]
        if known is not None:
            return known
        order = NewRepo(
            RepoType.SPACE, owner, f"{repo.name[: _NAME_MAX - 12]}-pr-{pull.num}", repo.visibility, space.sdk, template=repo,
            template_ref=pull.ref, origin=origin_of(repo, pull.num),
            variables=[SettingInput(s.key, Sensitive(s.value), s.description) for s in settings],
        )  # fmt: skip
        made = await self.actions.create_repo(actor, order)
        async with self.uow.write() as write:
            await write.documents.put(KIND, f"{repo.id}/{pull.num}", repo.id, {"space_id": made.id})
        return made

    async def follow(self, repo: Repo, ref: str, new: Sha | None) -> None:
        """The ref of a pull request moved: its preview, when there is one, gets the new commit."""
        num = ref.removeprefix(PULLS)
        async with self.uow.read() as uow:
            preview = await self.find(uow, repo, num)
        if preview is None:
            return
        if new is None:
            await self.remove(PLATFORM, repo, num)
            return
        await self.git.bring(repo.id, preview.id, ref)
        await self.actions.accept_commit(PLATFORM, preview, MAIN, Sha(preview.head) if preview.head else None, new)

    async def remove(self, actor: Actor, repo: Repo, num: int | str) -> None:
        """Nothing happens when there is none."""
        async with self.uow.read() as uow:
            preview = await self.find(uow, repo, num)
        if preview is not None:
            await self.actions.delete_repo(actor, preview)
        async with self.uow.write() as write:
            await write.documents.remove(KIND, f"{repo.id}/{num}")
