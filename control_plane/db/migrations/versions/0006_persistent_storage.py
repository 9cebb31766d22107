"""The persistent storage of a Space: its tier, its size, and the name of the volume.

All have a default in the database, so that the version before this one goes on writing rows beside the new one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("spaces", sa.Column("storage_tier", sa.Text(), server_default="", nullable=False))
    op.add_column("spaces", sa.Column("storage_key", sa.Text(), server_default="", nullable=False))
    op.add_column("spaces", sa.Column("storage_bytes", sa.BigInteger(), server_default="0", nullable=False))
