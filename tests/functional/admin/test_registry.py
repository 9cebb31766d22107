"""A real registry that asks for a sign-in: images are pushed by digest, and garbage collection keeps what a Space can come back to."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from builder import oci
from builder.errors import BuildFailed
from builder.oci import Entry, Registry, pack
from builder.registry_login import RegistryLogin
from builder.reporter import CancelToken
from control_plane.accounts import people
from control_plane.accounts.tokens import create_token
from control_plane.api.registry_garbage import RegistryImages
from control_plane.asgi import build_app
from control_plane.bootstrap import build_services, load_platform_keys
from control_plane.bootstrap.runtimes import node_login
from control_plane.domain.accounts import TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, BuildStatus, LaunchPlan
from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId
from control_plane.domain.spaces import Deployment, Repo, RepoType, Sdk, Space, SpaceConfig, Visibility
from control_plane.net import registry as registry_net
from control_plane.net.registry import SignedAuth, connect
from control_plane.secrets.registry_tokens import ISSUER, SERVICE, RegistryTokens
from control_plane.settings import Settings
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
    with running_registry(partial(by_token, "http://127.0.0.1:1/")) as address:
        yield address


@dataclass
class TokenService:
    """What hosted registries have beside them: gives tokens to those who know the password, for the scope that they were sent with."""

    asked: list[tuple[str, ...]] = field(default_factory=list)


@pytest.fixture(scope="module")
def hosted() -> Iterator[tuple[str, TokenService]]:
    """A real registry that answers 401 and names that service, by the standard's token authentication."""
    service = TokenService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            scopes = tuple(query.get("scope", ()))
            service.asked.append(scopes)
            right = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()
            is_right = self.headers.get("Authorization") == right and query["service"] == [SERVICE]
            rights = {scope.rpartition(":")[0]: scope.rpartition(":")[2].split(",") for scope in scopes}
            body = json.dumps({"access_token": signed(rights)} if is_right else {}).encode()
            self.send_response(200 if is_right else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            realm = f"http://127.0.0.1:{server.server_address[1]}/token"
            with running_registry(partial(by_token, realm)) as address:
                yield address, service
        finally:
            server.shutdown()
            thread.join()


def by_token(realm: str, folder: Path, tokens: RegistryTokens = TOKENS) -> str:
    (folder / "tokens.pem").write_text(tokens.certificate())
    return f"token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {folder}/tokens.pem}}"


@contextmanager
def running_registry(auth: Callable[[Path], str], http: str = "") -> Iterator[str]:
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
            f'http: {{{http}addr: "127.0.0.1:{port}"}}\nauth: {{{auth(folder)}}}\n'
        )
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False) as client:
                asks = client.get(f"http://127.0.0.1:{port}/v2/").status_code
                assert asks == (400 if http else 401), "it asks for a sign-in, or for TLS"
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
    images = RegistryImages(registry, RegistryLogin(registry.partition("/")[0], *LOGIN))
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
        wrong = RegistryLogin(registry.partition("/")[0], LOGIN[0], "wrong")
        await RegistryImages(registry, wrong).garbage(Builds({}), None, set(), set(), dry_run=False)  # type: ignore[arg-type]


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


