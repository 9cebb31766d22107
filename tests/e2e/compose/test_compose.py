"""`infra/compose/up` as an operator runs it: images from Debian packages, eight services on an engine of its own, a push to a live app.

`make test-compose`, minutes long: it needs root, dockerd, docker-compose, mmdebstrap, a Debian mirror and a package index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from control_plane.db.migrate import MIGRATIONS, head_revision
from tests.contract.docker_engine import TestEngine, can_start, test_engine
from tests.e2e.docker.conftest import free_port, until

ROOT = Path(__file__).parents[3]
TOOLS = ("docker-compose", "mmdebstrap")
PACKAGES = ("ca-certificates", "python3", "python3-venv", "git", "git-lfs", "libcap2-bin", "nftables", "wget")
SERVICES = ("proxy", "api", "scheduler", "builder", "guard", "postgres", "redis", "registry")
OLDER, TRIED = "test/vitrine-older", 20
IMPORT_ALL = """
import importlib, pkgutil, builder, control_plane, web
for package in (builder, control_plane, web):
    for one in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not one.name.endswith(("__main__", ".env", ".launcher")):
            importlib.import_module(one.name)
"""
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # docker-py leaves sockets to the collector
    pytest.mark.skipif(
        not can_start or not all(map(shutil.which, TOOLS)), reason=f"starts a Docker engine, which needs root, dockerd, {', '.join(TOOLS)}"
    ),
]


@dataclass(frozen=True)
class Stack:
    folder: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return self.environment["PUBLIC_URL"]

    def up(self, *words: str, ok: bool = True, **changes: str) -> str:
        """`infra/compose/up` with these words; `changes`: other variables of its environment."""
        done = subprocess.run(
            [str(self.folder / "up"), *words], env={**self.environment, **changes}, capture_output=True, text=True, timeout=400, check=False
        )
        assert not ok or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def docker(self, *words: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["docker", *words], env=self.environment, input=stdin, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def engine() -> Iterator[TestEngine]:
    with test_engine() as made:
        yield made


@pytest.fixture(scope="module")
def stack(engine: TestEngine) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "compose"
        shutil.copytree(ROOT / "infra/compose", folder, ignore=shutil.ignore_patterns("secrets"))
        names = ("PORT", "API_PORT", "SCHEDULER_PORT", "BUILDER_PORT", "POSTGRES_PORT", "REDIS_PORT", "REGISTRY_PORT")
        ports = {name: str(free_port()) for name in names}
        made = Stack(
            folder,
            {
                "PATH": os.environ["PATH"], "HOME": name, "DOCKER_HOST": engine.host, "DOCKER_SOCKET": f"{engine.folder}/d.sock",
                "DOCKER_BUILDKIT": "0", "NO_BUILD": "1", "LISTEN": "127.0.0.1", "PUBLIC_URL": f"http://localhost:{ports['PORT']}",
                "VITRINE_IMAGE": "test/vitrine", "POSTGRES_IMAGE": "test/postgres", "REDIS_IMAGE": "test/redis",
                "REGISTRY_IMAGE": "test/registry", "BUILD_DISK_BYTES": str(1 << 30), **ports,
            },
        )  # fmt: skip
        build_images(made, Path(name))
        try:
            yield made
        finally:
            made.up("down", "--volumes", ok=False)


def build_images(stack: Stack, scratch: Path) -> None:
    """The README's way for machines that reach a Debian mirror and no registry."""
    tar = scratch / "base.tar"
    subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--aptopt=Apt::Install-Recommends false",
         "--dpkgopt=path-exclude=/usr/share/doc/*", f"--customize-hook=copy-in {AUTHORITIES} /etc/ssl/certs", "bookworm", str(tar)],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    stack.docker("import", str(tar), "test/base")
    tar.unlink()
    build = ("build", "--network", "host", "--build-arg", "BASE=test/base")
    for name in ("postgres", "redis", "registry"):
        stack.docker(*build, "-t", f"test/{name}", str(ROOT / "infra/compose/debian" / name))
    platform = (*build, "--build-arg", f"PIP_CERT={AUTHORITIES}")
    stack.docker(*platform, "-t", "test/vitrine", "-f", str(ROOT / "infra/Dockerfile"), str(ROOT))
    if tree := older_version(scratch):
        stack.docker(*platform, "-t", OLDER, "-f", str(tree / "infra/Dockerfile"), str(tree))
        shutil.copytree(tree / "infra/compose", scratch / "older")


