"""How figures are said: sizes, spans of time, prices. Pure; the catalogue gives the words, the caller gives now."""

from __future__ import annotations

from datetime import datetime

from web.catalog import Catalog, number


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
    if at is None:
        return t("never")
    span = (now - at).total_seconds()
    if span < 0:
        return t("in {span}", span=seconds(-span, t))
    return t("just now") if span < 3 else t("{span} ago", span=seconds(span, t))


def price(per_hour: float, t: Catalog) -> str:
    return t("free") if per_hour == 0 else t("${x}/h", x=f"{per_hour:.2f}")


def amount(value: float | None, t: Catalog) -> str:
    return (
        t("unlimited") if value is None else number(round(value, 2), t.language) if value != int(value) else number(int(value), t.language)
    )
