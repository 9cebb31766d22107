"""The CLI's side of the platform's HTTP API: finding the platform, one call, and one clear line when it fails."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click

if TYPE_CHECKING:
    import httpx

    from control_plane.cli.progress import Task

TIMEOUT_S = 60.0
_LINES = "application/x-ndjson"
EXPECTED_BYTES = "x-vitrine-expected-bytes"  # of a download whose length nobody knows beforehand
EXPECTED_LINES = "x-vitrine-expected-lines"
_LOCAL = ("localhost", "127.0.0.1", "::1")


def part(text: str) -> str:
    """One segment of a path, whatever characters it has."""
    return quote(text, safe="") or "%20"


class Platform:
    """A running platform. Every method raises `click.ClickException` (exit code 1) with one line for people."""

    def __init__(self, endpoint: str, token: str) -> None:
        try:
            parts = urlsplit(endpoint)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            raise click.UsageError(f"'{endpoint}' is not an address; use something like http://localhost:7860")
        if "@" in parts.netloc:
            raise click.UsageError("an address has no name and password; give a token with --token or VITRINE_TOKEN")
        self.endpoint = endpoint.rstrip("/")
        self._written_by = ""  # which ready.json named the address
        self._token = token.strip()  # as it comes out of a file
        if not self._token.isascii() or not self._token.isprintable():
            raise click.ClickException(_BAD_TOKEN)
        # A machine's own proxy settings are for the internet, not for a platform on this machine.
        host = parts.hostname or ""
        self._trust_env = host not in _LOCAL and not host.endswith(".localhost")

    @classmethod
    def find(cls, endpoint: str | None, token: str | None, data_dir: Path | None) -> Platform:
        """Options win, then VITRINE_ENDPOINT / VITRINE_TOKEN, then `ready.json` of the local data dir."""
        endpoint, token = endpoint or os.environ.get("VITRINE_ENDPOINT"), token or os.environ.get("VITRINE_TOKEN")
        if endpoint and token:
            return cls(endpoint, token)
        folder = data_dir or Path(os.environ.get("VITRINE_DATA_DIR") or ".vitrine").expanduser()
        try:
            ready = json.loads((folder / "ready.json").read_text())
            found = cls(endpoint or str(ready["url"]), token or str(ready["admin_token"]))
            found._written_by = "" if endpoint else f"{folder / 'ready.json'} of process {ready.get('pid')}"
        except FileNotFoundError:
            missing = "--token or VITRINE_TOKEN" if endpoint else "--endpoint and --token (or VITRINE_ENDPOINT and VITRINE_TOKEN)"
            raise click.ClickException(f"no platform runs from {folder}; start it with `vitrine up`, or give {missing}") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, click.UsageError):
            if endpoint:
                cls(endpoint, "")  # the address is what is wrong, where it is
            raise click.ClickException(f"{folder / 'ready.json'} cannot be used: it is not what `vitrine up` writes") from None
        return found

    def _client(self, timeout: float | None) -> httpx.Client:
        import ssl

        import httpx

        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", "User-Agent": "vitrine-cli"}
        verify: ssl.SSLContext | bool = True
        if not self.endpoint.startswith("https:"):
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # knows nobody: to read all authorities is half of a command's time
        elif authorities := os.environ.get("SSL_CERT_FILE"):
            verify = ssl.create_default_context(cafile=authorities)
        return httpx.Client(base_url=self.endpoint, headers=headers, timeout=timeout, trust_env=self._trust_env, verify=verify)

    def call(self, method: str, path: str, *, body: Any = None, params: dict[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> Any:
        import httpx

        wanted = {k: v for k, v in (params or {}).items() if v is not None}
        try:
            with self._client(timeout_s) as client:
                response = client.request(method, path, json=body, params=wanted)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise click.ClickException(self._unreachable(error)) from None
        self._check(response)
        try:
            return response.json()
        except ValueError:
            raise click.ClickException(self.unlike_us()) from None

    def unlike_us(self) -> str:
        return f"{self.endpoint} does not answer like a Vitrine platform of this version"

    def follow(self, method: str, path: str, told: Task, *, body: Any = None, params: dict[str, Any] | None = None) -> Any:
        """The answer of long work. `told` hears how far it is, as often as the platform says; an older one says nothing."""
        import httpx

        wanted = {k: v for k, v in (params or {}).items() if v is not None}
        accept = {"Accept": f"{_LINES}, application/json"}
        try:
            with self._client(TIMEOUT_S) as client, client.stream(method, path, json=body, params=wanted, headers=accept) as response:
                if response.status_code >= 400 or _LINES not in response.headers.get("content-type", ""):
                    response.read()
                    self._check(response)
                    return response.json()
                for line in response.iter_lines():
                    said = json.loads(line)
                    if "result" in said:
                        return said["result"]
                    if "error" in said:
                        raise click.ClickException(" ".join(str(said["error"]).split()))
                    told.now(int(said["done"]), said["total"], str(said["words"]))
        except httpx.HTTPError as error:
            raise click.ClickException(self._unreachable(error)) from None
        except (ValueError, KeyError, TypeError):
            raise click.ClickException(self.unlike_us()) from None
        raise click.ClickException(f"{self.endpoint} went away before it was done; ask again, what is done stays done")

    def stream(self, path: str, headers: dict[str, str] | None = None) -> Iterator[bytes]:
        """The body piece by piece; `headers` is filled with the answer's, names in lower case."""
        import httpx

        try:
            with self._client(timeout=None) as client, client.stream("GET", path) as response:
                if response.status_code >= 400:
                    response.read()
                self._check(response)
                if headers is not None:
                    headers.update(response.headers)
                yield from response.iter_bytes(1 << 20)
        except httpx.HTTPError as error:
            raise click.ClickException(self._unreachable(error)) from None

    def download(self, path: str, measure: str = EXPECTED_BYTES) -> tuple[int | None, Iterator[bytes]]:
        """The stream, begun, and about how much it will have of what `measure` counts: None where the platform does not say."""
        said: dict[str, str] = {}
        chunks = self.stream(path, said)
        first = next(chunks, b"")
        expected = said.get(measure, "")
        return int(expected) if expected.isdigit() else None, itertools.chain((first,) if first else (), chunks)

    def _unreachable(self, error: Exception) -> str:
        said = " ".join(str(error).split()) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in said:
            reason = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it is not signed by anybody known here"
            return f"the certificate of {self.endpoint} is not trusted ({reason}); SSL_CERT_FILE names a file of authorities to trust"
        if "SSL:" in said:
            return f"{self.endpoint} does not speak TLS as expected ({said}); is it an http:// address?"
        if self._written_by:
            return f"{self.endpoint} does not answer ({said}); {self._written_by} names it, which has ended or is not ready: `vitrine up`"
        return f"{self.endpoint} does not answer ({said}); is the platform running there?"

    def _check(self, response: httpx.Response) -> None:
        if response.status_code < 400 and not response.is_redirect:
            return
        try:
            body = response.json()
            found = body.get("error") or body.get("detail") or ""
        except (ValueError, AttributeError):
            found = ""
        message = " ".join(("; ".join(map(str, found)) if isinstance(found, list) else str(found)).split())
        if response.status_code == 401:
            message = _BAD_TOKEN
        elif response.status_code in (404, 405) and (not message or "nothing at this address" in message or message in _UNKNOWN_ROUTE):
            message = f"{self.endpoint} does not know this command; is it an older version of the platform?"
        raise click.ClickException(message or f"{self.endpoint} answered {response.status_code}")


_BAD_TOKEN = "the token is not accepted; make one with `vitrine admin token add USER --role write`, or check VITRINE_TOKEN"
_UNKNOWN_ROUTE = ("Not Found", "Method Not Allowed")
