"""`begins_words`, which is asked of single rows, and SQLite's full-text index, which is asked of all, find the same."""

from __future__ import annotations

import random
import sqlite3

import pytest

from control_plane.db.rows import Rows
from control_plane.db.search import begins_words, source_term, words_of

LETTERS = (
    "abcXYZ019_-. ,:;()/\n\t" + "éÉüñçÅøßẞấđžŁŒœﬁ" + "жйЙёЁщ" + "αβΣςώΏ" + "语言模型ガギ한국" + "²½Ⅷ①" + "🎉👩\u200d💻"
    "e\u0301i\u0307o\u0305n\u031bu\u0332" + "İı" + "हिन्दी" + "٣ابت" + "\u00a0\u2019\u00ad\u2028"
)  # fmt: skip


class _Sqlite(Rows):
    def __init__(self) -> None:
        self.is_sqlite = True


@pytest.fixture
def index() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.execute("""CREATE VIRTUAL TABLE texts USING fts5(body, tokenize="unicode61 remove_diacritics 2 tokenchars '_'", prefix='3')""")
    return made


def is_indexed(index: sqlite3.Connection, body: str, term: str) -> bool:
    index.execute("DELETE FROM texts")
    index.execute("INSERT INTO texts VALUES (?)", (body,))
    return bool(index.execute("SELECT count(*) FROM texts WHERE texts MATCH ?", (term,)).fetchone()[0])


def test_any_script_any_accent(index: sqlite3.Connection) -> None:
    pick, asked, found = random.Random(7), 0, 0
    try:
        for _ in range(6000):
            body = "".join(pick.choices(LETTERS, k=pick.randint(1, 14)))
            start = pick.randrange(len(body))
            typed = body[start : start + pick.randint(3, 6)] if pick.random() < 0.7 else "".join(pick.choices(LETTERS, k=4))
            for word in words_of(typed.upper() if pick.random() < 0.3 else typed):
                if term := source_term(_Sqlite(), word):
                    expected = is_indexed(index, body, term)
                    assert begins_words(body, word) is expected, (ascii(body), ascii(word), term)
                    asked, found = asked + 1, found + expected
    finally:
        index.close()
    assert asked > 3000 and found > 500, "else this would prove little"


@pytest.mark.parametrize(
    ("body", "typed", "is_found"),
    [
        ("Café au lait", "CAFE", True),
        ("ΟΔΟΣ", "οδος", True),
        ("İstanbul", "istan", True),
        ("load_model(x)", "load_m", True),
        ("load_model(x)", "model", False),  # words are found by their beginnings
        ("import torch.nn as nn", "torch.nn", True),
        ("Ёлка", "елка", False),  # accents are letters of their own where they are no Latin ones
    ],
)
def test_words_as_people_type_them(index: sqlite3.Connection, body: str, typed: str, is_found: bool) -> None:
    [word] = words_of(typed)
    try:
        assert is_indexed(index, body, source_term(_Sqlite(), word)) is is_found
    finally:
        index.close()
    assert begins_words(body, word) is is_found
