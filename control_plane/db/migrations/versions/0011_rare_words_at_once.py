"""PostgreSQL's indexes of words keep no long list of rows that wait to be filed.

Every search reads that list from end to end: at its usual 4 MB a rare word cost 150 to 500 ms until the next vacuum. Source is
filed at once, since it changes only with a push; titles wait in a list of 64 kB, since each like writes the row anew.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# The index of titles is not there where the trigram extension was not installed.
_TITLES = """DO $$ BEGIN
  IF to_regclass('ix_repos_search_trigrams') IS NOT NULL THEN
    ALTER INDEX ix_repos_search_trigrams SET (gin_pending_list_limit = 64);
    PERFORM gin_clean_pending_list('ix_repos_search_trigrams');
  END IF;
END $$"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    op.execute("ALTER INDEX ix_repo_texts_document SET (fastupdate = off)")
    op.execute("SELECT gin_clean_pending_list('ix_repo_texts_document')")
    op.execute(_TITLES)