def older_version(scratch: Path) -> Path | None:
    """The last commit whose database is older than this checkout's and whose modules can be imported; None where there is no history."""
    (newest,) = (MIGRATIONS / "versions").glob(f"{head_revision()}_*.py")
    added = run_git("log", "--diff-filter=A", "--format=%H", "--", str(newest)).decode().split()
    for commit in run_git("log", f"--max-count={TRIED}", "--format=%H", f"{added[-1]}^").decode().split() if added else ():
        tree = scratch / commit
        tree.mkdir()
        archive = run_git("-c", "tar.umask=0022", "archive", commit)  # with the modes of a clone, files are the same layers
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        done = subprocess.run([sys.executable, "-P", "-c", IMPORT_ALL], cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True)
        if done.returncode == 0:
            return tree
    return None


def run_git(*words: str) -> bytes:
    """What it prints; nothing where it cannot."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False).stdout


def test_one_command_starts_it_and_a_push_goes_live(stack: Stack, engine: TestEngine, tmp_path: Path) -> None:
    said = stack.up()
    assert f"Vitrine answers at {stack.url}" in said and "/sign-in/once?token=" in said, said
    assert sorted(stack.up("config", "--services").split()) == sorted(SERVICES)
    token = new_token(stack)

    client = httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False)
    with client:
        assert client.post("/api/repos/create", json={"name": "demo", "type": "space", "sdk": "docker"}).status_code == 200
        push(stack, token, tmp_path)
        app = {"Host": f"admin-demo.{stack.url.partition('//')[2]}"}
        until(lambda: "hello from compose" in client.get("/", headers=app).text, 60, "the app")
        (version,) = client.get("/api/spaces/admin/demo/versions").json()
    assert "@sha256:" in version["image"]

    address = stack.url.partition("//")[2]
    stack.docker("login", "--username", "admin", "--password-stdin", address, stdin=token)
    assert version["image"].rpartition("@")[2] in stack.docker("pull", f"{address}/admin-demo")
    with engine.client() as docker:
        apps = [one for one in docker.containers() if "com.vitrine.replica" in one["Labels"]]
        assert len(apps) == 1 and docker.inspect_container(apps[0]["Id"])["HostConfig"]["ReadonlyRootfs"]
    reads_a_mounted_repository(stack, token)
    mounts_a_secret(stack, token, tmp_path / "demo")
    keeps_its_disk(stack, token, tmp_path / "demo")

    stack.up("exec", "-T", "api", "vitrine", "admin", "backup", "/data/backups/one")
    stack.up("restart", "api", "scheduler", "builder", "proxy")
    until(lambda: "hello from compose" in answer(stack), 90, "the app after a restart of the platform")


def reads_a_mounted_repository(stack: Stack, token: str) -> None:
    """What the scheduler calls the folder in its container is not what the engine calls it."""
    headers, base = {"Authorization": f"Bearer {token}"}, f"{stack.url}/api"
    content = {"path": "word.txt", "content": "of a private model"}
    model = {"name": "words", "type": "model", "private": True, "files": [content]}
    assert httpx.post(f"{base}/repos/create", json=model, headers=headers, timeout=60).status_code == 200
    mounted = {"volumes": [{"type": "model", "source": "admin/words", "mountPath": "/srv/words"}]}
    assert httpx.put(f"{base}/spaces/admin/demo/volumes", json=mounted, headers=headers, timeout=60).status_code == 200
    until(lambda: answer(stack, "/words/word.txt") == "of a private model", 90, "the app reads what it mounts")
    assert httpx.delete(f"{base}/spaces/admin/demo/volumes", headers=headers, timeout=60).status_code == 200
    until(lambda: "of a private" not in answer(stack, "/words/word.txt") and answer(stack) == "hello from compose", 90, "it without that")


def mounts_a_secret(stack: Stack, token: str, work: Path) -> None:
    """With BuildKit, driven by a builder without rights: the secret is there and in no log, and a step that writes too much is ended."""
    headers, secret = {"Authorization": f"Bearer {token}"}, "word-of-the-owner"
    its = {"key": "TOKEN", "value": secret}
    assert httpx.post(f"{stack.url}/api/spaces/admin/demo/secrets", json=its, headers=headers, timeout=60).status_code == 200
    mount = "RUN --mount=type=secret,id=TOKEN,mode=0444,required=true"
    file = work / "Dockerfile"
    good = file.read_text()
    size = good.replace("COPY . .", f"COPY . .\n{mount} cat /run/secrets/TOKEN && wc -c < /run/secrets/TOKEN > size")
    file.write_text(size)
    said = push_again(work)
    assert "[secret]" in said and secret not in said, said
    until(lambda: answer(stack, "/size").strip() == str(len(secret)), 60, "the version that was built with a secret")
    file.write_text(size + f"{mount} yes > /big\n")
    said = push_again(work, live=False)
    assert "BUILD_DISK" in said and "more than the limit of 1024 MiB" in said, said
    assert "hello from compose" in answer(stack)
    file.write_text(good)
    push_again(work)


def keeps_its_disk(stack: Stack, token: str, work: Path) -> None:
    """What an app writes to /data is there after it was replaced, and gone with the disk."""
    headers, space = {"Authorization": f"Bearer {token}"}, f"{stack.url}/api/spaces/admin/demo"
    assert httpx.post(f"{space}/storage", json={"tier": "small"}, headers=headers, timeout=60).status_code == 200
    file = work / "Dockerfile"
    good = file.read_text()
    before, _, _ = good.rpartition("CMD")
    command = ["sh", "-c", "echo started >> /data/starts && exec python3 -m http.server 7860 --directory /data"]
    file.write_text(f"{before}CMD {json.dumps(command)}\n")
    push_again(work)
    until(lambda: answer(stack, "/starts") == "started\n", 60, "the app that writes to its disk")
    assert httpx.post(f"{space}/restart", headers=headers, timeout=60).status_code == 200
    until(lambda: answer(stack, "/starts") == "started\n" * 2, 60, "the next one, with what the first wrote")
    file.write_text(good)
    push_again(work)
    assert httpx.delete(f"{space}/storage", headers=headers, timeout=60).status_code == 200
    until(lambda: answer(stack) == "hello from compose", 60, "the app without a disk")


def test_an_upgrade_migrates_the_database_and_disturbs_no_app(stack: Stack, engine: TestEngine, tmp_path: Path) -> None:
    if not stack.docker("images", "--quiet", OLDER):
        pytest.skip("the checkout has no history to take an older version from")
    stack.up("down", "--volumes")
    check_out(stack, stack.folder.parent / "older")
    stack.up(VITRINE_IMAGE=OLDER)
    older, token = stored(stack), new_token(stack)
    headers = {"Authorization": f"Bearer {token}"}
    made = httpx.post(f"{stack.url}/api/repos/create", json={"name": "demo", "type": "space", "sdk": "docker"}, headers=headers, timeout=60)
    assert made.status_code == 200, made.text
    push(stack, token, tmp_path)
    until(lambda: "hello from compose" in answer(stack), 60, "the app")
    app = running_app(engine)

    check_out(stack, ROOT / "infra/compose")
    stack.up()
    assert (older < stored(stack), stored(stack)) == (True, head_revision())
    assert running_app(engine) == app, "the same container runs on"
    until(lambda: "hello from compose" in answer(stack), 60, "the app after the upgrade")
    (tmp_path / "demo/index.html").write_text("hello from the next version")
    push_again(tmp_path / "demo")
    until(lambda: "hello from the next version" in answer(stack), 60, "a push after it, with the token of before")


def check_out(stack: Stack, version: Path) -> None:
    """The files of another version in place of these, as git does it; `secrets` stay."""
    shutil.copytree(version, stack.folder, ignore=shutil.ignore_patterns("secrets"), dirs_exist_ok=True)


def new_token(stack: Stack) -> str:
    token = stack.up("exec", "-T", "api", "vitrine", "admin", "token", "add", "admin", "--role", "write", "--quiet").strip()
    assert token.startswith("hf_")
    return token


def stored(stack: Stack) -> str:
    """The schema of the database."""
    ask = ("psql", "-h", "127.0.0.1", "-U", "vitrine", "-Atc", "select version_num from alembic_version")
    password = (stack.folder / "secrets/postgres_password").read_text()
    return stack.up("exec", "-T", "-e", f"PGPASSWORD={password}", "postgres", *ask).strip()


def running_app(engine: TestEngine) -> str:
    """The id of the one app's container."""
    with engine.client() as docker:
        (app,) = [one for one in docker.containers() if "com.vitrine.replica" in one["Labels"]]
        return str(app["Id"])


