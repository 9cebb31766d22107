"""Words of a search, each as a question to one row and as the rows that an index knows for it.

Two indexes answer. `repo_search` (SQLite) or trigrams (PostgreSQL) know any part of the title line: name, title, description,
tags. `repo_search_source` or `repo_texts.document` know the beginnings of words of README and app source; a protected Space,
whose code is hidden, is not found by them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, TextualSelect, and_, literal_column, select, text

from control_plane.db.rows import Rows
from control_plane.db.tables import repos
from control_plane.domain.spaces import Visibility

TRIGRAM = 3  # characters that the index of titles needs
_WORDS = 12  # words of a search that count
_PARTS = re.compile(r"\w+")
_SQLITE = "SELECT rowid AS seq FROM repo_search_source WHERE repo_search_source MATCH :NAME"
_POSTGRESQL = "SELECT t.seq AS seq FROM repo_texts t WHERE t.document @@ to_tsquery('simple', :NAME)"
# Not asked of the full-text index: for one row it would put together the list of all rows first.
_ROW_SQLITE = "(SELECT 1 FROM repo_texts WHERE seq = repos.seq AND begins_words(body, :NAME))"
_ROW_POSTGRESQL = "(SELECT 1 FROM repo_texts t WHERE t.seq = repos.seq AND t.document @@ to_tsquery('simple', :NAME))"


def words_of(search: str | None) -> list[str]:
    return (search or "").replace("\x00", "").lower().split()[:_WORDS]


def has_title(word: str) -> ColumnElement[bool]:
    return repos.c.search_text.contains(word, autoescape=True)


def titles_with(rows: Rows, word: str, tags: Sequence[str] = ()) -> Select[Any]:
    """`seq` of what has the word in its title line; the word has at least `TRIGRAM` characters.

    Of what lacks one of `tags`, which are in the title line too, PostgreSQL leaves out what its index can: it meets both lists before
    it reads a row, where asking each row for its tag costs a look-up per row. The caller still asks for the tags themselves.
    """
    if not rows.is_sqlite:
        known = (tag.lower() for tag in tags if len(tag) >= TRIGRAM and "\x00" not in tag)
        return select(repos.c.seq).where(has_title(word), *(has_title(tag) for tag in known))
    name = _name("title", word)
    hits = select(literal_column("rowid", type_=BigInteger).label("seq")).select_from(text("repo_search"))
    return hits.where(text(f"repo_search MATCH :{name}").bindparams(**{name: _quoted(word)}))


def source_term(rows: Rows, word: str) -> str:
    """The word as the index of source wants it: its parts side by side, the last one by its beginning. "" when it cannot have it."""
    parts = _PARTS.findall(_folded(word) if rows.is_sqlite else word)
    if len(word) < TRIGRAM or not parts:
        return ""
    if rows.is_sqlite:
        return _quoted(" ".join(parts)) + " *"
    return " <-> ".join([*(f"'{part}'" for part in parts[:-1]), f"'{parts[-1]}':*"])


def sources_with(rows: Rows, word: str, term: str) -> TextualSelect:
    """`seq` of what has the term in README or source, hidden code included."""
    name = _name("source", word)
    statement = text((_SQLITE if rows.is_sqlite else _POSTGRESQL).replace("NAME", name)).bindparams(**{name: term})
    return statement.columns(repos.c.seq)


def has_source(rows: Rows, word: str, term: str) -> ColumnElement[bool]:
    """The same, asked of the row of `repos` in the statement around it."""
    name = _name("inside", word)
    inside = (_ROW_SQLITE if rows.is_sqlite else _ROW_POSTGRESQL).replace("NAME", name)
    return and_(
        repos.c.visibility != Visibility.PROTECTED.value,
        text(f"{inside} IS NOT NULL").bindparams(**{name: word if rows.is_sqlite else term}),
    )


def begins_words(body: str | None, word: str) -> bool:
    """SQLite's function of this name: whether the index of source would find `word` (as typed) in `body`."""
    return body is not None and _beginning(word).search(_folded(body)) is not None


@lru_cache(maxsize=256)
def _beginning(word: str) -> re.Pattern[str]:
    # As `source_term`: the parts side by side, the last one by its beginning.
    return re.compile(r"(?<!\w)" + r"\W+".join(_PARTS.findall(_folded(word))))


def _folded(body: str) -> str:
    """In small letters, Latin ones without their accents, as SQLite's `unicode61` keeps them: each character for itself."""
    return body.lower() if body.isascii() else body.translate(_FOLDS)


_KNOWN_MAX = 20_000  # characters; texts are people's, and there are a million


class _Folds(dict[int, str]):
    """One character → what the index keeps of it, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        small = "σ" if char in "Σς" else char.lower()[0]  # Python alone knows a final sigma, and two letters for İ
        base = unicodedata.normalize("NFD", small)[0]
        if len(self) > _KNOWN_MAX:
            self.clear()
        found = "" if _is_accent(code) else base if "a" <= base <= "z" else small
        self[code] = found
        return found


def _is_accent(code: int) -> bool:
    """Whether the index drops this combining mark; the others part words. The bits are SQLite's (`fts5_unicode2.c`), from U+0300."""
    return 0x300 <= code < 0x332 and bool(_ACCENTS >> (code - 0x300) & 1)


_ACCENTS = 0x361F8 << 32 | 0x8029FDF
_FOLDS = _Folds()


def _name(kind: str, word: str) -> str:
    # Several words stand in one statement: each has a parameter of its own.
    return f"{kind}_{word.encode().hex()[:60]}"


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'
