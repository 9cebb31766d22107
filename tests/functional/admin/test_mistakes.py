"""Wrong input to `vitrine admin`, through the installed console script against a running API."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.admin.platform import Platform, vitrine
from tests.functional.proxy.certificates import certificate


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    running = Platform(tmp_path / "d").start()
    yield running
    running.stop()


# What operators type when they are tired: arguments, exit code, words of the one line.
_MISTAKES: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("quota", "set", "nobody", "spaces=1"), 1, "no account 'nobody'"),
    (("quota", "show", "x" * 500), 1, "no account"),
    (("quota", "set", "root-admin", "spces=1"), 1, "did you mean 'spaces'"),
    (("quota", "set", "root-admin", "running.t4=1"), 1, "t4-small"),
    (("quota", "set", "root-admin", "gpu_hours=1"), 1, "did you mean 'gpu-hours'"),
    (("quota", "set", "root-admin", "spaces=-1"), 1, "not a quota value"),
    (("quota", "set", "root-admin", "spaces=" + "9" * 400), 1, "not a quota value"),
    (("quota", "set", "root-admin", "spaces=1e9"), 1, "not a quota value"),
    (("quota", "set", "root-admin", "spaces=1.5"), 1, "whole number"),
    (("quota", "set", "root-admin", "storage-gb=5GB"), 1, "the key's name has the unit"),
    (("quota", "set", "root-admin", "gpu-hours=10h"), 1, "the key's name has the unit"),
    (("quota", "set", "root-admin", "spaces=\u0663"), 1, "not a quota value"),
    (("user", "add", "..%2f..%2fetc"), 1, "not a valid user name"),
    (("user", "add", "emoji-\U0001f600"), 1, "not a valid user name"),
    (("user", "suspend", "\x1b[31mred"), 1, "no user"),
    (("user", "remove", "a b/../c?x=1#y", "--yes"), 1, "no user"),
    (("user", "add", "fine", "--email", "not-an-address"), 1, "not an e-mail address"),
    (("org", "member", "no-org", "root-admin", "--role", "read"), 1, "no organisation 'no-org'"),
    (("token", "add", "root-admin", "--role", "read", "--expires", "1e3d"), 2, "not a duration"),
    (("space", "pause", "one/two/three"), 2, "OWNER/NAME"),
    (("space", "restart", "--", "-x/-y"), 1, "no Space '-x/-y'"),
    (("build", "list", "--space", "nobody/nothing"), 1, "no Space"),
    (("usage", "--since", "999999999d"), 2, "not a duration"),
    (("audit", "--since", "2026-13-45"), 2, "neither a duration"),
    (("maintenance", "on", "--message", "two\nlines\x07"), 1, "one printable line"),
    (("restore", "/no/such/backup"), 2, "does not exist"),
    (("user", "list", "--endpoint", "http://127.0.0.1:1"), 1, "does not answer"),
    (("user", "list", "--endpoint", "http://exa mple:99999/"), 1, "does not answer"),
    (("user", "list", "--token", "hf_wrong"), 1, "token is not accepted"),
    (("user", "list", "--token", "\u00fc\u00f1"), 1, "token"),
)


def test_mistakes_are_one_clear_line_from_the_real_script(platform: Platform) -> None:
    """Each through the installed console script: no traceback, and the exit code that scripts rely on."""
    wrong = []
    with ThreadPoolExecutor(2) as pool:
        env = {"VITRINE_ENDPOINT": platform.url, "VITRINE_TOKEN": platform.token}
        done = pool.map(lambda mistake: vitrine("admin", *mistake[0], **env), _MISTAKES)
        for (args, code, words), result in zip(_MISTAKES, done, strict=True):
            lines = result.stderr.strip().splitlines() or result.stdout.strip().splitlines()
            said = " ".join(lines)
            clear = code != 1 or len(lines) == 1
            if result.returncode != code or words not in said or not clear or "Traceback" in said or "\x1b" in said:
                wrong.append((args, result.returncode, result.stderr))
    assert wrong == []


class _Stranger(http.server.BaseHTTPRequestHandler):
    """Another program where the platform was expected, or a platform of another version."""

    answers = {
        "/html": (200, b"<html>hello</html>"),
        "/list": (200, b"[1, 2]"),
        "/older": (200, b'{"users": []}'),
        "/none": (404, b'{"detail": "Not Found"}'),
        "/broken": (500, b"\x1b[31mboom"),
        "/cut": (200, b'{"items": ['),
    }

    def do_GET(self) -> None:
        place = f"/{self.path.split('/')[1]}"
        status, body = self.answers[place]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 100 * (place == "/cut")))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def _stranger(pair: str = "") -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair.split(":"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_is_no_platform_is_one_clear_line(tmp_path: Path) -> None:
    pair = certificate(tmp_path, "stranger", "localhost")
    with _stranger() as plain, _stranger(pair) as secure:
        places: list[tuple[dict[str, str], int, str]] = [
            ({"VITRINE_ENDPOINT": f"http://127.0.0.1:{plain}{path}"}, 1, words)
            for path, words in (
                ("/html", "not answer like a Vitrine"), ("/list", "not answer like a Vitrine"), ("/older", "not answer like a Vitrine"),
                ("/none", "older version"), ("/broken", "answered 500"), ("/cut", "does not answer"),
            )
        ]  # fmt: skip
        places += [
            ({"VITRINE_ENDPOINT": f"https://127.0.0.1:{plain}"}, 1, "is it an http:// address?"),
            ({"VITRINE_ENDPOINT": f"https://localhost:{secure}"}, 1, "SSL_CERT_FILE"),
            ({"VITRINE_ENDPOINT": f"https://localhost:{secure}/none", "SSL_CERT_FILE": pair.split(":")[0]}, 1, "older version"),
            ({"VITRINE_ENDPOINT": "http://[::1"}, 2, "is not an address"),
            ({"VITRINE_ENDPOINT": f"localhost:{plain}"}, 2, "is not an address"),
            ({"VITRINE_ENDPOINT": f"http://ann:secret@127.0.0.1:{plain}"}, 2, "give a token"),
        ]
        stale = f'{{"url": "http://127.0.0.1:1", "admin_token": "hf_x", "pid": {1 << 22}}}'
        for number, (text, words) in enumerate(((stale, "has ended"), ("[]", "cannot be used"), ("{", "cannot be used"))):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "ready.json").write_text(text)
            places.append(({"VITRINE_DATA_DIR": str(folder), "VITRINE_TOKEN": ""}, 1, words))
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda place: vitrine("admin", "user", "list", **{"VITRINE_TOKEN": "hf_x", **place[0]}), places))
        followed = vitrine("admin", "gc", "--dry-run", VITRINE_ENDPOINT=f"http://127.0.0.1:{plain}/html", VITRINE_TOKEN="hf_x")
    for (env, code, words), result in zip(places, done, strict=True):
        assert result.returncode == code and words in result.stderr, (env, result.returncode, result.stderr)
        assert "Traceback" not in result.stderr and "\x1b" not in result.stderr and "secret" not in result.stderr
        assert code == 2 or len(result.stderr.splitlines()) == 1, result.stderr
    assert followed.returncode == 1 and "not answer like a Vitrine" in followed.stderr
