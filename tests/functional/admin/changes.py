"""A call of every route that changes something, in an order in which each finds what it needs."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from control_plane.accounts import oauth, people, tokens
from control_plane.accounts.sign_in import create_sign_in_link, open_session
from control_plane.domain.accounts import TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, BuildStatus, LaunchPlan
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.spaces import Build, Deployment, RepoType
from tests.functional.admin.auditor import Auditor

PASSWORD = "a long sentence of alice"
CARD = "---\ntitle: App\nsdk: gradio\nhf_oauth: true\n---\n"
HUB = "/api/{kind:kind}/{ns:seg}/{name:seg}"
SPACE = "/api/spaces/{ns:seg}/{name:seg}"
APP = {"ns": "alice", "name": "app"}
PAGE = "/spaces/{owner:seg}/{name:seg}"
ANY_PAGE = "{P}/{owner:seg}/{name:seg}"
OWN = {"owner": "alice", "name": "app"}


def commit_body(**files: str) -> bytes:
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "change"}}]
    for path, text in files.items():
        content = base64.b64encode(text.encode()).decode()
        lines.append({"key": "file", "value": {"path": path.replace("__", "."), "content": content, "encoding": "base64"}})
    return b"\n".join(json.dumps(line).encode() for line in lines)


def repositories(audit: Auditor) -> None:
    for name, kind in (("app", "space"), ("data", "dataset"), ("model", "model"), ("site", "space")):
        body = {"name": name, "type": kind} | ({"sdk": "static" if name == "site" else "gradio"} if kind == "space" else {})
        audit.call("POST /api/repos/create", "repo.create", json_body=body)
    audit.call(f"POST {HUB}/duplicate", "repo.create", json_body={"repository": "alice/copy"}, kind="spaces", **APP)
    audit.call("POST /api/repos/move", "repo.move", json_body={"fromRepo": "alice/copy", "toRepo": "alice/moved", "type": "space"})
    audit.call("DELETE /api/repos/delete", "repo.delete", json_body={"name": "moved", "type": "space"})
    audit.call(f"PUT {HUB}/settings", "repo.visibility", json_body={"private": True}, kind="models", ns="alice", name="model")
    audit.call(f"PUT {HUB}/settings", "repo.discussions", json_body={"discussionsDisabled": True}, kind="models", ns="alice", name="model")
    audit.call(f"POST {HUB}/like", "repo.like", kind="spaces", **APP)
    audit.call(f"DELETE {HUB}/like", "repo.unlike", kind="spaces", **APP)


def files_and_refs(audit: Auditor, folder: Path) -> None:
    data = {"kind": "datasets", "ns": "alice", "name": "data"}
    audit.call(f"POST {HUB}/commit/{{rev:seg}}", "repo.push", content=commit_body(a__txt="a"), rev="main", **data)
    audit.call(f"POST {HUB}/commit/{{rev:seg}}", "repo.push", content=commit_body(b__txt="b"), rev="main", query="?create_pr=1", **data)
    audit.call(f"POST {HUB}/branch/{{branch:seg}}", "repo.push", json_body={}, branch="side", **data)
    audit.call(f"DELETE {HUB}/branch/{{branch:seg}}", "repo.push", branch="side", **data)
    audit.call(f"POST {HUB}/tag/{{rev:seg}}", "repo.push", json_body={"tag": "v1"}, rev="main", **data)
    audit.call(f"DELETE {HUB}/tag/{{tag:seg}}", "repo.push", tag="v1", **data)
    audit.call(f"POST {HUB}/super-squash/{{branch:seg}}", "repo.push", json_body={}, branch="main", **data)
    site = audit.site
    body = b"nobody's bytes"
    oid = hashlib.sha256(body).hexdigest()

    async def orphan() -> None:
        async with site.built.uow.read() as work:
            repo = await work.repos.by_name(RepoType.DATASET, "alice", "data")
        assert repo

        async def chunks() -> Any:
            yield body

        await site.built.lfs.put(RepoId(repo.id), oid, len(body), chunks())

    site.run(orphan())
    audit.call(f"POST {HUB}/lfs-files/batch", "repo.delete_lfs", json_body={"deletions": {"sha": [oid]}}, **data)
    audit.git_push(folder, "/datasets", "data")
    git = {"P": "/datasets", "owner": "alice", "name": "data"}
    lock = audit.call("POST {P}/{owner}/{name}/info/lfs/locks", "lfs.lock", json_body={"path": "a.txt"}, **git).json()["lock"]
    audit.call("POST {P}/{owner}/{name}/info/lfs/locks/{lock_id}/unlock", "lfs.unlock", json_body={}, lock_id=lock["id"], **git)


def gates(audit: Auditor) -> None:
    for prefix, kind, name in (("", "models", "open-model"), ("/datasets", "datasets", "data")):
        at = {"kind": kind, "ns": "alice", "name": name}
        if kind == "models":
            audit.call("POST /api/repos/create", "repo.create", json_body={"name": name, "type": "model"})
        audit.call(f"PUT {HUB}/settings", "repo.gate", json_body={"gated": "manual"}, **at)
        audit.call(f"POST {prefix}/{{ns:seg}}/{{name:seg}}/ask-access", "repo.ask_access", by="bob", json_body={}, ns="alice", name=name)
        decided = {"user": "bob", "status": "rejected"}
        audit.call(f"POST {HUB}/user-access-request/handle", "repo.decide_access", json_body=decided, **at)
        audit.call(f"POST {HUB}/user-access-request/grant", "repo.grant_access", json_body={"user": "bob"}, **at)
        audit.call(f"PUT {HUB}/settings", "repo.gate", json_body={"gated": False}, **at)
    own = {"P": "/datasets", "owner": "alice", "name": "data"}
    audit.person("guest")
    audit.call(f"POST {ANY_PAGE}/settings/gate", "repo.gate", form={"gate": "manual"}, **own)
    audit.call(f"POST {ANY_PAGE}/gate/ask", "repo.ask_access", "guest", form={}, **own)
    headers = {"authorization": f"Bearer {audit.tokens['alice']}"}
    waiting = audit.client.get("/api/datasets/alice/data/user-access-request/pending", headers=headers).json()[0]["requestId"]
    decision = {"request": waiting, "status": "accepted"}
    audit.call(f"POST {ANY_PAGE}/settings/access", "repo.decide_access", form=decision, **own)
    audit.call(f"POST {ANY_PAGE}/settings/gate", "repo.gate", form={"gate": ""}, **own)


def space(audit: Auditor) -> None:
    audit.call(f"POST {HUB}/commit/{{rev:seg}}", "repo.push", content=commit_body(README__md=CARD), rev="main", kind="spaces", **APP)
    _deployed(audit)
    for word, action, body in (
        ("secrets", "repo.add_secret", {"key": "S", "value": "hidden value"}),
        ("secrets", "repo.update_secret", {"key": "S", "value": "hidden value"}),
        ("variables", "repo.add_variable", {"key": "V", "value": "1"}),
        ("variables", "repo.update_variable", {"key": "V", "value": "2"}),
        ("hardware", "spaces.update_hardware", {"flavor": "cpu-upgrade"}),
        ("sleeptime", "spaces.update_sleep_time", {"seconds": 3600}),
        ("replicas", "spaces.update_replicas", {"replicas": 2}),
        ("storage", "spaces.update_storage", {"tier": "small"}),
        ("pause", "spaces.pause", None),
        ("restart", "spaces.restart", None),
    ):
        audit.call(f"POST {SPACE}/{word}", action, json_body=body, **APP)
    kept = audit.client.get("/api/spaces/alice/app/versions", headers={"authorization": f"Bearer {audit.tokens['alice']}"}).json()
    audit.call(f"POST {SPACE}/rollback", "spaces.rollback", json_body={"generation": kept[0]["generation"]}, **APP)
    audit.call(f"DELETE {SPACE}/secrets", "repo.delete_secret", json_body={"key": "S"}, **APP)
    audit.call(f"DELETE {SPACE}/variables", "repo.delete_variable", json_body={"key": "V"}, **APP)
    audit.call(f"DELETE {SPACE}/storage", "spaces.delete_storage", **APP)
    mounted = {"type": "space", "source": "alice/app", "mountPath": "/code"}
    audit.call(f"PUT {SPACE}/volumes", "spaces.update_volumes", json_body={"volumes": [mounted]}, **APP)
    audit.call(f"DELETE {SPACE}/volumes", "spaces.update_volumes", **APP)


def _deployed(audit: Auditor) -> str:
    """A version that was built, and a build that waits; the waiting build's id."""
    services, build_id = audit.site.built, new_id()

    async def write() -> None:
        now = services.clock.now()
        async with services.uow.write() as work:
            repo = await work.repos.by_name(RepoType.SPACE, "alice", "app")
            assert repo
            space = await work.spaces.get(SpaceId(repo.id))
            assert space
            if await work.deployments.get(space.id, 1) is None:
                artifact = Artifact(ArtifactKind.BUNDLE, f"{space.id}/b")
                one = Deployment(space.id, 1, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), "cpu-basic", now, space.config)
                await work.deployments.add(one)
                await work.spaces.save(replace(space, generation=1))
            await work.builds.add(Build(BuildId(build_id), space.id, Sha("a" * 40), BuildStatus.QUEUED, now))

    audit.site.run(write())
    return build_id


