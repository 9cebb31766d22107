"""A platform run day to day: the installed `vitrine admin` against a running `vitrine up`, on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import PLAIN, Platform, Work, start_platform, stop_platform
from tests.e2e.operators import Operator, running_operator
from tests.e2e.recount import Recount
from tests.e2e.surfaces import APP, PASSWORD, Rights, Tunnel, app_cookie, browser_of, furnish, seconds_until_refused
from tests.e2e.test_push_to_live import child_named, signed_in, wait_for
from tests.functional.admin.lines import LINES, assert_readable


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def operator(request: pytest.FixtureRequest) -> Iterator[Operator]:
    with running_operator(request.param) as running:
        yield running


@pytest.fixture
def clone(operator: Operator, tmp_path: Path) -> Callable[..., Work]:
    def make(name: str) -> Work:
        operator.platform.create(name)
        return Work(operator.platform, name, tmp_path / name)

    return make


def test_everyday_commands(operator: Operator) -> None:
    run, as_json = operator.run, operator.json
    assert run("user", "add", "ann", "--email", "ann@example.org", "--quiet") == "ann\n"
    run("user", "add", "boss", "--admin", "--password-stdin", stdin="long enough words\n")
    assert {row["name"] for row in as_json("user", "list")} >= {"admin", "ann", "boss"}
    run("org", "add", "research")
    run("org", "member", "research", "ann", "--role", "write")
    token = run("token", "add", "ann", "--role", "write", "--expires", "30d", "--quiet").strip()
    me = operator.platform.api("GET", "/api/whoami-v2", token=token).json()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("ann", ["research"])
    link = run("user", "link", "ann", "--quiet").strip()
    page = platform_page(operator.platform, link.partition(f":{operator.platform.port}")[2])
    assert (page.status_code, "Sign in" in page.text) == (200, True), "opening it does not use it up"
    assert link.partition("token=")[2] not in run("audit", "--json")
    assert "no user 'nobody'" in run("user", "link", "nobody", code=1)
    [row] = as_json("token", "list", "ann")
    run("token", "revoke", row["id"])
    assert operator.platform.api("GET", "/api/whoami-v2", token=token).status_code == 401
    assert run("audit", "--verify", "--quiet") == "ok\n"
    assert "--yes" in run("user", "remove", "boss", code=2)
    run("user", "remove", "boss", "--yes")
    assert "no account 'nobody'" in run("quota", "set", "nobody", "spaces=1", code=1)
    for bad in ("spaces=-1", "spaces=1e9", "spaces=1.5", "storage-gb=5GB", "running.t5=1", "spaces=99999999999999", "gpu_hours=1"):
        operator.quick("quota", "set", "ann", bad, code=1)
    assert "does not answer" in run("user", "list", "--endpoint", "http://127.0.0.1:1", "--token", "x", code=1)


def test_every_command_by_the_script(operator: Operator, clone: Callable[..., Work], tmp_path: Path) -> None:
    """As people and as machines call it by turns, the other way round on the other database; all ways of all: admin/test_sweep.py."""
    work = clone("demo-all")
    work.write(app__py=APP)
    assert "Live at" in work.push("one")
    facts = {"v": "all", "me": "admin", "tmp": str(tmp_path), "token": "", "build": ""}
    for number, (line, _) in enumerate(LINES):
        if "{token}" in line:
            facts["token"] = operator.json("token", "list", "ann-all")[0]["id"]
        if "{build}" in line:
            facts["build"] = operator.json("build", "list", "--space", "admin/demo-all")[0]["id"]
        command = line.format(**facts)
        as_json = (number % 2 == 0) is bool(operator.empty_database)
        text = operator.run(*command.split(), *(("--json",) if as_json else ()))
        if as_json:
            json.loads(text)
        else:
            assert_readable(command, text)


def test_a_quota_is_said_in_the_answer_in_the_push_and_on_the_page(operator: Operator, clone: Callable[..., Work]) -> None:
    platform = operator.platform
    work = clone("big")
    used = {row["key"]: row["used"] for row in operator.json("quota", "show", "admin")}
    operator.run("quota", "set", "admin", f"spaces={used['spaces']:g}")
    refused = platform.api("POST", "/api/repos/create", json={"name": "more", "type": "space", "sdk": "static"})
    assert (refused.status_code, refused.headers["x-error-code"]) == (403, "QuotaExceeded")
    assert {"key": "spaces", "limit": used["spaces"], "used": used["spaces"]}.items() <= refused.json().items()
    operator.run("quota", "unset", "admin", "spaces")

    said = operator.run("quota", "set", "admin", "storage-gb=0.002", "--dry-run")
    assert "Nothing was changed" in said
    operator.run("quota", "set", "admin", "storage-gb=0.002")
    (work.folder / "blob.bin").write_bytes(os.urandom(4_000_000))
    output = work.push("too much", ok=False)
    assert "Quota 'storage-gb' of admin is reached: limit 0.002" in output
    lfs = platform.api(
        "POST", "/spaces/admin/big.git/info/lfs/objects/batch",
        json={"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "a" * 64, "size": 5_000_000}]},
    )  # fmt: skip
    assert lfs.status_code in (403, 507), lfs.text
    assert "storage-gb" in lfs.text
    after = {row["key"]: row["used"] for row in operator.json("quota", "show", "admin")}
    assert after["storage-gb"] < 0.002, "what was refused is not counted"
    operator.run("quota", "unset", "admin", "storage-gb")

    work.git("reset", "-q", "--hard", "HEAD~1")
    operator.run("quota", "set", "admin", "running=0")
    work.write(app__py=APP)
    assert "Not live: built, and asleep until its owner's quota has room" in work.push("app")
    found = platform.until("big", "SLEEPING", seconds=10)
    assert found["stage"] == "SLEEPING"
    assert found["reason"]["code"] == "QUOTA"  # type: ignore[index]
    assert "limit 0" in found["reason"]["message"]  # type: ignore[index]
    refused = platform.app("admin-big", headers={"Accept": "application/json"}, timeout=30)
    assert (refused.status_code, refused.headers["x-vitrine-error"], refused.json()["reason"]) == (503, "WAKE_REFUSED", "QUOTA")
    operator.run("quota", "unset", "admin", "running")
    assert platform.app("admin-big").text == "TEXT"


@pytest.mark.timeout(900)  # six restarts, each waited for
@pytest.mark.parametrize("operator", ["postgresql"], indirect=True)  # on both: the ledger's histories with deaths, tests/unit/accounts
def test_counters_equal_a_recount_after_kill_9_in_the_middle_of_everything(operator: Operator, tmp_path: Path) -> None:
    """Of a push, an upload, a build, a start and a change of hardware; and nobody has to mend anything."""
    platform = operator.platform
    operator.run("user", "add", "worn")
    token = operator.run("token", "add", "worn", "--role", "write", "--quiet").strip()
    asked = partial(platform.api, token=token, timeout=60)
    assert asked("POST", "/api/repos/create", json={"name": "app", "type": "space", "sdk": "gradio"}).status_code == 200
    work = Work(platform, "app", tmp_path / "app", owner="worn", token=token)
    recount = Recount(platform.data_dir, operator.database_url, "worn")

    def kill(*components: str) -> None:
        for component in components:
            os.kill(child_named(platform.process.pid, component), signal.SIGKILL)
        wait_for(partial(signed_in, platform), 60, f"{components} are not back")

    def now(path: str = "/api/spaces/worn/app/runtime") -> Any:
        return asked("GET", path).json()

    def builds() -> Any:
        return platform.api("GET", "/api/admin/builds", params={"space": "worn/app"}).json()["items"]

    def of_platform() -> dict[str, float]:
        found = {row["key"]: row["used"] for row in operator.platform.api("GET", "/api/admin/quotas/worn").json()["items"]}
        return {key: found[key] for key in ("spaces", "running", "vcpu", "memory-gb", "storage-gb")}

    large = os.urandom(3_000_000)
    order = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": hashlib.sha256(large).hexdigest(), "size": len(large)}]}
    batch = asked("POST", "/spaces/worn/app.git/info/lfs/objects/batch", json=order).json()
    address = urlsplit(batch["objects"][0]["actions"]["upload"]["href"])
    head = f"PUT {address.path}?{address.query} HTTP/1.1\r\nHost: localhost:{platform.port}\r\nContent-Length: {len(large)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", platform.port), 60) as upload:
        upload.sendall(head.encode() + large[:1_000_000])
        wait_for(lambda: any((platform.data_dir / "lfs" / "incoming").iterdir()), 60, "nothing comes in")
        assert of_platform()["storage-gb"] >= 0.003, "it has room while it comes in"
        kill("api")

    work.write(app__py=f"import time\ntime.sleep(1)\n{APP}")
    (work.folder / "blob.bin").write_bytes(os.urandom(8_000_000))
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(work.push, "much", wait=False, ok=False)
        wait_for(lambda: pushed.done() or any((platform.data_dir / "repos").glob("*/objects/*incoming*")), 60, "nothing comes in")
        kill("api")
        pushed.result(280)
    work.push("again", wait=False)
    wait_for(lambda: any(b["revision"] == work.commit_id() and b["started_at"] for b in builds()), 60, "no build")
    kill("builder")
    wait_for(lambda: now()["stage"] in ("APP_STARTING", "RUNNING"), 60, "it does not start")
    kill("scheduler")
    wait_for(lambda: now()["stage"] == "RUNNING", 60, "it does not run")
    assert asked("POST", "/api/spaces/worn/app/hardware", json={"flavor": "cpu-upgrade"}).status_code == 200
    kill("scheduler", "api")

    wait_for(lambda: (now()["stage"], now()["hardware"]["current"]) == ("RUNNING", "cpu-upgrade"), 60, "the new hardware does not serve")
    wait_for(lambda: recount.processes("app") == 1, 60, "one copy of the app")
    end = time.monotonic() + 60
    while (found := of_platform()) != (counted := pytest.approx(recount.counters(), abs=1e-6)) and time.monotonic() < end:
        time.sleep(0.2)
    assert found == counted, "figures are rounded to a millionth"
    assert (found["spaces"], found["running"], found["vcpu"], found["memory-gb"]) == (1, 1, 8, 32)
    written, ended = recount.metered()
    assert written == pytest.approx(ended)
    assert ended["build-minutes"] > 0 and ended["hours"] > 0


def test_a_hundred_requests_at_once_take_what_there_is_room_for(operator: Operator) -> None:
    operator.run("user", "add", "crowd")
    token = operator.run("token", "add", "crowd", "--role", "write", "--quiet").strip()
    operator.run("quota", "set", "crowd", "spaces=5")

    def create(number: int) -> int:
        body = {"name": f"s{number}", "type": "space", "sdk": "static"}
        for _ in range(60):
            status = operator.platform.api("POST", "/api/repos/create", token=token, json=body, timeout=120).status_code
            if status != 503:  # a crowd on a busy machine: come again, as clients do
                break
        return 200 if status == 409 else status  # made the last time, when the answer was lost

    with ThreadPoolExecutor(100) as pool:
        answers = Counter(pool.map(create, range(100)))
    assert answers == {200: 5, 403: 95}
    used = {row["key"]: row["used"] for row in operator.json("quota", "show", "crowd")}
    assert used["spaces"] == 5 == len(operator.json("space", "list", "--owner", "crowd"))


def test_maintenance_lets_read_and_run_and_refuses_the_rest_in_words(operator: Operator, clone: Callable[..., Work]) -> None:
    platform = operator.platform
    work = clone("calm")
    work.write(app__py=APP)
    assert "Live at" in work.push("one")
    operator.run("maintenance", "on", "--message", "New disks until six.")
    try:
        work.write(app__py=APP.replace("TEXT", "other"))
        assert "New disks until six." in work.push("two", ok=False)
        refused = platform.api("POST", "/api/repos/create", json={"name": "later", "type": "model"})
        assert (refused.status_code, refused.headers["x-error-code"]) == (503, "Maintenance")
        assert refused.headers["retry-after"]
        assert refused.json()["error"] == "New disks until six."
        assert platform.app("admin-calm").text == "TEXT"
        assert "New disks until six." in platform.api("GET", "/").text
        assert work.git("fetch", "-q").returncode == 0
        operator.run("user", "add", "made-meanwhile")
    finally:
        operator.run("maintenance", "off")
    assert "Live at" in work.push("three")
    wait_for(lambda: platform.app("admin-calm").text == "other", 60, "the new version does not serve")


def platform_page(platform: Platform, path: str) -> httpx.Response:
    headers = {"Host": f"localhost:{platform.port}", "Accept": "text/html"}
    return httpx.get(f"http://127.0.0.1:{platform.port}{path}", headers=headers, timeout=60, verify=PLAIN)


def _is_shut(platform: Platform, subdomain: str, headers: dict[str, str]) -> bool:
    return platform.app(subdomain, headers=headers).status_code != 200


def test_what_a_browser_opened_ends_with_its_session(operator: Operator, tmp_path: Path) -> None:
    """Signing out, another password: the cookie of a private app and its open sockets end, and nobody else's."""
    platform = operator.platform
    operator.run("user", "add", "tom", "--password-stdin", stdin="first long sentence\n")
    token = operator.run("token", "add", "tom", "--role", "write", "--quiet").strip()
    made = platform.api("POST", "/api/repos/create", token=token, json={"name": "own", "type": "space", "sdk": "gradio", "private": True})
    assert made.status_code == 200, made.text
    work = Work(platform, "own", tmp_path / "own", owner="tom", token=token)
    work.write(app__py=APP)
    assert "Live at" in work.push("one")
    with closing(Tunnel(platform, "tom-own", Authorization=f"Bearer {token}")) as by_token:
        for way in ("sign-out", "password"):
            with closing(browser_of(platform, "tom", "first long sentence")) as browser:
                cookie = app_cookie(platform, browser, "tom-own")
                assert platform.app("tom-own", headers={"Cookie": cookie}).text == "TEXT"
                csrf = browser.get("/settings/account").text.partition('name="csrf" value="')[2].partition('"')[0]
                with closing(Tunnel(platform, "tom-own", Cookie=cookie)) as tunnel:
                    assert tunnel.echoes()
                    form = {"csrf": csrf, "old": "first long sentence", "new": "second long sentence"}
                    address = "/sign-out" if way == "sign-out" else "/settings/password"
                    done = browser.post(address, data=form, headers={"Origin": f"http://localhost:{platform.port}"})
                    assert done.status_code == 303, done.text
                    assert tunnel.last_words() == b"\x88\x02\x03\xf0", "1008: policy"
                wait_for(partial(_is_shut, platform, "tom-own", {"Cookie": cookie}), 60, "the cookie still opens the app")
            assert by_token.echoes()
        operator.run("token", "revoke", operator.json("token", "list", "tom")[0]["id"])
        assert by_token.last_words() == b"\x88\x02\x03\xf0"


