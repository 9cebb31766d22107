"""Sign-in, tokens, sessions: the account use cases as pages need them."""

from __future__ import annotations

import contextlib
from datetime import datetime

from control_plane.accounts import maintenance, people, policy, quotas, sign_in, tokens
from control_plane.accounts.throttle import neighbourhood
from control_plane.domain.accounts import ANONYMOUS, Account, AccountKind, Actor, OrgRole, Session, TokenRole
from control_plane.domain.errors import NotFound, Rejected, VitrineError
from control_plane.domain.ids import TokenId
from web.services.deps import Base
from web.views import PlatformFacts, QuotaRow, SessionRow, SignedIn, TokenRow, Viewer


class PeopleFamily(Base):
    async def platform(self) -> PlatformFacts:
        notice = None
        with contextlib.suppress(VitrineError):  # the page that says the database is down is a page too
            async with self.d.uow.read() as uow:
                notice = await maintenance.current(uow)
        banner = " ".join(words for words in (notice.message if notice else "", self.d.banner()) if words)
        return PlatformFacts(
            self.d.public_url, self.d.frame_source, self.d.sign_up_open, banner, self.d.single_sign_on, self.d.imports is not None
        )

    async def actor(self, cookie: str | None, address: str) -> Actor:
        if not cookie:
            return ANONYMOUS
        return await sign_in.authenticate(self.d.uow, self.d.clock, cookie=cookie, address=address)

    async def viewer(self, actor: Actor) -> Viewer:
        if actor.user is None:
            return Viewer()
        spaces = [actor.user.name]
        async with self.d.uow.read() as uow:
            unread = await uow.notices.count(actor.user.id, unread_only=True)
            if actor.roles:
                memberships = await uow.accounts.memberships(actor.user.id)
                spaces += [org.name for org, role in memberships if role.includes(OrgRole.CONTRIBUTOR)]
        return Viewer(actor.user.name, actor.user.fullname, actor.is_admin, tuple(spaces), unread)

    async def sign_in(self, name: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        session, cookie = await sign_in.sign_in(
            self.d.uow, self.d.clock, self.d.throttle, name=name, password=password, address=address, user_agent=user_agent
        )
        await self._audit(name, "session.open", address)
        return SignedIn(cookie, session.expires_at, name)

    async def sign_in_once(self, token: str, *, address: str, user_agent: str) -> SignedIn:
        session, cookie, account = await sign_in.redeem_sign_in_link(
            self.d.uow, self.d.clock, token, address=address, user_agent=user_agent
        )
        await self._audit(account.name, "session.open", address)
        return SignedIn(cookie, session.expires_at, account.name)

    async def sign_up(self, name: str, email: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        key = f"sign-up:{neighbourhood(address)}"
        await self.d.throttle.attempt(key)  # every new account counts, so that one address cannot make thousands
        async with self.d.uow.write() as uow:
            account = await people.add_user(uow, self.d.clock, name, email=email or None, password=password)
            await uow.audit.append(
                at=self.d.clock.now(), actor=name, action="user.add", subject=f"user:{name}", address=address, facts={"by": "sign-up"}
            )
            session, cookie = await sign_in.open_session(uow, self.d.clock, account, address=address, user_agent=user_agent)
        return SignedIn(cookie, session.expires_at, account.name)

    async def sign_out(self, actor: Actor) -> None:
        if actor.user is None or actor.session is None:
            return
        async with self.d.uow.write() as uow:
            await sign_in.end_sessions(uow, self.d.signals, actor.user, [actor.session.id])
            await uow.audit.append(
                at=self.d.clock.now(),
                actor=actor.name,
                action="session.close",
                subject=f"user:{actor.name}",
                address=actor.address,
                facts={},
            )

    async def _audit(self, name: str, action: str, address: str) -> None:
        async with self.d.uow.write() as uow:
            await uow.audit.append(at=self.d.clock.now(), actor=name, action=action, subject=f"user:{name}", address=address, facts={})

    async def tokens(self, actor: Actor) -> tuple[TokenRow, ...]:
        user = policy.require_user(actor)
        now = self.d.clock.now()
        async with self.d.uow.read() as uow:
            found = await uow.tokens.of_user(user.id)
        return tuple(
            TokenRow(t.id, t.name, t.role.value, t.created_at, t.expires_at, t.last_used_at, tuple(t.scopes.items()))
            for t in found
            if sign_in.is_live(t, now)
        )

    async def create_token(self, actor: Actor, name: str, role: str, expires_at: datetime | None) -> str:
        user = policy.require_user(actor, write=True)
        if role not in (TokenRole.READ, TokenRole.WRITE):
            raise Rejected("a token is for read or for write")
        async with self.d.uow.write() as uow:
            token, text = await tokens.create_token(uow, self.d.clock, user, name, TokenRole(role), expires_at)
            await uow.audit.append(
                at=self.d.clock.now(), actor=user.name, action="token.add", subject=f"user:{user.name}", address=actor.address,
                facts={"token": token.id, "role": role},
            )  # fmt: skip
        return text

    async def revoke_token(self, actor: Actor, token_id: str) -> None:
        user = policy.require_user(actor, write=True)
        async with self.d.uow.write() as uow:
            await tokens.revoke_token(uow, self.d.clock, self.d.signals, TokenId(token_id), owner=user)
            await uow.audit.append(
                at=self.d.clock.now(), actor=user.name, action="token.revoke", subject=f"user:{user.name}", address=actor.address,
                facts={"token": token_id},
            )  # fmt: skip

    async def sessions(self, actor: Actor) -> tuple[SessionRow, ...]:
        user = policy.require_user(actor)
        async with self.d.uow.read() as uow:
            found: tuple[Session, ...] = await uow.tokens.sessions_of(user.id)
        this = actor.session.id if actor.session else ""
        live = (s for s in found if s.expires_at > self.d.clock.now())
        return tuple(
            SessionRow(s.id, s.created_at, s.expires_at, browser_name(s.user_agent), s.address, s.id == this)
            for s in sorted(live, key=lambda s: (s.id != this, -s.created_at.timestamp()))
        )

    async def end_session(self, actor: Actor, session_id: str | None) -> None:
        user = policy.require_user(actor, write=True)
        this = actor.session.id if actor.session else ""
        async with self.d.uow.write() as uow:
            own = await uow.tokens.sessions_of(user.id)
            ended = [s for s in own if (s.id == session_id if session_id else s.id != this)]
            if session_id and not ended:
                raise NotFound("there is no such session")
            await sign_in.end_sessions(uow, self.d.signals, user, [session.id for session in ended])
            await uow.audit.append(
                at=self.d.clock.now(), actor=user.name, action="session.end", subject=f"user:{user.name}", address=actor.address,
                facts={"ended": len(ended)},
            )  # fmt: skip

    async def change_password(self, actor: Actor, old: str, new: str) -> None:
        user = policy.require_user(actor, write=True)
        key = f"password:{user.id}"  # not the name's: strangers' guesses there must not stop its person here
        await self.d.throttle.check(key)
        if user.password_hash is not None and not await sign_in.check_password(user, old):
            await self.d.throttle.failed(key)
            raise Rejected("The old password is not right.")
        async with self.d.uow.write() as uow:
            await people.set_password(uow, self.d.signals, user, new)
            await uow.audit.append(
                at=self.d.clock.now(), actor=user.name, action="user.password", subject=f"user:{user.name}", address=actor.address, facts={}
            )

    async def own_quotas(self, actor: Actor) -> tuple[QuotaRow, ...]:
        return await self.quotas_of(policy.require_user(actor))

    async def quotas_of(self, account: Account) -> tuple[QuotaRow, ...]:
        async with self.d.uow.read() as uow:
            uses = await quotas.show(uow, account, self.d.catalog(), self.d.clock.now())
        return tuple(QuotaRow(q.key, q.limit, q.used, q.source, q.frees_at) for q in uses)

    async def account_named(self, name: str, kind: AccountKind | None = None) -> Account:
        async with self.d.uow.read() as uow:
            return await people.find_account(uow, name, kind)


def browser_name(user_agent: str) -> str:
    """`Firefox on Linux`, as far as a user agent tells; the text itself when it does not."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} · {system}" if browser and system else browser or user_agent[:60]


_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"), ("Mac OS", "macOS"), ("Linux", "Linux"))
