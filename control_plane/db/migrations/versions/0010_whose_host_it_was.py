"""Which Space a freed subdomain belonged to: a renamed Space keeps answering there with a redirect."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("freed_subdomains", sa.Column("space_id", sa.String(length=64), nullable=True))
    op.create_index("ix_freed_subdomains_space_id", "freed_subdomains", ["space_id"], unique=False)
