"""The Docker Engine API as an `ImageEngine`. Each call is a step of its own: see `docker_step` for what runs in it.

Why a process per call: the engine's build stream cannot be interrupted from another thread, but a killed client makes the
engine stop the build at once. So time, log and cancel work exactly as for every other step, and a hanging engine cannot hang
a worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import builder
from builder.engines.docker_prune import CACHE_BYTES
from builder.engines.engine import BuiltImage, ImageBuild
from builder.engines.failures import no_base, reason_of, too_much_written
from builder.engines.kit_guard import GuardClient, GuardedWatch
from builder.engines.kit_watch import KitWatch
from builder.engines.orphans import end_orphans
from builder.errors import BuildFailed
from builder.kit_dockerfile import plain_line
from builder.reporter import BuildLog
from builder.steps import StepRunner
from control_plane.domain.reasons import Reason


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """`host`: the engine's address ("" = its usual socket). `buildkit_cli`: the docker client's argument tuple where it can drive
    BuildKit (a client of 20.10, or one with its buildx plug-in); empty where it cannot. `guard`: the socket of `kit_guard`; "" where this
    process has the rights itself."""

    host: str = ""
    login: RegistryLogin | None = None
    buildkit_cli: tuple[str, ...] = ()
    guard: str = ""


class DockerEngine:
    def __init__(self, config: DockerConfig) -> None:
        self._config = config
        self._root: Path | None = None
        self._watches: dict[int, KitWatch | GuardedWatch] = {}
        self._guard = GuardClient(config.guard) if config.guard else None

    @property
    def has_buildkit(self) -> bool:
        return bool(self._config.buildkit_cli)

    def build(self, build: ImageBuild, runner: StepRunner) -> BuiltImage:
        if build.with_buildkit:
            log = PlainLog(runner.log, build.space)
            for base in build.bases:
                if self.size(base, runner) is None:
                    raise BuildFailed(Reason.PYTHON_MISSING, no_base(base))
            self._end_orphans()
            room, began = self._room(runner), time.monotonic()
            watch = self._watch(room, runner.limits.disk_bytes) if room else None
            with watch.watching() if watch else contextlib.nullcontext():
                done = runner.run(buildkit_argv(self._config, build), env=self._environment(buildkit=True), log=log, room=room)
            if not done.ok:
                said = plain_line(done.tail[-1], build.space) if done.tail else ""
                reason = reason_of(done.text)
                if reason is Reason.BUILD_MEMORY:  # killed is killed: by whom?
                    if watch and (written := watch.ended(since=began)):
                        raise BuildFailed(Reason.BUILD_DISK, too_much_written(written, runner.limits.disk_bytes))
                    if not self._is_there(runner):
                        reason, said = Reason.BUILD_LOST, "the container engine stopped, and the build with it."
                if reason is Reason.BUILD_LOST:
                    self._end_orphans()
                raise BuildFailed(reason, f"A step of the Dockerfile failed: {(said or '')[:300]}")
            answer = self._step({"do": "inspect", "tag": build.tag}, runner, quiet=True)
        else:
            answer = self._step(
                {
                    "do": "build", "context": str(build.context), "bases": build.bases, "dockerfile": build.dockerfile, "tag": build.tag,
                    "network": build.network,
                    "args": dict(build.args), "labels": dict(build.labels), "no_cache": build.no_cache,
                    "memory_bytes": runner.limits.memory_bytes, "cpu": runner.limits.cpu, "disk_bytes": runner.limits.disk_bytes,
                },
                runner,
                room=self._room(runner),
            )  # fmt: skip
        image = BuiltImage(str(answer["id"]), int(answer["size"]))
        if image.size_bytes > runner.limits.disk_bytes:
            self.untag(build.tag, runner)
            raise BuildFailed(
                Reason.BUILD_DISK,
                f"The image has {image.size_bytes >> 20} MiB, more than the limit of {runner.limits.disk_bytes >> 20} MiB.",
            )
        return image

    def push(self, tag: str, runner: StepRunner, token: str = "") -> str:
        login = self._config.login
        auth = {"username": login.username, "password": login.password} if login else {}
        if token:
            auth = {"registrytoken": token}
        return str(self._step({"do": "push", "tag": tag, "auth": auth}, runner)["ref"])

    def untag(self, tag: str, runner: StepRunner) -> None:
        self._step({"do": "untag", "tag": tag}, runner, quiet=True)

    def size(self, tag: str, runner: StepRunner) -> int | None:
        """Bytes of an image here, None when it is not."""
        answer = self._step({"do": "size", "tag": tag}, runner, quiet=True)
        return None if answer["size"] is None else int(answer["size"])

    def tags(self, prefix: str, runner: StepRunner) -> tuple[str, ...]:
        """Tags here that start with `prefix`."""
        return tuple(self._step({"do": "tags", "prefix": prefix}, runner, quiet=True)["tags"])

    def prune(self, runner: StepRunner, *, keep: int, dry_run: bool, cache_bytes: int = CACHE_BYTES) -> tuple[str, ...]:
        """Forgets images of Spaces beyond the newest `keep` of each and those that run, and BuildKit's cache beyond `cache_bytes`.

        Returns the images' names.
        """
        order = {"do": "prune", "keep": keep, "dry_run": dry_run, "cache_bytes": cache_bytes}
        return tuple(self._step(order, runner, quiet=True)["gone"])

    def load_root(self, archive: Path, tag: str, runner: StepRunner) -> None:
        """Makes an image of one layer from a root file system's tar."""
        self._step({"do": "load", "archive": str(archive), "tag": tag}, runner, quiet=True)

    def _room(self, runner: StepRunner) -> Path | None:
        """Where the engine keeps what is built; None where that is not on this machine."""
        if self._root is None:
            self._root = Path(str(self._step({"do": "root"}, runner, quiet=True)["root"]))
        return self._root if self._root.is_dir() else None

    def _is_there(self, runner: StepRunner) -> bool:
        """Whether the engine takes a new connection: one that is about to stop does not, while it still speaks on those it has."""
        try:
            self._step({"do": "root"}, runner, quiet=True)
        except BuildFailed as failure:
            return failure.reason is not Reason.BUILD_LOST
        return True

    def _watch(self, room: Path, limit_bytes: int) -> KitWatch | GuardedWatch:
        made = GuardedWatch(self._guard, room, limit_bytes) if self._guard else KitWatch(room, limit_bytes)
        return self._watches.setdefault(limit_bytes, made)

    def _end_orphans(self) -> None:
        if self._guard:
            self._guard.ask(do="orphans")
        else:
            end_orphans()

    def _step(self, order: Mapping[str, Any], runner: StepRunner, *, quiet: bool = False, room: Path | None = None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="vitrine-engine-") as folder:
            answer = Path(folder, "answer.json")
            runner.run(
                (sys.executable, "-m", "builder.engines.docker_step", str(answer)),
                env=self._environment(),
                stdin=json.dumps({**order, "host": self._config.host}),  # not in argv: credentials may be in it
                quiet=quiet,
                room=room,
            )
            body: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
        if "reason" in body:
            raise BuildFailed(Reason(body["reason"]), str(body["message"]))
        if not body:
            raise BuildFailed(Reason.BUILD_LOST, "The container engine's client ended without an answer.")
        return body

    def _environment(self, *, buildkit: bool = False) -> dict[str, str]:
        root = str(Path(builder.__file__).parent.parent)
        variables = {"PATH": os.defpath, "HOME": "/nonexistent", "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
        if buildkit:
            variables |= {"DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
            if self._config.host:
                variables["DOCKER_HOST"] = self._config.host
        return variables


def find_buildkit_client(runner: StepRunner) -> tuple[str, ...]:
    """The docker client's argument tuple where it can drive BuildKit: with its buildx plug-in, or of a release before 23.0, which has
    the driver built in (docs.docker.com, "Docker Engine 23.0 release notes"). Empty where it cannot."""
    environment = {"PATH": os.defpath, "HOME": "/nonexistent"}
    client = shutil.which("docker", path=os.defpath)
    if client is None:
        return ()
    if runner.run((client, "buildx", "version"), env=environment, quiet=True).ok:
        return (client,)
    version = runner.run((client, "version", "--format", "{{.Client.Version}}"), env=environment, quiet=True)
    major = next((line.partition(".")[0] for line in version.tail if line[:1].isdigit()), "")
    return (client,) if major.isdigit() and int(major) < 23 else ()


class PlainLog:
    """BuildKit's log without what the platform put into the Dockerfile."""

    def __init__(self, log: BuildLog, space: str) -> None:
        self._log, self._space = log, space

    def line(self, text: str) -> None:
        if (said := plain_line(text, self._space)) is not None:
            self._log.line(said)


def buildkit_argv(config: DockerConfig, build: ImageBuild) -> tuple[str, ...]:
    """The docker client's command for a build with secrets. Pure; values of secrets are in files, so none is in the list."""
    return (
        *config.buildkit_cli, "build", "--file", str(build.context / build.dockerfile), "--tag", build.tag,
        *(("--network", build.network) if build.network else ()),
        *(("--no-cache",) if build.no_cache else ()),
        *(part for name, value in sorted(build.args.items()) for part in ("--build-arg", f"{name}={value}")),
        *(part for name, value in sorted(build.labels.items()) for part in ("--label", f"{name}={value}")),
        *(part for name, path in sorted(build.secrets.items()) for part in ("--secret", f"id={name},src={path}")),
        str(build.context),
    )  # fmt: skip
