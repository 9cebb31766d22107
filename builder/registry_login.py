"""Signing in to a registry by name and password, whichever of the two ways it asks for.

Some take the password with every request (htpasswd); most hosted ones answer 401 and name a service that gives tokens.
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator

import httpx

_FIELD = re.compile(r'([a-z_]+)="([^"]*)"')
_LIFE_S = 60.0  # what the protocol promises when the answer names none
_EARLY_S = 20.0


class RegistryLogin(httpx.Auth):
    """For pushes to one `host`; no other host is told anything. One token at a time: a push stays with one repository.

    Uploads are not sent twice: each begins with a small question, which brings a token that is fresh enough.
    """

    requires_response_body = True

    def __init__(self, host: str, name: str, password: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._host, self._password, self._monotonic = host, httpx.BasicAuth(name, password), monotonic
        self._token, self._until = "", 0.0
        self._takes_tokens = False

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if request.url.netloc.decode() != self._host:
            yield request
            return
        if self._monotonic() < self._until:
            request.headers["Authorization"] = f"Bearer {self._token}"
        elif not self._takes_tokens:
            request = next(self._password.auth_flow(request))
        response = yield request
        question = self._question(response)
        if question is None:
            return
        self._takes_tokens = True
        if self._take((yield question)):
            request.headers["Authorization"] = f"Bearer {self._token}"
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

    def _take(self, answer: httpx.Response) -> bool:
        try:
            said = answer.json() if answer.status_code == 200 else {}
            self._token = str(said.get("token") or said.get("access_token") or "")
            life_s = float(said.get("expires_in") or _LIFE_S)
        except (ValueError, AttributeError, TypeError):
            self._token, life_s = "", 0.0
        self._until = self._monotonic() + life_s - _EARLY_S if self._token else 0.0
        return bool(self._token)
