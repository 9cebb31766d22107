"""Profiles, tokens, sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from web.views.repositories import RepoRow
from web.views.settings import QuotaRow
from web.views.spaces import SpaceCard


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    fullname: str
    kind: str  # user or org
    since: datetime
    spaces: tuple[SpaceCard, ...]
    repos: tuple[RepoRow, ...]
    groups: tuple[tuple[str, str], ...] = ()  # of a user: (org, role); of an org: (user, role)
    likes: tuple[SpaceCard, ...] = ()
    collections: tuple[CollectionRow, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRow:
    id: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    scopes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: str
    created_at: datetime
    expires_at: datetime
    user_agent: str
    address: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session: `cookie` goes to the browser once and is kept nowhere."""

    cookie: str
    expires_at: datetime
    name: str


@dataclass(frozen=True, slots=True)
class MemberRow:
    name: str
    fullname: str
    role: str
    is_viewer: bool


@dataclass(frozen=True, slots=True)
class OrgPage:
    """`roles`: every role that a member can have, the strongest first."""

    name: str
    fullname: str
    may_manage: bool
    members: tuple[MemberRow, ...]
    roles: tuple[str, ...]
    quotas: tuple[QuotaRow, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectionRow:
    owner: str
    slug: str
    title: str
    description: str
    is_private: bool
    theme: str
    size: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class CollectionPage:
    """`items`: lower-case "owner/name" of what is shown → id of its place in the collection."""

    row: CollectionRow
    cards: tuple[SpaceCard, ...]
    rows: tuple[RepoRow, ...]
    can_edit: bool
    items: Mapping[str, str]
