"""Markdown and source code → HTML that is safe to put on a page.

Two walls: markdown-it makes HTML without passing raw HTML blindly on, nh3 (ammonia) then keeps an allow list. What a
README may not do: run, style, post, frame, load plug-ins, or name an element of the page.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.tasklists import tasklists_plugin
from pygments import highlight as pygments_highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

MAX_MARKDOWN = 400_000
MAX_HIGHLIGHT = 300_000
_TAGS = {
    "a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "dd", "del", "details", "div", "dl", "dt", "em", "figcaption",
    "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp",
    "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "tt", "u", "ul", "var",
}  # fmt: skip
_ATTRIBUTES = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title", "width", "height"},
    "th": {"align", "colspan", "rowspan", "scope"},
    "td": {"align", "colspan", "rowspan"},
    "ol": {"start"},
    "details": {"open"},
    "h1": {"id"}, "h2": {"id"}, "h3": {"id"}, "h4": {"id"}, "h5": {"id"}, "h6": {"id"},
    "div": {"align"}, "p": {"align"},
}  # fmt: skip
_CLASSES = re.compile(r"[a-z][a-z0-9-]{0,24}")
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n.*?\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FORMATTER = HtmlFormatter(nowrap=True, classprefix="p-")


def without_front_matter(text: str) -> str:
    return _FRONT_MATTER.sub("", text, count=1)


def markdown(text: str, *, file_base: str = "", raw_base: str = "", folder: str = "") -> Markup:
    """Sanitised HTML. Relative links go below `file_base`, relative images below `raw_base`, both from `folder`.

    Heading ids get the prefix `md-`, so that no text can clobber an element the page's scripts look for.
    """
    raw = _parser().render(text[:MAX_MARKDOWN])

    def rewrite(tag: str, attribute: str, value: str) -> str | None:
        if attribute == "id":
            return value if value.startswith("md-") else f"md-{value}"[:80]
        if attribute == "class":
            return " ".join(c for c in value.split() if c.startswith("p-") and _CLASSES.fullmatch(c)) or None
        if attribute in ("href", "src"):
            return _address(value, file_base if attribute == "href" else raw_base, folder)
        return value

    clean = nh3.clean(
        raw,
        tags=_TAGS,
        attributes={**_ATTRIBUTES, "span": {"class"}},
        attribute_filter=rewrite,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener noreferrer ugc",
        strip_comments=True,
        set_tag_attribute_values={"pre": {"tabindex": "0"}},  # a wide block can be scrolled by keyboard
        clean_content_tags={"script", "style", "noscript", "template", "iframe", "object", "svg", "math", "title", "textarea", "select"},
    )
    return Markup(clean)  # noqa: S704 - nh3's allow list is the wall


def highlight(text: str, file_name: str) -> list[Markup]:
    """Source lines as HTML, one item per line, with `p-` classes of the page's stylesheet."""
    if len(text) > MAX_HIGHLIGHT:
        return [Markup.escape(line) for line in text.split("\n")]
    try:
        lexer = get_lexer_for_filename(posixpath.basename(file_name)[-120:], stripnl=False, ensurenl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False, ensurenl=False)
    html = pygments_highlight(text, lexer, _FORMATTER)
    return [Markup(line) for line in _close_over_lines(html)]  # noqa: S704 - the formatter escapes text


def _close_over_lines(html: str) -> list[str]:
    """Pygments closes its spans at each line end; a trailing newline makes no line of its own."""
    lines = html.split("\n")
    return lines[:-1] if len(lines) > 1 and not lines[-1] else lines


def _fence(code: str, name: str, _attributes: str) -> str:
    try:
        lexer = get_lexer_by_name(name[:40]) if name else TextLexer()
    except ClassNotFound:
        lexer = TextLexer()
    return pygments_highlight(code, lexer, _FORMATTER)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("gfm-like", {"html": True, "linkify": False, "highlight": _fence, "maxNesting": 40})
    parser.disable("linkify")
    return parser.use(tasklists_plugin, enabled=False).use(anchors_plugin, max_level=4, permalink=False)


def _address(value: str, base: str, folder: str) -> str | None:
    """Where a link leads: absolute ones as written, anchors to our prefixed ids, relative ones into the repository."""
    value = value.strip()
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    if parts.scheme or value.startswith("//"):
        return value if parts.scheme in ("http", "https", "mailto") else None
    if value.startswith("#"):
        return f"#md-{value[1:].removeprefix('md-')}"
    if not base:
        return None
    joined = posixpath.normpath(posixpath.join("/", folder, parts.path.lstrip("/") if parts.path.startswith("/") else parts.path))
    return f"{base}{quote(joined)}" + (f"#{quote(parts.fragment)}" if parts.fragment else "")
