"""Signing in at a real OpenID Connect provider: the whole API process with its pages, a browser's cookies, nothing patched."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa

from control_plane.accounts import people
from control_plane.accounts.single_sign_on import parse_groups
from control_plane.asgi import build_app, sign_in_provider
from control_plane.bootstrap import Services, build_services
from control_plane.domain.accounts import OrgRole
from control_plane.domain.errors import Rejected
from control_plane.settings import Settings
from tests.fakes.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider

T = TypeVar("T")


class Site:
    """The API process in a thread."""

    def __init__(self, data_dir: Path, issuer: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else each answer waits 40 ms
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._settings = Settings(
            data_dir=data_dir, public_url=self.url, oidc_issuer=issuer, oidc_client_id=CLIENT_ID, oidc_client_secret=CLIENT_SECRET,
            oidc_name="Example ID", oidc_groups="ml=research:write,leads=research:admin,ml=demos:read", oidc_admin_group="root",
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._main()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _main(self) -> None:
        self.services: Services = build_services(self._settings)
        await self.services.database.migrate()
        self._server = uvicorn.Server(uvicorn.Config(build_app(self.services), log_config=None, ws="none"))
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving
        await self.services.bus.close()
        await self.services.database.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._loop.close()
        self._socket.close()


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    running = OidcProvider()
    yield running
    running.close()


@pytest.fixture
def site(provider: OidcProvider, tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path / "d", provider.issuer)
    yield running
    running.close()


def sign_in(site: Site, target: str = "/", *, client: httpx.Client | None = None) -> tuple[httpx.Response, httpx.Client]:
    """As a browser does it: three redirects, cookies kept."""
    client = client or httpx.Client(base_url=site.url, headers={"Accept": "text/html"})
    begun = client.get("/sign-in/sso", params={"next": target})
    assert begun.status_code == 303, begun.text
    back = httpx.get(begun.headers["location"])
    assert back.status_code == 302
    return client.get(back.headers["location"]), client


def whoami(client: httpx.Client) -> dict[str, Any]:
    found = client.get("/api/whoami-v2", headers={"Accept": "application/json"})
    return dict(found.json()) if found.status_code == 200 else {}


def test_a_person_signs_in_and_groups_become_memberships(site: Site, provider: OidcProvider) -> None:
    assert "Example ID" in httpx.get(f"{site.url}/sign-in").text
    provider.person = {"sub": "7", "preferred_username": "Ann Smith", "name": "Ann", "email": "ann@example.org", "groups": ["ml", "x"]}
    answer, client = sign_in(site, "/new-space?a=1")
    with closing(client):
        assert (answer.status_code, answer.headers["location"]) == (303, "/new-space?a=1")
        me = whoami(client)
        assert (me["name"], me["fullname"], me["email"], me["isAdmin"]) == ("Ann-Smith", "Ann", "ann@example.org", False)
        assert {org["name"]: org["roleInOrg"] for org in me["orgs"]} == {"research": "write", "demos": "read"}
    provider.person |= {"groups": ["leads", "root"], "preferred_username": "renamed"}
    _, client = sign_in(site)
    with closing(client):
        me = whoami(client)
        assert (me["name"], me["isAdmin"]) == ("Ann-Smith", True), "found by subject, whatever the name is now"
        assert {org["name"]: org["roleInOrg"] for org in me["orgs"]} == {"research": "admin"}
    provider.person |= {"groups": ["ml"]}
    _, client = sign_in(site)
    with closing(client):
        me = whoami(client)
        assert me["isAdmin"] is False
        assert "demos" in {org["name"] for org in me["orgs"]}

    async def noted() -> list[str]:
        async with site.services.uow.read() as work:
            return [row["action"] for row in await work.audit.list()]

    actions = site.run(noted())
    assert actions.count("session.open") == 3
    assert actions.count("user.add") == 1
    assert actions.count("user.admin") == 2


def test_a_name_that_exists_is_never_taken_over(site: Site, provider: OidcProvider) -> None:
    async def make() -> None:
        async with site.services.uow.write() as work:
            await people.add_user(work, site.services.clock, "boss", email="boss@example.org", is_admin=True)

    site.run(make())
    provider.person = {"sub": "evil", "preferred_username": "boss", "email": "boss@example.org"}
    _, client = sign_in(site)
    with closing(client):
        me = whoami(client)
        assert (me["name"], me["isAdmin"]) == ("boss-2", False)
    for name in ("admin", "../..", "", "settings", "a" * 300, "x.git"):
        provider.person = {"sub": f"s-{name}", "preferred_username": name}
        answer, client = sign_in(site)
        with closing(client):
            assert answer.status_code == 303, answer.text
            assert whoami(client)["name"]


def test_a_suspended_person_stays_out(site: Site, provider: OidcProvider) -> None:
    _, client = sign_in(site)
    client.close()

    async def suspend() -> None:
        async with site.services.uow.write() as work:
            await people.set_suspended(work, site.services.signals, await people.find_account(work, "ann"), True)

    site.run(suspend())
    answer, client = sign_in(site)
    with closing(client):
        assert answer.status_code == 403
        assert whoami(client) == {}


@pytest.mark.parametrize(
    "twist",
    [
        {"nonce": "another"},
        {"aud": "somebody-else"},
        {"iss": "http://127.0.0.1:1"},
        {"exp": int(time.time()) - 3600},
        {"aud": [CLIENT_ID, "other"], "azp": "other"},
    ],
)
def test_an_id_token_that_does_not_fit_opens_nothing(site: Site, provider: OidcProvider, twist: dict[str, Any]) -> None:
    provider.twist = twist
    answer, client = sign_in(site)
    with closing(client):
        assert answer.status_code == 403
        assert whoami(client) == {}


def test_a_foreign_key_a_foreign_state_and_a_foreign_browser_open_nothing(site: Site, provider: OidcProvider) -> None:
    good, provider.key = provider.key, rsa.generate_private_key(public_exponent=65537, key_size=2048)
    answer, client = sign_in(site)
    client.close()
    assert answer.status_code == 403
    provider.key = good
    with httpx.Client(base_url=site.url) as ours, httpx.Client(base_url=site.url) as theirs:
        begun = ours.get("/sign-in/sso")
        back = httpx.get(begun.headers["location"]).headers["location"]
        assert theirs.get(back).status_code == 403, "a link from somebody else's sign-in"
        query = {k: v[0] for k, v in parse_qs(urlsplit(back).query).items()}
        assert ours.get(f"/sign-in/sso/callback?{urlencode({**query, 'state': 'x'})}").status_code == 403
        assert ours.get(back).status_code == 303
        assert ours.get(back).status_code == 403, "once is enough"


def test_tries_are_limited_and_where_one_goes_stays_here(site: Site) -> None:
    for target in ("https://evil.example", "//evil.example", "/\\evil.example", "/a\nb"):
        answer, client = sign_in(site, target)
        client.close()
        assert answer.headers["location"] == "/"
    with httpx.Client(base_url=site.url) as client:
        found = [client.get("/sign-in/sso/callback?code=x&state=y").status_code for _ in range(12)]
    assert found[0] == 403
    assert found[-1] == 429


def test_a_provider_that_is_down_is_said_plainly(site: Site, provider: OidcProvider) -> None:
    provider.close()
    answer = httpx.get(f"{site.url}/sign-in/sso", headers={"Accept": "text/html"})
    assert answer.status_code == 503
    assert "does not answer" in answer.text
    provider.__init__()  # type: ignore[misc]  # the fixture closes what it made


def test_settings_that_make_no_provider_are_refused(tmp_path: Path) -> None:
    assert sign_in_provider(Settings(data_dir=tmp_path)) is None
    with pytest.raises(Rejected, match="https"):
        sign_in_provider(Settings(data_dir=tmp_path, oidc_issuer="http://id.example", oidc_client_id="a", oidc_client_secret="b"))
    with pytest.raises(Rejected, match="oidc_client_id"):
        sign_in_provider(Settings(data_dir=tmp_path, oidc_issuer="https://id.example"))
    assert parse_groups("a=b:read, c d=e:admin") == {"a": [("b", OrgRole.READ)], "c d": [("e", OrgRole.ADMIN)]}
    for bad in ("a", "a=b", "a=b:boss", "=b:read", "a=:read", "a=../x:read"):
        with pytest.raises(Rejected):
            parse_groups(bad)
