"""What other rooms say is said in the reader's language, and still is what they say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import control_plane
import web
from control_plane.domain import errors
from control_plane.domain.reasons import Reason
from web.catalog import LANGUAGES, load
from web.sayings import CODES, SAID, said, say

OTHERS = [code for code, _ in LANGUAGES if code != "en"]
FIGURES = {"{x} ms", "{x} s", "{x} min", "{x} h", "{x} d", "of {x} vCPU", "of {x} GB", "{size} in"}  # measures, put together from units


def _skeletons() -> Iterator[str]:
    """Every text of the code with its blanks as `{}`."""
    rooms = [Path(control_plane.__file__).parent, Path(web.__file__).parent]
    for path in (p for room in rooms for p in room.rglob("*.py") if p.name != "sayings.py" and "migrations" not in p.parts):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)


def test_every_sentence_is_still_said() -> None:
    """A sentence that its room changed is no longer translated: here it fails instead."""
    spoken = {text for text in _skeletons() if len(text) > 8}
    # Blanks need not lie alike: some of ours stand for two of theirs, some sentences are put together from parts.
    theirs = [re.compile(re.escape(text).replace(r"\{\}", ".*")) for text in spoken if "{}" in text]
    lost = set()
    for sentence in set(SAID) - FIGURES:
        skeleton = re.sub(r"\{[a-z]+\}", "{}", sentence)
        ours = re.compile(re.escape(skeleton).replace(r"\{\}", ".+"))
        if skeleton not in spoken and not any(ours.fullmatch(text) for text in spoken) and not any(t.fullmatch(skeleton) for t in theirs):
            lost.add(sentence)
    assert lost == set()


@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_and_code_is_translated(language: str) -> None:
    assert (set(SAID) | set(CODES.values())) - set(load(language).entries) == set()


def test_every_error_has_a_sentence() -> None:
    def below(error: type[errors.VitrineError]) -> Iterator[type[errors.VitrineError]]:
        yield error
        for kind in error.__subclasses__():
            yield from below(kind)

    named = {kind.code for kind in below(errors.VitrineError) if kind.__module__ == errors.__name__}
    assert named - {"Internal"} <= set(CODES)  # a fault of ours shows no words of its own


@pytest.mark.parametrize(
    ("words", "code", "text", "original"),
    [
        (Reason.NO_CAPACITY.words, "NO_CAPACITY", "Свободной машины", ""),
        (
            "All machines for the hardware 't4-small' are in use. Place 3 in the queue, about 4 min.", "NO_CAPACITY",
            "«t4-small» заняты. Место в очереди: 3, ждать около 4 мин.", "",
        ),
        ("The app exited with code 137.", "APP_EXITED", "с кодом 137.", ""),
        ("Fetching what is mounted at /data/c: 40%", "VOLUMES", "подключено в /data/c: 40%", ""),
        ("place 3 in line", "BUILD_QUEUED", "место в очереди: 3", ""),
        ("1,284.5", "", "1\N{NO-BREAK SPACE}284,5", ""),
        (
            "Quota 'gpu-hours' of mira is reached: limit 20, in use 20, this asks for 0.5 more; it resets at 2026-12-01T00:00:00Z. "
            "Wait for the new month or ask an operator to raise 'gpu-hours' of mira.", "QuotaExceeded",
            "нужно ещё 0,5; обновится 2026-12-01T00:00:00Z. Дождитесь нового месяца", "",
        ),
        ("  × No solution found", "REQUIREMENTS_UNRESOLVED", "Зависимости", "  × No solution found"),
        ("'-x' is not an e-mail address", "BadRequest", "«-x» — не адрес", ""),
        ("words that nobody knows", "NameTaken", "Это имя занято", "words that nobody knows"),
        ("words that nobody knows", "NoSuchCode", "", "words that nobody knows"),
    ],
)  # fmt: skip
def test_by_words_else_by_code(words: str, code: str, text: str, original: str) -> None:
    found = say(load("ru"), words, code)
    assert text in found.text
    assert bool(found.text) == bool(text)
    assert found.original == original
    assert say(load("en"), words, code).text == words


def test_a_sentence_with_markup_or_braces_stays_text() -> None:
    assert said(load("ru"), "there is no branch '<b>{0} {name}'") == "ветки «<b>{0} {name}» нет"
    assert said(load("ru"), "a" * 100_000) == ""
