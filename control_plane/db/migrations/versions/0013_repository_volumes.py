"""Repositories that a Space mounts: what it asks for, and what each deployment runs with.

Both have a default in the database, so that the version before this one goes on writing rows beside the new one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("spaces", sa.Column("volumes", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("deployments", sa.Column("volumes", sa.JSON(), server_default="[]", nullable=False))
