"""`vitrine admin` through the console script against a running API, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from control_plane.accounts import suspension
from control_plane.cli import admin_spaces
from control_plane.cli.admin import admin
from control_plane.cli.main import vitrine as cli
from control_plane.db.engine import create_database
from control_plane.domain.accounts import Account, Actor, Via
from control_plane.domain.builds import Artifact, ArtifactKind, BuildStatus, LaunchPlan
from control_plane.domain.ids import BuildId, ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, Replica, Repo, RepoType, Sdk, Visibility
from control_plane.ports.space_actions import NewRepo
from tests.fakes.postgres import needed_server, postgres_server
from tests.functional.admin.platform import ROOT, Platform, vitrine


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    data_dir = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        running = Platform(data_dir).start()
        yield running
        running.stop()
        return
    with postgres_server(needed_server()) as server:
        server.sql("CREATE DATABASE vitrine")
        running = Platform(data_dir, server.url("vitrine")).start()
        yield running
        running.stop()


def make_space(platform: Platform, owner: str, name: str) -> Repo:
    async def make() -> Repo:
        async with platform.services.uow.read() as work:
            account = await work.accounts.by_name(owner)
        assert isinstance(account, Account)
        order = NewRepo(RepoType.SPACE, account, name, Visibility.PUBLIC, sdk=Sdk.GRADIO)
        return await platform.services.actions.create_repo(Actor(via=Via.TOKEN, user=account), order)

    return platform.run(make())


def audit_actions(platform: Platform) -> list[str]:
    return [row["action"] for row in platform.json("audit")]


def test_users_from_add_to_remove(platform: Platform) -> None:
    assert platform.script("user", "add", "ann", "--email", "ann@example.org", "--quiet") == "ann\n"
    platform.script("user", "add", "boss", "--admin", "--password-stdin", stdin="long enough words\n")
    names = {row["name"]: row for row in platform.json("user", "list")}
    assert names["boss"]["admin"] is True
    assert names["ann"]["email"] == "ann@example.org"
    assert "password" not in json.dumps(names)
    assert "taken" in platform.script("user", "add", "ANN", code=1)
    assert "not a valid" in platform.script("user", "add", "../etc", code=1)
    assert "password" in platform.script("user", "add", "shorty", "--password-stdin", stdin="x\n", code=1)
    assert "--yes" in platform.script("user", "remove", "boss", code=2)
    platform.script("user", "remove", "boss", "--yes")
    assert "no user 'boss'" in platform.script("user", "remove", "boss", "--yes", code=1)
    assert audit_actions(platform)[:3] == ["user.remove", "user.add", "user.add"]
    assert all(len(line) <= 80 for line in platform.script("user", "list").splitlines())


def test_organisations_and_members(platform: Platform) -> None:
    platform.admin("user", "add", "orgy-ann")
    platform.admin("org", "add", "research")
    platform.admin("org", "member", "research", "orgy-ann", "--role", "admin")
    assert platform.json("org", "list")[0]["members"] == {"orgy-ann": "admin"}
    assert "last admin" in platform.admin("org", "member", "research", "orgy-ann", "--role", "read", code=1)
    platform.admin("org", "member", "research", "orgy-ann", code=2)
    platform.admin("org", "member", "research", "orgy-ann", "--role", "boss", code=2)
    row = platform.json("audit", "--actor", "root-admin")[0]
    assert (row["action"], row["facts"]) == ("org.member", {"user": "orgy-ann", "before": None, "after": "admin"})


def test_a_token_works_until_it_is_revoked(platform: Platform) -> None:
    platform.admin("user", "add", "tok", "--admin")
    text = platform.admin("token", "add", "tok", "--role", "write", "--name", "ci", "--expires", "30d", "--quiet").strip()
    assert text.startswith("hf_")
    assert "tok" in platform.admin("user", "list", "--quiet", token=text)
    [row] = platform.json("token", "list", "tok")
    assert text not in json.dumps(platform.json("audit"))
    platform.admin("token", "revoke", row["id"])
    assert "not accepted" in platform.admin("user", "list", token=text, code=1)
    assert "no such token" in platform.admin("token", "revoke", "0" * 24, code=1)
    reader = platform.admin("token", "add", "tok", "--role", "read", "--quiet").strip()
    assert "administrators" in platform.admin("user", "list", token=reader, code=1)
    for bad in ("30", "-1d", "1e3d", "0d", "d"):
        platform.admin("token", "add", "tok", "--role", "read", f"--expires={bad}", code=2)


def test_quotas_show_where_they_come_from_and_what_is_over(platform: Platform) -> None:
    platform.admin("user", "add", "quo")
    make_space(platform, "quo", "one")
    make_space(platform, "quo", "two")
    platform.admin("quota", "defaults", "spaces=10")
    rows = {row["key"]: row for row in platform.json("quota", "show", "quo")}
    assert (rows["spaces"]["limit"], rows["spaces"]["source"], rows["spaces"]["used"]) == (10, "default", 2)
    assert rows["gpu-hours"]["frees_at"].endswith("-01T00:00:00Z")
    said = platform.admin("quota", "set", "quo", "spaces=1", "running.t4-small=0", "--dry-run")
    assert "Nothing was changed" in said
    assert "over: quo uses 2 of spaces" in said
    assert {row["key"]: row["source"] for row in platform.json("quota", "show", "quo")}["spaces"] == "default"
    found = platform.json("quota", "set", "quo", "spaces=1", "gpu-hours=2.5", "vcpu=unlimited")
    assert [(o["subject"], o["key"], o["used"]) for o in found["over"]] == [("quo", "spaces", 2)]
    assert {row["key"] for row in platform.json("quota", "list")} == {"spaces", "gpu-hours", "vcpu"}
    platform.admin("quota", "unset", "quo", "spaces", "gpu-hours", "vcpu")
    platform.admin("quota", "defaults", "--unset", "spaces")
    assert platform.json("quota", "list") == []
    row = platform.json("audit")[2]
    assert row["facts"] == {
        "keys": {k: {"before": "unset", "after": v} for k, v in (("spaces", "1"), ("gpu-hours", "2.5"), ("vcpu", "unlimited"))}
    }


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("quota", "set", "nobody", "spaces=1"), 1, "no account 'nobody'"),
        (("quota", "show", "a b/../c\x1b[31m"), 1, "no account"),
        (("quota", "set", "root-admin", "spces=1"), 1, "unknown quota key 'spces'"),
        (("quota", "set", "root-admin", "running.t5=1"), 1, "cpu-basic"),
        (("quota", "set", "root-admin", "spaces=-1"), 1, "not a quota value"),
        (("quota", "set", "root-admin", "spaces=1e9"), 1, "not a quota value"),
        (("quota", "set", "root-admin", "spaces=99999999999999999999"), 1, "not a quota value"),
        (("quota", "set", "root-admin", "storage-gb=5GB"), 1, "not a quota value"),
        (("quota", "set", "root-admin", "spaces"), 2, "KEY=VALUE"),
        (("quota", "set", "root-admin", "spaces=1", "spaces=2"), 2, "twice"),
        (("quota", "set", "root-admin"), 2, "Missing argument"),
        (("audit", "--since", "yesterday"), 2, "2026-08-01"),
        (("space", "show", "ann"), 2, "OWNER/NAME"),
        (("space", "show", "ann/none"), 1, "no Space 'ann/none'"),
        (("build", "cancel", "../../users"), 1, "no build"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_bad_input_is_one_clear_line(platform: Platform, args: tuple[str, ...], code: int, words: str) -> None:
    assert words in platform.admin(*args, code=code)


def test_a_space_from_list_to_remove_with_its_usage(platform: Platform) -> None:
    platform.admin("user", "add", "sue")
    repo = make_space(platform, "sue", "demo")
    services = platform.services
    build_id, second_id = new_id(), new_id()
    begun = services.clock.now() - timedelta(minutes=10)

    async def build(build_id: str) -> None:
        async with services.uow.write() as work:
            fresh = Build(BuildId(build_id), SpaceId(repo.id), Sha("a" * 40), BuildStatus.RUNNING, begun, started_at=begun)
            await work.builds.add(fresh)

    async def run_and_queue() -> None:
        now = services.clock.now()
        async with services.uow.write() as work:
            space = await work.spaces.get(SpaceId(repo.id))
            assert space is not None
            artifact = Artifact(ArtifactKind.BUNDLE, f"{space.id}/b")
            await work.deployments.add(
                Deployment(space.id, 7, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), "cpu-basic", now, space.config)
            )
            await work.deployments.save_replica(
                Replica(ReplicaId(new_id()), space.id, 7, ReplicaState.READY, now, started_at=now, hardware="cpu-basic")
            )
            usage = {"account_id": repo.owner_id, "space_id": space.id, "flavor": "t4-small", "day": f"{now:%Y-%m-%d}"}
            await work.quotas.add_usage(**usage, key="hours", amount=2.5)
            await work.quotas.add_usage(**usage, key="gpu-hours", amount=2.5)

    platform.run(run_and_queue())
    platform.run(build(build_id))
    assert [row["name"] for row in platform.json("space", "list", "--owner", "sue")] == ["sue/demo"]
    assert "no account 'nobody'" in platform.admin("space", "list", "--owner", "nobody", code=1)
    assert platform.json("space", "show", "sue/demo")["builds"][0]["id"] == build_id
    assert {row["key"]: row["used"] for row in platform.json("quota", "show", "sue")} == {
        "spaces": 1, "running": 1, "gpu-hours": 2.5, "build-minutes": 0, "storage-gb": 0, "memory-gb": 16, "vcpu": 2,
    } | {"storage-gb": pytest.approx(0, abs=0.01)}  # fmt: skip
    rows = platform.json("usage", "sue", "--since", "2d")
    assert [(row["key"], row["amount"], row["cost_usd"]) for row in rows if row["flavor"] == "t4-small"] == [
        ("gpu-hours", 2.5, None),
        ("hours", 2.5, 1.0),
    ]
    assert [(row["key"], row["amount"] > 0) for row in rows if row["flavor"] == "cpu-basic"] == [("hours", True)], "what runs counts too"
    said = platform.admin("usage", "sue", "--since", "2d", "--csv")
    assert said.splitlines()[0] == "subject,day,space,key,flavor,amount,cost_usd"
    exported = [row for row in csv.DictReader(said.splitlines()) if row["flavor"] == "t4-small"]
    asked = [row for row in rows if row["flavor"] == "t4-small"]
    assert exported == [{key: "" if row[key] is None else str(row[key]) for key in exported[0]} for row in asked]
    used = [row for row in platform.json("pool", "list") if row["flavor"] == "cpu-basic"]
    assert used[0]["used"] >= 1
    assert build_id in platform.admin("build", "list", "--quiet")
    assert platform.admin("build", "cancel", build_id, "--quiet") == "cancelled\n"
    used = {row["key"]: row["used"] for row in platform.json("quota", "show", "sue")}
    assert used["build-minutes"] >= 10, "what was cancelled has been used"
    assert platform.json("build", "list", "--space", "sue/demo")[0]["status"] == "cancelled"
    assert platform.admin("space", "pause", "sue/demo", "--quiet") == "PAUSED\n"
    assert platform.admin("space", "restart", "sue/demo", "--quiet") != "PAUSED\n"
    platform.run(build(second_id))
    found = platform.json("user", "suspend", "sue")
    assert (found["suspended"], found["spaces"]) == (True, 1)
    assert platform.json("space", "show", "sue/demo")["reason"] == "OWNER_SUSPENDED"
    ended = next(row for row in platform.json("build", "list", "--space", "sue/demo") if row["id"] == second_id)
    assert ended["status"] == "cancelled", "a build is its owner's code, too"
    assert platform.json("user", "suspend", "sue", "--undo")["suspended"] is False
    assert "still owns 1 space;" in platform.admin("user", "remove", "sue", "--yes", code=1)
    assert "--yes" in platform.admin("space", "remove", "sue/demo", code=2)
    platform.admin("space", "remove", "sue/demo", "--yes")
    assert platform.json("space", "list", "--owner", "sue") == []
    assert platform.json("usage", "sue")[0]["space"] == "sue/demo"
    platform.admin("user", "remove", "sue", "--yes")


def test_rights_end_before_the_spaces_are_gone_through_and_what_was_left_is_done_by_asking_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.admin("user", "add", "wide")
    for number in range(3):
        make_space(platform, "wide", f"s{number}")
    token = platform.admin("token", "add", "wide", "--role", "write", "--quiet").strip()
    monkeypatch.setattr(suspension, "_AT_ONCE", 1)

    def ends(done: int, total: int) -> None:
        if done == 1:
            raise ConnectionResetError

    async def killed() -> None:
        async with platform.services.uow.read() as work:
            admin_user = await work.accounts.by_name("root-admin")
        services, actor = platform.services, Actor(via=Via.TOKEN, user=admin_user)
        await suspension.suspend(services.uow, services.clock, services.signals, actor, "wide", True, ends)

    with pytest.raises(ConnectionResetError):
        platform.run(killed())
    assert "not accepted" in platform.admin("space", "list", token=token, code=1)
    assert platform.json("user", "suspend", "wide")["spaces"] == 2
    assert platform.json("user", "suspend", "wide", "--undo")["spaces"] == 3


def test_a_listing_of_more_than_a_page_is_whole(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.admin("user", "add", "many")
    for number in range(5):
        make_space(platform, "many", f"s{number}")
    monkeypatch.setattr(admin_spaces, "_PAGE", 2)
    assert [row["name"] for row in platform.json("space", "list", "--owner", "MANY")] == [f"many/s{n}" for n in reversed(range(5))]


def test_the_audit_log_is_verified(platform: Platform) -> None:
    platform.admin("user", "add", "audited")
    assert platform.admin("audit", "--verify", "--quiet") == "ok\n"
    assert all(len(line) <= 80 for line in platform.admin("audit").splitlines())
    assert platform.json("audit", "--since", "1h", "--limit", "1")[0]["actor"] == "root-admin"


def test_garbage_is_listed_before_it_is_deleted(platform: Platform) -> None:
    old = platform.data_dir / "bundles" / new_id()
    (old / "b").mkdir(parents=True)
    (old / "b" / "app.py").write_text("x" * 10_000)
    young = platform.data_dir / "bundles" / new_id()
    young.mkdir()
    os.utime(old, (1, 1))
    found = platform.json("gc", "--dry-run")
    assert [(row["kind"], row["name"]) for row in found["items"]] == [("bundle", old.name)]
    assert found["bytes"] >= 10_000
    assert old.exists()
    platform.admin("gc")  # by a timer: only a person at a terminal is asked
    assert not old.exists()
    assert young.exists()
    assert audit_actions(platform)[0] == "platform.gc"


def test_a_backup_taken_under_load_restores_with_every_hash_equal(platform: Platform, tmp_path: Path) -> None:
    repo = make_space(platform, "root-admin", f"kept-{new_id()[:6]}")
    body = b"large" * 1000
    oid = hashlib.sha256(body).hexdigest()

    async def chunks():  # type: ignore[no-untyped-def]
        yield body

    platform.run(platform.services.lfs.put(repo.id, oid, len(body), chunks()))
    stop = asyncio.Event()

    async def load() -> int:
        count = 0
        while not stop.is_set():
            async with platform.services.uow.write() as work:
                await work.documents.put("load", str(count), "x", {"n": count})
            count += 1
            await asyncio.sleep(0.002)
        return count

    writing = asyncio.run_coroutine_threadsafe(load(), platform._loop)
    try:
        found = platform.json("backup", str(tmp_path / "backup"))
    finally:
        platform._loop.call_soon_threadsafe(stop.set)
    assert writing.result(30) > 0
    assert found["files"] > 3
    assert "not empty" in platform.admin("backup", str(tmp_path / "backup"), code=1)

    into = tmp_path / "restored"
    done = vitrine("admin", "restore", str(tmp_path / "backup"), "--into", str(into), "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "backup" / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((into / name).read_bytes()).hexdigest() == digest
    git = subprocess.run(["git", "-C", str(into / "repos" / f"{repo.id}.git"), "fsck", "--strict"], capture_output=True, text=True)
    assert git.returncode == 0, git.stderr

    async def look() -> tuple[Repo | None, int | None]:
        database = create_database(f"sqlite:///{into / 'vitrine.db'}")
        await database.migrate()
        async with database.read() as work:
            result = await work.repos.get(repo.id), await work.audit.verify()
        await database.close()
        return result

    async def original() -> Repo | None:
        async with platform.services.uow.read() as work:
            return await work.repos.get(repo.id)

    kept, broken = asyncio.run(look())
    assert kept == platform.run(original())
    assert broken is None
    shared = into / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    assert shared.stat().st_nlink == 2

    victim = next(p for p in (tmp_path / "backup" / "repos").rglob("*") if p.is_file())
    victim.write_bytes(b"changed")
    failed = vitrine("admin", "restore", str(tmp_path / "backup"), "--into", str(tmp_path / "second"))
    assert failed.returncode == 1
    assert "differs from its hash" in failed.stderr
    assert not (tmp_path / "second").exists()


def test_a_platform_that_is_down_or_older_is_one_clear_line(platform: Platform, tmp_path: Path) -> None:
    done = vitrine("admin", "user", "list", VITRINE_ENDPOINT="http://127.0.0.1:1", VITRINE_TOKEN="hf_x")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "does not answer" in done.stderr
    done = vitrine("admin", "user", "list", VITRINE_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "vitrine up" in done.stderr
    done = vitrine("admin", "user", "list", VITRINE_ENDPOINT=f"{platform.url}/old", VITRINE_TOKEN=platform.token)
    assert done.returncode == 1
    assert "older version" in done.stderr
    ready = {"url": platform.url, "admin_token": platform.token, "apps_domain": "localhost", "pid": 1}
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    assert vitrine("admin", "--data-dir", str(tmp_path), "user", "list", "--quiet").stdout.count("root-admin") == 1


def test_help_is_quick_to_load_and_shows_examples() -> None:
    done = vitrine("--help")
    assert done.returncode == 0
    assert "admin" in done.stdout
    code = "import sys; import control_plane.cli.main; print([m for m in ('httpx', 'rich', 'sqlalchemy', 'asyncio') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"
    assert "Example: vitrine admin quota set ann spaces=5" in CliRunner().invoke(cli, ["admin", "quota", "set", "--help"]).output
    assert "_VITRINE_COMPLETE" in CliRunner().invoke(cli, ["completion", "bash"]).output


def test_every_command_has_words_and_an_example() -> None:
    def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from leaves(inner, f"{path} {name}")
        else:
            yield path, command

    found = dict(leaves(admin, "vitrine admin"))
    assert len(found) >= 28
    for path, command in found.items():
        assert command.help, path
        assert command.epilog, path
        assert f"{path}" in command.epilog, path


def test_the_shell_completes_commands_options_and_names(platform: Platform) -> None:
    platform.admin("user", "add", "completed-ann")

    def complete(line: str, **env: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_VITRINE_COMPLETE": "bash_complete"}
        done = vitrine(**words, **{"VITRINE_ENDPOINT": platform.url, "VITRINE_TOKEN": platform.token, **env})
        assert done.stderr == ""
        return [row.partition(",")[2] for row in done.stdout.splitlines() if row]

    assert complete("vitrine admin qu") == ["quota"]
    assert "--dry-run" in complete("vitrine admin quota set --")
    assert complete("vitrine admin user suspend completed-") == ["completed-ann"]
    assert complete("vitrine admin quota set completed-ann sp") == ["spaces="]
    assert complete("vitrine admin user suspend completed-", VITRINE_ENDPOINT="http://127.0.0.1:1") == []
