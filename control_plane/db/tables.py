"""The tables. Times are aware UTC, ids are text, value-objects are JSON; `*_lower` columns carry case-free uniqueness.

`seq` is the order of insertion: it breaks ties between equal times and is the row id that the search index points at.
Every listing that a page or the Hub API asks for has an index that yields it in order (see `repos`).
`ledger_tables` has those of what happened; whoever imports this module has the metadata of both.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

import control_plane.db.ledger_tables  # noqa: F401  (whoever takes the metadata from here has those tables in it)
from control_plane.db.columns import UtcTime, id_column, seq_column
from control_plane.db.columns import metadata as metadata

accounts = Table(
    "accounts",
    metadata,
    id_column("id", primary_key=True),
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
    id_column("org_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    id_column("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    id_column("id", primary_key=True),
    id_column("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
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
    id_column("id", primary_key=True),
    id_column("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
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
    seq_column(),
    id_column("id", nullable=False, unique=True),
    Column("type", Text, nullable=False),
    id_column("owner_id", ForeignKey("accounts.id"), nullable=False),
    Column("owner_name", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("visibility", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    id_column("created_by", nullable=False),
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
    id_column("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True, index=True),
)

old_names = Table(
    "old_names",
    metadata,
    Column("type", Text, primary_key=True),
    Column("owner_lower", Text, primary_key=True),
    Column("name_lower", Text, primary_key=True),
    id_column("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), nullable=False, index=True),
)

likes = Table(
    "likes",
    metadata,
    id_column("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    id_column("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True, index=True),
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
    id_column("repo_id", primary_key=True),
    id_column("owner_id", nullable=False),
    Column("full_name", Text, nullable=False),
    Column("removed_at", UtcTime, nullable=False),
)

# No foreign key to `repos`: a deleted Space gives its name back at once and lives on until nothing of it runs.
spaces = Table(
    "spaces",
    metadata,
    id_column("id", primary_key=True),
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
    Column("volumes", JSON, server_default="[]", nullable=False),
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
    id_column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
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
    seq_column(),
    id_column("id", nullable=False, unique=True),
    id_column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
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
    id_column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    id_column("build_id", nullable=False),
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
    Column("volumes", JSON, server_default="[]", nullable=False),
)

_OPEN_REPLICA = text("state NOT IN ('stopped', 'failed')")

replicas = Table(
    "replicas",
    metadata,
    seq_column(),
    id_column("id", nullable=False, unique=True),
    id_column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
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
    id_column("space_id", nullable=False),
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
    id_column("space_id", primary_key=True),
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
