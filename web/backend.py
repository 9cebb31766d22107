"""The door from pages to the platform. Each Protocol is one family of pages; `WebBackend` is all of them.

Every call takes the `Actor` and raises the errors of `control_plane.domain.errors`: NotFound for what is hidden,
Forbidden for a known caller without the right, Rejected subclasses for bad input. No call returns a domain row.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from control_plane.domain.accounts import Actor
from control_plane.domain.spaces import RepoType
from web.views import (
    AdminOverview,
    AnalyticsView,
    AuditRow,
    BlobView,
    BuildRow,
    CollectionPage,
    CollectionRow,
    CommitsView,
    CommitView,
    DiscussionPage,
    DiscussionRow,
    Gallery,
    GalleryQuery,
    ImportStep,
    LiveEvent,
    LogEntry,
    LogPage,
    NoticePage,
    OrgPage,
    PlatformFacts,
    Profile,
    QuotaRow,
    RepoPage,
    RepoRow,
    SessionRow,
    SettingsView,
    SignedIn,
    SpacePage,
    TokenRow,
    TreeView,
    UsageRow,
    UserRow,
    Viewer,
)  # fmt: skip


class MovedTo(Exception):
    """The repository has another name now; pages redirect. `old` is (type, owner, name) as asked for."""

    def __init__(self, old: tuple[RepoType, str, str], owner: str, name: str) -> None:
        super().__init__(f"{owner}/{name}")
        self.old, self.owner, self.name = old, owner, name


class SignInDoor(Protocol):
    async def platform(self) -> PlatformFacts: ...
    async def actor(self, cookie: str | None, address: str) -> Actor: ...
    async def viewer(self, actor: Actor) -> Viewer: ...
    async def sign_in(self, name: str, password: str, *, address: str, user_agent: str) -> SignedIn: ...
    async def sign_in_once(self, token: str, *, address: str, user_agent: str) -> SignedIn: ...
    async def sign_up(self, name: str, email: str, password: str, *, address: str, user_agent: str) -> SignedIn: ...
    async def sign_out(self, actor: Actor) -> None: ...


class GalleryDoor(Protocol):
    async def gallery(self, actor: Actor, query: GalleryQuery) -> Gallery: ...
    async def thumbnail(self, actor: Actor, space_id: str) -> bytes:
        """A WebP; NotFound when there is none."""

    async def repo_list(self, actor: Actor, kind: RepoType, q: str, sort: str, page: int) -> tuple[tuple[RepoRow, ...], bool]: ...
    async def profile(self, actor: Actor, name: str) -> Profile: ...
    async def like(self, actor: Actor, kind: RepoType, owner: str, name: str, liked: bool) -> None: ...


class CollectionsDoor(Protocol):
    async def collections_of(self, actor: Actor, owner: str) -> tuple[CollectionRow, ...]: ...
    async def collection(self, actor: Actor, owner: str, slug: str) -> CollectionPage: ...
    async def collect(self, actor: Actor, kind: RepoType, owner: str, name: str, into: str, title: str) -> str:
        """`into`: "OWNER/SLUG", or "" and a title for a new one. Gives "OWNER/SLUG"."""

    async def uncollect(self, actor: Actor, owner: str, slug: str, item_id: str) -> None: ...
    async def remove_collection(self, actor: Actor, owner: str, slug: str) -> None: ...


class SpaceDoor(Protocol):
    async def space(self, actor: Actor, owner: str, name: str) -> SpacePage: ...
    async def analytics(self, actor: Actor, owner: str, name: str, span: str) -> AnalyticsView:
        """`span`: day, week or month."""

    async def builds(self, actor: Actor, owner: str, name: str) -> tuple[BuildRow, ...]: ...
    async def log_page(self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, tail: int) -> LogPage: ...
    def follow_log(
        self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, after: int
    ) -> AsyncIterator[LogEntry | None]:
        """Lines from number `after`; None now and then as a sign of life. `which`: build or run."""

    def events(self, actor: Actor, owner: str, name: str, after: int | None) -> AsyncIterator[LiveEvent | None]:
        """History after event `after` (None = only what is true now), then what happens; None as a sign of life."""

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
        """`files` of the first commit by path; with any, the example is not needed."""

    def import_space(
        self, actor: Actor, owner: str, name: str, sdk: str, visibility: str, hardware: str, url: str, branch: str
    ) -> AsyncGenerator[ImportStep, None]:
        """A new Space from another git server's repository. Refusals of what was typed come before the first step."""

    async def duplicate(self, actor: Actor, owner: str, name: str, to_owner: str, to_name: str, visibility: str) -> SpacePage: ...
    async def pause(self, actor: Actor, owner: str, name: str) -> None: ...
    async def restart(self, actor: Actor, owner: str, name: str, *, factory: bool) -> None: ...
    async def deploy_revision(self, actor: Actor, owner: str, name: str, revision: str) -> None: ...
    async def cancel_build(self, actor: Actor, owner: str, name: str, build_id: str) -> None: ...


