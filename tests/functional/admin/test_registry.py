"""A real registry that asks for a sign-in: images are pushed by digest, and garbage collection keeps what a Space can come back to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from builder.errors import BuildFailed
from builder.oci import Entry, Registry, pack
from builder.reporter import CancelToken
from control_plane.api.registry_garbage import RegistryImages
from control_plane.domain.builds import BuildStatus
from control_plane.domain.errors import Unavailable
from control_plane.net.registry import SignedAuth
from control_plane.secrets.registry_tokens import ISSUER, SERVICE, RegistryTokens
from tests.fakes.redis_server import free_port

LOGIN = ("vitrine", "a word of the registry")
TOKENS = RegistryTokens(b"r" * 32)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
SPACE, GONE, STRANGER = "a" * 24, "b" * 24, "somebody-elses"


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with running_registry(lambda folder: f"htpasswd: {{realm: test, path: {folder}/htpasswd}}") as address:
        yield address


@pytest.fixture(scope="module")
def token_registry() -> Iterator[str]:
    """One that takes the platform's tokens and nothing else."""

    def auth(folder: Path) -> str:
        (folder / "tokens.pem").write_text(TOKENS.certificate())
        return f"token: {{realm: 'http://127.0.0.1:1/', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {folder}/tokens.pem}}"

    with running_registry(auth) as address:
        yield address


@contextmanager
def running_registry(auth: Callable[[Path], str]) -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("docker-registry is missing")
        pytest.skip("docker-registry is missing")
    with tempfile.TemporaryDirectory(prefix="vreg") as name:
        folder, port = Path(name), free_port()
        (folder / "htpasswd").write_text(hashed(LOGIN))
        (folder / "config.yml").write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f'http: {{addr: "127.0.0.1:{port}"}}\nauth: {{{auth(folder)}}}\n'
        )
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False) as client:
                assert client.get(f"http://127.0.0.1:{port}/v2/").status_code == 401, "it asks for a sign-in"
            yield f"127.0.0.1:{port}/spaces"
        finally:
            process.terminate()
            process.wait()


def hashed(login: tuple[str, str]) -> str:
    """A line of htpasswd; perl's crypt(3) has bcrypt on Debian."""
    salt = "$2y$05$abcdefghijklmnopqrstuu"
    done = subprocess.run(["perl", "-e", f"print crypt(<STDIN>, '{salt}')"], input=login[1], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("$2y$"), done.stdout
    return f"{login[0]}:{done.stdout}\n"


def push(address: str, space: str, tag: str, folder: Path, login: tuple[str, str] | None = LOGIN, token: str = "") -> str:
    layer = pack([Entry("app/app.py", content=tag.encode(), mode=0o644)], folder / tag, CancelToken())
    return Registry(address, login).push(space, [layer], {"Cmd": ["true"]}, tag, CancelToken(), token=token)


@dataclass
class Builds:
    """Which builds are known; the rest of the unit of work is not asked."""

    rows: dict[str, Any]

    async def get(self, build_id: str) -> Any:
        return self.rows.get(build_id)

    @asynccontextmanager
    async def read(self) -> Any:
        yield SimpleNamespace(builds=self)


def exists(ref: str) -> bool:
    """Whether this digest can be pulled."""
    host, _, rest = ref.partition("/")
    name, _, digest = rest.partition("@")
    kinds = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    return httpx.get(f"http://{host}/v2/{name}/manifests/{digest}", headers=kinds, auth=LOGIN, trust_env=False).status_code == 200


async def test_only_what_nobody_can_come_back_to_goes(registry: str, tmp_path: Path) -> None:
    refs = {name: push(registry, SPACE, name, tmp_path) for name in ("live", "fifth", "old", "running", "fresh")}
    refs["orphan"] = push(registry, GONE, "orphan", tmp_path)
    refs["foreign"] = push(registry, STRANGER, "foreign", tmp_path)
    assert all("@sha256:" in ref for ref in refs.values())
    builds = Builds(
        {
            "running": SimpleNamespace(status=BuildStatus.RUNNING, finished_at=None),
            "fresh": SimpleNamespace(status=BuildStatus.SUCCEEDED, finished_at=NOW - timedelta(minutes=5)),
            "old": SimpleNamespace(status=BuildStatus.SUCCEEDED, finished_at=NOW - timedelta(days=5)),
        }
    )
    clock: Any = SimpleNamespace(now=lambda: NOW)
    images = RegistryImages(registry, httpx.BasicAuth(*LOGIN))
    kept = {refs["live"], refs["fifth"], "another/kind-of-artifact"}
    told = await images.garbage(builds, clock, {SPACE}, kept, dry_run=True)  # type: ignore[arg-type]
    assert {(row["name"].rpartition(":")[2], row["why"]) for row in told} == {
        ("old", "no deployment names it"), ("orphan", "its Space is gone"),
    }  # fmt: skip
    assert all(map(exists, refs.values())), "a look deletes nothing"
    assert await images.garbage(builds, clock, {SPACE}, kept, dry_run=False) == told  # type: ignore[arg-type]
    assert {name for name, ref in refs.items() if not exists(ref)} == {"old", "orphan"}
    assert await images.garbage(builds, clock, {SPACE}, kept, dry_run=False) == []  # type: ignore[arg-type]


async def test_without_the_word_nothing_is_pushed_or_deleted(registry: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="401"):
        push(registry, SPACE, "stranger", tmp_path, login=None)
    with pytest.raises(Unavailable, match="VITRINE_REGISTRY_USER"):
        await RegistryImages(registry, httpx.BasicAuth("vitrine", "wrong")).garbage(Builds({}), None, set(), set(), dry_run=False)  # type: ignore[arg-type]


def signed(rights: Mapping[str, Sequence[str]], *, life_s: float = 60.0, tokens: RegistryTokens = TOKENS) -> str:
    return tokens.sign(rights, datetime.now(UTC), life_s=life_s)


def test_a_token_pushes_its_own_space_and_no_other(token_registry: str, tmp_path: Path) -> None:
    own = {f"repository:spaces/{SPACE}": ("pull", "push")}
    assert "@sha256:" in push(token_registry, SPACE, "own", tmp_path, token=signed(own))
    for space, token in (
        (GONE, signed(own)),
        (SPACE, signed({f"repository:spaces/{SPACE}": ("pull",)})),
        (SPACE, signed(own, life_s=-60.0)),
        (SPACE, signed(own, tokens=RegistryTokens(b"s" * 32))),
    ):
        with pytest.raises(BuildFailed, match="401"):
            push(token_registry, space, "stranger", tmp_path, token=token)


async def test_garbage_goes_with_signed_requests_too(token_registry: str, tmp_path: Path) -> None:
    token = signed({f"repository:spaces/{GONE}": ("pull", "push")})
    push(token_registry, GONE, "orphan", tmp_path, token=token)
    images, clock = RegistryImages(token_registry, SignedAuth(signed)), SimpleNamespace(now=lambda: NOW)
    for found in (1, 0):
        rows = await images.garbage(Builds({}), clock, {SPACE}, set(), dry_run=False)  # type: ignore[arg-type]
        assert len([row for row in rows if row["why"] == "its Space is gone"]) == found
