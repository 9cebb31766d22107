"""A waiting replica's place in the queue for hardware, and the estimate beside it. Both may be empty, so older code goes on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replicas", sa.Column("queue_position", sa.Integer()))
    op.add_column("replicas", sa.Column("eta_s", sa.Float()))