class SettingsDoor(Protocol):
    async def settings(self, actor: Actor, owner: str, name: str) -> SettingsView: ...
    async def set_hardware(self, actor: Actor, owner: str, name: str, flavor: str) -> None: ...
    async def set_replicas(self, actor: Actor, owner: str, name: str, count: int) -> None: ...
    async def request_storage(self, actor: Actor, owner: str, name: str, tier: str) -> None: ...
    async def delete_storage(self, actor: Actor, owner: str, name: str) -> None: ...
    async def add_volume(
        self, actor: Actor, owner: str, name: str, kind: str, source: str, mount_path: str, revision: str, path: str
    ) -> None: ...
    async def remove_volume(self, actor: Actor, owner: str, name: str, mount_path: str) -> None: ...
    async def set_sleep(self, actor: Actor, owner: str, name: str, seconds: int | None) -> None: ...
    async def put_setting(self, actor: Actor, owner: str, name: str, key: str, value: str, description: str, *, secret: bool) -> None: ...
    async def remove_setting(self, actor: Actor, owner: str, name: str, key: str, *, secret: bool) -> None: ...
    async def set_visibility(self, actor: Actor, kind: RepoType, owner: str, name: str, visibility: str) -> None: ...
    async def rename(self, actor: Actor, kind: RepoType, owner: str, name: str, to_owner: str, to_name: str) -> str:
        """The new address on this site."""

    async def remove_repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None: ...