def test_master_keys_change_under_a_running_platform(operator: Operator, clone: Callable[..., Work]) -> None:
    """No restart; and a process that starts later agrees with those that did not."""
    platform = operator.platform
    work = clone("sealed")
    work.write(app__py=APP.replace('b"TEXT"', "os.environ['WORD'].encode()").replace("import http.server", "import http.server, os"))
    assert platform.api("POST", "/api/spaces/admin/sealed/secrets", json={"key": "WORD", "value": "opened"}).status_code == 200
    assert "Live at" in work.push("one")
    operator.run("key", "rotate", "--yes")
    assert "restart" not in operator.run("key", "retire", "--yes")
    assert [row["seals"] for row in operator.json("key", "list")] == [True]
    os.kill(child_named(platform.process.pid, "scheduler"), signal.SIGKILL)
    assert "Live at" in work.push("two")
    assert platform.app("admin-sealed").text == "opened"


def test_every_way_in_ends_with_the_right_to_it(operator: Operator, tmp_path: Path) -> None:
    """Requests, signed addresses, open sockets and streams: told, not found out by a timer, which is an hour here.

    How long each goes on is measured by `make bench ONLY=admin.revoke`.
    """
    platform = operator.platform
    furnish(platform, tmp_path, "sue")
    with Rights(platform, "sue").held() as kept, Rights(platform, "sue", sessions=False).held() as ended:
        seconds_until_refused([ended], partial(operator.run, "token", "revoke", ended.token_id))
        assert [name for name, refused in kept.surfaces.items() if not name.startswith("open ") and refused()] == []
        seconds_until_refused([kept], partial(operator.run, "user", "suspend", "sue"))
    operator.run("user", "suspend", "sue", "--undo")
    assert platform.api("GET", "/api/whoami-v2", token=kept.token).status_code == 200
    assert platform.api("GET", "/api/whoami-v2", token=ended.token).status_code == 401


