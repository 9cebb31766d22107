"""Rows of the wire contract about repositories, their files and their Spaces: what is sent, what must come back, word by word."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from tests.functional.hub_api.wire import DATE, HEX40, LFS, Walk, has, text


def repositories(w: Walk, model: str, space: str) -> None:
    """Sections 2.1 to 2.6."""
    body = {"name": "walked-space", "type": "space", "sdk": "gradio", "organization": w.me}
    again = w.ask("POST", "/api/repos/create", json=body)
    told = again.json()
    w.row("2.2 exists", (told["error"], told["url"]) == ("You already created this space repo", f"{w.url}/spaces/{space}"), again)
    w.refused("2.2 no sdk", w.ask("POST", "/api/repos/create", json={"name": "n", "type": "space"}), 400, words="sdk")
    full = {
        "name": "everything", "organization": w.org, "type": "space", "visibility": "protected", "sdk": "docker", "hardware": "cpu-basic",
        "sleepTimeSeconds": -1, "secrets": [{"key": "S", "value": "v", "description": "d"}], "variables": [{"key": "V", "value": "v"}],
        "volumes": [{"type": "model", "source": model, "mountPath": "/models", "readOnly": True}], "region": "us",
        "resourceGroupId": "x", "lfsmultipartthresh": 1, "license": "mit",
        "files": [{"encoding": "utf-8", "path": "Dockerfile", "content": "FROM x"}],
    }  # fmt: skip
    made = w.ask("POST", "/api/repos/create", json=full)
    whole = f"{w.org}/everything"
    w.row("2.2 all fields", made.status_code == 200 and made.json()["name"] == whole and made.json()["id"], made)
    info = w.ask("GET", f"/api/spaces/{whole}").json()
    w.row("2.2 visibility", (info["visibility"], info["private"], info["sdk"]) == ("protected", False, "docker"), info)
    w.row("2.2 volumes", has(info["runtime"]["volumes"][0], "type source mountPath"), info)
    w.row("2.2 files", "Dockerfile" in [s["rfilename"] for s in info["siblings"]], info)
    settings = [w.ask("GET", f"/api/spaces/{whole}/{kind}").json() for kind in ("secrets", "variables")]
    w.row("2.2 settings", has(settings[0]["S"], "description updatedAt") and settings[1]["V"]["value"] == "v", settings)
    w.row("2.2 secrets", "value" not in settings[0]["S"], settings)
    for body, code in (
        ({"name": "s2", "type": "space", "template": space}, 200),
        ({"name": "s3", "type": "space", "template": "no/one"}, 400),
    ):
        w.row(f"2.2 template {code}", (reply := w.ask("POST", "/api/repos/create", json=body)).status_code == code, reply)
    card = w.ask("GET", f"/spaces/{space}/raw/main/README.md").text
    for key in ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "pinned"):
        w.row(f"2.2 card {key}", f"\n{key}: " in card, card)
    first = w.ask("GET", f"/api/spaces/{w.me}/s2/commits/main").json()[-1]
    w.row("2.2 first commit", first["title"] == "initial commit" and first["authors"][0]["user"] == w.me, first)
    attributes = w.ask("GET", f"/{model}/raw/main/.gitattributes").text.split()
    patterns = "*.bin *.pkl *.pt *.pth *.ckpt *.safetensors *.onnx *.h5 *.npy *.npz *.parquet *.arrow *.zip *.gz *.7z *.tar *.tgz *.xz"
    more = "*.zst *.model *.msgpack *.pb *.tflite *.mlmodel *.joblib *.pickle *.wasm *tfevents* saved_model/**/*"
    w.row("2.2 LFS patterns", {*patterns.split(), *more.split()} <= {*attributes}, attributes)
    w.ask("POST", "/api/repos/create", json={"name": "page", "type": "space", "sdk": "static"})
    page = w.ask("GET", f"/api/spaces/{w.me}/page").json()
    w.row("2.2 static files", {"index.html", "style.css"} <= {s["rfilename"] for s in page["siblings"]}, page)
    runtime = page["runtime"]
    w.row(
        "5.1 static", runtime["hardware"] == {"current": None, "requested": None} and runtime["stage"] in ("BUILDING", "RUNNING"), runtime
    )
    fresh = w.ask("GET", f"/api/spaces/{w.me}/s2/runtime", "nobody").json()
    w.row("5.1 fresh", (fresh["stage"], fresh["gcTimeout"], fresh["devMode"]) == ("NO_APP_FILE", 172800, False), fresh)
    w.row("5.1 shape", has(fresh, "hardware storage replicas domains") and isinstance(fresh["volumes"], list), fresh)
    w.row("5.1 domain", fresh["domains"][0]["stage"] == "READY" and "://" not in fresh["domains"][0]["domain"], fresh)
    w.refused("5.3 pause a static one", w.ask("POST", f"/api/spaces/{w.me}/page/pause"), 400)

    taken = w.ask("POST", "/api/repos/move", json={"fromRepo": f"{w.me}/s2", "toRepo": f"{w.me}/page", "type": "space"})
    w.refused("2.1 move onto another", taken, 409, words="already exists")
    w.row("2.1 move", w.ask("POST", "/api/repos/move", json={"fromRepo": f"{w.me}/s2", "toRepo": f"{w.me}/s4", "type": "space"}).is_success)
    for path in ("/api/spaces/{}", "/spaces/{}/resolve/main/README.md", "/spaces/{}/info/refs?service=git-upload-pack"):
        old = w.ask("GET", path.format(f"{w.me}/s2"))
        w.row(f"2.1 old name {path}", old.status_code == 307 and f"{w.me}/s4" in old.headers["location"], old)
    missing = {"name": "absent", "organization": None, "type": "dataset"}
    w.refused("2.1 delete nothing", w.ask("DELETE", "/api/repos/delete", json=missing), 404, "RepoNotFound")
    w.row("2.1 delete", w.ask("DELETE", "/api/repos/delete", json={"name": "s4", "organization": None, "type": "space"}).status_code == 200)
    for change in (
        {"private": True},
        {"visibility": "protected"},
        {"visibility": "public"},
        {"discussionsDisabled": True},
        {"xetEnabled": True},
    ):
        w.row(f"2.1 settings {change}", (reply := w.ask("PUT", f"/api/spaces/{w.me}/page/settings", json=change)).is_success, reply)
    w.refused("7.1 disabled discussions", w.ask("HEAD", f"/api/spaces/{w.me}/page/discussions"), 403, words="disabled")
    w.row("7.1 enabled discussions", w.ask("HEAD", f"/api/spaces/{space}/discussions").status_code == 200)
    w.row("2.1 templates", isinstance(w.ask("GET", "/api/spaces/templates", "nobody").json()["templates"], list))

    copy = w.ask("POST", f"/api/spaces/{whole}/duplicate", json={"repository": f"{w.me}/copy", "private": True, "hardware": "cpu-basic"})
    w.row("2.5", copy.json()["url"] == f"{w.url}/spaces/{w.me}/copy" and copy.json()["filesCopyPending"] is False, copy)
    info = w.ask("GET", f"/api/spaces/{w.me}/copy").json()
    w.row(
        "2.5 copied",
        info["originSpace"]["name"] == whole and info["private"] and info["runtime"]["hardware"]["requested"] == "cpu-basic",
        info,
    )
    w.row("2.5 variables", w.ask("GET", f"/api/spaces/{w.me}/copy/variables").json()["V"]["value"] == "v")
    w.row("2.5 no secrets", w.ask("GET", f"/api/spaces/{w.me}/copy/secrets").json() == {})
    again = w.ask("POST", f"/api/spaces/{whole}/duplicate", json={"repository": f"{w.me}/copy"})
    w.row("2.5 exists", again.status_code == 409 and again.json()["url"] == f"{w.url}/spaces/{w.me}/copy", again)
    w.refused("2.5 of nothing", w.ask("POST", f"/api/spaces/{w.me}/absent/duplicate", json={"repository": "x"}), 404, "RepoNotFound")

    for kind, order in (("models", model), ("datasets", f"{w.me}/rows"), ("spaces", space)):
        for sort in ("lastModified", "trendingScore", "createdAt", "likes", "downloads"):
            listed = w.ask("GET", f"/api/{kind}", params={"author": w.me, "sort": sort, "direction": "-1", "limit": 5, "linked": "true"})
            w.row(f"2.3 {kind} {sort}", order in [r["id"] for r in listed.json()] and not has(listed.json()[0], "siblings"), listed)
        rich = w.ask("GET", f"/api/{kind}", params={"author": w.me, "full": "True"}).json()
        w.row(f"2.3 {kind} full", all(has(r, "sha lastModified siblings") for r in rich), rich)
        w.row(f"2.3 {kind} tags", isinstance(w.ask("GET", "/api/models-tags-by-type").json(), dict))
    found = w.ask("GET", "/api/spaces/semantic-search", params={"q": "walked", "sdk": "gradio", "includeNonRunning": "true"}).json()
    fields = "author title emoji sdk likes private tags runtime semanticRelevancyScore trendingScore"
    more = "ai_short_description ai_category"
    w.row("2.3 search", [r["id"] for r in found if r["author"] == w.me] == [space] and has(found[0], f"{fields} {more}"), found)
    info = w.ask("GET", f"/api/spaces/{space}").json()
    fields = "_id author title emoji colorFrom colorTo pinned visibility gated disabled likes usedStorage"
    more = "trendingScore sdk tags models datasets cardData runtime subdomain siblings"
    w.row("2.4", has(info, f"{fields} {more}") and re.fullmatch(r"[0-9a-f]{24}", info["_id"]) and HEX40.fullmatch(info["sha"]), info)
    w.row("2.4 host", re.fullmatch(rf"https?://{info['subdomain']}\.[^/]+", info["host"]), info)
    at = w.ask("GET", f"/api/spaces/{space}/revision/main", params={"securityStatus": "true"}).json()
    w.row("2.4 revision", at["sha"] == info["sha"] and has(at, "securityRepoStatus"), at)
    for rev in ("nowhere", "refs%2Fpr%2F99", "0" * 40):
        w.refused(f"2.4 {rev}", w.ask("GET", f"/api/spaces/{space}/revision/{rev}"), 404, "RevisionNotFound")
    old = w.ask("GET", f"/api/models/{model}?expand=xetEnabled").json()
    w.row("2.4 xetEnabled", old.keys() == {"_id", "id", "xetEnabled"} and isinstance(old["xetEnabled"], bool), old)
    for path, who in ((f"{space}/host", "nobody"), (f"by-subdomain/{info['subdomain']}", "nobody"), (f"{space}/jwt", "me")):
        told = w.ask("GET", f"/api/spaces/{path}", who).json()
        w.row(f"2.4 {path}", told.get("host") == info["host"] or told.get("token") or told["runtime"]["stage"], told)
    for method, count in (("POST", 1), ("DELETE", 0)):
        w.row(f"2.6 {method}", w.ask(method, f"/api/spaces/{space}/like").status_code == 200)
        likers = w.ask("GET", f"/api/spaces/{space}/likers").json()
        w.row(f"2.6 after {method}", len(likers) == count and all(has(one, "user fullname avatarUrl") for one in likers), likers)


def history(w: Walk, model: str) -> None:
    """Section 2.7."""
    api = f"/api/models/{model}"
    w.row("2.7 branch", w.ask("POST", f"{api}/branch/side%2Fone", json={"startingPoint": "main"}).status_code == 200)
    again = w.ask("POST", f"{api}/branch/side%2Fone", json={})
    w.refused("2.7 branch again", again, 409, words="Reference refs/heads/side/one already exists")
    w.refused("2.7 bad start", w.ask("POST", f"{api}/branch/b", json={"startingPoint": "nope"}), 404, "RevisionNotFound")
    w.row("2.7 overwrite", w.ask("POST", f"{api}/branch/side%2Fone", json={"overwrite": True}).status_code == 200)
    w.row("2.7 emptyBranch", (reply := w.ask("POST", f"{api}/branch/bare", json={"emptyBranch": True})).status_code == 200, reply)
    w.row("2.7 empty tree", (reply := w.ask("GET", f"{api}/tree/bare")).json() == [], reply)
    w.row("2.7 empty history", len((reply := w.ask("GET", f"{api}/commits/bare")).json()) == 1, reply)
    for path, status in (("branch/main", 403), ("branch/nope", 404), ("tag/nope", 404)):
        w.refused(f"2.7 DELETE {path}", w.ask("DELETE", f"{api}/{path}"), status, "RevisionNotFound" if status == 404 else "")
    w.row("2.7 tag", w.ask("POST", f"{api}/tag/main", json={"tag": "v1", "message": "m"}).status_code == 200)
    w.refused("2.7 tag again", w.ask("POST", f"{api}/tag/main", json={"tag": "v1"}), 409, words="Reference refs/tags/v1 already exists")
    refs = w.ask("GET", f"{api}/refs?include_prs=1").json()
    every = [r for group in ("branches", "converts", "tags", "pullRequests") for r in refs[group]]
    w.row("2.7 refs", all(HEX40.fullmatch(r["targetCommit"]) and r["ref"].startswith("refs/") and r["name"] for r in every), refs)
    w.row("2.7 pull requests", refs["pullRequests"] and "pullRequests" not in w.ask("GET", f"{api}/refs").json(), refs)
    past = w.ask("GET", f"{api}/commits/main?expand[]=formatted").json()
    w.row(
        "2.7 commits",
        all(has(c, "id title message date authors formatted") and DATE.fullmatch(c["date"]) for c in past),
        past,
    )
    w.commit(f"models/{model}", text("sub/deep/a.txt"), text("sub/é b.txt"))
    for path in ("sub%2Fdeep", "sub/deep"):
        w.row(f"2.7 tree/{path}", [e["path"] for e in w.ask("GET", f"{api}/tree/main/{path}").json()] == ["sub/deep/a.txt"])
    for path in ("sub%2Fnope", ".gitattributes"):
        w.refused(f"2.7 tree of {path}", w.ask("GET", f"{api}/tree/main/{path}"), 404, "EntryNotFound")
    told = w.ask("GET", f"{api}/tree/main?recursive=True&expand=True").json()
    w.row("2.7 entries", all(has(e, "type path oid size") and has(e["lastCommit"], "id title date") for e in told), told)
    paged = w.ask("GET", f"{api}/tree/main?recursive=true&limit=1")
    w.row("2.7 next", "recursive=true" in paged.headers["link"] and "limit=1" in paged.headers["link"], paged)
    form = {"paths": ["sub", "sub/é b.txt", "nope"], "expand": "false"}
    for how in ({"data": form}, {"json": {**form, "expand": False}}):
        named = w.ask("POST", f"{api}/paths-info/main", "guest", **how).json()
        w.row("2.7 paths-info", {(e["path"], e["type"]) for e in named} == {("sub", "directory"), ("sub/é b.txt", "file")}, named)
    w.refused("2.7 1,001 paths", w.ask("POST", f"{api}/paths-info/main", data={"paths": ["x"] * 1001}), 413, words="1000")
    w.row("2.7 squash", w.ask("POST", f"{api}/super-squash/side%2Fone", json={"message": "One"}).status_code == 200)
    w.row("2.7 squashed", [c["title"] for c in w.ask("GET", f"{api}/commits/side%2Fone").json()] == ["One"])
    for path in ("branch/side%2Fone", "branch/bare", "tag/v1"):
        w.row(f"2.7 DELETE {path}", w.ask("DELETE", f"{api}/{path}").status_code == 200)


def files(w: Walk, model: str) -> None:
    """Sections 3 and 4."""
    api, data = f"models/{model}", b"\0binary" * 1000
    oid = hashlib.sha256(data).hexdigest()
    offered = (
        ("a.bin", b"text", 4), ("b.dat", b"\0\1", 2), ("c.txt", b"text", 11 << 20), ("d.txt", b"text", 4),
        ("e.bin", b"", 0), ("f.log", b"l", 1),
    )  # fmt: skip
    samples = [{"path": path, "sample": base64.b64encode(sample).decode(), "size": size} for path, sample, size in offered]
    asked = {"files": samples, "gitIgnore": "*.log\n"}
    before = w.ask("POST", f"/api/{api}/preupload/main", json=asked).json()
    modes = {f["path"]: (f["uploadMode"], f["shouldIgnore"]) for f in before["files"]}
    expected = {"a.bin": ("lfs", False), "b.dat": ("lfs", False), "c.txt": ("lfs", False), "d.txt": ("regular", False)}
    w.row(
        "4.2",
        modes == {**expected, "e.bin": ("regular", False), "f.log": ("regular", True)} and HEX40.fullmatch(before["commitOid"]),
        before,
    )
    w.refused("4.2 rights", w.ask("POST", f"/api/{api}/preupload/main", "guest", json=asked), 403)
    w.row("4.2 with create_pr", w.ask("POST", f"/api/{api}/preupload/main?create_pr=1", "guest", json=asked).status_code == 200)
    w.refused("4.2 revision", w.ask("POST", f"/api/{api}/preupload/nope", json=asked), 404, "RevisionNotFound")

    batch = f"/{model}.git/info/lfs/objects/batch"
    order = {
        "operation": "upload",
        "transfers": ["basic", "multipart", "xet"],
        "objects": [{"oid": oid, "size": len(data)}],
        "hash_algo": "sha256",
    }
    reply = w.ask("POST", batch, headers=LFS, json=order)
    actions = reply.json()["objects"][0]["actions"]
    w.row("4.4 batch", reply.json()["transfer"] == "basic" and reply.headers["content-type"].startswith(LFS["Accept"]), reply)
    put = actions["upload"]["href"].removeprefix(w.url)
    w.row("4.4 other bytes", (seen := w.ask("PUT", put, "nobody", content=data[:-1] + b"!")).status_code == 422, seen)
    missing = w.ask("POST", actions["verify"]["href"].removeprefix(w.url), headers=LFS, json={"oid": oid, "size": len(data)})
    w.row("4.4 verify of nothing", missing.status_code in (404, 422), missing)
    unknown = [{"key": "lfsFile", "value": {"path": f"{n}.bin", "algo": "sha256", "oid": str(n) * 64, "size": 1}} for n in (1, 2)]
    reply = w.commit(api, *unknown)
    w.refused("4.5 unknown objects", reply, 422, "UnknownLfsObject")
    w.row("4.5 lists the oids", all(str(n) * 64 in reply.text for n in (1, 2)), reply)
    w.row("4.4 PUT", w.ask("PUT", put, "nobody", content=data).is_success)
    verified = w.ask("POST", actions["verify"]["href"].removeprefix(w.url), headers=LFS, json={"oid": oid, "size": len(data)})
    w.row("4.4 verify", verified.status_code == 200, verified)
    w.row("4.4 stored", "actions" not in w.ask("POST", batch, headers=LFS, json=order).json()["objects"][0])
    large = {"key": "lfsFile", "value": {"path": "m/a b.bin", "algo": "sha256", "oid": oid}}  # without a size: as a copy is named
    made = w.commit(api, large, text("page.html", b"<script>1</script>"), text("note é.txt", b"0123456789"))
    w.row("4.5", has(made.json(), "success commitOid commitUrl") and made.json()["hookOutput"] == "", made)
    head = made.json()["commitOid"]
    same = w.ask("POST", f"/api/{api}/preupload/main", json={"files": [{"path": "m/a b.bin", "sample": "", "size": 7000}]}).json()
    w.row("4.2 oid", same["files"][0]["oid"] == oid, same)

    for rev in ("main", head, head[:10], "refs%2Fheads%2Fmain"):
        seen = w.ask("HEAD", f"/{model}/resolve/{rev}/m/a%20b.bin", "guest", headers={"Accept-Encoding": "identity"})
        told = [seen.headers.get(n) for n in ("x-repo-commit", "etag", "x-linked-etag", "x-linked-size", "content-length", "accept-ranges")]
        w.row(f"3.1 HEAD {rev[:6]}", told == [head, f'"{oid}"', f'"{oid}"', str(len(data)), str(len(data)), "bytes"], seen)
        w.row("3.4 no Xet headers", "x-xet-hash" not in seen.headers and "link" not in seen.headers, seen)
        w.row(f"3.1 cache {rev[:6]}", ("immutable" in seen.headers["cache-control"]) == (rev == head), seen)
    note = f"/{model}/resolve/main/note%20%C3%A9.txt"
    for asked_for, status, length in (
        ("bytes=2-4", 206, "bytes 2-4/10"),
        ("bytes=5-", 206, "bytes 5-9/10"),
        ("bytes=99-", 416, "bytes */10"),
    ):
        part = w.ask("GET", note, headers={"Range": asked_for})
        w.row(f"3.1 {asked_for}", (part.status_code, part.headers.get("content-range")) == (status, length), part)
    shown = w.ask("GET", note)
    blob = hashlib.sha1(b"blob 10\x000123456789").hexdigest()
    w.row("3.1 git's own name", shown.headers["etag"] == f'"{blob}"', shown)
    named = shown.headers["content-disposition"]
    w.row("3.1 disposition", named.startswith("inline; filename*=UTF-8''note%20%C3%A9.txt; filename="), shown)
    page = w.ask("GET", f"/{model}/resolve/main/page.html")
    w.row(
        "3.1 pages are text",
        page.headers["content-type"].startswith("text/plain") and "sandbox" in page.headers["content-security-policy"],
        page,
    )
    for path, code in (("main/nope", "EntryNotFound"), ("main/m", "EntryNotFound"), ("nope/x", "RevisionNotFound")):
        lost = w.ask("HEAD", f"/{model}/resolve/{path}")
        w.refused(f"3.1 {path}", lost, 404, code)
        w.row(f"3.1 {path} commit", code != "EntryNotFound" or HEX40.fullmatch(lost.headers["x-repo-commit"]), lost)
    pointer = w.ask("GET", f"/{model}/raw/main/m/a%20b.bin").text
    w.row("3.4 raw", pointer.startswith("version https://git-lfs") and oid in pointer, pointer)

    bad = w.ask("POST", "/api/validate-yaml", "nobody", json={"content": "---\nsdk: gradio\nemoji: no\n---\n", "repoType": "space"})
    w.row("4.1", bad.status_code == 400 and bad.json()["errors"][0]["message"] and isinstance(bad.json()["warnings"], list), bad)
    w.refused("4.5 no branch", w.commit(api, text("x"), rev="nope"), 404, "RevisionNotFound")
    w.refused("4.5 no branch for a pull request", w.commit(api, text("x"), rev="nope", params={"create_pr": "1"}), 404, "RevisionNotFound")
    w.refused("4.5 rights", w.commit(api, text("x"), who="guest"), 403)
    pull = w.commit(api, text("idea"), who="guest", params={"create_pr": "1"})
    w.row("4.5 a reader's pull request", re.fullmatch(rf"{w.url}/{model}/discussions/\d+", pull.json()["pullRequestUrl"]), pull)
    w.refused(
        "4.5 parent", w.commit(api, text("x"), header={"parentCommit": "1" * 40}), 412, words="The branch was updated since you opened"
    )
    gone = w.commit(api, {"key": "deletedFile", "value": {"path": "never"}})
    w.refused("4.5 delete nothing", gone, 404, "EntryNotFound", "A file with this name doesn't exist")
    for path in ("/a", "../a", "a\\b", "a//b", ".git/x"):
        reply = w.commit(api, text(path))
        w.refused(f"4.5 {path}", reply, 422)
        w.row(f"4.5 names {path}", path.replace("\\", "\\\\") in reply.text or path in reply.json()["error"], reply)
    card = w.commit(api, text("README.md", b"---\n- [\n---\n"))
    w.refused("4.5 README", card, 400)
    twice = [w.commit(api, text("twice.txt")).json()["commitOid"] for _ in range(2)]
    w.row("4.5 again", all(map(HEX40.fullmatch, twice)), twice)
    for path in ("m", "m/"):
        w.commit(api, text("m/kept.txt"))
        key = "deletedFolder" if path.endswith("/") else "deletedFile"
        w.row(f"4.5 {key} {path}", (reply := w.commit(api, {"key": key, "value": {"path": path}})).status_code == 200, reply)

    for word, who, status in (("write", "me", 200), ("read", "guest", 200), ("write", "guest", 403)):
        for rev in ("main", "None"):
            reply = w.ask("GET", f"/api/{api}/xet-{word}-token/{rev}", who)
            w.row(f"4.7 {word} {who} {rev}", reply.status_code == status, reply)
            if status == 200:
                granted = reply.json()
                here = (reply.headers["x-xet-cas-url"], reply.headers["x-xet-access-token"], int(reply.headers["x-xet-token-expiration"]))
                w.row("4.7 body and headers", here == (granted["casUrl"], granted["accessToken"], granted["exp"]), reply)
    cas, xet = granted["casUrl"].removeprefix(w.url), {"Authorization": f"Bearer {granted['accessToken']}"}
    w.row("4.7 probe", (seen := w.ask("GET", f"{cas}/v1/chunks/default/{'0' * 64}", "nobody", headers=xet)).status_code == 404, seen)
    mine = {"Authorization": f"Bearer {w.ask('GET', f'/api/{api}/xet-write-token/main').json()['accessToken']}"}
    grant = {"length": 1, "checksum": {"algo": "crc64nvme", "value": "x"}}
    w.row("4.7 grants", w.ask("POST", f"{cas}/v1/xorb-grants/default/{'0' * 64}", "nobody", headers=mine, json=grant).status_code == 404)
    w.row("4.7 bad xorb", w.ask("POST", f"{cas}/v1/xorbs/default/{'0' * 64}", "nobody", headers=mine, content=b"x").status_code == 400)
    w.row("4.7 telemetry", w.ask("POST", "/v1/telemetry", "nobody", content=b"{}").status_code in (200, 204, 404))


def spaces(w: Walk, space: str) -> None:
    """Section 5, as far as it needs no running app."""
    api = f"/api/spaces/{space}"
    w.commit(f"spaces/{space}", text("app.py", b"print(1)\n"))
    stage = w.ask("GET", f"{api}/runtime").json()
    w.row("5.1.1 at once", stage["stage"] != "NO_APP_FILE", stage)  # on a live platform the build may be over by now
    orders: tuple[tuple[str, dict[str, object], str, object], ...] = (
        ("hardware", {"flavor": "t4-small", "sleepTimeSeconds": 3600}, "gcTimeout", 3600),
        ("sleeptime", {"seconds": -1}, "gcTimeout", None),
        ("replicas", {"replicas": 1}, "devMode", False), ("dev-mode", {"enabled": False}, "devMode", False),
    )  # fmt: skip
    for path, body, key, value in orders:
        reply = w.ask("POST", f"{api}/{path}", json=body)
        w.row(f"5.3 {path}", reply.status_code == 200 and reply.json()["stage"] and reply.json()[key] == value, reply)
    w.refused("5.2 unknown flavor", w.ask("POST", f"{api}/hardware", json={"flavor": "abacus"}), 400, words="abacus")
    for path in ("hardware", "sleeptime", "pause", "restart", "replicas", "dev-mode", "storage"):
        body = {"flavor": "cpu-basic", "seconds": 60, "replicas": 1, "enabled": True, "tier": "small"}
        w.refused(f"5.3 {path} of others", w.ask("POST", f"{api}/{path}", "guest", json=body), 403)
        w.refused(f"5.3 {path} of nobody's", w.ask("POST", f"/api/spaces/{w.me}/absent/{path}", json=body), 404, "RepoNotFound")
    w.refused("5.3 dev mode", w.ask("POST", f"{api}/dev-mode", json={"enabled": True}), 400, words="dev mode")
    flavors = w.ask("GET", "/api/spaces/hardware", "nobody").json()
    fields = "name prettyName cpu ram unitCostMicroUSD unitCostUSD unitLabel accelerator"
    w.row("5.2 list", all(has(f, fields) and f["cpu"].endswith(" vCPU") and f["ram"].endswith(" GB") for f in flavors), flavors)
    gpu = next(f["accelerator"] for f in flavors if f["name"] == "a10g-largex2")
    w.row("5.2 accelerator", {k: gpu[k] for k in ("model", "quantity", "vram")} == {"model": "A10G", "quantity": "2", "vram": "48 GB"}, gpu)
    known = {
        "cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "a10g-small", "a10g-large", "a10g-largex2", "a10g-largex4", "a100-large",
    }  # fmt: skip
    w.row("5.2 flavors", known <= {f["name"] for f in flavors}, known - {f["name"] for f in flavors})
    w.row("5.2 quota", has(w.ask("GET", "/api/spaces/zero-gpu/quota").json(), "base current"))
    w.row("5.2 quota of nobody", (seen := w.ask("GET", "/api/spaces/zero-gpu/quota", "nobody")).status_code == 401, seen)

    for kind, other in (("secrets", "variables"), ("variables", "secrets")):
        key = f"K_{kind}"
        setting = {"key": key, "value": "1", "description": "d"}
        w.row(f"5.4 {kind}", w.ask("POST", f"{api}/{kind}", json=setting).status_code == 200)
        told = w.ask("GET", f"{api}/{kind}").json()
        w.row(f"5.4 {kind} map", has(told[key], "description updatedAt") and ("value" in told[key]) == (kind == "variables"), told)
        w.refused(f"5.4 both {kind}", w.ask("POST", f"{api}/{other}", json=setting), 400, words="already")
        w.refused(f"5.4 key {kind}", w.ask("POST", f"{api}/{kind}", json={"key": "1-x", "value": ""}), 400)
        w.refused(f"5.4 {kind} of others", w.ask("GET", f"{api}/{kind}", "guest"), 403)
        for _ in range(2):
            w.row(f"5.4 DELETE {kind}", (seen := w.ask("DELETE", f"{api}/{kind}", json={"key": key})).json() == {}, seen)
    for which in ("build", "run"):
        w.row(f"5.6 {which} of others", w.ask("GET", f"{api}/logs/{which}", "guest").status_code == 403)
    with w.client.stream("GET", f"{api}/events") as events:
        first = next(events.iter_lines())
        told = [events.headers.get(n, "") for n in ("content-type", "x-accel-buffering", "cache-control", "date", "content-encoding")]
        w.row(
            "5.6 stream",
            told[0].startswith("text/event-stream") and told[1] == "no" and "no-cache" in told[2] and told[3] and not told[4],
            told,
        )
        w.row("5.6 first event", first.startswith("data: {") and json.loads(first[6:])["stage"], first)
    w.row("5.7 unsupported", w.commit(f"spaces/{space}", text("app.py", b"print(2)\n"), params={"hot_reload": "1"}).status_code == 200)
    w.row("5.7 runtime", "hotReloading" not in w.ask("GET", f"{api}/runtime").json())
    paused = w.ask("POST", f"{api}/pause").json()
    w.row("5.3 pause", paused["stage"] == "PAUSED", paused)
    w.row("5.3 restart", w.ask("POST", f"{api}/restart?factory=true").json()["stage"] == "BUILDING")
    w.ask("POST", f"{api}/pause")
