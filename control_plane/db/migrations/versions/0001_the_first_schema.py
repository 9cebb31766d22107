"""The first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Full-text search by trigrams: finds any part of a word. Triggers keep it equal to `repos` whoever writes.
_SEARCH_INDEX = (
    "CREATE VIRTUAL TABLE repo_search USING fts5(search_text, content='repos', content_rowid='seq', tokenize='trigram')",
    """CREATE TRIGGER repo_search_added AFTER INSERT ON repos BEGIN
       INSERT INTO repo_search(rowid, search_text) VALUES (new.seq, new.search_text); END""",
    """CREATE TRIGGER repo_search_removed AFTER DELETE ON repos BEGIN
       INSERT INTO repo_search(repo_search, rowid, search_text) VALUES ('delete', old.seq, old.search_text); END""",
    """CREATE TRIGGER repo_search_changed AFTER UPDATE OF search_text ON repos WHEN old.search_text IS NOT new.search_text BEGIN
       INSERT INTO repo_search(repo_search, rowid, search_text) VALUES ('delete', old.seq, old.search_text);
       INSERT INTO repo_search(rowid, search_text) VALUES (new.seq, new.search_text); END""",
)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_lower", sa.Text(), nullable=False),
        sa.Column("fullname", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("is_suspended", sa.Boolean(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name_lower", name=op.f("uq_accounts_name_lower")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_actor", "audit", ["actor", "id"], unique=False)
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_table(
        "counters",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "owner", name=op.f("pk_counters")),
    )
    op.create_table(
        "documents",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_documents")),
        sa.UniqueConstraint("kind", "key", name=op.f("uq_documents_kind_key")),
    )
    op.create_index("ix_documents_owner", "documents", ["kind", "owner", "seq"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_space", "events", ["space_id", "id"], unique=False)
    op.create_table(
        "freed_subdomains",
        sa.Column("subdomain", sa.String(length=64), nullable=False),
        sa.Column("freed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subdomain", name=op.f("pk_freed_subdomains")),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "quota_limits",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("limit", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("subject", "key", name=op.f("pk_quota_limits")),
    )
    op.create_table(
        "removed_repos",
        sa.Column("repo_id", sa.String(length=64), nullable=False),
        sa.Column("owner_id", sa.String(length=64), nullable=False),
        sa.Column("full_name", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("repo_id", name=op.f("pk_removed_repos")),
    )
    op.create_table(
        "spaces",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("subdomain", sa.String(length=64), nullable=False),
        sa.Column("sdk", sa.Text(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("asleep", sa.Boolean(), nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("sleep_after_s", sa.Integer(), nullable=True),
        sa.Column("idle_rule", sa.Text(), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("live_generation", sa.Integer(), nullable=False),
        sa.Column("restart_count", sa.Integer(), nullable=False),
        sa.Column("has_app_file", sa.Boolean(), nullable=False),
        sa.Column("config_error", sa.Text(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspended", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spaces")),
        sa.UniqueConstraint("subdomain", name=op.f("uq_spaces_subdomain")),
    )
    op.create_table(
        "usage",
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("amount", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "day", "space_id", "key", "flavor", name=op.f("pk_usage")),
    )
    op.create_index("ix_usage_day", "usage", ["day"], unique=False)
    op.create_table(
        "builds",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("no_cache", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("progress", sa.Float(precision=53), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("commit_title", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_builds_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_builds")),
        sa.UniqueConstraint("id", name=op.f("uq_builds_id")),
    )
    op.create_index(
        "ix_builds_open",
        "builds",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("status IN ('queued', 'running')"),
        postgresql_where=sa.text("status IN ('queued', 'running')"),
    )
    op.create_index("ix_builds_space", "builds", ["space_id", "created_at", "seq"], unique=False)
    op.create_table(
        "deployments",
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("build_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.String(length=64), nullable=False),
        sa.Column("artifact", sa.JSON(), nullable=False),
        sa.Column("launch", sa.JSON(), nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("failed_reason", sa.Text(), nullable=True),
        sa.Column("failed_message", sa.Text(), nullable=False),
        sa.Column("log_tail", sa.JSON(), nullable=False),
        sa.Column("live_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_deployments_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("space_id", "generation", name=op.f("pk_deployments")),
    )
    op.create_table(
        "memberships",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["org_id"], ["accounts.id"], name=op.f("fk_memberships_org_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_memberships_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("org_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"], unique=False)
    op.create_table(
        "replicas",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drain_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_replicas_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_replicas")),
        sa.UniqueConstraint("id", name=op.f("uq_replicas_id")),
    )
    op.create_index(
        "ix_replicas_open",
        "replicas",
        ["space_id", "seq"],
        unique=False,
        sqlite_where=sa.text("state NOT IN ('stopped', 'failed')"),
        postgresql_where=sa.text("state NOT IN ('stopped', 'failed')"),
    )
    op.create_index("ix_replicas_space", "replicas", ["space_id", "generation", "state", "seq"], unique=False)
    op.create_table(
        "repos",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.String(length=64), nullable=False),
        sa.Column("owner_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("visibility", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("head", sa.String(length=64), nullable=True),
        sa.Column("likes", sa.Integer(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("storage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("discussions_disabled", sa.Boolean(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("owner_lower", sa.Text(), nullable=False),
        sa.Column("name_lower", sa.Text(), nullable=False),
        sa.Column("is_private", sa.Boolean(), nullable=False),
        sa.Column("trending", sa.Float(precision=53), nullable=False),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["accounts.id"], name=op.f("fk_repos_owner_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_repos")),
        sa.UniqueConstraint("id", name=op.f("uq_repos_id")),
        sa.UniqueConstraint("type", "owner_lower", "name_lower", name=op.f("uq_repos_type_owner_lower_name_lower")),
    )
    op.create_index("ix_repos_all_created", "repos", ["type", "created_at", "seq"], unique=False)
    op.create_index("ix_repos_all_likes", "repos", ["type", "likes", "seq"], unique=False)
    op.create_index("ix_repos_all_trending", "repos", ["type", "trending", "seq"], unique=False)
    op.create_index("ix_repos_all_updated", "repos", ["type", "updated_at", "seq"], unique=False)
    op.create_index("ix_repos_listed_created", "repos", ["type", "is_private", "created_at", "seq"], unique=False)
    op.create_index("ix_repos_listed_likes", "repos", ["type", "is_private", "likes", "seq"], unique=False)
    op.create_index("ix_repos_listed_trending", "repos", ["type", "is_private", "trending", "seq"], unique=False)
    op.create_index("ix_repos_listed_updated", "repos", ["type", "is_private", "updated_at", "seq"], unique=False)
    op.create_index("ix_repos_owned_created", "repos", ["owner_id", "type", "created_at", "seq"], unique=False)
    op.create_index("ix_repos_owned_likes", "repos", ["owner_id", "type", "likes", "seq"], unique=False)
    op.create_index("ix_repos_owned_trending", "repos", ["owner_id", "type", "trending", "seq"], unique=False)
    op.create_index("ix_repos_owned_updated", "repos", ["owner_id", "type", "updated_at", "seq"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("csrf", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_agent", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_sessions_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_sessions_secret_sha256")),
    )
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    op.create_table(
        "settings",
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("is_secret", sa.Boolean(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_settings_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("space_id", "key", "is_secret", name=op.f("pk_settings")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_tokens_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_tokens_sha256")),
    )
    op.create_index(op.f("ix_tokens_user_id"), "tokens", ["user_id"], unique=False)
    op.create_table(
        "likes",
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("repo_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"], name=op.f("fk_likes_repo_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_likes_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "repo_id", name=op.f("pk_likes")),
    )
    op.create_index(op.f("ix_likes_repo_id"), "likes", ["repo_id"], unique=False)
    op.create_table(
        "old_names",
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("owner_lower", sa.Text(), nullable=False),
        sa.Column("name_lower", sa.Text(), nullable=False),
        sa.Column("repo_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"], name=op.f("fk_old_names_repo_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("type", "owner_lower", "name_lower", name=op.f("pk_old_names")),
    )
    op.create_index(op.f("ix_old_names_repo_id"), "old_names", ["repo_id"], unique=False)
    op.create_table(
        "repo_tags",
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("repo_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"], name=op.f("fk_repo_tags_repo_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tag", "repo_id", name=op.f("pk_repo_tags")),
    )
    op.create_index(op.f("ix_repo_tags_repo_id"), "repo_tags", ["repo_id"], unique=False)
    connection = op.get_bind()
    if connection.dialect.name == "sqlite" and _has_trigrams(connection):
        for statement in _SEARCH_INDEX:
            op.execute(statement)


def _has_trigrams(connection: sa.Connection) -> bool:
    """FTS5 is a compile-time choice of SQLite and its trigrams came with 3.34; without them a search reads row by row."""
    options = {row[0] for row in connection.exec_driver_sql("PRAGMA compile_options")}
    version = str(connection.exec_driver_sql("SELECT sqlite_version()").scalar())
    return "ENABLE_FTS5" in options and tuple(map(int, version.split("."))) >= (3, 34, 0)
