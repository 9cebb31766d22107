"""What each Space was asked, by the hour; and the text of repositories (README, app source) for the search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Words with their beginnings, not trigrams: source is long, and an index of trigrams would be several times its size.
_SQLITE_INDEX = (
    """CREATE VIRTUAL TABLE repo_search_source USING fts5(body, content='repo_texts', content_rowid='seq',
       tokenize="unicode61 remove_diacritics 2 tokenchars '_'", prefix='3')""",
    """CREATE TRIGGER repo_search_source_added AFTER INSERT ON repo_texts BEGIN
       INSERT INTO repo_search_source(rowid, body) VALUES (new.seq, new.body); END""",
    """CREATE TRIGGER repo_search_source_removed AFTER DELETE ON repo_texts BEGIN
       INSERT INTO repo_search_source(repo_search_source, rowid, body) VALUES ('delete', old.seq, old.body); END""",
    """CREATE TRIGGER repo_search_source_changed AFTER UPDATE OF body ON repo_texts WHEN old.body IS NOT new.body BEGIN
       INSERT INTO repo_search_source(repo_search_source, rowid, body) VALUES ('delete', old.seq, old.body);
       INSERT INTO repo_search_source(rowid, body) VALUES (new.seq, new.body); END""",
)
_POSTGRESQL_INDEX = (
    "ALTER TABLE repo_texts ADD COLUMN document tsvector GENERATED ALWAYS AS (to_tsvector('simple', body)) STORED",
    "CREATE INDEX ix_repo_texts_document ON repo_texts USING gin (document)",
)
# Any part of a word in titles needs trigrams there too. The extension comes with PostgreSQL and is trusted; where it is
# not installed, titles are looked through row by row, as before.
_POSTGRESQL_TRIGRAMS = """DO $$ BEGIN
  CREATE EXTENSION IF NOT EXISTS pg_trgm;
  CREATE INDEX ix_repos_search_trigrams ON repos USING gin (search_text gin_trgm_ops);
EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'titles are searched row by row: %', SQLERRM;
END $$"""


def upgrade() -> None:
    op.create_table(
        "space_hours",
        sa.Column("space_id", sa.String(length=64), nullable=False),
        sa.Column("hour", sa.String(length=13), nullable=False),
        sa.Column("requests", sa.JSON(), nullable=False),
        sa.Column("latency", sa.JSON(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("wakes", sa.Integer(), nullable=False),
        sa.Column("cpu_s", sa.Float(53), nullable=False),
        sa.Column("memory_peak", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space_id", "hour", name=op.f("pk_space_hours")),
    )
    op.create_index("ix_space_hours_hour", "space_hours", ["hour"], unique=False)
    op.create_table(
        "repo_texts",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["repos.seq"], name=op.f("fk_repo_texts_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_repo_texts")),
    )
    if op.get_bind().dialect.name == "sqlite":
        for statement in _SQLITE_INDEX:
            op.execute(statement)
    else:
        for statement in (*_POSTGRESQL_INDEX, _POSTGRESQL_TRIGRAMS):
            op.execute(statement)
