"""Images without an engine: what goes into a layer, and what a registry is sent."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from builder.elf import Libraries, needs
from builder.environments import COMPILED
from builder.errors import BuildFailed
from builder.interpreters import Interpreters
from builder.layered import environment_entries, interpreter_layer
from builder.oci import Registry, pack, tree_entries
from builder.registry_login import RegistryLogin
from builder.reporter import CancelToken
from control_plane.domain.reasons import Reason


@dataclass
class FakeRegistry:
    """Keeps blobs by digest, refuses a wrong one, and counts uploads."""

    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: int = 0


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    kept = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def _say(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self._say(200)

        def do_HEAD(self) -> None:
            self._say(200 if self.path.rpartition("/")[2] in kept.blobs else 404)

        def do_POST(self) -> None:
            self._say(202, Location="/upload/1?state=x")

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/upload/"):
                (digest,) = parse_qs(urlsplit(self.path).query)["digest"]
                right = digest == f"sha256:{hashlib.sha256(body).hexdigest()}" and "state=x" in self.path
                kept.blobs[digest], kept.uploads = body, kept.uploads + 1
                self._say(201 if right else 400)
            else:
                kept.manifests[self.path] = json.loads(body)
                self._say(201)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kept.address = f"127.0.0.1:{server.server_address[1]}"
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


def tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "app.py").write_text("print(1)")
    (root / "sub" / "tool").write_text("#!/bin/sh\n")
    (root / "sub" / "tool").chmod(0o755)
    (root / "link").symlink_to("app.py")
    os.mkfifo(root / "pipe")
    return root


def test_the_same_tree_is_the_same_layer_whoever_made_it_and_when(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    os.utime(two / "app.py", (1, 1))
    made = [pack(tree_entries(root, "/home/user/app", uid=1000), tmp_path / f"{root.name}.gz", CancelToken()) for root in (one, two)]
    assert made[0].digest == made[1].digest
    plain = gzip.decompress(made[0].path.read_bytes())
    assert made[0].diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    members = {m.name: m for m in tarfile.open(fileobj=io.BytesIO(plain))}
    assert set(members) == {f"home/user/app{rest}" for rest in ("", "/app.py", "/link", "/sub", "/sub/tool")}
    assert {(m.uid, m.mtime) for m in members.values()} == {(1000, 0)}
    assert (members["home/user/app/sub/tool"].mode, members["home/user/app/app.py"].mode) == (0o755, 0o644)
    assert members["home/user/app/link"].linkname == "app.py"


def test_bytecode_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    """A machine that is busy compiles for longer than a build waits: files come and go under the packer's hands."""
    cache = tmp_path / "env" / "lib" / "__pycache__"
    cache.mkdir(parents=True)
    (tmp_path / "env" / "lib" / "a.py").touch()
    (cache / "a.cpython-311.pyc.140").touch()
    names = {entry.name for entry in environment_entries(tmp_path / "env", Libraries(()))}
    assert names == {"/opt/env", "/opt/env/lib", "/opt/env/lib/a.py"}
    (cache / "a.cpython-311.pyc.140").rename(cache / "a.cpython-311.pyc")
    (tmp_path / "env" / COMPILED).touch()
    names = {entry.name for entry in environment_entries(tmp_path / "env", Libraries(()))}
    assert "/opt/env/lib/__pycache__/a.cpython-311.pyc" in names


def test_a_push_sends_what_the_registry_lacks_and_gives_a_digest(registry: FakeRegistry, tmp_path: Path) -> None:
    layer = pack(tree_entries(tree(tmp_path / "one"), "/app"), tmp_path / "layer", CancelToken())
    door = Registry(f"{registry.address}/team")
    first = door.push("space", [layer], {"User": "1000:1000"}, "b1", CancelToken())
    assert registry.uploads == 2
    assert door.push("space", [layer], {"User": "1000:1000"}, "b2", CancelToken()) == first
    assert registry.uploads == 2, "blobs that are there are not sent again"
    (manifest, _) = registry.manifests.values()
    assert first.startswith(f"{registry.address}/team/space@sha256:")
    config = json.loads(registry.blobs[manifest["config"]["digest"]])
    assert config["rootfs"]["diff_ids"] == [layer.diff_id]
    assert registry.blobs[manifest["layers"][0]["digest"]] == layer.path.read_bytes()


