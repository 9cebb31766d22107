"""Every class of the stylesheet and every mark of the scripts is used by a page, and no page asks for one that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import web
from web import ansi, markup

ROOT = Path(web.__file__).parent
STYLE = (ROOT / "static/css/vitrine.css").read_text("utf-8")
TEMPLATES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "templates").rglob("*.html")}
SCRIPTS = {path.name: path.read_text("utf-8") for path in (ROOT / "static/js").glob("*.js")}
CODE = {path.name: path.read_text("utf-8") for path in ROOT.rglob("*.py")}
_CLASS = re.compile(r"\.([a-z][\w-]*)")
# Put together from values: a colour by name, a tone of a stage, colours of terminals (`ansi`) and of source (Pygments).
_BUILT = re.compile(r"[ab]-[a-z]+|a[bkrgylmcw]|p-\w+|run|sleep|work|fail|off")


def _selectors() -> set[str]:
    rules = re.sub(r"/\*.*?\*/", "", STYLE, flags=re.DOTALL)
    return {name for rule in re.findall(r"([^{}]+)\{", rules) for name in _CLASS.findall(rule)}


def test_every_class_of_the_stylesheet_stands_on_a_page() -> None:
    given = [names for text in TEMPLATES.values() for names in re.findall(r'class="((?:\{[{%].*?[}%]\}|[^"])*)"', text)]
    made = [text for source in (*SCRIPTS.values(), *CODE.values()) for text in re.findall(r'"([^"\n]*)"', source)]
    words = {word for text in (*given, *made) for word in re.findall(r"[\w-]+", text)}
    assert {name for name in _selectors() if name not in words and not _BUILT.fullmatch(name)} == set()


def test_every_class_of_a_page_has_a_rule() -> None:
    known = _selectors() | {"plain"}
    asked = {name for text in TEMPLATES.values() for names in re.findall(r'class="([^"{]+)"', text) for name in names.split()}
    assert {name for name in asked - known if not _BUILT.fullmatch(name)} == set()


def test_every_mark_of_a_script_stands_on_a_page() -> None:
    """`data-` attributes join pages and scripts; both ends exist."""
    pages = " ".join([*TEMPLATES.values(), *CODE.values()])
    marks = {name for text in SCRIPTS.values() for name in re.findall(r"\[data-([a-z-]+)", text)}
    marks |= {re.sub(r"([A-Z])", r"-\1", name).lower() for text in SCRIPTS.values() for name in re.findall(r"dataset\.(\w+)", text)}
    assert {name for name in marks if f"data-{name}" not in pages} == set()


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_function_that_a_script_gives_is_taken(name: str) -> None:
    others = " ".join(text for other, text in SCRIPTS.items() if other != name)
    for given in re.findall(r"export (?:async )?function (\w+)", SCRIPTS[name]):
        assert f"import {{ {given} }}" in others or re.search(rf"import \{{[^}}]*\b{given}\b", others)


def test_colours_that_code_names_have_rules() -> None:
    known = _selectors()
    assert {"ab", "ar", "ag"} <= known
    assert str(ansi.to_html("\x1b[31mx\x1b[0m")) == '<span class="ar">x</span>'
    assert markup.highlight("import os\n", "a.py")
