"""Sign-in for apps, and the device flow of `hf auth login`, as clients do them on the wire."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from huggingface_hub import HfApi

from control_plane.accounts import oauth, people, tokens
from control_plane.accounts.sign_in import open_session
from control_plane.domain.accounts import TokenRole
from control_plane.domain.ids import SpaceId, TokenId
from control_plane.domain.spaces import RepoType
from tests.functional.hub_api.running import Platform

README = b"---\nsdk: static\ntitle: App\nhf_oauth: true\nhf_oauth_scopes: [email, read-repos]\n---\n"


@pytest.fixture
def browser(platform: Platform) -> tuple[dict[str, str], str]:
    """(cookies, page token) of alice's browser."""

    async def sign_in() -> tuple[str, str]:
        async with platform.services.uow.write() as uow:
            session, cookie = await open_session(uow, platform.services.clock, await people.find_account(uow, "alice"))
        return cookie, session.csrf

    cookie, csrf = platform.run(sign_in())
    return {"vitrine": cookie}, csrf


@pytest.fixture(scope="module")
def app_client(platform: Platform, alice: str) -> tuple[str, str, str]:
    """(client id, secret, redirect address) of a Space with hf_oauth."""
    api = HfApi(endpoint=platform.url, token=alice)
    api.create_repo("alice/login-app", repo_type="space", space_sdk="static")
    api.upload_file(path_or_fileobj=README, path_in_repo="README.md", repo_id="alice/login-app", repo_type="space")

    async def find() -> str:
        async with platform.services.uow.read() as uow:
            repo = await uow.repos.by_name(RepoType.SPACE, "alice", "login-app")
        assert repo
        return repo.id

    client_id, secret = oauth.space_credentials(platform.services.signing_key, SpaceId(platform.run(find())))
    return client_id, secret, f"http://alice-login-app.localhost:{platform.port}/login/callback?_target_url=/"


def text_of(platform: Platform) -> str:
    """Some token that is not the app's own."""
    return platform.token("alice")


def test_discovery_names_what_libraries_look_for(platform: Platform) -> None:
    found = httpx.get(f"{platform.url}/.well-known/openid-configuration").json()
    assert found["issuer"] == platform.url
    assert {"authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"} <= found.keys()