def test_the_apps_of_a_suspended_user_stop_and_come_back(operator: Operator, tmp_path: Path) -> None:
    platform = operator.platform
    operator.run("user", "add", "sid", "--password-stdin", stdin=f"{PASSWORD}\n")
    token = operator.run("token", "add", "sid", "--role", "write", "--quiet").strip()
    made = platform.api("POST", "/api/repos/create", token=token, json={"name": "app", "type": "space", "sdk": "gradio", "private": True})
    assert made.status_code == 200, made.text
    work = Work(platform, "app", tmp_path / "app", owner="sid", token=token)
    work.write(app__py=APP)
    assert "Live at" in work.push("one")
    operator.run("user", "suspend", "sid")
    wait_for(lambda: operator.json("space", "show", "sid/app")["replicas"] == 0, 20, "the app still runs")
    assert operator.json("space", "show", "sid/app")["reason"] == "OWNER_SUSPENDED"
    operator.run("user", "suspend", "sid", "--undo")
    by_token = {"Authorization": f"Bearer {token}"}
    wait_for(lambda: platform.app("sid-app", headers=by_token).status_code == 200, 60, "the app did not come back")


def test_a_backup_under_load_restores_into_an_empty_folder_and_runs(operator: Operator, clone: Callable[..., Work], tmp_path: Path) -> None:
    platform = operator.platform
    work = clone("kept")
    work.write(app__py=APP)
    assert "Live at" in work.push("one")
    secret = platform.api("POST", "/api/spaces/admin/kept/secrets", json={"key": "WORD", "value": "not in the backup in clear"})
    assert secret.status_code == 200
    done, creating = threading.Event(), threading.Event()

    def create(number: int) -> int:
        """Repositories one after the other until the backup is there; how many."""
        count = 0
        while not done.is_set():
            made = platform.api("POST", "/api/repos/create", json={"name": f"load{number}-{count}", "type": "model"})
            assert made.status_code in (200, 503), made.text  # 503: a crowd on a busy machine
            count += made.status_code == 200
            creating.set()
        return count

    folder = tmp_path / "backup"
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(create, number) for number in range(2)]
        try:
            assert creating.wait(60)
            found = operator.json("backup", str(folder))
        finally:
            done.set()
        assert sum(writer.result(120) for writer in writers) > 0
    assert found["files"] > 5
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        raw = (folder / name).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == digest
        assert b"not in the backup in clear" not in raw
    into = tmp_path / "again"
    where = {"VITRINE_DATABASE_URL": operator.empty_database} if operator.empty_database else {}
    assert operator.run("restore", str(folder), "--quiet", VITRINE_DATA_DIR=str(into), **where) == f"{into}\n"
    for name, digest in manifest["files"].items():
        if where and name == "vitrine.db":  # its rows are in PostgreSQL now
            assert not (into / name).exists()
            continue
        assert hashlib.sha256((into / name).read_bytes()).hexdigest() == digest
    for repo in (into / "repos").glob("*.git"):
        done = subprocess.run(["git", "-C", str(repo), "fsck", "--strict"], capture_output=True, text=True)
        assert done.returncode == 0, (repo, done.stderr)
    if not where:
        return  # the same file by its hash; rows that were carried over to another database have to prove themselves
    shutil.copy(platform.data_dir / "secret.key", into / "secret.key")
    second = start_platform(into, env=where)
    try:
        second.until("kept", "RUNNING", seconds=90)
        assert second.app("admin-kept").text == "TEXT"
        assert Operator(second).run("audit", "--verify", "--quiet") == "ok\n"
        keys = Operator(second).json("key", "list")
        assert [(row["known"], row["secrets"] > 0) for row in keys] == [(True, True)]
    finally:
        stop_platform(second)