def discussions(audit: Auditor) -> None:
    at = {"kind": "spaces", **APP}
    num = audit.call(f"POST {HUB}/discussions", "discussion.create", json_body={"title": "T", "description": "D"}, **at).json()["num"]
    base = f"POST {HUB}/discussions/{{num:int}}"
    made = audit.call(f"{base}/comment", "discussion.comment", json_body={"comment": "C"}, num=num, **at).json()["newMessage"]
    audit.call(f"{base}/title", "discussion.rename", json_body={"title": "U"}, num=num, **at)
    comment = {"num": num, "event_id": made["id"], **at}
    audit.call(f"{base}/comment/{{event_id:seg}}/edit", "discussion.edit_comment", json_body={"content": "E"}, **comment)
    audit.call(f"{base}/comment/{{event_id:seg}}/hide", "discussion.hide_comment", **comment)
    audit.call(f"{base}/status", "discussion.status", json_body={"status": "closed", "comment": "bye"}, num=num, **at)
    pull = audit.call(f"POST {HUB}/discussions", "discussion.create", json_body={"title": "P", "pullRequest": True}, **at).json()["num"]
    audit.call(f"POST {HUB}/commit/{{rev:seg}}", "repo.push", content=commit_body(new__txt="n"), rev=f"refs/pr/{pull}", **at)
    audit.call(f"{base}/merge", "repo.push", json_body={"comment": "thanks"}, num=pull, **at)
    empty = audit.call(f"POST {HUB}/discussions", "discussion.create", json_body={"title": "Q", "pullRequest": True}, **at).json()["num"]
    audit.call(f"{base}/merge", "discussion.status", num=empty, **at)


