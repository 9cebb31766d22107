"""Rows of the wire contract that no client's method shows by itself: what is sent, and what must come back, word by word.

`walk(ENDPOINT, TOKEN of an administrator)` gives the rows that do not hold. Also a program for any running platform, with its proxy
before it: `python -m tests.functional.hub_api.rows ENDPOINT TOKEN`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys

from tests.functional.hub_api.rows_of_repositories import files, history, repositories, spaces
from tests.functional.hub_api.wire import DATE, LFS, Walk, has, text

EXPOSED = (
    "X-Repo-Commit", "X-Request-Id", "X-Error-Code", "X-Error-Message", "X-Total-Count", "ETag", "Link", "Accept-Ranges", "Content-Range",
    "Content-Length",
)  # fmt: skip
BAD_TOKEN = "Invalid credentials in Authorization header"


def conventions(w: Walk, model: str, space: str) -> None:
    """Section 0: addresses, headers, errors, formats, side calls."""
    port = w.url.rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        named = {"Host": host}
        again = w.ask("POST", "/api/repos/create", headers=named, json={"name": "walked"})
        w.row(f"0.1 url by {host}", again.status_code == 409 and again.json()["url"] == f"http://{host}/{model}", again)
        made = w.commit(f"models/{model}", text(f"at-{host[:3]}"), headers=named).json()
        w.row("0.1 commitUrl", made["commitUrl"] == f"http://{host}/{model}/commit/{made['commitOid']}", made)
        pull = w.commit(f"models/{model}", text("p"), headers=named, params={"create_pr": "1"}).json()
        w.row("0.1 pullRequestUrl", re.fullmatch(rf"http://{host}/{model}/discussions/\d+", pull["pullRequestUrl"]), pull)
        page = w.ask("GET", f"/api/models/{model}/commits/main?limit=1", headers=named)
        w.row("0.1 Link", page.headers.get("link", "").startswith(f"<http://{host}/api/models/{model}/commits/main?limit=1&cursor="), page)
        item = {"oid": hashlib.sha256(b"none").hexdigest(), "size": 4}
        batch = w.ask("POST", f"/{model}.git/info/lfs/objects/batch", headers=LFS | named, json={"operation": "upload", "objects": [item]})
        w.row("0.1 LFS href", batch.json()["objects"][0]["actions"]["upload"]["href"].startswith(f"http://{host}/"), batch)
    for value in ("true", "True"):
        told = w.ask("GET", f"/api/models/{model}", params={"blobs": value}).json()
        w.row(f"0.3 blobs={value}", all(has(s, "rfilename size blobId") for s in told["siblings"]), told)
    for words in ("expand=sha&expand=likes", "expand[]=sha&expand[]=likes"):
        told = w.ask("GET", f"/api/models/{model}?{words}&unknown=1").json()
        w.row(f"0.3 {words}", told.keys() == {"_id", "id", "sha", "likes"}, told)

    traced = w.ask("GET", "/api/models?limit=1", headers={"X-Amzn-Trace-Id": "trace-1", "Origin": "https://elsewhere.example"})
    own = traced.headers.get("x-vitrine-request-id", "trace-1")  # the proxy's, where there is one
    w.row("0.2 trace id", traced.headers["x-request-id"] == own and traced.headers.get("date", "").endswith("GMT"), traced)
    shown = {name.strip().lower() for name in traced.headers.get("access-control-expose-headers", "").split(",")}
    w.row("0.4 CORS", {n.lower() for n in EXPOSED} <= shown and traced.headers["access-control-allow-origin"] == "*", traced)
    for who, status in (("nobody", 401), ("guest", 404)):
        for path in ("/api/models/{}", "/api/models/{}/tree/main", "/{}/resolve/main/x", "/api/models/{}/revision/main", "/{}/raw/main/x"):
            for missing in (f"{w.me}/absent", "gpt2"):  # a bare name is a legal id of clients
                w.refused(f"0.6.7 {path} of {missing}", w.ask("GET", path.format(missing), who), status, "RepoNotFound")
                if "resolve" in path:
                    w.refused(f"0.6.7 HEAD {missing}", w.ask("HEAD", path.format(missing), who), status, "RepoNotFound")
    for path in ("/api/whoami-v2", f"/api/models/{model}", f"/{model}/resolve/main/.gitattributes"):
        bad = w.ask("GET", path, "bad")
        told = bad.headers.get("x-error-message")
        w.row(f"0.6.7 bad token {path}", bad.status_code == 401 and told == BAD_TOKEN and "x-error-code" not in bad.headers, bad)
    for path in ("/api/jobs/x", "/api/scheduled-jobs/x", "/api/buckets/x", "/api/papers/1"):
        w.refused(f"0.6.6, 7.5 {path}", w.ask("GET", path), 404)
    for name in ("a--b", "a..b", "-a", "a.", "a.git", "a b", "x" * 97):
        w.refused(f"0.8 name {name[:10]}", w.ask("POST", "/api/repos/create", json={"name": name}), 400)
    moved = w.ask("GET", f"/api/models/{model.upper()}/refs")
    w.row("0.8 case", moved.status_code == 307 and moved.headers["location"] == f"/api/models/{model}/refs", moved)
    told = w.ask("GET", f"/api/spaces/{space}").json()
    w.row("0.8 dates", DATE.fullmatch(told["lastModified"]) and DATE.fullmatch(told["createdAt"]), told)
    w.row("0.9 harnesses", w.ask("GET", "/api/agent-harnesses", "nobody").json() == {"standardEnvVars": [], "harnesses": []})
    w.row("0.9 telemetry", w.ask("HEAD", "/api/telemetry/py_client/initiated", "nobody").status_code == 200)


def identity(w: Walk, model: str) -> None:
    """Section 1."""
    me = w.ask("GET", "/api/whoami-v2").json()
    fields = "type id fullname email emailVerified canPay isPro periodEnd billingMode avatarUrl"
    w.row("1.2", me["name"] == w.me and me["type"] == "user" and has(me, fields), me)
    w.row("1.2 orgs", [o["name"] for o in me["orgs"]] == [w.org] and has(me["orgs"][0], "fullname type roleInOrg avatarUrl"), me)
    token = me["auth"]["accessToken"]
    w.row("1.2 auth", me["auth"]["type"] == "access_token" and token["role"] == "write" and has(token, "displayName createdAt"), me)
    w.row("1.1 token", re.fullmatch(r"hf_[A-Za-z0-9]{34,}", w.tokens["me"]), "")

    for pair in (f"any:{w.tokens['me']}", f"{w.tokens['me']}:"):
        basic = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        refs = w.ask("GET", f"/{model}/info/refs?service=git-receive-pack", "nobody", headers=basic)
        w.row("1.4 Basic", refs.status_code == 200, refs)
    refs = w.ask("GET", f"/{model}/info/refs?service=git-receive-pack")
    w.row("6.1 Bearer", refs.headers.get("content-type") == "application/x-git-receive-pack-advertisement", refs)

    cli = "26be6b09-91c5-47da-9861-d2d2bb7a7e36"
    started = w.ask("POST", "/oauth/device", "nobody", data={"client_id": cli})
    w.row("1.3 device", has(started.json(), "device_code user_code verification_uri"), started)
    w.row("1.3 defaults", (started.json()["interval"], started.json()["expires_in"]) == (5, 900), started)
    kind = "urn:ietf:params:oauth:grant-type:device_code"
    for form, error in (
        ({"grant_type": kind, "device_code": started.json()["device_code"], "client_id": cli}, "authorization_pending"),
        ({"grant_type": kind, "device_code": "nonsense", "client_id": cli}, "expired_token"),
        ({"grant_type": "refresh_token", "refresh_token": "nonsense", "client_id": cli}, "invalid_grant"),
    ):
        reply = w.ask("POST", "/oauth/token", "nobody", data=form)
        w.row(f"1.3 {error}", reply.status_code == 400 and reply.json()["error"] == error and reply.json()["error_description"], reply)
    found = w.ask("GET", "/.well-known/openid-configuration", "nobody").json()
    names = ("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri", "scopes_supported")
    w.row("1.5 discovery", has(found, " ".join(names)) and all(str(found[n]).startswith(w.url) for n in names[:5]), found)
    keys = w.ask("GET", found["jwks_uri"].removeprefix(w.url), "nobody").json()["keys"]
    w.row("1.5 jwks", keys[0]["kty"] == "RSA" and keys[0]["alg"] == "RS256", keys)
    user = w.ask("GET", "/oauth/userinfo").json()
    w.row("1.5 userinfo", has(user, "sub name preferred_username profile picture isPro orgs email"), user)
    organisation = has(user["orgs"][0], "sub name preferred_username picture isEnterprise roleInOrg")
    w.row("1.5 userinfo orgs", organisation, user)

    about = w.ask("GET", f"/api/users/{w.me}/overview", "nobody").json()
    counts = "numModels numDatasets numSpaces numLikes numFollowers numFollowing orgs type isPro avatarUrl"
    w.row("1.6 user", about["user"] == w.me and has(about, f"{counts} fullname"), about)
    about = w.ask("GET", f"/api/organizations/{w.org}/overview", "nobody").json()
    fields = "fullname avatarUrl details isVerified numUsers numModels numSpaces numFollowers"
    w.row("1.6 org", about["name"] == w.org and about["numUsers"] == 1 and has(about, fields), about)
    people = w.ask("GET", f"/api/organizations/{w.org}/members").json()
    w.row("1.6 members", [p["user"] for p in people] == [w.me] and has(people[0], "fullname avatarUrl type"), people)
    for path in (f"organizations/{w.org}/followers", f"users/{w.me}/followers", f"users/{w.me}/following"):
        w.row(f"1.6 {path}", w.ask("GET", f"/api/{path}").json() == [])
    for path in ("/api/settings/repositories", f"/api/organizations/{w.org}/settings/repositories"):
        own = w.ask("GET", path).json()
        w.row(f"1.6 {path}", own and all(has(r, "id type updatedAt visibility storage") for r in own), own)
    w.row("1.6 auth-check", w.ask("GET", f"/api/models/{model}/auth-check", "guest").status_code == 200)
    w.row("1.6 auth-check/write", w.ask("GET", f"/api/models/{model}/auth-check/write").status_code == 200)
    w.refused("1.6 auth-check/write of a reader", w.ask("GET", f"/api/models/{model}/auth-check/write", "guest"), 403)
    w.refused("1.6 auth-check of nothing", w.ask("GET", f"/api/models/{w.me}/absent/auth-check"), 404, "RepoNotFound")


def git_doors(w: Walk, model: str) -> None:
    """Sections 6.1 and 6.2: what git and git-lfs are told before they say anything."""
    for path in (model, f"{model}.git"):
        reply = w.ask("GET", f"/{path}/info/refs?service=git-upload-pack", "nobody", headers={"Git-Protocol": "version=2"})
        kind = (reply.headers["content-type"], "no-cache" in reply.headers["cache-control"])
        w.row(f"6.1 {path}", kind == ("application/x-git-upload-pack-advertisement", True) and b"version 2" in reply.content[:30], reply)
    absent = f"{w.me}/absent"
    for path, who, status in (
        (f"{model}/info/refs?service=git-receive-pack", "nobody", 401), (f"{model}/info/refs?service=git-receive-pack", "bad", 401),
        (f"{model}/info/refs?service=git-receive-pack", "guest", 403), (f"{absent}/info/refs?service=git-upload-pack", "nobody", 401),
        (f"{absent}/info/refs?service=git-upload-pack", "guest", 404),
    ):  # fmt: skip
        reply = w.ask("GET", f"/{path}", who)
        challenged = reply.headers.get("www-authenticate", "").startswith("Basic realm=")
        plain = reply.headers["content-type"].startswith("text/plain") and reply.text.strip() and reply.headers["x-error-message"]
        w.row(f"6.1 {status} {who}", reply.status_code == status and challenged == (status == 401) and plain, reply)
    verify = w.ask("POST", f"/{model}.git/info/lfs/locks/verify", headers=LFS, json={"ref": {"name": "refs/heads/main"}})
    w.row("6.2 locks", verify.status_code in (200, 404), verify)
    order = {"operation": "upload", "objects": []}
    for who, status in (("nobody", 401), ("bad", 401)):
        reply = w.ask("POST", f"/{model}.git/info/lfs/objects/batch", who, headers=LFS, json=order)
        w.row(f"6.2 {who}", reply.status_code == status and "Basic" in reply.headers.get("lfs-authenticate", ""), reply)


def community(w: Walk, model: str, space: str) -> None:
    """Section 7."""
    api = f"/api/spaces/{space}/discussions"
    num = w.ask("POST", api, json={"title": "T", "description": "D", "pullRequest": False}).json()["num"]
    pull = w.ask("POST", api, "guest", json={"title": "P", "description": "", "pullRequest": True}).json()["num"]
    w.row("7.1 numbers", (num, pull) == (1, 2), (num, pull))
    listed = w.ask("GET", api, params={"type": "all", "status": "all", "p": "0"}).json()
    w.row("7.1 newest first", [d["num"] for d in listed["discussions"]] == [2, 1] and (listed["count"], listed["start"]) == (2, 0), listed)
    fields = "num title status isPullRequest createdAt repo author"
    w.row("7.1 fields", all(has(d, fields) and DATE.fullmatch(d["createdAt"]) for d in listed["discussions"]), listed)
    w.row("7.1 draft", listed["discussions"][0]["status"] == "draft", listed)
    for params, nums in (
        ({"type": "pull_request"}, [2]), ({"type": "discussion"}, [1]), ({"status": "closed"}, []), ({"author": w.guest}, [2]),
        ({"p": "1"}, []),
    ):  # fmt: skip
        w.row(f"7.1 {params}", [d["num"] for d in w.ask("GET", api, params=params).json()["discussions"]] == nums)
    said = w.ask("POST", f"{api}/1/comment", json={"comment": "C"}).json()["newMessage"]
    latest = said["data"]["latest"]
    w.row("7.1 comment", has(said["data"], "edited hidden history") and has(latest, "raw html updatedAt author"), said)
    edited = w.ask("POST", f"{api}/1/comment/{said['id']}/edit", json={"content": "E"}).json()["updatedComment"]
    w.row("7.1 edit", edited["data"]["edited"] and edited["data"]["latest"]["raw"] == "E", edited)
    renamed = w.ask("POST", f"{api}/1/title", json={"title": "U"}).json()["newTitle"]
    w.row("7.1 title", renamed["type"] == "title-change" and renamed["data"] == {"from": "T", "to": "U"}, renamed)
    closed = w.ask("POST", f"{api}/1/status", json={"status": "closed", "comment": "done"}).json()["newStatus"]
    w.row("7.1 status", closed["type"] == "status-change" and closed["data"]["status"] == "closed", closed)
    hidden = w.ask("POST", f"{api}/1/comment/{said['id']}/hide").json()["updatedComment"]
    w.row("7.1 hide", hidden["data"]["hidden"], hidden)
    w.commit(f"spaces/{space}", text("pulled.txt", b"line\n"), who="guest", rev="refs%2Fpr%2F2")
    told = w.ask("GET", f"{api}/2", params={"diff": "1"}).json()
    w.row("7.1 details", "+line" in told["diff"] and told["changes"]["base"] and not told["filesWithConflicts"], told)
    event = next(e for e in told["events"] if e["type"] == "commit")
    w.row("7.1 commit event", has(event["data"], "subject oid") and has(event, "id createdAt author"), told)
    w.row("7.1 merge", (seen := w.ask("POST", f"{api}/2/merge", json={"comment": "ok"})).status_code == 200, seen)
    w.row("7.1 merge again", (seen := w.ask("POST", f"{api}/2/merge", json={})).status_code in (400, 409), seen)

    hooks = "/api/settings/webhooks"
    order = {"watched": [{"type": "user", "name": w.me}], "url": "https://example.com/x", "domains": ["repo"], "secret": "s"}
    made = w.ask("POST", hooks, json=order).json()["webhook"]
    w.row("7.2", has(made, "id watched domains disabled url") and made["secret"] != "s" and made["disabled"] is False, made)
    w.row("7.2 list", [h["id"] for h in w.ask("GET", hooks).json()] == [made["id"]])
    for path, key, value in (("", "url", "https://example.com/y"), ("/disable", "disabled", True), ("/enable", "disabled", False)):
        told = w.ask("POST", f"{hooks}/{made['id']}{path}", json={"url": "https://example.com/y"} if not path else None).json()["webhook"]
        w.row(f"7.2 update{path}", told[key] == value and told["watched"] == order["watched"], told)
    w.row("7.2 get", w.ask("GET", f"{hooks}/{made['id']}").json()["webhook"]["id"] == made["id"])
    w.row("7.2 delete", w.ask("DELETE", f"{hooks}/{made['id']}").status_code == 200)
    w.refused("7.2 gone", w.ask("GET", f"{hooks}/{made['id']}"), 404)

    collection = {"title": "My Set", "namespace": w.me, "private": False, "description": "d"}
    kept = w.ask("POST", "/api/collections", json=collection).json()
    fields = "title owner items lastUpdated position private theme upvotes description"
    w.row("7.3", re.fullmatch(rf"{w.me}/my-set-[0-9a-f]{{24}}", kept["slug"]) and has(kept, fields), kept)
    again = w.ask("POST", "/api/collections", json=collection)
    w.row("7.3 exists", again.status_code == 409 and again.json()["slug"] == kept["slug"], again)
    item = {"item": {"id": space, "type": "space"}, "note": "n"}
    told = w.ask("POST", f"/api/collections/{kept['slug']}/items", json=item).json()["items"][0]
    w.row("7.3 item", has(told, "_id id type position") and told["note"]["text"] == "n", told)
    listed = w.ask(
        "GET", "/api/collections", params={"owner": w.me, "item": f"spaces/{space}", "sort": "trending", "limit": 3, "q": "my"}
    ).json()
    w.row("7.3 list", [c["slug"] for c in listed] == [kept["slug"]], listed)
    one = f"/api/collections/{kept['slug']}/items/{told['_id']}"
    w.row("7.3 change and remove", w.ask("PATCH", one, json={"note": "m"}).is_success and w.ask("DELETE", one).is_success)
    w.row("7.3 delete", w.ask("DELETE", f"/api/collections/{kept['slug']}").is_success)

    gate, closed_to = f"/api/models/{model}/user-access-request", f"/{model}/resolve/main/.gitattributes"
    w.ask("PUT", f"/api/models/{model}/settings", json={"gated": "manual"}).raise_for_status()
    w.refused("3.1 gated", w.ask("HEAD", closed_to, "guest"), 403, "GatedRepo")
    w.refused("3.1 gated, nobody", w.ask("HEAD", closed_to, "nobody"), 401, "GatedRepo")
    w.refused("1.6 gated", w.ask("GET", f"/api/models/{model}/auth-check", "guest"), 403, "GatedRepo")
    w.row("7.4 ask", w.ask("POST", f"/{model}/ask-access", "guest", json={"why": "x"}).status_code == 200)
    pending = w.ask("GET", f"{gate}/pending").json()
    w.row("7.4 pending", has(pending[0], "timestamp status user fields") and pending[0]["user"]["user"] == w.guest, pending)
    for status in ("accepted", "rejected"):
        reply = w.ask("POST", f"{gate}/handle", json={"user": w.guest, "status": status})
        w.row(f"7.4 {status}", reply.is_success and w.ask("GET", f"{gate}/{status}").json()[0]["status"] == status, reply)
    w.row("7.4 grant", (seen := w.ask("POST", f"{gate}/grant", json={"user": w.me})).status_code < 500, seen)


def walk(url: str, token: str) -> list[str]:
    """The rows that do not hold, each with what was seen."""
    w = Walk(url, token)
    try:
        model, space = f"{w.me}/walked", f"{w.me}/walked-space"
        made = w.ask("POST", "/api/repos/create", json={"name": "walked"})
        w.row("2.1", made.status_code == 200 and made.json()["url"] == f"{url}/{model}" and made.json()["name"] == model, made)
        w.ask("POST", "/api/repos/create", json={"name": "rows", "type": "dataset"}).raise_for_status()
        w.ask("POST", "/api/repos/create", json={"name": "walked-space", "type": "space", "sdk": "gradio"}).raise_for_status()
        conventions(w, model, space)
        repositories(w, model, space)
        identity(w, model)
        history(w, model)
        files(w, model)
        spaces(w, space)
        git_doors(w, model)
        community(w, model, space)
        return w.wrong
    finally:
        w.close()


if __name__ == "__main__":
    print(*walk(*sys.argv[1:3]), sep="\n")
