"""Terminal colours in log lines → spans with classes. Everything else that a terminal would obey is dropped.

Only SGR (`ESC [ … m`) changes the look; the text itself is always escaped here, so the result is safe to insert.
"""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup

# CSI sequences, OSC strings (titles, links), two-character escapes, and what is left of control characters.
_ESCAPES = re.compile(r"\x1b\[([0-9;:]*)([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")
_PLAIN = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # direction overrides would let a line lie about its order
_COLOURS = ("k", "r", "g", "y", "l", "m", "c", "w")
MAX_LINE = 8000


def to_html(line: str) -> Markup:
    """One line as HTML. A carriage return shows what a terminal would show last."""
    text = _PLAIN.sub("", line.rstrip("\r\n")[:MAX_LINE])
    text = text.rsplit("\r", 1)[-1]
    out: list[str] = []
    bold, colour, position = False, "", 0
    for match in _ESCAPES.finditer(text):
        out.append(_span(text[position : match.start()], bold, colour))
        position = match.end()
        if match.group(2) == "m":
            bold, colour = _apply(match.group(1), bold, colour)
    out.append(_span(text[position:], bold, colour))
    return Markup("".join(out))  # noqa: S704 - every part went through escape()


def to_text(line: str) -> str:
    """The line without any control sequence, for downloads and search."""
    return _PLAIN.sub("", _ESCAPES.sub("", line))


def _span(text: str, bold: bool, colour: str) -> str:
    if not text:
        return ""
    classes = " ".join(c for c in ("ab" if bold else "", f"a{colour}" if colour else "") if c)
    return f'<span class="{classes}">{escape(text)}</span>' if classes else escape(text)


def _apply(parameters: str, bold: bool, colour: str) -> tuple[bool, str]:
    codes = [int(p) if p.isdigit() else 0 for p in parameters[:64].replace(":", ";").split(";")]
    index = 0
    while index < len(codes):
        code = codes[index]
        if code == 0:
            bold, colour = False, ""
        elif code == 1:
            bold = True
        elif code == 22:
            bold = False
        elif code == 39:
            colour = ""
        elif 30 <= code <= 37 or 90 <= code <= 97:
            colour = _COLOURS[code % 10]
        elif code in (38, 48):  # 256 colours and true colour: the arguments are skipped, the text stays plain
            index += 4 if codes[index + 1 : index + 2] == [2] else 2
        index += 1
    return bold, colour