def lists(audit: Auditor) -> None:
    slug = audit.call("POST /api/collections", "collection.create", json_body={"title": "Shelf", "namespace": "alice"}).json()["slug"]
    ns, _, name = slug.partition("/")
    at = {"ns": ns, "slug": name}
    one = "/api/collections/{ns:seg}/{slug:seg}"
    audit.call(f"PATCH {one}", "collection.update", json_body={"description": "mine"}, **at)
    item = {"item": {"type": "space", "id": "alice/app"}}
    made = audit.call(f"POST {one}/items", "collection.add_item", json_body=item, **at).json()["items"][0]
    audit.call(f"PATCH {one}/items/{{item_id:seg}}", "collection.update_item", json_body={"note": "n"}, item_id=made["_id"], **at)
    audit.call(f"DELETE {one}/items/{{item_id:seg}}", "collection.remove_item", item_id=made["_id"], **at)
    audit.call(f"DELETE {one}", "collection.delete", **at)
    hook = {"url": "https://example.org/x", "watched": [{"type": "user", "name": "alice"}]}
    made = audit.call("POST /api/settings/webhooks", "webhook.add", json_body=hook).json()["webhook"]
    hooks = "/api/settings/webhooks/{hook_id:seg}"
    audit.call(f"POST {hooks}", "webhook.update", json_body={**hook, "domains": ["repo"]}, hook_id=made["id"])
    audit.call(f"POST {hooks}/disable", "webhook.disable", hook_id=made["id"])
    audit.call(f"POST {hooks}/enable", "webhook.enable", hook_id=made["id"])
    audit.call(f"DELETE {hooks}", "webhook.remove", hook_id=made["id"])


