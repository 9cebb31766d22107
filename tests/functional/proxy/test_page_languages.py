from __future__ import annotations

import string

import pytest

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import Route, RouteState
from control_plane.proxy.error_words import ERRORS
from control_plane.proxy.errors import Code
from control_plane.proxy.pages import progress_page
from control_plane.proxy.words import CATALOGS, choose
from tests.functional.proxy.conftest import World


def _fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text)} - {None}


def test_every_language_has_every_word_with_its_fields() -> None:
    first, *others = CATALOGS.values()
    assert all(other.keys() == first.keys() for other in others)
    for words in CATALOGS.values():
        assert all(_fields(text) == _fields(key) for key, text in words.items())


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("ru", "ru"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("fr,ru;q=0.4,en;q=0.5", "en"),
        ("de;q=x, ru;q=0", "en"),
        ("*", "en"),
        ("'><script>", "en"),
    ],
)
def test_the_best_liked_language_is_chosen(accept: str, language: str) -> None:
    assert choose(accept) == language


@pytest.mark.parametrize(
    ("accept", "lang", "words"),
    [
        ("ru-RU,ru;q=0.9", "ru", ("<b> просыпается", "Спит, просим проснуться", "Обычно это занимает 4 с.", "Об этом Space")),
        ("zh-CN", "zh", ("<b> 正在唤醒", "休眠中", "通常需要 4 秒。", "关于这个 Space")),
        ("pt-BR", "en", ("<b> is waking up", "Asleep, asking it to wake", "It usually takes 4 s.", "About this Space")),
    ],
)
async def test_the_progress_page_speaks_the_browsers_language(world: World, accept: str, lang: str, words: tuple[str, ...]) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=(), title="{x}<b>", eta_s=4.2)
    answer = await world.get(Accept="text/html", Sec_Fetch_Mode="navigate", Accept_Language=accept)
    page = answer.body.decode()
    assert f'<html lang="{lang}">' in page
    for text in words:
        assert text.replace("<b>", "{x}&lt;b&gt;") in page


NEVER_A_PAGE = {  # their head is refused or not a navigation's, a navigation is answered before them, or they only stand in the log
    "BAD_REQUEST_LINE", "BAD_HEADER", "BAD_HOST", "BAD_FRAMING", "BAD_CHUNK", "BAD_UPGRADE", "METHOD_REFUSED", "CLIENT_TIMEOUT",
    "BODY_TOO_LARGE", "TARGET_TOO_LONG", "EXPECTATION_FAILED", "TOO_MANY_CONNECTIONS", "HEADERS_TOO_LARGE", "HTTP_VERSION",
    "SPACE_STARTING", "WAKE_TIMEOUT", "WAKE_QUEUE_FULL", "PROXY_QUEUE_FULL", "APP_CUT_SHORT", "ACCESS_ENDED", "CLIENT_STALLED",
    "CLIENT_LEFT",
}  # fmt: skip


@pytest.mark.parametrize("language", ["zh", "ru"])
def test_every_sentence_of_an_error_page_is_translated(language: str) -> None:
    wanted = {"To the gallery"}
    for code in Code:
        if code.name not in NEVER_A_PAGE:
            wanted |= {code.value.title, code.value.words, code.value.fix} - {""}
    assert ERRORS[language].keys() == wanted
    assert not any(text == key for key, text in ERRORS[language].items())


@pytest.mark.parametrize(
    ("accept", "lang", "words"),
    [
        ("ru", "ru", ("Приостановлено", "Владелец приостановил", "Об этом Space")),
        ("zh-TW", "zh", ("已暂停", "所有者暂停了", "关于这个 Space")),
        ("de", "en", ("Paused", "The owner paused", "About this Space")),
    ],
)
async def test_the_page_of_a_coded_error_speaks_the_browsers_language(world: World, accept: str, lang: str, words: tuple[str, ...]) -> None:
    await world.put(state=RouteState.PAUSED, endpoints=())
    answer = await world.get(Accept="text/html", Sec_Fetch_Mode="navigate", Accept_Language=accept)
    page = answer.body.decode()
    assert f'<html lang="{lang}">' in page and "SPACE_PAUSED" in page and answer.headers["vary"] == "Accept, Accept-Language"
    assert all(text in page for text in words)
    as_json = await world.get(Accept="application/json", Accept_Language=accept)
    assert b"The owner paused" in as_json.body
    await world.put(state=RouteState.FAILED, endpoints=(), message="the scheduler's own words <i>")
    answer = await world.get(Accept="text/html", Sec_Fetch_Mode="navigate", Accept_Language=accept)
    assert b"the scheduler&#x27;s own words &lt;i&gt;" in answer.body


def test_all_words_of_the_page_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def translate(language: str, text: str, **values: object) -> str:
        asked.add(text)
        return text.format(**values)

    monkeypatch.setattr("control_plane.proxy.pages.translate", translate)
    progress_page(Route("a.localhost", SpaceId("a" * 24), "a/a", RouteState.ASLEEP, eta_s=1.0), "n", "http://localhost")
    assert asked == CATALOGS["ru"].keys()
