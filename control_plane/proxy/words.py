"""The two pages' own words, in the languages of the platform's pages; English is the key. Two pages need no more machinery."""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.proxy.error_words import ERRORS

CATALOGS: Mapping[str, Mapping[str, str]] = {
    "zh": {
        "{name} is waking up": "{name} 正在唤醒",
        "Asleep, asking it to wake": "休眠中,正在唤醒",
        "Starting": "正在启动",
        "Ready": "就绪",
        "Did not start": "未能启动",
        "Paused": "已暂停",
        "Nothing deployed": "尚未部署",
        "The server does not answer, trying again": "服务器没有响应,正在重试",
        "This page shows the app as soon as it answers.": "应用一有响应,本页就会显示它。",
        "It usually takes {seconds} s.": "通常需要 {seconds} 秒。",
        "Reload this page in a few seconds.": "请过几秒重新加载本页。",
        "About this Space": "关于这个 Space",
    },
    "ru": {
        "{name} is waking up": "{name} просыпается",
        "Asleep, asking it to wake": "Спит, просим проснуться",
        "Starting": "Запускается",
        "Ready": "Готово",
        "Did not start": "Не запустилось",
        "Paused": "Приостановлено",
        "Nothing deployed": "Ничего не развёрнуто",
        "The server does not answer, trying again": "Сервер не отвечает, пробуем ещё раз",
        "This page shows the app as soon as it answers.": "Эта страница покажет приложение, как только оно ответит.",
        "It usually takes {seconds} s.": "Обычно это занимает {seconds} с.",
        "Reload this page in a few seconds.": "Обновите эту страницу через несколько секунд.",
        "About this Space": "Об этом Space",
    },
}


def choose(accept_language: str) -> str:
    """The language code of an Accept-Language value: the best-liked that is here, else English."""
    best, liked = "en", 0.0
    for part in accept_language[:200].split(","):
        tag, _, rest = part.strip().partition(";")
        try:
            weight = float(rest.strip().removeprefix("q=")) if rest else 1.0
        except ValueError:
            continue
        code = tag.partition("-")[0].lower()
        if weight > liked and (code in CATALOGS or code == "en"):
            best, liked = code, weight
    return best


def translate(language: str, text: str, **values: object) -> str:
    return CATALOGS.get(language, {}).get(text, text).format(**values)


def translate_error(language: str, text: str) -> str:
    """A sentence of a coded answer. What the scheduler says of a Space stands in no catalogue and stays as it is."""
    return ERRORS.get(language, {}).get(text, text)