def pages(audit: Auditor) -> None:
    new = {"owner": "alice", "name": "page", "sdk": "static", "visibility": "public"}
    audit.call("POST /new-space", "repo.create", form=new)
    copy = {"owner": "alice", "name": "page-copy", "visibility": "private"}
    audit.call(f"POST {PAGE}/duplicate", "repo.create", form=copy, owner="alice", name="page")
    for liked, action in (("1", "repo.like"), ("0", "repo.unlike")):
        audit.call(f"POST {ANY_PAGE}/like", action, form={"liked": liked}, **OWN)
    for mode, file, form in (
        ("new", "", {"path": "n.txt", "content": "n"}), ("edit", "n.txt", {"content": "m"}), ("upload", "", {}), ("delete", "n.txt", {}),
        ("new", "folder", {"path": "n.txt", "content": "n"}), ("upload", "folder", {}), ("edit", "folder/n.txt", {"content": "m"}),
    ):  # fmt: skip
        row = f"POST {ANY_PAGE}/{mode}/{{rev:seg}}" + ("/{file:tail}" if file else "")
        audit.call(row, "repo.push", form={**form, "message": "m"}, rev="main", file=file, **OWN)
    for mode in ("edit", "delete"):  # an editor without a file sends people to the file list
        audit.called.add(f"POST {ANY_PAGE}/{mode}/{{rev:seg}}")
    audit.call(f"POST {ANY_PAGE}/new/{{rev:seg}}", "repo.push", form={"path": "p.txt", "content": "p", "propose": "1"}, rev="main", **OWN)
    put = {"key": "K", "value": "hidden value"}
    build_id = _deployed(audit)
    for word, action, form in (
        ("variable", "repo.add_variable", put), ("variable-remove", "repo.delete_variable", put), ("secret", "repo.add_secret", put),
        ("secret-remove", "repo.delete_secret", put), ("hardware", "spaces.update_hardware", {"flavor": "cpu-basic"}),
        ("sleep", "spaces.update_sleep_time", {"seconds": "-1"}), ("replicas", "spaces.update_replicas", {"replicas": "1"}),
        ("storage", "spaces.update_storage", {"tier": "small"}),
        ("storage-remove", "spaces.delete_storage", {"confirm": "alice/app"}),
        ("volume", "spaces.update_volumes", {"type": "space", "source": "alice/app", "mount_path": "/code"}),
        ("volume-remove", "spaces.update_volumes", {"mount_path": "/code"}), ("cancel-build", "build.cancel", {"build": build_id}),
        ("pause", "spaces.pause", {}), ("restart", "spaces.restart", {}), ("rebuild", "spaces.restart", {}),
        ("deploy", "spaces.restart", {"revision": "main"}),
    ):  # fmt: skip
        audit.call(f"POST {PAGE}/settings/{word}", action, form=form, **OWN)
    audit.call(f"POST {ANY_PAGE}/settings/visibility", "repo.visibility", form={"visibility": "private"}, **OWN)
    audit.call(f"POST {ANY_PAGE}/settings/visibility", "repo.visibility", form={"visibility": "public"}, **OWN)
    answer = audit.call(f"POST {ANY_PAGE}/discussions/new", "discussion.create", form={"title": "t", "text": "x"}, **OWN)
    number = answer.headers["location"].partition("?")[0].rpartition("/")[2]
    audit.call(f"POST {ANY_PAGE}/discussions/{{number:int}}/comment", "discussion.comment", form={"text": "c"}, number=number, **OWN)
    both = {"status": "closed", "text": "bye"}
    audit.call(f"POST {ANY_PAGE}/discussions/{{number:int}}/status", "discussion.status", form=both, number=number, **OWN)
    pull = {"title": "P", "pullRequest": True}
    number = audit.call(f"POST {HUB}/discussions", "discussion.create", json_body=pull, kind="spaces", **APP).json()["num"]
    audit.call(f"POST {PAGE}/discussions/{{number:int}}/preview", "repo.create", form={}, number=number, **OWN)
    audit.call(f"POST {PAGE}/discussions/{{number:int}}/preview-end", "repo.delete", form={}, number=number, **OWN)
    answer = audit.call(f"POST {PAGE}/collect", "collection.create", form={"title": "Reading"}, **OWN)
    owner, _, slug = answer.headers["location"].partition("?")[0].removeprefix("/collections/").partition("/")
    answer = audit.call(f"POST {PAGE}/collect", "collection.add_item", form={"into": f"{owner}/{slug}"}, owner="alice", name="site")
    there = audit.client.get(f"/api/collections/{owner}/{slug}").json()["items"][0]["_id"]
    shelf = "/collections/{owner:seg}/{slug:seg}"
    audit.call(f"POST {shelf}/remove-item", "collection.remove_item", form={"item": there}, owner=owner, slug=slug)
    audit.call(f"POST {shelf}/delete", "collection.delete", form={}, owner=owner, slug=slug)
    renamed = {"to_owner": "alice", "to_name": "page-2"}
    audit.call(f"POST {ANY_PAGE}/settings/rename", "repo.move", form=renamed, owner="alice", name="page")
    audit.call(f"POST {ANY_PAGE}/settings/delete", "repo.delete", form={"confirm": "alice/page-2"}, owner="alice", name="page-2")


