"""Maintenance, keys, retention and export of the audit log, through the command line against a running API."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from control_plane.bootstrap import load_platform_keys
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import Broken, Maintenance
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment
from control_plane.spaces.configure import open_secret, put_secret
from tests.functional.admin.platform import Platform
from tests.functional.admin.test_admin_cli import make_space


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    running = Platform(tmp_path / "d").start()
    yield running
    running.stop()


def test_maintenance_is_switched_shown_and_noted(platform: Platform) -> None:
    assert platform.admin("maintenance", "show", "--quiet") == "off\n"
    found = platform.json("maintenance", "on", "--message", "New disks until 18:00")
    assert (found["on"], found["message"], found["by"]) == (True, "New disks until 18:00", "root-admin")
    assert "New disks until 18:00" in platform.admin("maintenance", "show")
    assert "one printable line" in platform.admin("maintenance", "on", "--message", "\x1b[31m", code=1)
    repo = make_space(platform, "root-admin", "still")
    with pytest.raises(Maintenance, match="New disks"):
        platform.run(platform.services.storage.hold(repo.id, {"push": 1}))
    assert platform.admin("maintenance", "off", "--quiet") == "off\n"
    platform.run(platform.services.storage.hold(repo.id, {"push": 1}))
    facts = [row["facts"] for row in platform.json("audit") if row["action"] == "platform.maintenance"]
    assert facts == [{"before": "New disks until 18:00", "after": "off"}, {"before": "off", "after": "New disks until 18:00"}]


def test_a_key_is_rotated_while_the_platform_runs_and_the_old_one_retired(platform: Platform) -> None:
    services = platform.services
    repo = make_space(platform, "root-admin", "with-secret")
    file = platform.data_dir / "secret.key"
    first = file.read_text()

    async def store() -> None:
        async with services.uow.read() as work:
            actor_user = await work.accounts.by_name("root-admin")
        from control_plane.domain.accounts import Actor, Via

        await put_secret(services.spaces, Actor(via=Via.TOKEN, user=actor_user), repo, "API_KEY", Sensitive("very secret"))

    async def read(deps: Any) -> str:
        async with services.uow.read() as work:
            [setting] = await work.spaces.settings(SpaceId(repo.id))
        return open_secret(deps, setting).reveal()

    platform.run(store())
    # Another process of the platform, started before the rotation.
    elsewhere = load_platform_keys(services.settings)
    assert "--yes" in platform.admin("key", "rotate", code=2)
    found = platform.json("key", "rotate", "--yes")
    assert found["rewrapped"] == 1
    assert [(row["seals"], row["secrets"]) for row in found["items"]] == [(True, 1), (False, 0)]
    assert file.read_text().splitlines()[1:] == first.splitlines()
    assert file.stat().st_mode & 0o777 == 0o600
    assert platform.run(read(services.spaces)) == "very secret"
    assert platform.run(read(replace(services.spaces, secret_box=elsewhere.box))) == "very secret", "it reads the new key by itself"
    late = load_platform_keys(services.settings).box
    again = load_platform_keys(services.settings)
    assert (again.signing, again.worker_secret) == (elsewhere.signing, elsewhere.worker_secret), "old and new processes agree"
    assert "very secret" not in platform.admin("audit", "--json")
    assert "restart" not in platform.admin("key", "retire", "--yes")
    assert len(file.read_text().splitlines()) == 1
    assert platform.run(read(services.spaces)) == "very secret"
    after = load_platform_keys(services.settings)
    assert (after.signing, after.worker_secret) == (elsewhere.signing, elsewhere.worker_secret), "nobody has to start again"
    assert first.strip() not in "".join(path.read_text() for path in platform.data_dir.glob("secret.*")), "the old key is nowhere"
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in platform.data_dir.glob("secret.*"))
    platform.admin("key", "rotate", "--yes")
    assert late.key_id(late.seal(Sensitive("x"), context="c")) == platform.json("key", "list")[0]["id"], "the newest seals, everywhere"
    assert load_platform_keys(services.settings).signing == elsewhere.signing
    assert "restart" in platform.admin("key", "retire", "--signing", "--yes")
    renewed = load_platform_keys(services.settings)
    assert renewed.signing != elsewhere.signing and renewed.worker_secret != elsewhere.worker_secret
    assert platform.run(read(services.spaces)) == "very secret"
    only_old = platform.data_dir.parent / "old.key"
    only_old.write_text(first)
    old = load_platform_keys(replace(services.settings, secret_key=first.strip()))
    with pytest.raises(Broken, match="sealed with a key"):
        platform.run(read(replace(services.spaces, secret_box=old.box)))


def test_old_events_go_and_the_rest_stays_verifiable(platform: Platform) -> None:
    services = platform.services

    async def age(days: int, count: int) -> None:
        async with services.uow.write() as work:
            for number in range(count):
                at = services.clock.now() - timedelta(days=days)
                await work.audit.append(at=at, actor="root-admin", action="old.event", subject=f"n:{number}", address="", facts={})

    platform.run(age(40, 3))
    platform.run(age(1, 2))
    object.__setattr__(services.settings, "audit_keep_days", 30)
    assert [(row["kind"], row["name"][:8]) for row in platform.json("gc", "--dry-run")["items"]] == [("audit", "3 events")]
    assert len([row for row in platform.json("audit") if row["action"] == "old.event"]) == 5
    platform.admin("gc", "--yes")
    assert len([row for row in platform.json("audit") if row["action"] == "old.event"]) == 2
    assert platform.admin("audit", "--verify", "--quiet") == "ok\n"

    async def tamper() -> None:
        from sqlalchemy import text

        async with services.database._writer.begin() as connection:
            await connection.execute(text("UPDATE audit SET subject = 'n:9' WHERE subject = 'n:1'"))

    platform.run(tamper())
    assert "was changed" in platform.admin("audit", "--verify", code=1)


def test_the_export_can_be_verified_elsewhere(platform: Platform, tmp_path: Path) -> None:
    for name in ("ann", "bob", "Ünï-nope"):
        platform.admin("user", "add", name, code=1 if "Ü" in name else 0)
    target = tmp_path / "audit.jsonl"
    assert platform.admin("audit", "--export", str(target), "--quiet") == "3\n"
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["action"] for row in rows] == ["user.add", "user.add", "audit.export"]
    previous = "0" * 64
    for row in rows:
        body = {name: row[name] for name in ("actor", "action", "subject", "address", "at")}
        body["facts"] = json.dumps(row["facts"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert row["prev_hash"] == previous
        assert row["hash"] == hashlib.sha256((previous + text).encode()).hexdigest()
        previous = row["hash"]
    assert "cannot be written" in platform.admin("audit", "--export", str(tmp_path / "none" / "x"), code=1)
    platform.admin("audit", "--export", "x", "--verify", code=2)


def test_garbage_names_large_files_without_a_commit(platform: Platform) -> None:
    repo = make_space(platform, "root-admin", f"big-{new_id()[:6]}")
    body = b"orphan" * 1000
    oid = hashlib.sha256(body).hexdigest()

    async def chunks():  # type: ignore[no-untyped-def]
        yield body

    platform.run(platform.services.lfs.put(RepoId(repo.id), oid, len(body), chunks()))
    platform.run(platform.services.storage.settle(RepoId(repo.id)))

    async def used() -> int:
        async with platform.services.uow.read() as work:
            found = await work.repos.get(RepoId(repo.id))
        assert found is not None
        return found.storage_bytes

    before = platform.run(used())
    path = platform.data_dir / "lfs" / repo.id / oid[:2] / oid[2:4] / oid
    assert platform.json("gc", "--dry-run")["items"] == [], "a young one may wait for its commit"
    os.utime(path, (1, 1))
    [entry] = platform.json("gc", "--dry-run")["items"]
    assert (entry["kind"], entry["why"], entry["bytes"]) == ("large file", "no commit names it", len(body))
    platform.admin("gc", "--yes")
    assert not path.exists()
    assert before - platform.run(used()) == len(body)


def test_garbage_leaves_what_can_be_rolled_back_to_however_often_an_app_restarted(platform: Platform) -> None:
    import os

    repo = make_space(platform, "root-admin", f"often-{new_id()[:6]}")
    space_id, now = SpaceId(repo.id), platform.services.clock.now()
    builds = [new_id() for _ in range(7)]

    async def deploy() -> None:
        async with platform.services.uow.write() as work:
            space = await work.spaces.get(space_id)
            assert space is not None
            for generation, build in enumerate([*builds, *[builds[-1]] * 40], 1):
                artifact = Artifact(ArtifactKind.BUNDLE, f"{space_id}/{build}")
                made = Deployment(
                    space_id, generation, BuildId(build), Sha("a" * 40), artifact, LaunchPlan(), "cpu-basic", now, space.config, live_at=now
                )
                await work.deployments.add(made)

    platform.run(deploy())
    for build in builds:
        folder = platform.data_dir / "bundles" / space_id / build
        folder.mkdir(parents=True)
        os.utime(folder, (1, 1))
    os.utime(platform.data_dir / "bundles" / space_id, (1, 1))
    old = {f"{space_id}/{build}" for build in builds[:2]}
    assert {row["name"] for row in platform.json("gc", "--dry-run")["items"] if row["kind"] == "bundle"} == old


def test_garbage_of_every_kind_is_told_before_it_goes(platform: Platform) -> None:
    """Environments that no deployment uses, logs of builds and Spaces that are gone, folders of repositories that are gone."""
    data_dir, gone = platform.data_dir, new_id()
    repo = make_space(platform, "root-admin", f"kept-{new_id()[:6]}")

    def old(path: Path, text: str = "x" * 5000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    environment = old(data_dir / "envs" / ("e" * 40) / ".vitrine-env.json", "{}").parent
    old(environment / "lib" / "big.py")
    young = old(data_dir / "envs" / ("f" * 40) / ".vitrine-env.json", "{}").parent
    build_log, run_log = old(data_dir / "logs" / "build" / f"{gone}.log"), old(data_dir / "logs" / "run" / f"{gone}.log")
    own_log = old(data_dir / "logs" / "run" / f"{repo.id}.log")
    bundle, site = old(data_dir / "bundles" / gone / "b" / "app.py").parents[1], old(data_dir / "sites" / gone / "b" / "x").parents[1]
    lost = old(data_dir / "repos" / f"{gone}.git" / "HEAD").parent
    volume = old(data_dir / "volume-trees" / repo.id / ("0" * 40) / "about.json", '{"bytes": 7000}').parent
    for path in (environment / ".vitrine-env.json", environment, build_log, run_log, own_log, bundle, site, lost, volume):
        os.utime(path, (1, 1))
    told = platform.json("gc", "--dry-run")
    kinds = {"environment", "log", "bundle", "site", "repository", "volume"}
    assert {row["kind"] for row in told["items"]} == kinds
    assert all(row["why"] and row["bytes"] >= 0 for row in told["items"])
    assert told["bytes"] >= 5000 * 5
    everything = (environment, build_log, run_log, bundle, site, lost, volume)
    assert all(path.exists() for path in everything), "a look deletes nothing"
    assert all(len(line) <= 80 for line in platform.admin("gc", "--dry-run").splitlines())
    assert int(platform.admin("gc", "--yes", "--quiet")) == told["bytes"]
    assert [path for path in everything if path.exists()] == []
    assert young.exists() and own_log.exists() and (data_dir / "repos" / f"{repo.id}.git").exists()
    assert platform.json("gc", "--dry-run") == {**told, "items": [], "bytes": 0}
