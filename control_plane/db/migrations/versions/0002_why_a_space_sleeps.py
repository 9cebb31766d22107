"""Why a Space sleeps: idle, or a quota that did not let it up.

Both columns have a default in the database, so that the version before this one goes on writing rows beside the new one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("spaces", sa.Column("sleep_reason", sa.Text(), server_default="", nullable=False))
    op.add_column("spaces", sa.Column("sleep_message", sa.Text(), server_default="", nullable=False))
