"""How figures are said: sizes, spans of time, dates, prices. Pure; the catalogue gives the words, the caller gives now."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from markupsafe import Markup, escape

from web.catalog import Catalog, figures, number

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DAYS = 14  # from here on a date says more than a number of days
_STAMP = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)")


def size(count: float) -> str:
    """Bytes as people say them, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f}".removesuffix(".0") + f" {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds(span: float | None, t: Catalog) -> str:
    """A duration: `0.4 s`, `14 s`, `4 min`, `2 h`, `3 d`."""
    if span is None:
        return "–"
    if span < 10:
        return t("{x} s", x=number(round(span, 1), t.language))
    if span < 90:
        return t("{x} s", x=round(span))
    if span < 90 * 60:
        return t("{x} min", x=round(span / 60))
    if span < 36 * 3600:
        return t("{x} h", x=round(span / 3600))
    return t("{x} d", x=round(span / 86400))


def ago(at: datetime | None, now: datetime, t: Catalog) -> str:
    """`just now`, `4 min ago`, `in 3 d`; the date when it is two weeks away or more."""
    if at is None:
        return t("never")
    span = (now - at).total_seconds()
    if abs(span) >= _DAYS * 86400:
        return day(at, now, t)
    if span < 0:
        return t("in {span}", span=seconds(-span, t))
    return t("just now") if span < 3 else t("{span} ago", span=seconds(span, t))


def day(at: datetime, now: datetime, t: Catalog) -> str:
    """`1 December`, with the year when it is not this one. UTC."""
    at = at.astimezone(UTC)
    said = t("{day} {month} {year}") if at.year != now.astimezone(UTC).year else t("{day} {month}")
    return _filled(said, at, t)


def moment(at: datetime, t: Catalog) -> str:
    """`1 December 2026, 14:05 UTC`."""
    at = at.astimezone(UTC)
    return t("{date}, {time} UTC", date=_filled(t("{day} {month} {year}"), at, t), time=f"{at:%H:%M}")


def _filled(said: str, at: datetime, t: Catalog) -> str:
    return said.replace("{day}", str(at.day)).replace("{month}", t(MONTHS[at.month - 1])).replace("{year}", str(at.year))


def dated(text: str, now: datetime, t: Catalog) -> Markup:
    """`text` as HTML; a time in it as machines write it (2026-12-01T00:00:00Z) is said in words and stays readable for them."""
    made, end = Markup(), 0
    for found in _STAMP.finditer(text):
        made += escape(text[end : found.start()])
        try:
            at = datetime.fromisoformat(found[0].replace("Z", "+00:00"))
        except ValueError:  # figures in the shape of a time
            made += escape(found[0])
        else:
            words = day(at, now, t) if not (at.hour or at.minute or at.second) else moment(at, t)
            made += Markup('<time datetime="{}">{}</time>').format(found[0], words)
        end = found.end()
    return made + escape(text[end:])


def price(per_hour: float, t: Catalog) -> str:
    return t("free") if per_hour == 0 else t("${x}/h", x=figures(f"{per_hour:.2f}", t.language))


def amount(value: float | None, t: Catalog) -> str:
    return (
        t("unlimited") if value is None else number(round(value, 2), t.language) if value != int(value) else number(int(value), t.language)
    )
