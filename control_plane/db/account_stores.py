"""Accounts, memberships, tokens and browser sessions."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from control_plane.db import mapping
from control_plane.db.rows import Rows
from control_plane.db.tables import accounts, likes, memberships, repos, sessions, tokens
from control_plane.domain.accounts import Account, AccountKind, Membership, OrgRole, Session, Token
from control_plane.domain.errors import NameTaken
from control_plane.domain.ids import AccountId, SessionId, TokenId


class SqlAccountStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, account_id: AccountId) -> Account | None:
        row = await self._rows.row(accounts.c.id, account_id)
        return mapping.account_to_domain(row) if row else None

    async def by_name(self, name: str) -> Account | None:
        row = await self._rows.row(accounts.c.name_lower, name.lower())
        return mapping.account_to_domain(row) if row else None

    async def list(self, kind: AccountKind | None = None) -> tuple[Account, ...]:
        query = select(accounts).order_by(accounts.c.name_lower)
        if kind is not None:
            query = query.where(accounts.c.kind == kind.value)
        return tuple(mapping.account_to_domain(row) for row in await self._rows.all(query))

    async def add(self, account: Account) -> None:
        if not await self._rows.add(accounts, mapping.account_to_row(account)):
            raise NameTaken(f"the name '{account.name}' is taken")

    async def save(self, account: Account) -> None:
        holder = await self.by_name(account.name)
        if holder is not None and holder.id != account.id:
            raise NameTaken(f"the name '{account.name}' is taken")
        await self._rows.put(accounts, mapping.account_to_row(account), key=("id",))

    async def remove(self, account_id: AccountId) -> None:
        liked = select(likes.c.repo_id).where(likes.c.user_id == account_id)
        await self._rows.run(update(repos).where(repos.c.id.in_(liked)).values(likes=repos.c.likes - 1))
        await self._rows.run(delete(accounts).where(accounts.c.id == account_id))

    async def memberships(self, user_id: AccountId) -> tuple[tuple[Account, OrgRole], ...]:
        query = (
            select(accounts, memberships.c.role)
            .join(memberships, memberships.c.org_id == accounts.c.id)
            .where(memberships.c.user_id == user_id)
            .order_by(accounts.c.name_lower)
        )
        return tuple(mapping.role_to_domain(row) for row in await self._rows.all(query))

    async def members(self, org_id: AccountId) -> tuple[tuple[Account, OrgRole], ...]:
        query = (
            select(accounts, memberships.c.role)
            .join(memberships, memberships.c.user_id == accounts.c.id)
            .where(memberships.c.org_id == org_id)
            .order_by(accounts.c.name_lower)
        )
        return tuple(mapping.role_to_domain(row) for row in await self._rows.all(query))

    async def set_member(self, membership: Membership) -> None:
        row = {"org_id": membership.org_id, "user_id": membership.user_id, "role": membership.role.value}
        await self._rows.put(memberships, row, key=("org_id", "user_id"))

    async def remove_member(self, org_id: AccountId, user_id: AccountId) -> None:
        await self._rows.run(delete(memberships).where(memberships.c.org_id == org_id, memberships.c.user_id == user_id))


class SqlTokenStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def add(self, token: Token) -> None:
        if not await self._rows.add(tokens, mapping.token_to_row(token)):
            raise NameTaken("this token exists already")

    async def by_hash(self, sha256: str) -> Token | None:
        row = await self._rows.row(tokens.c.sha256, sha256)
        return mapping.token_to_domain(row) if row else None

    async def get(self, token_id: TokenId) -> Token | None:
        row = await self._rows.row(tokens.c.id, token_id)
        return mapping.token_to_domain(row) if row else None

    async def of_user(self, user_id: AccountId) -> tuple[Token, ...]:
        query = select(tokens).where(tokens.c.user_id == user_id).order_by(tokens.c.created_at, tokens.c.id)
        return tuple(mapping.token_to_domain(row) for row in await self._rows.all(query))

    async def save(self, token: Token) -> None:
        await self._rows.put(tokens, mapping.token_to_row(token), key=("id",))

    async def add_session(self, session: Session) -> None:
        await self._rows.put(sessions, mapping.session_to_row(session), key=("id",))

    async def session_by_hash(self, sha256: str) -> Session | None:
        row = await self._rows.row(sessions.c.secret_sha256, sha256)
        return mapping.session_to_domain(row) if row else None

    async def sessions_of(self, user_id: AccountId) -> tuple[Session, ...]:
        query = select(sessions).where(sessions.c.user_id == user_id).order_by(sessions.c.created_at, sessions.c.id)
        return tuple(mapping.session_to_domain(row) for row in await self._rows.all(query))

    async def remove_session(self, session_id: SessionId) -> None:
        await self._rows.run(delete(sessions).where(sessions.c.id == session_id))
