"""Asking a platform row by row of the wire contract, and noting what does not hold."""

from __future__ import annotations

import base64
import json
import re
import secrets
from typing import Any

import httpx

HEX40, DATE = re.compile(r"[0-9a-f]{40}"), re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
LFS = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}


class Walk:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.wrong = url, list[str]()
        self.client = httpx.Client(base_url=url, timeout=60)
        mark = secrets.token_hex(3)
        self.me, self.guest, self.org = f"walker-{mark}", f"guest-{mark}", f"lab-{mark}"
        self.tokens = {"nobody": "", "admin": token, "bad": "hf_" + "x" * 40}
        for name, who in ((self.me, "me"), (self.guest, "guest")):
            self.ask("POST", "/api/admin/users", "admin", json={"name": name, "email": f"{name}@example.org"}).raise_for_status()
            made = self.ask("POST", "/api/admin/tokens", "admin", json={"user": name, "role": "write", "name": "t"})
            self.tokens[who] = made.json()["token"]
        self.ask("POST", "/api/admin/orgs", "admin", json={"name": self.org}).raise_for_status()
        self.ask("PUT", f"/api/admin/orgs/{self.org}/members/{self.me}", "admin", json={"role": "admin"}).raise_for_status()

    def ask(self, method: str, path: str, who: str = "me", headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        mine = {"Authorization": f"Bearer {self.tokens[who]}"} if self.tokens[who] else {}
        return self.client.request(method, path, headers={**mine, **(headers or {})}, **more)

    def row(self, name: str, holds: object, seen: httpx.Response | object = "") -> None:
        if not holds:
            told = f"{seen.status_code} {dict(seen.headers)} {seen.text[:300]}" if isinstance(seen, httpx.Response) else repr(seen)[:500]
            self.wrong.append(f"{name}: {told}")

    def refused(self, name: str, seen: httpx.Response, status: int, code: str = "", words: str = "") -> None:
        """An error as clients read it: status, code, a sentence in the header and in the JSON body."""
        said = seen.headers.get("x-error-message", "")
        body = "" if seen.request.method == "HEAD" else seen.json().get("error")
        holds = seen.status_code == status and code in ("", seen.headers.get("x-error-code")) and said and words.lower() in said.lower()
        self.row(name, holds and (seen.request.method == "HEAD" or body), seen)

    def commit(self, repo: str, *lines: dict[str, Any], who: str = "me", rev: str = "main", **more: Any) -> httpx.Response:
        header = {"key": "header", "value": {"summary": "Walk", "description": "", **more.pop("header", {})}}
        content = "\n".join(json.dumps(line) for line in (header, *lines))
        kind = {"Content-Type": "application/x-ndjson"}
        return self.ask("POST", f"/api/{repo}/commit/{rev}", who, headers=kind | more.pop("headers", {}), content=content, **more)

    def close(self) -> None:
        self.client.close()


def text(path: str, content: bytes = b"x") -> dict[str, Any]:
    return {"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}}


def has(body: Any, names: str) -> bool:
    """Whether it is an object with all these fields, named with blanks between."""
    return isinstance(body, dict) and {*names.split()} <= body.keys()