def _form_of(audit: Auditor, path: str) -> tuple[str, str]:
    """The cookie and token of a form for people who are not signed in, as header and field."""
    page = audit.client.get(path, headers={"accept": "text/html"})
    csrf = page.text.partition('name="csrf" value="')[2].partition('"')[0]
    cookie = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
    audit.client.cookies.clear()
    return cookie, csrf


def accounts(audit: Auditor) -> None:
    services = audit.site.built

    def anonymous(row: str, action: str, form: dict[str, str], actor: str, page: str) -> httpx.Response:
        cookie, csrf = _form_of(audit, page)
        before = audit.newest()
        path = row.partition(" ")[2]
        headers = {"cookie": cookie, "origin": str(audit.client.base_url).rstrip("/"), "accept": "text/html"}
        answer = audit.client.post(path, data={"csrf": csrf, **form}, headers=headers)
        audit.client.cookies.clear()
        assert answer.status_code == 303, answer.text[:500]
        assert [(e["action"], e["actor"]) for e in audit.events(before)] == [(action, actor)], row
        audit.called.add(row)
        return answer

    anonymous("POST /sign-in", "session.open", {"name": "alice", "password": PASSWORD}, "alice", "/sign-in")
    new = {"name": "carol", "password": PASSWORD, "email": ""}
    anonymous("POST /sign-up", "user.add", new, "carol", "/sign-up")

    async def link() -> str:
        async with services.uow.write() as work:
            return await create_sign_in_link(work, services.clock, await people.find_account(work, "bob"))

    anonymous("POST /sign-in/once", "session.open", {"token": audit.site.run(link())}, "bob", "/sign-in")
    made = audit.call("POST /settings/tokens", "token.add", form={"name": "t", "role": "read", "days": "30"})
    assert made.status_code == 200
    token_id = audit.events(0)[-1]["facts"]["token"]
    audit.call("POST /settings/tokens/revoke", "token.revoke", form={"id": token_id})
    audit.call("POST /settings/sessions/end", "session.end", form={})
    leaked = audit.site.run(_token(audit, "bob"))
    audit.call("POST /api/tokens/revoke-leaked", "token.revoke", by=None, json_body={"tokens": [leaked]}, actor="anonymous")