def test_every_change_is_one_event_whichever_way_it_came(operator: Operator, clone: Callable[..., Work]) -> None:
    platform = operator.platform

    def newest() -> int:
        return max((row["id"] for row in json.loads(operator.quick("audit", "--limit", "1", "--json"))), default=0)

    def noted(since: int, *, by: str = "admin") -> list[str]:
        return [
            row["action"] for row in reversed(json.loads(operator.quick("audit", "--json"))) if row["id"] > since and row["actor"] == by
        ]

    work = clone("noted")
    begin = newest()
    work.write(app__py=APP)
    assert "Live at" in work.push("one")
    assert noted(begin) == ["repo.push"]
    assert "spaces.live" in noted(begin, by="scheduler")
    base = "/api/spaces/admin/noted"
    for wanted, method, path, body in (
        ("repo.add_variable", "POST", f"{base}/variables", {"key": "A", "value": "b"}),
        ("repo.update_variable", "POST", f"{base}/variables", {"key": "A", "value": "c"}),
        ("repo.add_secret", "POST", f"{base}/secrets", {"key": "S", "value": "hidden-value"}),
        ("repo.delete_secret", "DELETE", f"{base}/secrets", {"key": "S"}),
        ("spaces.update_sleep_time", "POST", f"{base}/sleeptime", {"seconds": 3600}),
        ("spaces.pause", "POST", f"{base}/pause", {}),
        ("spaces.restart", "POST", f"{base}/restart", {}),
        ("repo.push", "POST", f"{base}/branch/side", {}),
        ("repo.push", "DELETE", f"{base}/branch/side", {}),
        ("repo.visibility", "PUT", f"{base}/settings", {"private": True}),
        ("webhook.add", "POST", "/api/settings/webhooks", {"url": "https://example.org/x", "watched": [{"type": "user", "name": "admin"}]}),
        ("repo.move", "POST", "/api/repos/move", {"fromRepo": "admin/noted", "toRepo": "admin/noted-2", "type": "space"}),
        ("repo.delete", "DELETE", "/api/repos/delete", {"name": "noted-2", "type": "space"}),
    ):
        before = newest()
        answer = platform.api(method, path, **({"json": body} if body else {}))
        assert answer.status_code < 300, (path, answer.text)
        assert noted(before) == [wanted], path
    rows = operator.json("audit")
    assert "hidden-value" not in json.dumps(rows)
    sleep = next(row for row in rows if row["action"] == "spaces.update_sleep_time")
    assert {"before", "after"} <= set(sleep["facts"])
    assert all(row["address"] for row in rows if row["actor"] == "admin" and row["action"].startswith("repo."))
    assert operator.run("audit", "--verify", "--quiet") == "ok\n"
