"""The tables. Times are aware UTC, ids are text, value-objects are JSON; `*_lower` columns carry case-free uniqueness.

`seq` is the order of insertion: it breaks ties between equal times and is the row id that the search index points at.
Every listing that a page or the Hub API asks for has an index that yields it in order (see `repos`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """An aware time. SQLite has no zone, so UTC is stored there and put back on reading; a naive time is a bug."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _id(name: str, *args: Any, **kwargs: Any) -> Column[str]:
    return Column(name, String(64), *args, **kwargs)


def _seq() -> Column[int]:
    # SQLite only makes `INTEGER PRIMARY KEY` its row id, hence the variant.
    return Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)


meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

accounts = Table(
    "accounts",
    metadata,
    _id("id", primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("name_lower", Text, nullable=False, unique=True),
    Column("fullname", Text, nullable=False),
    Column("email", Text),
    Column("is_admin", Boolean, nullable=False),
    Column("is_suspended", Boolean, nullable=False),
    Column("password_hash", Text),
    Column("created_at", UtcTime, nullable=False),
)

memberships = Table(
    "memberships",
    metadata,
    _id("org_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    _id("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    _id("id", primary_key=True),
    _id("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
    Column("scopes", JSON, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    _id("id", primary_key=True),
    _id("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("csrf", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("address", Text, nullable=False),
)

# The columns after `origin` are the platform's own: derived on every save, for listing and searching only.
repos = Table(
    "repos",
    metadata,
    _seq(),
    _id("id", nullable=False, unique=True),
    Column("type", Text, nullable=False),
    _id("owner_id", ForeignKey("accounts.id"), nullable=False),
    Column("owner_name", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("visibility", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    _id("created_by", nullable=False),
    Column("head", String(64)),
    Column("likes", Integer, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("card", JSON, nullable=False),
    Column("storage_bytes", BigInteger, nullable=False),
    Column("discussions_disabled", Boolean, nullable=False),
    Column("origin", Text, nullable=False),
    Column("owner_lower", Text, nullable=False),
    Column("name_lower", Text, nullable=False),
    Column("is_private", Boolean, nullable=False),
    Column("trending", Float(53), nullable=False),
    Column("search_text", Text, nullable=False),
    Column("gate", Text, server_default="", nullable=False),
    UniqueConstraint("type", "owner_lower", "name_lower"),
    Index("ix_repos_listed_trending", "type", "is_private", "trending", "seq"),
    Index("ix_repos_listed_likes", "type", "is_private", "likes", "seq"),
    Index("ix_repos_listed_created", "type", "is_private", "created_at", "seq"),
    Index("ix_repos_listed_updated", "type", "is_private", "updated_at", "seq"),
    Index("ix_repos_all_trending", "type", "trending", "seq"),
    Index("ix_repos_all_likes", "type", "likes", "seq"),
    Index("ix_repos_all_updated", "type", "updated_at", "seq"),
    Index("ix_repos_all_created", "type", "created_at", "seq"),
    Index("ix_repos_owned_trending", "owner_id", "type", "trending", "seq"),
    Index("ix_repos_owned_likes", "owner_id", "type", "likes", "seq"),
    Index("ix_repos_owned_created", "owner_id", "type", "created_at", "seq"),
    Index("ix_repos_owned_updated", "owner_id", "type", "updated_at", "seq"),
    Index("ix_repos_gated", "type", "seq", sqlite_where=text("gate <> ''"), postgresql_where=text("gate <> ''")),
)

repo_tags = Table(
    "repo_tags",
    metadata,
    Column("tag", Text, primary_key=True),
    _id("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True, index=True),
)

old_names = Table(
    "old_names",
    metadata,
    Column("type", Text, primary_key=True),
    Column("owner_lower", Text, primary_key=True),
    Column("name_lower", Text, primary_key=True),
    _id("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), nullable=False, index=True),
)

likes = Table(
    "likes",
    metadata,
    _id("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    _id("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("at", UtcTime, nullable=False),
)

# What the search looks through beside `search_text`: README and source. PostgreSQL has a column more.
repo_texts = Table(
    "repo_texts",
    metadata,
    Column(
        "seq",
        BigInteger().with_variant(Integer(), "sqlite"),
        ForeignKey("repos.seq", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("body", Text, nullable=False),
)

# What is left of a repository: whose it was, for what is metered or listed after it went.
removed_repos = Table(
    "removed_repos",
    metadata,
    _id("repo_id", primary_key=True),
    _id("owner_id", nullable=False),
    Column("full_name", Text, nullable=False),
    Column("removed_at", UtcTime, nullable=False),
)

# No foreign key to `repos`: a deleted Space gives its name back at once and lives on until nothing of it runs.
spaces = Table(
    "spaces",
    metadata,
    _id("id", primary_key=True),
    Column("subdomain", String(64), nullable=False, unique=True),
    Column("sdk", Text, nullable=False),
    Column("config", JSON, nullable=False),
    Column("desired", Text, nullable=False),
    Column("asleep", Boolean, nullable=False),
    Column("sleep_reason", Text, server_default="", nullable=False),
    Column("sleep_message", Text, server_default="", nullable=False),
    Column("storage_tier", Text, server_default="", nullable=False),
    Column("storage_key", Text, server_default="", nullable=False),
    Column("storage_bytes", BigInteger, server_default="0", nullable=False),
    Column("hardware", Text, nullable=False),
    Column("sleep_after_s", Integer),
    Column("idle_rule", Text, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("live_generation", Integer, nullable=False),
    Column("restart_count", Integer, nullable=False),
    Column("has_app_file", Boolean, nullable=False),
    Column("config_error", Text, nullable=False),
    Column("last_used_at", UtcTime),
    Column("suspended", Boolean, nullable=False),
    Column("updated_at", UtcTime),
    Index("ix_spaces_sdk", "sdk"),
    Index("ix_spaces_hardware", "hardware"),
    Index("ix_spaces_up", "desired", "asleep"),
)

freed_subdomains = Table(
    "freed_subdomains",
    metadata,
    Column("subdomain", String(64), primary_key=True),
    Column("freed_at", UtcTime, nullable=False),
    Column("space_id", String(64), index=True),  # whose it was; that Space may be gone
)

settings = Table(
    "settings",
    metadata,
    _id("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("is_secret", Boolean, primary_key=True),
    Column("value", Text, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("updated_at", UtcTime),
)

_OPEN_BUILD = text("status IN ('queued', 'running')")

builds = Table(
    "builds",
    metadata,
    _seq(),
    _id("id", nullable=False, unique=True),
    _id("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("revision", String(64), nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("no_cache", Boolean, nullable=False),
    Column("phase", Text),
    Column("progress", Float(53)),
    Column("message", Text, nullable=False),
    Column("reason", Text),
    Column("worker", Text, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("heartbeat_at", UtcTime),
    Column("submitted_at", UtcTime),
    Column("result", JSON(none_as_null=True)),
    Column("commit_title", Text, nullable=False),
    Column("author", Text, nullable=False),
    Index("ix_builds_space", "space_id", "created_at", "seq"),
    Index("ix_builds_open", "seq", sqlite_where=_OPEN_BUILD, postgresql_where=_OPEN_BUILD),
)

deployments = Table(
    "deployments",
    metadata,
    _id("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    _id("build_id", nullable=False),
    Column("revision", String(64), nullable=False),
    Column("artifact", JSON, nullable=False),
    Column("launch", JSON, nullable=False),
    Column("hardware", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("config", JSON, nullable=False),
    Column("cause", Text, nullable=False),
    Column("failed_reason", Text),
    Column("failed_message", Text, nullable=False),
    Column("log_tail", JSON, nullable=False),
    Column("live_at", UtcTime),
)

_OPEN_REPLICA = text("state NOT IN ('stopped', 'failed')")

replicas = Table(
    "replicas",
    metadata,
    _seq(),
    _id("id", nullable=False, unique=True),
    _id("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("hardware", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("endpoint", JSON(none_as_null=True)),
    Column("reason", Text),
    Column("message", Text, nullable=False),
    Column("started_at", UtcTime),
    Column("ready_at", UtcTime),
    Column("stopped_at", UtcTime),
    Column("drain_until", UtcTime),
    Column("restarts", Integer, nullable=False),
    Column("queue_position", Integer),
    Column("eta_s", Float),
    Index("ix_replicas_space", "space_id", "generation", "state", "seq"),
    Index("ix_replicas_open", "space_id", "seq", sqlite_where=_OPEN_REPLICA, postgresql_where=_OPEN_REPLICA),
)

# No foreign key: the story of a Space outlives it, as usage does.
events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    _id("space_id", nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("kind", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Index("ix_events_space", "space_id", "id"),
    sqlite_autoincrement=True,  # an id is never used twice, so a reader's position stays true
)

# One row per Space and hour ("YYYY-MM-DDTHH", UTC): `domain.traffic.Traffic`.
space_hours = Table(
    "space_hours",
    metadata,
    _id("space_id", primary_key=True),
    Column("hour", String(13), primary_key=True),
    Column("requests", JSON, nullable=False),
    Column("latency", JSON, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("wakes", Integer, nullable=False),
    Column("cpu_s", Float(53), nullable=False),
    Column("memory_peak", BigInteger, nullable=False),
    Column("woken", Integer, server_default="0", nullable=False),
    Column("wake_s", Float(53), server_default="0", nullable=False),
    Index("ix_space_hours_hour", "hour"),
)

quota_limits = Table(
    "quota_limits",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("limit", Float(53)),
)

usage = Table(
    "usage",
    metadata,
    _id("account_id", primary_key=True),
    Column("day", String(10), primary_key=True),
    _id("space_id", primary_key=True),
    Column("key", Text, primary_key=True),
    Column("flavor", Text, primary_key=True),
    Column("amount", Float(53), nullable=False),
    Index("ix_usage_day", "day"),
)

# `facts` is kept as the exact text that was hashed.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_actor", "actor", "id"),
    sqlite_autoincrement=True,
)

documents = Table(
    "documents",
    metadata,
    _seq(),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("body", JSON, nullable=False),
    UniqueConstraint("kind", "key"),
    Index("ix_documents_owner", "kind", "owner", "seq"),
)

counters = Table(
    "counters",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Tries of a key that is hashed, in the window that ends at `expires_at` (Unix seconds); `accounts.throttle`.
tries = Table(
    "tries",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

# One row per person and topic; `domain.notices.Notice`.
notices = Table(
    "notices",
    metadata,
    _id("account_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    _id("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", UtcTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("words", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("read_at", UtcTime),
    Index("ix_notices_newest", "account_id", "at"),
    Index("ix_notices_unread", "account_id", sqlite_where=text("read_at IS NULL"), postgresql_where=text("read_at IS NULL")),
)

# Who asked to read a gated repository. Rows stay when the gate is taken away: whoever was let in still is when it comes back.
access_requests = Table(
    "access_requests",
    metadata,
    _id("id", nullable=False, unique=True),
    _id("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    _id("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("status", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    Column("is_granted", Boolean, nullable=False),
    Index("ix_access_requests_listed", "repo_id", "status", "at"),
)
