"""Who is signed in, tokens and sessions, organisations, notifications."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from control_plane.accounts.quotas import next_month
from control_plane.domain.accounts import ANONYMOUS, Account, AccountKind, Actor, Session, Via
from control_plane.domain.errors import NameTaken, NotSignedIn, Rejected
from control_plane.domain.ids import AccountId, SessionId
from tests.fakes.web_backend.world import World
from web.views import MemberRow, NoticePage, NoticeRow, OrgPage, PlatformFacts, QuotaRow, SessionRow, SignedIn, TokenRow, Viewer


class People(World):
    async def platform(self) -> PlatformFacts:
        return PlatformFacts("http://127.0.0.1:7860", self.frame_source, imports=True)

    async def actor(self, cookie: str | None, address: str) -> Actor:
        if cookie != self.signed_in:
            return ANONYMOUS
        user = Account(AccountId("a" * 24), AccountKind.USER, "alice", "Alice Liddell", self.now, is_admin=self.admin)
        session = Session(SessionId("s" * 24), user.id, "x", "csrf-token-of-alice-0123456789", self.now, self.now + timedelta(days=30))
        return Actor(Via.SESSION, user, session=session)

    async def viewer(self, actor: Actor) -> Viewer:
        return Viewer(actor.user.name, actor.user.fullname, actor.is_admin, ("alice", "lab-oslo"), 2) if actor.user else Viewer()

    async def sign_in(self, name: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        if (name, password) != ("alice", "correct horse"):
            raise NotSignedIn("Wrong user name or password.", bad_credentials=True)
        return SignedIn(self.signed_in, datetime.now(UTC) + timedelta(days=30), "alice")

    async def sign_in_once(self, token: str, *, address: str, user_agent: str) -> SignedIn:
        if token != "once":
            raise NotSignedIn("This sign-in link was used already or is too old; ask for a new one.", bad_credentials=True)
        return SignedIn(self.signed_in, datetime.now(UTC) + timedelta(days=30), "alice")

    async def sign_up(self, name: str, email: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        if name == "alice":
            raise NameTaken("The name alice is taken.")
        return SignedIn(self.signed_in, datetime.now(UTC) + timedelta(days=30), name)

    async def sign_out(self, actor: Actor) -> None:
        self.calls.append(("sign_out",))

    async def tokens(self, actor: Actor) -> tuple[TokenRow, ...]:
        return (
            TokenRow("t1", "laptop", "write", self.now - timedelta(days=3), None, self.now - timedelta(minutes=5)),
            TokenRow("t2", "ci", "read", self.now - timedelta(days=30), self.now + timedelta(days=60), None),
        )

    async def create_token(self, actor: Actor, name: str, role: str, expires_at: datetime | None) -> str:
        if not name:
            raise Rejected("a token needs a name")
        return "hf_" + "x" * 36

    async def revoke_token(self, actor: Actor, token_id: str) -> None:
        self.calls.append(("revoke", token_id))

    async def sessions(self, actor: Actor) -> tuple[SessionRow, ...]:
        return (
            SessionRow("s1", self.now, self.now, "Firefox on Linux", "10.0.0.7", True),
            SessionRow("s2", self.now - timedelta(days=2), self.now, "Safari on iPhone", "10.0.0.9", False),
        )

    async def end_session(self, actor: Actor, session_id: str | None) -> None:
        self.calls.append(("end", session_id))

    async def change_password(self, actor: Actor, old: str, new: str) -> None:
        if old != "correct horse":
            raise Rejected("The old password is not right.")

    async def own_quotas(self, actor: Actor) -> tuple[QuotaRow, ...]:
        return (QuotaRow("spaces", 10, 4), QuotaRow("gpu-hours", 20, 1.6, frees_at=next_month(self.now)), QuotaRow("storage-gb", None, 0.4))

    def may_make_org(self, actor: Actor) -> bool:
        return actor.user is not None

    async def create_org(self, actor: Actor, name: str, fullname: str) -> str:
        self.calls.append(("org", name))
        return name

    async def org(self, actor: Actor, name: str) -> OrgPage:
        members = (MemberRow("alice", "Alice Liddell", "admin", True), MemberRow("mira", self.any_text or "Mira Sato", "write", False))
        return OrgPage(
            name, self.any_text or "Lab Oslo", True, members, ("admin", "write", "contributor", "read"), await self.own_quotas(actor)
        )

    async def rename_org(self, actor: Actor, name: str, fullname: str) -> None:
        self.calls.append(("org-name", name, fullname))

    async def set_org_member(self, actor: Actor, name: str, user_name: str, role: str) -> None:
        self.calls.append(("member", name, user_name, role))

    async def remove_org_member(self, actor: Actor, name: str, user_name: str) -> None:
        self.calls.append(("no-member", name, user_name))

    async def notices(self, actor: Actor, unread_only: bool, page: int) -> NoticePage:
        here, ago = "alice/marginalia", timedelta(hours=3)
        at, logs = f"/spaces/{here}/discussions", "/spaces/alice/broken/logs"
        failed = "A requirement could not be installed; the build log has its error."
        rows = (
            NoticeRow("t1", "run", "New comment", here, f"{at}/1", self.now, "mira", self.discussion_title, self.comment_text, 1, 3),
            NoticeRow("t2", "fail", "Build failed", "alice/broken", logs, self.now - ago, "", self.commit_title, failed),
            NoticeRow("t3", "sleep", "Merged", here, f"{at}/2", self.now - 9 * ago, "bob", "Faster search", "", 2, is_read=True),
        )  # fmt: skip
        return NoticePage(tuple(r for r in rows if not (unread_only and r.is_read)), 2, page, False)

    async def open_notice(self, actor: Actor, topic: str) -> str:
        self.calls.append(("open-notice", topic))
        return "/spaces/alice/marginalia/discussions/1"

    async def mark_notices(self, actor: Actor, topics: Sequence[str] | None, read: bool) -> None:
        self.calls.append(("mark", topics, read))

    async def follow_notices(self, actor: Actor) -> AsyncIterator[int | None]:
        yield 2
        yield None