async def _token(audit: Auditor, name: str) -> str:
    services = audit.site.built
    async with services.uow.write() as work:
        user = await people.find_account(work, name)
        return (await tokens.create_token(work, services.clock, user, "leaked", TokenRole.READ))[1]


def operators(audit: Auditor) -> None:
    audit.call("POST /api/admin/users", "user.add", by="admin", json_body={"name": "dave"})
    audit.call("POST /api/admin/orgs", "org.add", by="admin", json_body={"name": "acme"})
    member = {"name": "acme", "user_name": "bob"}
    members = "/api/admin/orgs/{name:seg}/members/{user_name:seg}"
    audit.call(f"PUT {members}", "org.member", by="admin", json_body={"role": "write"}, **member)
    audit.call(f"DELETE {members}", "org.member", by="admin", **member)
    made = audit.call("POST /api/admin/tokens", "token.add", by="admin", json_body={"user": "dave", "role": "read"}).json()
    audit.call("DELETE /api/admin/tokens/{token_id:seg}", "token.revoke", by="admin", token_id=made["id"])
    suspension = "POST /api/admin/users/{name:seg}/suspension"
    audit.call("POST /api/admin/users/{name:seg}/sign-in-link", "user.link", by="admin", name="dave")
    audit.call(suspension, "user.suspend", by="admin", json_body={"suspended": True}, name="dave")
    audit.call(suspension, "user.resume", by="admin", json_body={"suspended": False}, name="dave")
    audit.call("DELETE /api/admin/users/{name:seg}", "user.remove", by="admin", name="dave")
    audit.call("PATCH /api/admin/quotas/{subject:seg}", "quota.set", by="admin", json_body={"limits": {"spaces": "50"}}, subject="bob")
    audit.call("PATCH /api/admin/quota-defaults", "quota.set", by="admin", json_body={"limits": {"vcpu": "unlimited"}})
    audit.call("PUT /api/admin/maintenance", "platform.maintenance", by="admin", json_body={"on": True})
    audit.call("PUT /api/admin/maintenance", "platform.maintenance", by="admin", json_body={"on": False})
    audit.call("POST /api/admin/keys", "platform.rotate_key", by="admin", json_body={"rotate": True})
    audit.call("POST /api/admin/gc", "platform.gc", by="admin", query="?dry_run=false")
    audit.call("GET /api/admin/backup", "platform.backup", by="admin")
    audit.call("GET /api/admin/audit/export", "audit.export", by="admin")
    build_id = _deployed(audit)
    audit.call("POST /api/admin/builds/{build_id:seg}/cancel", "build.cancel", by="admin", build_id=build_id)
    for verb in ("pause", "restart"):
        audit.call("POST /api/admin/spaces/{ns:seg}/{name:seg}/{verb}", f"spaces.{verb}", by="admin", verb=verb, **APP)
    audit.call("DELETE /api/admin/spaces/{ns:seg}/{name:seg}", "repo.delete", by="admin", ns="alice", name="page-copy")
    session = audit.site.run(_session(audit, "admin"))
    audit.call("POST /admin/users", "user.add", "admin", form={"name": "erin", "email": "", "password": PASSWORD}, cookie=session)
    for on, action in (("1", "user.suspend"), ("0", "user.resume")):
        audit.call("POST /admin/suspend", action, "admin", form={"name": "erin", "suspended": on}, cookie=session)
    for on in ("1", "0"):
        notice = {"on": on, "message": "New disks"}
        audit.call("POST /admin/maintenance", "platform.maintenance", "admin", form=notice, cookie=session)
    audit.call("POST /organizations/new", "org.add", "admin", form={"name": "club", "fullname": "The club"}, cookie=session)
    club = "POST /organizations/{name:seg}/settings"
    audit.call(f"{club}/name", "org.rename", "admin", form={"fullname": "Our club"}, cookie=session, name="club")
    audit.call(f"{club}/member", "org.member", "admin", form={"user": "bob", "role": "read"}, cookie=session, name="club")
    audit.call(f"{club}/remove", "org.member", "admin", form={"user": "bob"}, cookie=session, name="club")
    audit.call("POST /admin/quotas", "quota.set", "admin", form={"subject": "erin", "key": "spaces", "value": "2"}, cookie=session)