def test_code_flow(platform: Platform, app_client: tuple[str, str, str], browser: tuple[dict[str, str], str]) -> None:
    client_id, secret, redirect = app_client
    cookies, csrf = browser
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asked = {
        "client_id": client_id, "redirect_uri": redirect, "scope": "openid profile email write-repos", "state": "st", "nonce": "n",
        "response_type": "code", "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    with httpx.Client(base_url=platform.url) as web:
        stranger = web.get("/oauth/authorize", params=asked)
        assert stranger.headers["location"].startswith("/sign-in?next=%2Foauth%2Fauthorize")
        web.cookies.update(cookies)
        page = web.get("/oauth/authorize", params=asked)
        assert "alice/login-app asks alice for openid profile email" in page.text
        assert f"leads to http://alice-login-app.localhost:{platform.port}\n" in page.text
        framed = web.get("/oauth/authorize", params=asked, headers={"sec-fetch-dest": "iframe"})
        assert framed.text.startswith("go on at /oauth/authorize?client_id=")
        assert web.post("/oauth/authorize", data={**asked, "decision": "allow"}).status_code == 403
        denied = web.post("/oauth/authorize", data={**asked, "csrf": csrf, "decision": "deny"})
        assert "error=access_denied" in denied.headers["location"]
        allowed = web.post("/oauth/authorize", data={**asked, "csrf": csrf, "decision": "allow"})
        answer = parse_qs(urlsplit(allowed.headers["location"]).query)
        assert answer["state"] == ["st"]
        assert web.get("/oauth/authorize", params=asked).headers["location"].startswith(redirect)
    grant = {"grant_type": "authorization_code", "code": answer["code"][0], "redirect_uri": redirect, "code_verifier": verifier}
    wrong = httpx.post(f"{platform.url}/oauth/token", data=grant, auth=(client_id, "wrong"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    reply = httpx.post(f"{platform.url}/oauth/token", data=grant, auth=(client_id, secret)).json()
    assert reply["access_token"].startswith("hf_oauth_")
    assert reply["scope"] == "openid profile email"
    again = httpx.post(f"{platform.url}/oauth/token", data=grant, auth=(client_id, secret))
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    keys = jwt.PyJWKClient(f"{platform.url}/oauth/jwks").get_signing_key_from_jwt(reply["id_token"])
    claims = jwt.decode(reply["id_token"], keys.key, algorithms=["RS256"], audience=client_id, issuer=platform.url)
    assert claims["nonce"] == "n"
    user = httpx.get(f"{platform.url}/oauth/userinfo", headers={"authorization": f"Bearer {reply['access_token']}"}).json()
    assert user["preferred_username"] == "alice"
    assert user["sub"] == claims["sub"]
    me = HfApi(endpoint=platform.url, token=reply["access_token"]).whoami()
    assert me["auth"]["accessToken"]["role"] == "fineGrained"
    renewed = httpx.post(
        f"{platform.url}/oauth/token",
        data={"grant_type": "refresh_token", "refresh_token": reply["refresh_token"]},
        auth=(client_id, secret),
    ).json()
    assert renewed["access_token"] != reply["access_token"]
    ended = httpx.get(f"{platform.url}/api/whoami-v2", headers={"authorization": f"Bearer {reply['access_token']}"})
    assert ended.status_code == 401
    give_back = {"token": renewed["refresh_token"]}
    assert httpx.post(f"{platform.url}/oauth/revoke", data=give_back, auth=(client_id, "wrong")).status_code == 401
    assert httpx.post(f"{platform.url}/oauth/revoke", data={"token": text_of(platform)}, auth=(client_id, secret)).status_code == 200
    assert HfApi(endpoint=platform.url, token=renewed["access_token"]).whoami()["name"] == "alice"
    assert httpx.post(f"{platform.url}/oauth/revoke", data=give_back, auth=(client_id, secret)).status_code == 200
    ended = httpx.get(f"{platform.url}/api/whoami-v2", headers={"authorization": f"Bearer {renewed['access_token']}"})
    assert ended.status_code == 401
    with httpx.Client(base_url=platform.url, cookies=cookies) as web:
        assert "asks alice" in web.get("/oauth/authorize", params=asked).text  # consent was taken back with it


@pytest.mark.parametrize(
    "redirect",
    [
        "http://evil.example/",
        "http://alice-login-app.localhost.evil.example/",
        "javascript:alert(1)",
        "//x",
        "http://a@alice-login-app.localhost/",
    ],
)
def test_codes_go_to_the_apps_own_host_only(platform: Platform, app_client: tuple[str, str, str], redirect: str) -> None:
    reply = httpx.get(f"{platform.url}/oauth/authorize", params={"client_id": app_client[0], "redirect_uri": redirect})
    assert reply.status_code == 400
    assert "location" not in reply.headers


def test_device_flow_of_the_command_line(platform: Platform, browser: tuple[dict[str, str], str]) -> None:
    cookies, csrf = browser
    started = httpx.post(f"{platform.url}/oauth/device", data={"client_id": oauth.CLI_CLIENT_ID}).json()
    poll = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": started["device_code"],
        "client_id": oauth.CLI_CLIENT_ID,
    }  # fmt: skip
    waiting = httpx.post(f"{platform.url}/oauth/token", data=poll)
    assert (waiting.status_code, waiting.json()["error"]) == (400, "authorization_pending")
    with httpx.Client(cookies=cookies) as web:
        page = web.get(started["verification_uri_complete"])
        assert re.search(r"[A-Z]{4}-[A-Z]{4}", page.text)
        decided = web.post(
            f"{platform.url}/oauth/device/decide", data={"user_code": started["user_code"], "csrf": csrf, "decision": "allow"}
        )
        assert decided.status_code == 200
    token = httpx.post(f"{platform.url}/oauth/token", data=poll).json()["access_token"]
    assert HfApi(endpoint=platform.url, token=token).whoami()["auth"]["accessToken"]["role"] == "write"
    assert httpx.post(f"{platform.url}/oauth/token", data=poll).json()["error"] == "expired_token"


def test_hf_auth_login_through_a_browser(platform: Platform, browser: tuple[dict[str, str], str], tmp_path: Path) -> None:
    """The command as it is: it shows an address, waits for the person, keeps the token, and renews it when it is about to end."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {
        "HF_ENDPOINT": platform.url,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    hf = str(Path(sys.executable).parent / "hf")
    shown = ""
    with subprocess.Popen([hf, "auth", "login"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as login:
        assert login.stdout is not None
        try:
            while not (found := re.search(r"(http://\S+user_code=\S+)", shown)):
                line = login.stdout.readline()
                assert line, shown
                shown += line
            with httpx.Client(cookies=browser[0]) as web:
                code = re.search(r"[A-Z]{4}-[A-Z]{4}", web.get(found[1]).text)
                assert code
                decision = {"user_code": code[0], "csrf": browser[1], "decision": "allow"}
                assert web.post(f"{platform.url}/oauth/device/decide", data=decision).status_code == 200
            rest, _ = login.communicate(timeout=120)
        finally:
            login.kill()
    assert login.returncode == 0, shown + rest

    def whoami() -> str:
        return subprocess.run([hf, "auth", "whoami"], env=env, capture_output=True, text=True, timeout=60, check=True).stdout

    assert "alice" in whoami()
    kept, stored = (tmp_path / "token").read_text(), tmp_path / "stored_tokens"
    assert kept.startswith("hf_oauth_")
    stored.write_text(re.sub(r"expires_at = \d+", "expires_at = 1", stored.read_text()))
    assert "alice" in whoami()
    renewed = (tmp_path / "token").read_text()
    assert renewed.startswith("hf_oauth_") and renewed != kept


def test_private_app_door_of_a_browser(platform: Platform, alice: str, browser: tuple[dict[str, str], str]) -> None:
    HfApi(endpoint=platform.url, token=alice).create_repo("alice/locked", repo_type="space", space_sdk="static", private=True)
    asked = {"host": f"alice-locked.localhost:{platform.port}", "next": "/a?b=c"}
    with httpx.Client(base_url=platform.url) as web:
        assert web.get("/oauth/app-access", params=asked).headers["location"].startswith("/sign-in?next=")
        web.cookies.update(browser[0])
        to = web.get("/oauth/app-access", params=asked).headers["location"]
        assert to.startswith(f"http://alice-locked.localhost:{platform.port}/a?b=c&__sign=")
        elsewhere = web.get("/oauth/app-access", params={**asked, "next": "//evil.example/"}).headers["location"]
        assert elsewhere.startswith(f"http://alice-locked.localhost:{platform.port}/?__sign=")
        assert web.get("/oauth/app-access", params={"host": "nobody.localhost"}).status_code == 404


def test_an_app_cookie_ends_with_the_token_it_came_from(platform: Platform, alice: str, browser: tuple[dict[str, str], str]) -> None:
    HfApi(endpoint=platform.url, token=alice).create_repo("alice/door", repo_type="space", space_sdk="static", private=True)

    def door(kind: str, credential: str) -> httpx.Response:
        return httpx.post(
            f"{platform.url}/internal/authorize",
            json={"host": "alice-door.localhost", "kind": kind, "credential": credential},
            headers={"authorization": f"Bearer {platform.services.internal_secret}"},
        )

    async def token() -> tuple[str, str]:
        async with platform.services.uow.write() as uow:
            user = await people.find_account(uow, "alice")
            made, text = await tokens.create_token(uow, platform.services.clock, user, "short", TokenRole.READ)
        return made.id, text

    async def revoke(token_id: str) -> None:
        async with platform.services.uow.write() as uow:
            await tokens.revoke_token(uow, platform.services.clock, platform.services.signals, TokenId(token_id))

    async def sign_out() -> None:
        async with platform.services.uow.write() as uow:
            user = await people.find_account(uow, "alice")
            for session in await uow.tokens.sessions_of(user.id):
                await uow.tokens.remove_session(session.id)

    token_id, text = platform.run(token())
    by_token = {"headers": {"authorization": f"Bearer {text}"}}
    by_browser = {"cookies": browser[0]}
    for by, end in ((by_token, revoke(token_id)), (by_browser, sign_out())):
        with httpx.Client(base_url=platform.url, **by) as client:  # type: ignore[arg-type]
            proof = client.get("/api/spaces/alice/door/jwt").json()["token"]
        cookie = door("sign", proof).json()["cookie"]
        assert door("cookie", cookie).json() == {"allowed": True, "user": "alice"}
        platform.run(end)
        assert door("cookie", cookie).json() == {"allowed": False, "user": ""}
        assert door("sign", proof).json()["allowed"] is False
