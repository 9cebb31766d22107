"""Another git server: `git http-backend` and git-lfs behind a small web server, with or without TLS, that can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
GIT |= {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "eve"), ("EMAIL", "eve@example.org"))}


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, env=GIT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(root: Path, name: str, commits: list[dict[str, str | bytes]]) -> Path:
    """A bare repository at `root/name` whose main has these commits: path → content."""
    work = root / f"{name}.work"
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    for number, files in enumerate(commits):
        for path, body in files.items():
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body if isinstance(body, bytes) else body.encode())
        git(work, "add", "-A")
        git(work, "commit", "-q", "--allow-empty", "-m", f"Commit {number}")
    git(root, "clone", "-q", "--bare", str(work), str(root / name))
    return root / name


@dataclass
class Foreign:
    """`redirect`: where every request is sent. `seen`: the paths that were asked for.

    `large`: what git-lfs gives, oid → bytes, handed out at `large_at` ("" = here) and there sent on to `moved_to`.
    """

    root: Path
    url: str = ""
    redirect: str = ""
    seen: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    large_at: str = ""
    moved_to: str = ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def pointer(self, content: bytes) -> str:
        """Keeps `content` as a large file; the text that stands for it in git."""
        oid = hashlib.sha256(content).hexdigest()
        self.large[oid] = content
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"

    def large_files(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes] | None:
        """(status, media type or where to, body) of git-lfs; None for what is git's."""
        if path.endswith(".git/info/lfs/objects/batch"):
            key = {"header": {"X-Key": "opened", "Host": "elsewhere"}}
            objects = [
                {**asked, "actions": {"download": {"href": f"{self.large_at or self.url}/lfs-objects/{asked['oid']}", **key}}}
                if asked["oid"] in self.large
                else {**asked, "error": {"code": 404, "message": "we lost it"}}
                for asked in json.loads(body)["objects"]
            ]
            return 200, "application/vnd.git-lfs+json", json.dumps({"transfer": "basic", "objects": objects}).encode()
        if path.startswith("/lfs-objects/"):
            if self.moved_to:
                return 302, f"{self.moved_to}{path}", b""
            is_open = headers.get("x-key") == "opened" and headers.get("host") != "elsewhere"
            return (200, "application/octet-stream", self.large[path.rpartition("/")[2]]) if is_open else (403, "text/plain", b"")
        return None


@contextmanager
def serving(root: Path, certificate: str = "") -> Iterator[Foreign]:
    """`certificate`: "chain.pem:key.pem", "" = plain HTTP."""
    foreign = Foreign(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            foreign.seen.append(self.path)
            if foreign.redirect:
                self.send_response(302)
                self.send_header("Location", foreign.redirect + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if (large := foreign.large_files(path, body, {k.lower(): v for k, v in self.headers.items()})) is not None:
                self.send_response(large[0])
                self.send_header("Location" if large[0] == 302 else "Content-Type", large[1])
                self.send_header("Content-Length", str(len(large[2])))
                self.end_headers()
                self.wfile.write(large[2])
                return
            env = {
                **GIT, "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("content-type", ""), "REMOTE_ADDR": "127.0.0.1",
                "GIT_PROTOCOL": self.headers.get("git-protocol", ""), "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            }  # fmt: skip
            done = subprocess.run(["git", "-c", "safe.directory=*", "http-backend"], env=env, input=body, capture_output=True, check=False)
            head, _, answer = done.stdout.partition(b"\r\n\r\n")
            fields = [line.partition(":") for line in head.decode().split("\r\n") if line]
            status = next((v.strip() for k, _, v in fields if k.lower() == "status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for key, _, value in fields:
                if key.lower() != "status":
                    self.send_header(key, value.strip())
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate.split(":"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    foreign.url = f"{'https' if certificate else 'http'}://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield foreign
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
