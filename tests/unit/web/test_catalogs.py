"""Every sentence that a page can say is in every language, with the same blanks, and plural forms are complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import web
from control_plane.domain.accounts import OrgRole, TokenRole
from control_plane.domain.builds import BuildStatus
from control_plane.domain.gates import RequestStatus
from control_plane.domain.notices import NoticeKind
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Visibility
from control_plane.domain.stage import Stage
from control_plane.spaces import timeline
from control_plane.spaces.timeline import CAUSES, PHASES
from web.catalog import LANGUAGES, choose, load, plural_form
from web.page import DONE
from web.pages.consent import POWERS
from web.services.history import WORDS
from web.services.notices import SAYS
from web.services.stages import badge
from web.words import MONTHS

ROOT = Path(web.__file__).parent
_SENTENCE = re.compile(r"""\bt\((["'])((?:(?!\1).)*)\1""")
BLANK = re.compile(r"\{[a-z]+\}")
OTHERS = [code for code, _ in LANGUAGES if code != "en"]


def sentences() -> set[str]:
    found = set(DONE.values()) | {r.words for r in Reason} | set(WORDS.values()) | set(CAUSES.values()) | set(PHASES.values())
    found |= {label for _, label in SAYS.values()} | set(POWERS.values()) | set(MONTHS)
    for words in (OrgRole, TokenRole, BuildStatus, RequestStatus, Visibility):
        found |= {word.value for word in words}
    found |= {"open", "closed", "merged", "draft"} | _labels()
    for stage in Stage:
        found |= {badge(stage).label, badge(stage).detail} - {""}
    for path in [*(ROOT / "templates").rglob("*.html"), ROOT / "words.py"]:
        found |= {match[2] for match in _SENTENCE.finditer(path.read_text("utf-8"))}
    return found


def _labels() -> set[str]:
    """Names of figures and of a push's steps, where they are made."""
    found = set()
    for path in (ROOT / "services/analytics.py", ROOT / "services/admin.py", Path(timeline.__file__)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Measure", "TimelineStep"):
                found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    assert len(found) > 20
    return found


def test_every_notice_has_words() -> None:
    assert set(SAYS) == set(NoticeKind)


@pytest.mark.parametrize("language", OTHERS)
def test_nothing_is_left_untranslated(language: str) -> None:
    assert sentences() - set(load(language).entries) == set()


def test_the_catalogues_hold_the_same_keys() -> None:
    first, *rest = (set(load(language).entries) for language in OTHERS)
    assert all(keys == first for keys in rest)
    assert set(load("en").entries) <= first


@pytest.mark.parametrize("language", [code for code, _ in LANGUAGES])
def test_blanks_and_plural_forms(language: str) -> None:
    forms = {plural_form(language, n) for n in range(200)}
    for key, entry in load(language).entries.items():
        texts = list(entry.values()) if isinstance(entry, dict) else [entry]
        for text in texts:
            assert set(BLANK.findall(text)) == set(BLANK.findall(key)), key
        if isinstance(entry, dict):
            assert set(entry) == forms, key


@pytest.mark.parametrize(
    ("language", "n", "said"),
    [
        ("en", 1, "1 demo"),
        ("en", 1284, "1,284 demos"),
        ("zh", 3, "3 个演示"),
        ("ru", 1, "1 коммит"),
        ("ru", 22, "22 коммита"),
        ("ru", 11, "11 коммитов"),
    ],
)
def test_numbers_speak_the_language(language: str, n: int, said: str) -> None:
    assert load(language)("{n} commits" if "комм" in said else "{n} demos", n=n) == said


@pytest.mark.parametrize(
    ("cookie", "header", "code"),
    [
        (None, "ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        (None, "de,zh;q=0.5", "zh"),
        ("zh", "ru", "zh"),
        ("xx", "", "en"),
        (None, "de;q=x,,;", "en"),
        (None, "ru;q=0", "en"),
    ],
)
def test_choice_of_language(cookie: str | None, header: str, code: str) -> None:
    assert choose(cookie, header) == code