class FilesDoor(Protocol):
    async def repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> RepoPage: ...
    async def tree(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> TreeView: ...
    async def blob(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> BlobView: ...
    def raw(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> AsyncIterator[bytes]:
        """The content, LFS resolved, in chunks. Errors are raised on the first step."""

    async def commits(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, page: int) -> CommitsView: ...
    async def commit(self, actor: Actor, kind: RepoType, owner: str, name: str, sha: str) -> CommitView: ...
    async def write_files(
        self, actor: Actor, kind: RepoType, owner: str, name: str, branch: str, changes: Mapping[str, bytes | None],
        message: str, parent: str | None,
    ) -> str:  # fmt: skip
        """One commit; None deletes a path. Gives its sha. StaleParent when somebody was faster."""

    async def propose_files(
        self, actor: Actor, kind: RepoType, owner: str, name: str, branch: str, changes: Mapping[str, bytes | None], message: str
    ) -> int:
        """The same as a new pull request; gives its number. Asks for the right to discuss, not to write."""


class AccountDoor(Protocol):
    async def tokens(self, actor: Actor) -> tuple[TokenRow, ...]: ...
    async def create_token(self, actor: Actor, name: str, role: str, expires_at: datetime | None) -> str:
        """The token itself, shown once."""

    async def revoke_token(self, actor: Actor, token_id: str) -> None: ...
    async def sessions(self, actor: Actor) -> tuple[SessionRow, ...]: ...
    async def end_session(self, actor: Actor, session_id: str | None) -> None:
        """None ends every session but this one."""

    async def change_password(self, actor: Actor, old: str, new: str) -> None: ...
    async def own_quotas(self, actor: Actor) -> tuple[QuotaRow, ...]: ...


class CommunityDoor(Protocol):
    async def discussions(self, actor: Actor, kind: RepoType, owner: str, name: str) -> tuple[DiscussionRow, ...]: ...
    async def discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int) -> DiscussionPage: ...
    async def open_discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, title: str, text: str) -> int: ...
    async def comment(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, text: str) -> None: ...
    async def set_discussion_status(
        self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, status: str, comment: str = ""
    ) -> None:
        """`status`: open, closed or merged."""

    async def start_preview(self, actor: Actor, owner: str, name: str, number: int) -> None: ...
    async def stop_preview(self, actor: Actor, owner: str, name: str, number: int) -> None: ...


class OrgsDoor(Protocol):
    def may_make_org(self, actor: Actor) -> bool: ...
    async def create_org(self, actor: Actor, name: str, fullname: str) -> str:
        """The maker is its first admin. Gives its name."""

    async def org(self, actor: Actor, name: str) -> OrgPage: ...
    async def rename_org(self, actor: Actor, name: str, fullname: str) -> None: ...
    async def set_org_member(self, actor: Actor, name: str, user_name: str, role: str) -> None: ...
    async def remove_org_member(self, actor: Actor, name: str, user_name: str) -> None: ...


class GatesDoor(Protocol):
    async def ask_access(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None: ...
    async def set_gate(self, actor: Actor, kind: RepoType, owner: str, name: str, gate: str) -> None:
        """`gate`: auto, manual or "" for none."""

    async def decide_access(self, actor: Actor, kind: RepoType, owner: str, name: str, request_id: str, status: str) -> None:
        """`status`: accepted or rejected."""


class NoticesDoor(Protocol):
    async def notices(self, actor: Actor, unread_only: bool, page: int) -> NoticePage: ...
    async def open_notice(self, actor: Actor, topic: str) -> str:
        """Read from now on; gives the address on this site that it leads to."""

    async def mark_notices(self, actor: Actor, topics: Sequence[str] | None, read: bool) -> None:
        """None marks every one."""

    def follow_notices(self, actor: Actor) -> AsyncIterator[int | None]:
        """How many are unread, now and whenever it changes; None as a sign of life."""


class AdminDoor(Protocol):
    """Every call raises NotFound for anyone who is not an admin of the platform: the pages do not exist for them."""

    async def admin_overview(self, actor: Actor) -> AdminOverview: ...
    async def admin_users(self, actor: Actor) -> tuple[UserRow, ...]: ...
    async def admin_quotas(self, actor: Actor, subject: str) -> tuple[QuotaRow, ...]: ...
    async def admin_set_quota(self, actor: Actor, subject: str, key: str, value: str) -> None: ...
    async def admin_usage(self, actor: Actor) -> tuple[UsageRow, ...]: ...
    async def admin_audit(self, actor: Actor) -> tuple[tuple[AuditRow, ...], bool]:
        """Newest first, and whether the chain is whole."""

    async def admin_suspend(self, actor: Actor, name: str, suspended: bool) -> None: ...
    async def admin_maintenance(self, actor: Actor, message: str | None) -> None:
        """Begin with these words for everybody, or end (None)."""

    async def admin_add_user(self, actor: Actor, name: str, email: str, password: str, *, admin: bool) -> None: ...


class WebBackend(
    SignInDoor,
    GalleryDoor,
    CollectionsDoor,
    SpaceDoor,
    SettingsDoor,
    FilesDoor,
    AccountDoor,
    CommunityDoor,
    GatesDoor,
    OrgsDoor,
    NoticesDoor,
    AdminDoor,
    Protocol,
):
    """All that the pages need."""
