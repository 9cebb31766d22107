"""Message catalogues: English sentences are the keys, JSON files hold the translations.

A value is a sentence, or an object of plural forms chosen by the number `n`. Forms follow the Unicode plural rules of
the three languages: English one/other, Chinese other, Russian one/few/many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LANGUAGES: tuple[tuple[str, str], ...] = (("en", "English"), ("zh", "中文"), ("ru", "Русский"))
_CODES = tuple(code for code, _ in LANGUAGES)
_FOLDER = Path(__file__).parent / "messages"

Entry = str | dict[str, str]


def plural_form(language: str, n: float) -> str:
    """The name of the plural form for `n` things."""
    if language == "zh":
        return "other"
    if language == "ru":
        if n != int(n):
            return "few"
        last, last_two = int(n) % 10, int(n) % 100
        if last == 1 and last_two != 11:
            return "one"
        return "few" if 2 <= last <= 4 and not 12 <= last_two <= 14 else "many"
    return "one" if n == 1 else "other"


@dataclass(frozen=True, slots=True)
class Catalog:
    """Sentences of one language. Calling it translates; an unknown sentence is shown as it is."""

    language: str
    entries: Mapping[str, Entry]

    def __call__(self, sentence: str, /, **values: object) -> str:
        entry = self.entries.get(sentence, sentence)
        if isinstance(entry, dict):
            n = values.get("n", 0)
            form = plural_form(self.language, float(n) if isinstance(n, int | float) else 0.0)
            entry = entry.get(form) or entry.get("other") or entry.get("many") or sentence
        for name, value in values.items():
            entry = entry.replace("{" + name + "}", number(value, self.language) if name == "n" else str(value))
        return entry


def number(value: object, language: str) -> str:
    """Digits grouped the way the language groups them."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    return figures(f"{value:,}" if isinstance(value, int) else f"{value:,.1f}".removesuffix(".0"), language)


def figures(text: str, language: str) -> str:
    """A figure as programs write it (`1,284.5`), with the marks of the language."""
    return text.replace(",", "\N{NO-BREAK SPACE}").replace(".", ",") if language == "ru" else text


@cache
def load(language: str) -> Catalog:
    """The catalogue of a language code, English for an unknown one."""
    code = language if language in _CODES else "en"
    return Catalog(code, json.loads((_FOLDER / f"{code}.json").read_text("utf-8")))


def choose(cookie: str | None, accept_language: str) -> str:
    """The language code to use: what was chosen here before, else the browser's first that we have, else English."""
    if cookie in _CODES:
        return cookie
    weighted: list[tuple[float, int, str]] = []
    for index, part in enumerate(accept_language[:200].split(",")):
        tag, _, rest = part.strip().partition(";")
        try:
            weight = float(rest.strip().removeprefix("q=")) if rest else 1.0
        except ValueError:
            weight = 0.0
        weighted.append((-weight, index, tag.split("-")[0].lower()))
    return next((tag for weight, _, tag in sorted(weighted) if tag in _CODES and weight < 0), "en")