async def _session(audit: Auditor, name: str) -> tuple[str, str]:
    services = audit.site.built
    async with services.uow.write() as work:
        session, cookie = await open_session(work, services.clock, await people.find_account(work, name))
    return cookie, session.csrf


def apps(audit: Auditor) -> None:
    """Sign-in of apps: consent, tokens, renewal, giving back."""
    services = audit.site.built

    async def space_id() -> SpaceId:
        async with services.uow.read() as work:
            repo = await work.repos.by_name(RepoType.SPACE, "alice", "app")
        assert repo
        return SpaceId(repo.id)

    client_id, secret = oauth.space_credentials(services.signing_key, audit.site.run(space_id()))
    asked = {
        "client_id": client_id, "redirect_uri": f"http://alice-app.localhost:{audit.site.port}/login/callback", "scope": "openid profile",
        "state": "s", "response_type": "code",
    }  # fmt: skip
    answer = audit.call("POST /oauth/authorize", "oauth.allow", form={**asked, "decision": "allow"})
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]

    def by_app(row: str, action: str, **form: str) -> dict[str, Any]:
        before = audit.newest()
        reply = httpx.post(f"{audit.client.base_url}{row.partition(' ')[2]}", data=form, auth=(client_id, secret), timeout=60)
        assert reply.status_code == 200, reply.text
        assert [(e["action"], e["actor"]) for e in audit.events(before)] == [(action, "alice")]
        audit.called.add(row)
        return dict(reply.json())

    issued = by_app("POST /oauth/token", "token.add", grant_type="authorization_code", code=code, redirect_uri=asked["redirect_uri"])
    issued = by_app("POST /oauth/token", "token.renew", grant_type="refresh_token", refresh_token=issued["refresh_token"])
    by_app("POST /oauth/revoke", "token.revoke", token=issued["access_token"])
    started = httpx.post(f"{audit.client.base_url}/oauth/device", data={"client_id": oauth.CLI_CLIENT_ID}, timeout=60).json()
    decision = {"user_code": started["user_code"], "decision": "allow"}
    audit.call("POST /oauth/device/decide", "oauth.device", form=decision)
    text = json.dumps(audit.events(0), default=str)
    assert issued["access_token"] not in text and issued["refresh_token"] not in text and secret not in text


def endings(audit: Auditor) -> None:
    audit.call("POST /settings/password", "user.password", form={"old": PASSWORD, "new": PASSWORD + "!"})
    audit.cookies["alice"] = audit.site.run(_session(audit, "alice"))
    audit.call("POST /sign-out", "session.close", form={})
