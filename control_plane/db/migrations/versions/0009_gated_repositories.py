"""Gated models and datasets: which repositories have a gate, and who asked to be let in.

The column has a default in the database, so that the version before this one goes on writing rows beside the new one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_GATED = sa.text("gate <> ''")


def upgrade() -> None:
    op.add_column("repos", sa.Column("gate", sa.Text(), server_default="", nullable=False))
    op.create_index("ix_repos_gated", "repos", ["type", "seq"], unique=False, sqlite_where=_GATED, postgresql_where=_GATED)
    op.create_table(
        "access_requests",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("repo_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("is_granted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"], name=op.f("fk_access_requests_repo_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_access_requests_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("repo_id", "user_id", name=op.f("pk_access_requests")),
        sa.UniqueConstraint("id", name=op.f("uq_access_requests_id")),
    )
    op.create_index(op.f("ix_access_requests_user_id"), "access_requests", ["user_id"], unique=False)
    op.create_index("ix_access_requests_listed", "access_requests", ["repo_id", "status", "at"], unique=False)
