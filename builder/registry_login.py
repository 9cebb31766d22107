"""Signing in to a registry by name and password, whichever of the two ways it asks for.

Some take the password with every request (htpasswd); most hosted ones answer 401 and name a service that gives tokens.
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator

import httpx

_OF_REPOSITORY = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags)/")
_FIELD = re.compile(r'([a-z_]+)="([^"]*)"')
_LIFE_S = 60.0  # what the protocol promises when the answer names none
_EARLY_S = 20.0


class RegistryLogin(httpx.Auth):
    """For one `host`; no other host is told anything. Keeps one token per repository: the last, which has the rights asked for last.

    Uploads are not sent twice: each begins with a small question, which brings a token that is fresh enough.
    """

    requires_response_body = True

    def __init__(self, host: str, name: str, password: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._host, self._password, self._monotonic = host, httpx.BasicAuth(name, password), monotonic
        self._tokens: dict[str, tuple[str, float]] = {}  # by repository, "" = the registry itself: a token and when it is too old
        self._takes_tokens = False

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if request.url.netloc != httpx.URL(f"{request.url.scheme}://{self._host}").netloc:
            yield request
            return
        found = _OF_REPOSITORY.match(request.url.path)
        repository = found.group(1) if found else ""
        token, until = self._tokens.get(repository, ("", 0.0))
        if self._monotonic() < until:
            request.headers["Authorization"] = f"Bearer {token}"
        elif not self._takes_tokens:
            request = next(self._password.auth_flow(request))
        response = yield request
        question = self._question(response)
        if question is None:
            return
        self._takes_tokens = True
        token, life_s = _told((yield question))
        if token:
            self._tokens[repository] = token, self._monotonic() + life_s - _EARLY_S
            request.headers["Authorization"] = f"Bearer {token}"
            yield request

    def _question(self, response: httpx.Response) -> httpx.Request | None:
        """What to ask for a token; None where the answer asks for none, or would have the password go out in the open."""
        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        if response.status_code != 401 or kind.lower() != "bearer":
            return None
        named = dict(_FIELD.findall(rest))
        realm = httpx.URL(named.pop("realm", ""))
        if realm.scheme != "https" and realm.scheme != response.request.url.scheme:
            return None
        asked = {key: named[key] for key in ("service", "scope") if key in named}
        return next(self._password.auth_flow(httpx.Request("GET", realm.copy_merge_params(asked))))


def _told(answer: httpx.Response) -> tuple[str, float]:
    """The token of this answer and the seconds it lives; "" where it gives none."""
    try:
        said = answer.json() if answer.status_code == 200 else {}
        return str(said.get("token") or said.get("access_token") or ""), float(said.get("expires_in") or _LIFE_S)
    except (ValueError, AttributeError, TypeError):
        return "", 0.0
