"""What people are told about their repositories and discussions: one row per person and topic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UNREAD = sa.text("read_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("repo_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_notices_account_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"], name=op.f("fk_notices_repo_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_id", "topic", name=op.f("pk_notices")),
    )
    op.create_index(op.f("ix_notices_repo_id"), "notices", ["repo_id"], unique=False)
    op.create_index("ix_notices_newest", "notices", ["account_id", "at"], unique=False)
    op.create_index("ix_notices_unread", "notices", ["account_id"], unique=False, sqlite_where=_UNREAD, postgresql_where=_UNREAD)
