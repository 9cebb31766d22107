# ruff: noqa: E501  (style and script are one asset each; breaking their lines would only hide them)
"""The two pages the proxy serves itself: a Space waking up, and a coded error. Self-contained, one inline style and script."""

from __future__ import annotations

import json
from html import escape

from control_plane.domain.routes import Route, RouteState
from control_plane.proxy.errors import Code
from control_plane.proxy.words import translate, translate_error

_STYLE = """:root{color-scheme:light dark;--paper:#f7f5f1;--case:#fff;--ink:#1c1b19;--ink2:#5d5a54;--line:#e2ded5;--accent:#b3401f;--work:#b7791f;--run:#1f8a4c;
--fail:#c0392b;--serif:"Iowan Old Style","Palatino Linotype",Palatino,"Noto Serif",Georgia,serif;--sans:ui-sans-serif,system-ui,-apple-system,"Segoe UI","Noto Sans",sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,"Noto Sans Mono",monospace}
@media(prefers-color-scheme:dark){:root{--paper:#141413;--case:#1d1c1a;--ink:#f0ede6;--ink2:#b1ada3;--line:#33312d;--accent:#ee7d55;--work:#e0ac58;--run:#55c283;--fail:#f07a6d}}
*{box-sizing:border-box}body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--paper);color:var(--ink);font:400 .9375rem/1.5 var(--sans)}
main{width:100%;max-width:30rem;background:var(--case);border:1px solid var(--line);border-radius:12px;padding:2.5rem 1.5rem;box-shadow:0 8px 24px -12px rgb(28 27 25/.18)}
.mark{font-size:2.6rem;line-height:1;margin-bottom:1rem}h1{font:500 1.6rem/1.15 var(--serif);letter-spacing:-.01em;margin:0 0 .5rem;overflow-wrap:anywhere}
p{margin:.5rem 0;color:var(--ink2);overflow-wrap:anywhere}.stage{display:inline-flex;align-items:center;gap:.45em;color:var(--ink)}
.stage::before{content:"";width:.55em;height:.55em;border-radius:50%;background:var(--c,var(--work))}.fail{--c:var(--fail)}.ready{--c:var(--run)}
.meter{height:.35rem;background:var(--line);border-radius:9px;overflow:hidden;margin:1.25rem 0 .75rem}.meter i{display:block;height:100%;width:4%;background:var(--work);transition:width .6s linear}
small{font:.8125rem var(--mono);color:var(--ink2)}a{color:inherit}a:hover{color:var(--accent)}:focus-visible{outline:2px solid #1d6fd6;outline-offset:2px}
@media(prefers-reduced-motion:reduce){.meter i{transition:none}}"""

_SCRIPT = """const t0=Date.now(),bar=document.querySelector(".meter i"),word=document.querySelector(".stage"),say=document.getElementById("say"),took=document.getElementById("took");
let eta=parseFloat(document.body.dataset.eta)||20,done=false,misses=0;
const words=JSON.parse(document.body.dataset.words);
function again(){if(!done){done=true;location.reload()}}
function show(b){misses=0;word.textContent=words[b.state]||b.state;if(b.eta_s)eta=b.eta_s;if(b.message)say.textContent=b.message;
if(b.ready){bar.style.width="100%";again()}else if(b.state==="failed"||b.state==="paused"||b.state==="empty"){word.classList.add("fail");again()}}
function follow(){const s=new EventSource("/.well-known/vitrine/stages");s.addEventListener("stage",e=>show(JSON.parse(e.data)));
s.onerror=()=>{if(s.readyState===2){s.close();setTimeout(again,1000)}else if(++misses>3)word.textContent=words.silent}}
setInterval(()=>{const s=(Date.now()-t0)/1000;if(!done)bar.style.width=Math.min(96,100*(1-Math.exp(-1.6*s/eta)))+"%";took.textContent=Math.round(s)+" s"},500);follow();"""


def _frame(title: str, nonce: str, body: str, *, data: str = "", script: str = "", language: str = "en") -> str:
    code = f'<script nonce="{nonce}">{script}</script>' if script else ""
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="robots" content="noindex"><title>{escape(title)}</title><style nonce="{nonce}">{_STYLE}</style>'
        f"<body{data}><main>{body}</main>{code}</body></html>"
    )


_STATES = {
    "asleep": "Asleep, asking it to wake", "starting": "Starting", "ready": "Ready", "failed": "Did not start", "paused": "Paused",
    "empty": "Nothing deployed", "silent": "The server does not answer, trying again",
}  # fmt: skip


def progress_page(route: Route, nonce: str, hub: str, language: str = "en") -> str:
    """Says what happens and how long it usually takes; loads the app the moment it answers."""
    name = route.title or route.space_name
    states = {state: translate(language, text) for state, text in _STATES.items()}
    stage = states["asleep" if route.state is RouteState.ASLEEP else "starting"]
    say = route.message or translate(language, "This page shows the app as soon as it answers.")
    if route.eta_s and not route.message:
        say += " " + translate(language, "It usually takes {seconds} s.", seconds=max(1, round(route.eta_s)))
    return _frame(
        translate(language, "{name} is waking up", name=name),
        nonce,
        f'<div class="mark" aria-hidden="true">{escape(route.emoji) or "◻︎"}</div><h1>{escape(name)}</h1>'
        f'<p><span class="stage" role="status">{stage}</span></p><div class="meter" aria-hidden="true"><i></i></div>'
        f'<p id="say">{escape(say)}</p><p><small id="took"></small></p>'
        f"<noscript><p>{escape(translate(language, 'Reload this page in a few seconds.'))}</p></noscript>"
        f'<p><a href="{escape(hub)}/spaces/{escape(route.space_name)}" target="_top">{escape(translate(language, "About this Space"))}</a></p>',
        data=f' data-eta="{route.eta_s or 0:g}" data-words="{escape(json.dumps(states))}"',
        script=_SCRIPT,
        language=language,
    )


def error_page(code: Code, message: str, nonce: str, hub: str, request_id: str, route: Route | None, language: str = "en") -> str:
    answer = code.value
    title = translate_error(language, answer.title)
    about = (
        f'<p><a href="{escape(hub)}/spaces/{escape(route.space_name)}" target="_top">{escape(translate(language, "About this Space"))}</a></p>'
        if route is not None
        else f'<p><a href="{escape(hub)}/" target="_top">{escape(translate_error(language, "To the gallery"))}</a></p>'
    )
    mark = f'<div class="mark" aria-hidden="true">{escape(route.emoji)}</div>' if route is not None and route.emoji else ""
    fix = f"<p>{escape(translate_error(language, answer.fix))}</p>" if answer.fix else ""
    said = escape(translate_error(language, message))
    return _frame(
        title,
        nonce,
        f'{mark}<h1>{escape(title)}</h1><p><span class="stage fail">{answer.status}</span></p><p>{said}</p>{fix}{about}'
        f"<p><small>{code.name} · {escape(request_id)}</small></p>",
        language=language,
    )
