"""Everything through which one person reaches a platform, and how long each goes on after a right has ended.

The person is a member of an organisation whose private Space and model they use: the app itself keeps running when they are put
out, so that what refuses is the platform. Requests are asked again and again until one is refused; what is open is read until it ends.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.e2e.conftest import PLAIN, Platform, Work

APP = """import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/ws":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nConnection: upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
            while data := self.connection.recv(100):
                self.wfile.write(data)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"TEXT")

http.server.ThreadingHTTPServer(("0.0.0.0", 7860), Handler).serve_forever()
"""
HOUSE = "house"
PASSWORD = "a sentence of some length"
_OBJECT = b"large" * 1000
_AGAIN_S = 0.01  # between two questions at one surface
LIMIT_S = 120.0  # nothing here is fast because this is short: a surface that never refuses fails the test


class Tunnel:
    """A WebSocket to an app, as bytes: open until `close`, or until the platform ends it."""

    def __init__(self, platform: Platform, subdomain: str, **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", platform.port), 60)
        lines = [
            "GET /ws HTTP/1.1", f"Host: {subdomain}.localhost:{platform.port}", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *(f"{k}: {v}" for k, v in headers.items()),
        ]  # fmt: skip
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._socket.recv(1)
        if not head.startswith(b"HTTP/1.1 101"):
            self.close()
            raise AssertionError(head)

    def echoes(self) -> bool:
        self._socket.sendall(b"\x81\x80abcd")
        return self._socket.recv(6) == b"\x81\x80abcd"

    def last_words(self) -> bytes:
        """What comes until the end."""
        said = b""
        while data := self._socket.recv(100):
            said += data
        return said

    def close(self) -> None:
        self._socket.close()


def browser_of(platform: Platform, name: str, password: str) -> httpx.Client:
    """Signed in by the form, as a browser is."""
    origin = f"http://localhost:{platform.port}"
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{platform.port}", headers={"Host": origin[7:], "Accept": "text/html"}, timeout=60, verify=PLAIN
    )
    csrf = client.get("/sign-in").text.partition('name="csrf" value="')[2].partition('"')[0]
    done = client.post("/sign-in", data={"name": name, "password": password, "csrf": csrf}, headers={"Origin": origin})
    assert done.status_code == 303, done.text
    return client


def app_cookie(platform: Platform, browser: httpx.Client, subdomain: str) -> str:
    """The cookie that a browser is given on the host of a private app."""
    back = browser.get("/oauth/app-access", params={"host": f"{subdomain}.localhost:{platform.port}", "next": "/"})
    assert back.status_code == 303, back.text
    welcome = platform.app(subdomain, _path(back.headers["location"]))
    return welcome.headers["set-cookie"].partition(";")[0]


def _path(address: str) -> str:
    """Without the host: addresses name the one that the platform is known by, whichever proxy was asked."""
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def furnish(platform: Platform, folder: Path, person: str) -> None:
    """The organisation, its private Space, running, and its private model; and a person who may write there."""
    orders: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("POST", "/api/admin/orgs", {"name": HOUSE}),
        ("PUT", f"/api/admin/orgs/{HOUSE}/members/admin", {"role": "admin"}),
        ("POST", "/api/admin/users", {"name": person, "password": PASSWORD}),
        ("PUT", f"/api/admin/orgs/{HOUSE}/members/{person}", {"role": "write"}),
        ("POST", "/api/repos/create", {"name": "app", "type": "space", "sdk": "gradio", "organization": HOUSE, "private": True}),
        ("POST", "/api/repos/create", {"name": "weights", "type": "model", "organization": HOUSE, "private": True}),
    )
    for method, path, body in orders:
        done = platform.api(method, path, json=body)
        assert done.is_success, done.text
    work = Work(platform, "app", folder / "app", owner=HOUSE, token=platform.token)
    work.write(app__py=APP)
    assert "Live at" in work.push("one")


@dataclass
class Rights:
    """A token of `person`, and unless `sessions` is off a browser's session, with all they have opened at `platform`.

    `surfaces`: name → whether it is refused now, or for what is open: waits until it has ended and says so.
    """

    platform: Platform
    person: str
    sessions: bool = True
    token: str = ""
    token_id: str = ""
    surfaces: dict[str, Callable[[], bool]] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    @contextmanager
    def held(self) -> Iterator[Rights]:
        with self._open:
            made = self.platform.api("POST", "/api/admin/tokens", json={"user": self.person, "role": "write", "name": "surfaces"}).json()
            self.token, self.token_id = made["token"], made["id"]
            self._requests()
            self._files()
            self._opened("socket", Tunnel(self.platform, f"{HOUSE}-app", Authorization=f"Bearer {self.token}"))
            self._stream("stream", self._client(self.token), f"/api/spaces/{HOUSE}/app/events")
            if self.sessions:
                self._session()
            for name, refused in self.surfaces.items():
                if not name.startswith("open "):
                    assert not refused(), f"{name} is refused although nothing has ended"
            yield self

    def _client(self, token: str, host: str = "localhost") -> httpx.Client:
        port = self.platform.port
        headers = {"Host": f"{host}:{port}", "Authorization": f"Bearer {token}", "Accept": "application/json"}
        return self._open.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, verify=PLAIN))

    def _asked(self, name: str, client: httpx.Client, method: str, path: str, good: tuple[int, ...] = (200,), **more: object) -> None:
        self.surfaces[name] = lambda: client.request(method, path, **more).status_code not in good  # type: ignore[arg-type]

    def _requests(self) -> None:
        self._asked("api", self._client(self.token), "GET", "/api/whoami-v2")
        self._asked("app by token", self._client(self.token, f"{HOUSE}-app.localhost"), "GET", "/")
        for name, service in (("git fetch", "git-upload-pack"), ("git push", "git-receive-pack")):
            client = self._client(self.token)
            client.headers["Authorization"] = "Basic " + base64.b64encode(f"{self.person}:{self.token}".encode()).decode()
            self._asked(name, client, "GET", f"/spaces/{HOUSE}/app.git/info/refs", params={"service": service})

    def _files(self) -> None:
        client = self._client(self.token)
        item = {"oid": hashlib.sha256(_OBJECT).hexdigest(), "size": len(_OBJECT)}
        batch = f"/{HOUSE}/weights.git/info/lfs/objects/batch"

        def address(operation: str) -> str:
            answer = client.post(batch, json={"operation": operation, "objects": [item]})
            assert answer.status_code == 200, answer.text
            action = answer.json()["objects"][0].get("actions", {}).get("upload" if operation == "upload" else "download")
            return _path(str(action["href"])) if action else ""

        bare = self._client(self.token)
        del bare.headers["Authorization"]
        if put := address("upload"):
            assert bare.put(put, content=_OBJECT).status_code == 200
        self._asked("lfs", client, "POST", batch, json={"operation": "download", "objects": [item]})
        self._asked("lfs address", bare, "GET", address("download"))
        xet = client.get(f"/api/models/{HOUSE}/weights/xet-write-token/main").json()
        self._asked("xet", self._client(xet["accessToken"]), "HEAD", f"{_path(xet['casUrl'])}/v1/xorbs/default/{'0' * 64}", (404,))

    def _session(self) -> None:
        browser = self._open.enter_context(closing(browser_of(self.platform, self.person, PASSWORD)))
        cookie = app_cookie(self.platform, browser, f"{HOUSE}-app")
        self._asked("page", browser, "GET", "/settings/account")
        by_cookie = self._client("", f"{HOUSE}-app.localhost")
        by_cookie.headers["Cookie"] = cookie
        del by_cookie.headers["Authorization"]
        self._asked("app by cookie", by_cookie, "GET", "/")
        self._opened("socket by cookie", Tunnel(self.platform, f"{HOUSE}-app", Cookie=cookie))
        self._stream("page stream", browser, f"/-/spaces/{HOUSE}/app/events")
        self._stream("bell", browser, "/-/notifications/events")

    def _opened(self, name: str, tunnel: Tunnel) -> None:
        self._open.enter_context(closing(tunnel))
        assert tunnel.echoes()
        self.surfaces[f"open {name}"] = lambda: tunnel.last_words() == b"\x88\x02\x03\xf0"  # 1008, policy violation

    def _stream(self, name: str, client: httpx.Client, path: str) -> None:
        answer = self._open.enter_context(client.stream("GET", path))
        assert answer.status_code == 200, path
        lines = answer.iter_lines()
        next(lines)
        self.surfaces[f"open {name}"] = lambda: all(True for _ in lines)


def seconds_until_refused(all_rights: list[Rights], end: Callable[[], None]) -> dict[str, float]:
    """Does `end`, and gives for every surface how many seconds after its return the first refusal came; 0 = before it."""
    refused_at: dict[str, float] = {}
    failed: list[str] = []
    over = threading.Event()

    def watch(name: str, refused: Callable[[], bool]) -> None:
        try:
            while not refused():
                if over.wait(_AGAIN_S):
                    return
            refused_at[name] = time.monotonic()
        except (httpx.HTTPError, OSError) as error:
            failed.append(f"{name}: {error!r}")

    surfaces = {f"{name}{f' @{n + 1}' if n else ''}": refused for n, one in enumerate(all_rights) for name, refused in one.surfaces.items()}
    threads = [threading.Thread(target=watch, args=pair, daemon=True) for pair in surfaces.items()]
    for thread in threads:
        thread.start()
    end()
    ended = time.monotonic()
    try:
        for thread in threads:
            thread.join(max(0.0, ended + LIMIT_S - time.monotonic()))
    finally:
        over.set()
    assert not failed, failed
    assert not (late := set(surfaces) - set(refused_at)), f"{LIMIT_S:.0f} s later not refused: {sorted(late)}"
    return {name: max(0.0, at - ended) for name, at in refused_at.items()}