async def test_the_platform_signs_in_where_a_service_hands_out_tokens(hosted: tuple[str, TokenService], tmp_path: Path) -> None:
    """Pulls and garbage collection with a name and a password at a registry that takes no password itself."""
    address, service = hosted
    host = address.partition("/")[0]
    refs = {space: push(address, space, tag, tmp_path) for space, tag in ((SPACE, "live"), (GONE, "orphan"))}
    login = RegistryLogin(host, *LOGIN)
    client = await connect(host, login)
    try:
        before = len(service.asked)
        for space in (SPACE, GONE, SPACE, GONE):
            name, _, digest = refs[space].partition("/")[2].partition("@")
            answer = await client.get(f"/v2/{name}/manifests/{digest}", headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
            assert answer.status_code == 200, answer.text
        assert service.asked[before:] == [(f"repository:spaces/{space}:pull",) for space in (SPACE, GONE)], "a token is kept per repository"
    finally:
        await client.aclose()

    images, clock = RegistryImages(address, login), SimpleNamespace(now=lambda: NOW)
    for found in (1, 0):
        rows = await images.garbage(Builds({}), clock, {SPACE}, {refs[SPACE]}, dry_run=False)  # type: ignore[arg-type]
        assert [row["name"] for row in rows] == [f"{host}/spaces/{GONE}:orphan"] * found
    assert ("registry:catalog:*",) in service.asked
    with pytest.raises(Unavailable, match="VITRINE_REGISTRY_USER"):
        await RegistryImages(address, RegistryLogin(host, LOGIN[0], "wrong")).garbage(Builds({}), None, set(), set(), dry_run=False)  # type: ignore[arg-type]


async def test_a_node_pulls_what_its_space_s_word_is_good_for(tmp_path: Path) -> None:
    """As a kubelet does it: the registry's 401 names `/v2/token`, where the pull secret's name and password get a token."""
    settings = Settings(data_dir=tmp_path / "d")
    tokens = RegistryTokens(load_platform_keys(settings).registry)
    with running_registry(partial(by_token, "http://localhost:7860/v2/token", tokens=tokens)) as address:
        services = build_services(replace(settings, registry=address, registry_tokens=True))
        await services.database.migrate()
        async with services.uow.write() as uow:
            ann = await people.add_user(uow, services.clock, "ann")
            for space in (SPACE, GONE):
                await uow.repos.add(Repo(RepoId(space), RepoType.SPACE, ann.id, ann.name, space[:1], Visibility.PRIVATE, NOW, NOW, ann.id))
        refs = {space: push(address, space, "v1", tmp_path, token=signed_for(space, tokens)) for space in (SPACE, GONE)}
        login = node_login(services)
        assert login is not None
        name, password = login(refs[SPACE])
        transport = httpx.ASGITransport(build_app(services))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7860") as door:

                async def pulled(space: str, actions: str = "pull", word: tuple[str, str] = (name, password)) -> int:
                    asked = {"service": SERVICE, "scope": f"repository:spaces/{space}:{actions}"}
                    answer = await door.get("/v2/token", params=asked, auth=word)
                    if answer.status_code != 200:
                        return answer.status_code
                    return manifest(refs[space], answer.json()["token"])

                assert await pulled(SPACE) == 200
                assert await pulled(GONE) == 401, "another Space's image"
                assert await pulled(SPACE, word=(name, password[:-2])) == 401
                assert await pulled(SPACE, word=("ann", password)) == 401
                stale = tokens.password(f"spaces/{SPACE}", services.clock.now(), life_s=-1)
                assert await pulled(SPACE, word=(name, stale)) == 401
                assert manifest(refs[SPACE], password) == 401, "at the registry itself it is no token"
                asked = {"scope": f"repository:spaces/{SPACE}:pull,push,delete"}
                got = (await door.get("/v2/token", params=asked, auth=(name, password))).json()
                began = httpx.post(f"http://{address.partition('/')[0]}/v2/spaces/{SPACE}/blobs/uploads/", headers=bearer(got["token"]))
                assert began.status_code == 401, "it reads"
                async with services.uow.write() as uow:
                    await uow.repos.remove(RepoId(SPACE))
                assert await pulled(SPACE) == 401, "with the Space goes its word"
        finally:
            await services.bus.close()
            await services.database.close()


async def test_a_person_who_is_suspended_holds_nothing_for_the_registry(tmp_path: Path) -> None:
    """They pull at the platform's door, where each request is asked; the registry, which asks nobody, never has a token of a person."""
    settings = Settings(data_dir=tmp_path / "d")
    tokens = RegistryTokens(load_platform_keys(settings).registry)
    with running_registry(partial(by_token, "http://localhost:7860/v2/token", tokens=tokens)) as address:
        ref = push(address, SPACE, "v1", tmp_path, token=signed_for(SPACE, tokens))
        services = build_services(replace(settings, registry=address, registry_tokens=True))
        await services.database.migrate()
        async with services.uow.write() as uow:
            ann = await people.add_user(uow, services.clock, "ann")
            _, word = await create_token(uow, services.clock, ann, "pull", TokenRole.READ)
            await uow.repos.add(Repo(RepoId(SPACE), RepoType.SPACE, ann.id, ann.name, "app", Visibility.PRIVATE, NOW, NOW, ann.id))
            space = Space(SpaceId(SPACE), "ann-app", Sdk.DOCKER, SpaceConfig(Sdk.DOCKER), generation=1)
            await uow.spaces.add(space)
            artifact = Artifact(ArtifactKind.IMAGE, ref)
            await uow.deployments.add(
                Deployment(space.id, 1, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), "cpu-basic", NOW, space.config)
            )
        try:
            transport = httpx.ASGITransport(build_app(services))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7860", auth=("ann", word)) as door:
                kinds = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
                found = await door.get("/v2/ann-app/manifests/latest", headers=kinds)
                assert found.status_code == 200, found.text
                layer = found.json()["layers"][0]["digest"]
                refused = await door.get("/v2/token", params={"service": SERVICE, "scope": f"repository:spaces/{SPACE}:pull"})
                assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, "DENIED")
                assert "docker pull localhost:7860/NS-NAME" in refused.text
                assert (await door.get(f"/v2/ann-app/blobs/{layer}")).status_code == 200
                async with services.uow.write() as uow:
                    await people.set_suspended(uow, services.signals, ann, True)
                for path in ("", "ann-app/manifests/latest", f"ann-app/blobs/{layer}", "token"):
                    assert (await door.get(f"/v2/{path}")).status_code == 401, "in the middle of a pull"
        finally:
            await services.bus.close()
            await services.database.close()


def signed_for(space: str, tokens: RegistryTokens) -> str:
    return signed({f"repository:spaces/{space}": ("pull", "push")}, tokens=tokens)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": "application/vnd.oci.image.manifest.v1+json"}


def manifest(ref: str, token: str) -> int:
    host, _, rest = ref.partition("/")
    name, _, digest = rest.partition("@")
    return httpx.get(f"http://{host}/v2/{name}/manifests/{digest}", headers=bearer(token), trust_env=False).status_code


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_certificate_of_our_own_authority_counts_where_we_say_so(
    is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the password does not go out in the open instead."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry of a house")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (tmp_path / "own.pem").write_bytes(made.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    tls = f"tls: {{certificate: {tmp_path}/own.pem, key: {tmp_path}/key.pem}}, "
    for cached in (oci.trust, registry_net.trust):
        cached.cache_clear()
    try:
        with running_registry(lambda folder: f"htpasswd: {{realm: test, path: {folder}/htpasswd}}", http=tls) as address:
            host = address.partition("/")[0]
            if is_known:
                assert "@sha256:" in push(address, SPACE, "safe", tmp_path)
                await (await connect(host, RegistryLogin(host, *LOGIN))).aclose()
            else:
                with pytest.raises(BuildFailed, match="not trusted: set SSL_CERT_FILE"):
                    push(address, SPACE, "safe", tmp_path)
                with pytest.raises(Unavailable, match="not trusted; set SSL_CERT_FILE"):
                    await connect(host, RegistryLogin(host, *LOGIN))
    finally:
        for cached in (oci.trust, registry_net.trust):
            cached.cache_clear()
