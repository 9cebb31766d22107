"""The database as the use cases see it: short units of work over domain values.

`UnitOfWorkFactory.read()` never writes. `.write()` takes the write lock at once (SQLite: BEGIN IMMEDIATE), commits on a
clean exit and rolls back on an exception; callbacks given to `after_commit` run after the commit, in order.
A store method that finds nothing returns None or an empty tuple; `save` upserts the whole value.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from control_plane.domain.accounts import Account, AccountKind, Membership, OrgRole, Session, Token
from control_plane.domain.gates import AccessRequest, RequestStatus
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, SessionId, SpaceId, TokenId
from control_plane.domain.notices import Notice
from control_plane.domain.quotas import Held
from control_plane.domain.spaces import Build, Deployment, Replica, Repo, RepoType, Setting, Space, SpaceEvent
from control_plane.domain.traffic import Traffic


class AccountStore(Protocol):
    async def get(self, account_id: AccountId) -> Account | None: ...
    async def by_name(self, name: str) -> Account | None: ...
    async def list(self, kind: AccountKind | None = None) -> tuple[Account, ...]: ...
    async def add(self, account: Account) -> None: ...  # NameTaken
    async def save(self, account: Account) -> None: ...
    async def remove(self, account_id: AccountId) -> None: ...
    async def memberships(self, user_id: AccountId) -> tuple[tuple[Account, OrgRole], ...]: ...
    async def members(self, org_id: AccountId) -> tuple[tuple[Account, OrgRole], ...]: ...
    async def set_member(self, membership: Membership) -> None: ...
    async def remove_member(self, org_id: AccountId, user_id: AccountId) -> None: ...


class TokenStore(Protocol):
    async def add(self, token: Token) -> None: ...
    async def by_hash(self, sha256: str) -> Token | None: ...
    async def get(self, token_id: TokenId) -> Token | None: ...
    async def of_user(self, user_id: AccountId) -> tuple[Token, ...]: ...
    async def save(self, token: Token) -> None: ...
    async def add_session(self, session: Session) -> None: ...
    async def session_by_hash(self, sha256: str) -> Session | None: ...
    async def sessions_of(self, user_id: AccountId) -> tuple[Session, ...]: ...
    async def remove_session(self, session_id: SessionId) -> None: ...


class RepoStore(Protocol):
    async def get(self, repo_id: RepoId) -> Repo | None: ...
    async def by_name(self, type: RepoType, owner: str, name: str) -> Repo | None: ...  # any case
    async def moved_to(self, type: RepoType, owner: str, name: str) -> RepoId | None: ...  # an old name
    async def add(self, repo: Repo) -> None: ...  # NameTaken
    async def save(self, repo: Repo) -> None: ...
    async def remove(self, repo_id: RepoId) -> None: ...
    async def removed(self, repo_id: RepoId) -> tuple[AccountId, str] | None: ...  # owner and "ns/name" of one that is gone
    async def remember_old_name(self, repo: Repo) -> None: ...
    async def list(
        self,
        type: RepoType,
        *,
        viewer: AccountId | None = None,
        viewer_orgs: Sequence[AccountId] = (),
        see_all: bool = False,
        owner: str | None = None,
        search: str | None = None,
        sdk: Sequence[str] = (),
        tags: Sequence[str] = (),
        hardware: Sequence[str] = (),
        running_only: bool = False,
        gated: bool | None = None,
        sort: str = "trending",  # trending | likes | created | updated
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[Repo, ...]: ...
    async def count_matching(
        self,
        type: RepoType,
        *,
        viewer: AccountId | None = None,
        viewer_orgs: Sequence[AccountId] = (),
        see_all: bool = False,
        owner: str | None = None,
        search: str | None = None,
        sdk: Sequence[str] = (),
        tags: Sequence[str] = (),
        hardware: Sequence[str] = (),
        running_only: bool = False,
        at_most: int = 1000,
    ) -> int | None:
        """How many `list` would give without a limit; None when there are more than `at_most`, or so many that counting takes long."""

    async def count(self, type: RepoType, *, owner_id: AccountId | None = None) -> int: ...
    async def set_text(self, repo_id: RepoId, text: str) -> None:
        """What a search looks through besides the card: README and source. Kept apart: a listing never loads it."""

    async def like(self, user_id: AccountId, repo_id: RepoId, liked: bool, at: datetime) -> bool: ...  # whether that changed anything
    async def likers(self, repo_id: RepoId) -> tuple[Account, ...]: ...
    async def liked_by(self, user_id: AccountId) -> tuple[tuple[Repo, datetime], ...]: ...


class SpaceStore(Protocol):
    async def get(self, space_id: SpaceId) -> Space | None: ...
    async def get_many(self, space_ids: Sequence[str]) -> tuple[Space, ...]: ...
    async def by_subdomain(self, subdomain: str) -> Space | None: ...
    async def subdomain_taken(self, subdomain: str, *, by_other_than: SpaceId | None = None) -> bool:
        """Now, or within the last 30 days."""

    async def old_subdomains(self, space_id: SpaceId) -> tuple[str, ...]:
        """Those it had before it was renamed and that nobody took since."""

    async def add(self, space: Space) -> None: ...
    async def save(self, space: Space) -> None: ...
    async def remove(self, space_id: SpaceId) -> None: ...
    async def all_ids(self) -> tuple[SpaceId, ...]: ...
    async def settings(self, space_id: SpaceId) -> tuple[Setting, ...]: ...
    async def put_setting(self, setting: Setting) -> None: ...
    async def remove_setting(self, space_id: SpaceId, key: str, is_secret: bool) -> None: ...


class BuildStore(Protocol):
    async def get(self, build_id: BuildId) -> Build | None: ...
    async def add(self, build: Build) -> None: ...
    async def save(self, build: Build) -> None: ...
    async def latest(self, space_id: SpaceId) -> Build | None: ...
    async def latest_many(self, space_ids: Sequence[str]) -> dict[str, Build]: ...
    async def of_space(self, space_id: SpaceId, limit: int = 20) -> tuple[Build, ...]: ...
    async def open(self) -> tuple[Build, ...]: ...  # every QUEUED or RUNNING build, oldest first
    async def recent_durations(self, space_id: SpaceId, limit: int = 10) -> tuple[float, ...]: ...  # s, succeeded ones


class DeploymentStore(Protocol):
    async def get(self, space_id: SpaceId, generation: int) -> Deployment | None: ...
    async def add(self, deployment: Deployment) -> None: ...  # StaleGeneration when it exists
    async def save(self, deployment: Deployment) -> None: ...
    async def of_space(self, space_id: SpaceId, limit: int = 20) -> tuple[Deployment, ...]: ...  # newest first
    async def many(self, pairs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Deployment]: ...
    async def replicas(self, space_id: SpaceId) -> tuple[Replica, ...]: ...  # those not terminal
    async def replicas_many(self, space_ids: Sequence[str]) -> dict[str, tuple[Replica, ...]]: ...
    async def replica(self, replica_id: ReplicaId) -> Replica | None: ...
    async def save_replica(self, replica: Replica) -> None: ...
    async def open_replicas(self) -> tuple[Replica, ...]: ...
    async def failures(self, space_id: SpaceId, generation: int) -> tuple[Replica, ...]: ...  # FAILED ones, newest first


class EventStore(Protocol):
    async def add(self, space_id: SpaceId, at: datetime, kind: str, facts: Mapping[str, object] | None = None) -> None: ...
    async def of_space(self, space_id: SpaceId, *, after_id: int = 0, limit: int = 200) -> tuple[SpaceEvent, ...]: ...
    async def since(self, after_id: int, limit: int = 500) -> tuple[SpaceEvent, ...]: ...  # of every Space
    async def last_id(self) -> int: ...


class QuotaStore(Protocol):
    """Limits by subject ("" = platform default). Amounts used are recounted from rows by `quotas` use cases."""

    async def limits(self, subject: str) -> dict[str, float | None]: ...
    async def set_limit(self, subject: str, key: str, limit: float | None) -> None: ...
    async def unset_limit(self, subject: str, key: str) -> None: ...
    async def subjects(self) -> tuple[str, ...]: ...
    async def held(self, account_id: AccountId) -> Held: ...  # counted now, inside the caller's transaction
    async def add_usage(self, *, account_id: AccountId, space_id: SpaceId, key: str, flavor: str, day: str, amount: float) -> None: ...
    async def usage(
        self, *, account_id: AccountId | None = None, since_day: str, until_day: str | None = None
    ) -> tuple[Mapping[str, Any], ...]: ...


class TrafficStore(Protocol):
    """Hours are "YYYY-MM-DDTHH" in UTC."""

    async def add(self, space_id: SpaceId, hour: str, traffic: Traffic) -> None: ...  # to what the hour has already
    async def of_space(self, space_id: SpaceId, *, since_hour: str) -> tuple[tuple[str, Traffic], ...]: ...  # oldest first
    async def prune(self, before_hour: str) -> int: ...


class AuditStore(Protocol):
    async def append(self, *, at: datetime, actor: str, action: str, subject: str, address: str, facts: Mapping[str, object]) -> None: ...
    async def list(
        self, *, since: datetime | None = None, actor: str | None = None, limit: int = 1000
    ) -> tuple[Mapping[str, Any], ...]: ...
    async def page(self, *, after_id: int = 0, limit: int = 1000) -> tuple[Mapping[str, Any], ...]: ...  # oldest first, with hashes
    async def count_before(self, moment: datetime) -> int: ...  # rows that `forget` would take
    async def forget(self, moment: datetime) -> int: ...  # rows older than this, from the oldest on; the rest stays verifiable
    async def verify(self, checked: Callable[[int], None] | None = None) -> int | None:
        """Id of the first row whose chain is broken, None = whole. `checked` is told of rows as they are found good."""


class DocumentStore(Protocol):
    """Small keyed JSON documents of side rooms (discussions, webhooks, collections, OAuth grants, settings).

    `kind` names the room's own kind; `owner` groups for listing. Rooms give each kind a typed face of their own.
    """

    async def get(self, kind: str, key: str) -> dict[str, Any] | None: ...
    async def put(self, kind: str, key: str, owner: str, body: Mapping[str, Any]) -> None: ...
    async def remove(self, kind: str, key: str) -> None: ...
    async def list(self, kind: str, owner: str | None = None) -> tuple[dict[str, Any], ...]: ...
    async def next_number(self, kind: str, owner: str) -> int: ...  # 1, 2, 3 … atomically


class NoticeStore(Protocol):
    """Rows go with their account and their repository."""

    async def tell(self, notice: Notice) -> None:
        """New or, where the topic has one, new again: unread, and `count` one higher when nobody had read it."""

    async def get(self, account_id: AccountId, topic: str) -> Notice | None: ...
    async def of_account(
        self, account_id: AccountId, *, unread_only: bool = False, limit: int = 50, offset: int = 0
    ) -> tuple[Notice, ...]: ...  # newest first

    async def count(self, account_id: AccountId, *, unread_only: bool = False) -> int: ...
    async def mark(self, account_id: AccountId, read_at: datetime | None, topics: Sequence[str] | None = None) -> int:
        """Read since then, or unread (None); every notice, or those of the topics. Gives how many changed."""

    async def prune(self, before: datetime) -> int: ...


class GateStore(Protocol):
    """Requests for gated repositories. Rows go with their account and their repository; `put` keeps the id of a request."""

    async def get(self, repo_id: RepoId, user_id: AccountId) -> AccessRequest | None: ...
    async def by_id(self, repo_id: RepoId, request_id: str) -> AccessRequest | None: ...
    async def put(self, request: AccessRequest) -> None: ...
    async def of_repo(
        self, repo_id: RepoId, status: RequestStatus, *, limit: int = 100, offset: int = 0
    ) -> tuple[AccessRequest, ...]: ...  # newest first


class TryStore(Protocol):
    """Tries of a key within a window. Times are Unix seconds; a count is (tries, when its window ends), (0, 0) = none."""

    async def count(self, key: str, now: int) -> tuple[int, int]: ...
    async def add(self, key: str, now: int, life_s: int) -> tuple[int, int]:
        """One more, atomically; the window begins with the first."""

    async def give_back(self, key: str, now: int) -> None: ...
    async def mark(self, key: str, expires_at: int) -> None:
        """A key that is known until then, without tries."""

    async def prune(self, now: int) -> int: ...


class UnitOfWork(Protocol):
    accounts: AccountStore
    tokens: TokenStore
    repos: RepoStore
    spaces: SpaceStore
    builds: BuildStore
    deployments: DeploymentStore
    events: EventStore
    quotas: QuotaStore
    traffic: TrafficStore
    audit: AuditStore
    documents: DocumentStore
    notices: NoticeStore
    gates: GateStore
    tries: TryStore

    def after_commit(self, callback: Callable[[], Awaitable[None]]) -> None: ...


class UnitOfWorkFactory(Protocol):
    def read(self) -> AbstractAsyncContextManager[UnitOfWork]: ...
    def write(self) -> AbstractAsyncContextManager[UnitOfWork]: ...
