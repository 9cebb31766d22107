"""Filters that few Spaces meet are answered from an index of their own."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_spaces_sdk", "spaces", ["sdk"])
    op.create_index("ix_spaces_hardware", "spaces", ["hardware"])
    op.create_index("ix_spaces_up", "spaces", ["desired", "asleep"])
