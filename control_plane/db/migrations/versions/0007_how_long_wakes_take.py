"""How long visitors waited for a Space to wake, by the hour: how many wakes ended, and their seconds together.

Both have a default in the database, so that the version before this one goes on writing rows beside the new one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("space_hours", sa.Column("woken", sa.Integer(), server_default="0", nullable=False))
    op.add_column("space_hours", sa.Column("wake_s", sa.Float(53), server_default="0", nullable=False))