def push(stack: Stack, token: str, tmp_path: Path) -> None:
    work = tmp_path / "demo"
    git(tmp_path, "clone", "-q", stack.url.replace("//", f"//admin:{token}@") + "/spaces/admin/demo", str(work))
    (work / "README.md").write_text("---\ntitle: D\nsdk: docker\n---\n")
    (work / "index.html").write_text("hello from compose")
    (work / "Dockerfile").write_text('FROM test/base\nWORKDIR /srv\nCOPY . .\nCMD ["python3", "-m", "http.server", "7860"]\n')
    push_again(work)


def push_again(work: Path, *, live: bool = True) -> str:
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "one")
    said = git(work, "push", "-o", "wait", "origin", "HEAD:main")
    assert ("Live at" in said) is live, said
    return said


def git(folder: Path, *words: str) -> str:
    who = {f"GIT_{role}_{part}": text for role in ("AUTHOR", "COMMITTER") for part, text in (("NAME", "A"), ("EMAIL", "a@example.org"))}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_TERMINAL_PROMPT": "0", **who}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def answer(stack: Stack, path: str = "/") -> str:
    try:
        return httpx.get(stack.url + path, headers={"Host": f"admin-demo.{stack.url.partition('//')[2]}"}, trust_env=False, timeout=5).text
    except httpx.HTTPError:
        return ""
