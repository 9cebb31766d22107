"""What an inbound door (Hub API, web pages) asks of the use cases of repositories and Spaces.

Callers have checked the actor's right with `accounts.policy` before they call. Every call that changes a Space changes
its visible stage in the same transaction, so that a client that polls right afterwards never sees the old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from control_plane.domain.accounts import Account, Actor
from control_plane.domain.ids import Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaUsage
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Repo, RepoType, RepoVolume, Sdk, Space, Visibility
from control_plane.domain.stage import Stage
from control_plane.ports.git_import import Source


@dataclass(frozen=True, slots=True)
class SettingInput:
    """A variable or secret as it came in. `value` is redacted in prints for both kinds."""

    key: str
    value: Sensitive
    description: str = ""


@dataclass(frozen=True, slots=True)
class NewRepo:
    """An order for a repository. `sdk` is required for Spaces. `sleep_s`: None = default of the flavor, -1 = never.

    `template` is a readable Space whose files at `template_ref` become the first commit instead of the SDK's starter files.
    `origin` says where it comes from ("" = nowhere).
    """

    type: RepoType
    owner: Account
    name: str
    visibility: Visibility
    sdk: Sdk | None = None
    hardware: str | None = None
    sleep_s: int | None = None
    storage: str | None = None  # tier of persistent storage
    volumes: Sequence[RepoVolume] = ()  # the caller's right to each was checked
    secrets: Sequence[SettingInput] = ()
    variables: Sequence[SettingInput] = ()
    template: Repo | None = None
    template_ref: str = "refs/heads/main"
    origin: str = ""
    files: Mapping[str, bytes] | None = None  # further files of the first commit, path → content
    license: str = ""
    source: Source | None = None  # fills the new repository instead of starter files


@dataclass(frozen=True, slots=True)
class DuplicateOrder:
    """Where a copy goes. Secrets and volumes of the source are never copied; `secrets` and `volumes` are the caller's new ones."""

    owner: Account
    name: str
    visibility: Visibility
    hardware: str | None = None
    sleep_s: int | None = None
    storage: str | None = None  # tier of persistent storage
    volumes: Sequence[RepoVolume] = ()
    secrets: Sequence[SettingInput] = ()
    variables: Sequence[SettingInput] = ()


@dataclass(frozen=True, slots=True)
class RuntimeView:
    """The runtime of a Space as clients see it. `sleep_after_s`: None = never. `sha` is the commit that serves ("" = none)."""

    stage: Stage
    requested_hardware: str | None
    current_hardware: str | None = None
    sleep_after_s: int | None = None
    requested_replicas: int = 1
    current_replicas: int = 0
    storage_tier: str = ""
    volumes: tuple[RepoVolume, ...] = ()  # with the commit that runs, where one does
    sha: str = ""
    sdk: Sdk | None = None
    sdk_version: str | None = None
    subdomain: str = ""
    reason: Reason | None = None
    message: str = ""
    position: int | None = None
    eta_s: float | None = None
    build_id: str = ""  # of the newest build, "" when there is none
    updated_at: datetime | None = None


class SpaceActions(Protocol):
    """Repository and Space use cases. Errors are those of `domain.errors`: NameTaken, QuotaExceeded, Rejected, Forbidden."""

    async def create_repo(self, actor: Actor, order: NewRepo) -> Repo: ...
    async def delete_repo(self, actor: Actor, repo: Repo) -> None: ...
    async def move_repo(self, actor: Actor, repo: Repo, owner: Account, name: str) -> Repo: ...
    async def set_visibility(self, actor: Actor, repo: Repo, visibility: Visibility) -> Repo: ...
    async def duplicate(self, actor: Actor, source: Repo, order: DuplicateOrder) -> Repo: ...

    async def request_hardware(self, actor: Actor, space: Space, flavor: str, sleep_s: int | None = None) -> Space: ...
    async def set_sleep_time(self, actor: Actor, space: Space, seconds: int) -> Space: ...  # -1 = never
    async def pause(self, actor: Actor, space: Space) -> Space: ...
    async def restart(self, actor: Actor, space: Space, *, factory: bool = False) -> Space: ...
    async def rollback(self, actor: Actor, space: Space, generation: int) -> Space: ...  # an earlier deployment again, no build
    async def set_replicas(self, actor: Actor, space: Space, replicas: int) -> Space: ...

    async def request_storage(self, actor: Actor, space: Space, tier: str) -> Space: ...  # at /data; only ever larger
    async def delete_storage(self, actor: Actor, space: Space) -> Space: ...  # with all it holds
    async def set_volumes(self, actor: Actor, space: Space, volumes: Sequence[RepoVolume]) -> Space:
        """Instead of those that it has. The caller's right to each repository was checked."""

    async def put_variable(self, actor: Actor, space: Space, setting: SettingInput) -> None: ...
    async def delete_variable(self, actor: Actor, space: Space, key: str) -> None: ...
    async def put_secret(self, actor: Actor, space: Space, setting: SettingInput) -> None: ...
    async def delete_secret(self, actor: Actor, space: Space, key: str) -> None: ...

    def room(self, repo: Repo, size: int) -> AbstractAsyncContextManager[None]:
        """Room for about `size` more bytes while the block commits them. QuotaExceeded when the owner has none left."""

    async def accept_commit(self, actor: Actor, repo: Repo, ref: str, old: Sha | None, new: Sha | None) -> None:
        """A ref moved (API commit, merge, squash, branch change): record it, build when it is a Space's main."""

    async def runtime_view(self, space: Space) -> RuntimeView: ...
    async def runtime_views(self, spaces: Sequence[Space]) -> dict[str, RuntimeView]: ...  # by space id, few queries
    async def usage(self, space_id: SpaceId) -> tuple[ReplicaUsage, ...]: ...  # live figures; empty when nothing runs
