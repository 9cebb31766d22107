"""Tables of what happened and what is asked for: quotas, usage, audit, documents, tries, notices. Who and what there is: `tables`."""

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

from control_plane.db.columns import UtcTime, id_column, metadata, seq_column

meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

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
    id_column("account_id", primary_key=True),
    Column("day", String(10), primary_key=True),
    id_column("space_id", primary_key=True),
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
    seq_column(),
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
    id_column("account_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    id_column("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), nullable=False, index=True),
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
    id_column("id", nullable=False, unique=True),
    id_column("repo_id", ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    id_column("user_id", ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("status", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    Column("is_granted", Boolean, nullable=False),
    Index("ix_access_requests_listed", "repo_id", "status", "at"),
)