def test_no_registry_is_said_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"127\.0\.0\.1:1") as told:
        Registry("127.0.0.1:1").push("space", [], {}, "b1", CancelToken())
    assert told.value.reason is Reason.REGISTRY_UNAVAILABLE


def test_the_interpreter_layer_holds_what_the_interpreter_loads(tmp_path: Path) -> None:
    python = Interpreters().default
    layer = interpreter_layer(python, tmp_path / "base", CancelToken())
    names = tarfile.open(layer.path).getnames()
    assert len(names) == len(set(names))
    assert python.path.lstrip("/") in names
    loader, wanted = needs(Path(python.path))
    assert loader.lstrip("/") in names
    assert {name for name in wanted if not any(member.endswith(f"/{name}") for member in names)} == set()
    assert any(name.endswith("/encodings/utf_8.py") for name in names)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, b"#!/bin/sh\n"])
def test_what_is_no_elf_file_needs_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert needs(tmp_path / "file") == ("", ())
    assert Libraries().closure([tmp_path / "file"]) == {}


TOKEN = "a.short.token"


@dataclass
class TokenDoor:
    """A registry that answers 401 until a token of its own service comes, and the service."""

    address: str = ""
    realm: str = ""
    tokens: int = 0
    scopes: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    stored: int = 0


@pytest.fixture
def token_door() -> Iterator[TokenDoor]:
    kept = TokenDoor()

    class Handler(BaseHTTPRequestHandler):
        def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            sent = self.headers.get("Authorization", "")
            kept.seen.append((path, sent))
            if path == "/token":
                right = base64.b64encode(b"robot:pass word").decode()
                kept.tokens += 1
                kept.scopes.append(query["scope"][0])
                made = json.dumps({"token": f"{TOKEN}{kept.tokens}", "expires_in": 300}).encode()
                self._say(200 if sent == f"Basic {right}" else 401, made if sent == f"Basic {right}" else b"")
            elif path.startswith("/store/"):  # signed addresses of another host are not the registry
                kept.stored += 1
                self._say(201)
            elif sent != f"Bearer {TOKEN}{kept.tokens}" or (self.command != "HEAD" and kept.scopes[-1].endswith(":pull")):
                actions = "pull" if self.command == "HEAD" else "pull,push"
                challenge = f'Bearer realm="{kept.realm}/token",service="reg",scope="repository:team/space:{actions}"'
                self._say(401, WWW_Authenticate=challenge)
            elif self.command == "HEAD":
                self._say(404)
            elif self.command == "POST":
                self._say(202, Location=f"http://localhost:{self.server.server_address[1]}/store/1")
            else:
                self._say(201 if body else 400)

        do_GET = do_HEAD = do_POST = do_PUT = _handle

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kept.address = f"127.0.0.1:{server.server_address[1]}"
    kept.realm = f"http://{kept.address}"
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_registry_that_wants_tokens_gets_them_and_the_password_goes_nowhere_else(token_door: TokenDoor, tmp_path: Path) -> None:
    layer = pack(tree_entries(tree(tmp_path / "one"), "/app"), tmp_path / "layer", CancelToken())
    door = Registry(f"{token_door.address}/team", ("robot", "pass word"))
    ref = door.push("space", [layer], {"User": "1000:1000"}, "b1", CancelToken())
    assert ref.startswith(f"{token_door.address}/team/space@sha256:")
    assert token_door.stored == 2
    assert token_door.scopes == ["repository:team/space:pull", "repository:team/space:pull,push"], "one for looking, one for writing"
    assert {sent for path, sent in token_door.seen if path.startswith("/store/")} == {""}, "a signed address is told nothing"
    assert not any(sent.startswith("Basic") for path, sent in token_door.seen[5:] if path != "/token")


def test_a_refused_password_is_said(token_door: TokenDoor, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="401") as told:
        Registry(token_door.address, ("robot", "wrong")).push("space", [], {}, "b1", CancelToken())
    assert "wrong" not in told.value.message


def test_a_password_does_not_leave_an_encrypted_connection() -> None:
    login = RegistryLogin("reg.example", "robot", "secret")
    flow = login.auth_flow(httpx.Request("HEAD", "https://reg.example/v2/a/blobs/x"))
    first = next(flow)
    challenge = {"WWW-Authenticate": 'Bearer realm="http://elsewhere.example/token",service="s",scope="x"'}
    with pytest.raises(StopIteration):
        flow.send(httpx.Response(401, headers=challenge, request=first))
