"""One build from request to result: fetch, plan, resolve, install, publish. Safe to run again after a crash."""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from builder.environments import EnvironmentStore
from builder.errors import BuildFailed, BuildStopped, DoorClosed
from builder.interpreters import Interpreters
from builder.layered import LayeredImages
from builder.locks import Lock
from builder.recipes import Plan, select
from builder.reporter import BuildDoor, BuildReporter, CancelToken, log_facts
from builder.requirements import read_declaration, read_packages
from builder.sandbox import BuildSandbox
from builder.sites import build_site
from builder.source import SourceTree, unpack
from builder.step_guard import StepGuard
from builder.steps import StepRunner, folder_bytes
from builder.system_packages import check_present, machine_lookup
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildRequest, BuildResult, SourceKind
from control_plane.domain.reasons import Reason

logger = logging.getLogger("vitrine.builder")

FETCH_TRIES = 3


class ImagePipeline(Protocol):
    """Makes a container image of a tree; the worker has one when it was given an engine and a registry."""

    def build(self, request: BuildRequest, tree: SourceTree, runner: StepRunner, reporter: BuildReporter) -> BuildResult: ...


@dataclass(frozen=True, slots=True)
class BuildDeps:
    """What a build works with; made once per worker."""

    door: BuildDoor
    worker: str
    data_dir: Path
    environments: EnvironmentStore
    interpreters: Interpreters
    sandbox: BuildSandbox
    images: ImagePipeline | None = None
    layers: LayeredImages | None = None
    heartbeat_s: float = 2.0
    dpkg_query: str = "dpkg-query"
    guard: StepGuard | None = None


def run_build(request: BuildRequest, deps: BuildDeps, cancel: CancelToken, is_closing: CancelToken | None = None) -> None:
    """Runs one attempt and reports its end exactly once. Never raises: what goes wrong is reported or logged.

    `cancel` ends it at once. `is_closing`, when set too, means that the worker goes away: the build is reported as lost.
    """
    reporter = BuildReporter(deps.door, request, deps.worker, cancel, heartbeat_s=deps.heartbeat_s)
    facts = log_facts(request)
    try:
        if not reporter.start():
            logger.info("build.not_mine", extra=facts)
            return
        logger.info("build.started", extra=facts)
        with reporter:
            try:
                began = time.monotonic()
                result = _make(request, deps, reporter, cancel)
                reporter.say(f"built in {time.monotonic() - began:.2f} s")
                reporter.succeeded(result)
                logger.info("build.succeeded", extra=facts)
            except BuildFailed as failure:
                reporter.say(failure.message)
                reporter.failed(failure.reason, failure.message)
                logger.info("build.failed", extra={**facts, "reason": failure.reason.value})
            except BuildStopped:
                logger.info("build.stopped", extra=facts)
                if is_closing is not None and is_closing.is_set:
                    reporter.failed(Reason.BUILD_LOST, "The build worker was stopped; the build is tried again.", retry_s=0.5)
            except DoorClosed:
                raise
            except Exception as error:
                logger.exception("build.broken", extra=facts)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    reporter.failed(
                        Reason.BUILD_DISK, "The builder's disk is full; the build can be tried again when its operator made room."
                    )
                    return
                reporter.failed(Reason.PLATFORM_ERROR, f"The builder had a fault: {type(error).__name__}.")
    except DoorClosed as error:
        logger.warning("build.door_closed", extra={**facts, "error": str(error)})


def _make(request: BuildRequest, deps: BuildDeps, reporter: BuildReporter, cancel: CancelToken) -> BuildResult:
    runner = StepRunner(reporter, request.limits, cancel, guard=deps.guard)
    kind = ArtifactKind.SITE if request.sdk == "static" else ArtifactKind.BUNDLE
    home = deps.data_dir / ("sites" if kind is ArtifactKind.SITE else "bundles") / request.space_id
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(f".new-{request.build_id}~*"):  # an earlier attempt died here
        shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f".new-{request.build_id}~", dir=home))
    try:
        building.chmod(0o755)
        reporter.phase(BuildPhase.FETCH, f"fetching {request.revision[:7]}")
        is_image = request.target is SourceKind.IMAGE and kind is not ArtifactKind.SITE
        # An image build holds it three times: here, as the engine's context and as a layer.
        tree = _fetch(request, deps, building, cancel, request.limits.disk_bytes // (3 if is_image else 1))
        reporter.line(f"fetched {request.revision[:7]}: {tree.files} entries, {tree.size_bytes} bytes")
        reporter.phase(BuildPhase.PLAN, f"planning a {request.sdk} Space")
        if is_image:
            if deps.layers is not None and deps.layers.takes(request, tree):
                if request.preload_from_hub:
                    reporter.line("warning: preload_from_hub: images without an engine hold no models; the app downloads them")
                return _assemble(request, deps, deps.layers, reporter, runner, tree)
            if deps.images is None:
                raise BuildFailed(
                    Reason.UNSUPPORTED_HERE, "Dockerfiles and Debian packages need a container engine, and this builder has none."
                )
            return deps.images.build(request, tree, runner, reporter)
        plan = select(request.sdk).plan(request, tree)
        return _publish(request, deps, reporter, runner, plan, tree, building, home)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _fetch(request: BuildRequest, deps: BuildDeps, building: Path, cancel: CancelToken, max_bytes: int) -> SourceTree:
    import httpx

    for attempt in range(1, FETCH_TRIES + 1):
        target = building / f"tree-{attempt}"
        target.mkdir(mode=0o755)
        try:
            with deps.door.source(request.build_id) as chunks:
                return unpack(chunks, target, max_bytes=max_bytes, cancel=cancel)
        except httpx.TransportError as error:
            if attempt == FETCH_TRIES:
                raise BuildFailed(Reason.BUILD_LOST, f"The source could not be fetched: {error}") from error
            cancel.wait(0.2 * attempt)
            cancel.check()
    raise AssertionError("unreachable")


def _assemble(
    request: BuildRequest, deps: BuildDeps, layers: LayeredImages, reporter: BuildReporter, runner: StepRunner, tree: SourceTree
) -> BuildResult:
    plan, warnings = select(request.sdk).plan(request, tree), list[str]()
    key = _environment(request, deps, reporter, runner, tree, warnings)
    deps.environments.settle()  # its bytecode goes into the layer too
    python = deps.interpreters.find(request.python_version)
    made = layers.assemble(request, plan, deps.environments.path(key), python, tree, reporter, runner.cancel)
    return replace(made, warnings=(*plan.warnings, *warnings))


def _publish(
    request: BuildRequest,
    deps: BuildDeps,
    reporter: BuildReporter,
    runner: StepRunner,
    plan: Plan,
    tree: SourceTree,
    building: Path,
    home: Path,
) -> BuildResult:
    warnings, env_key = list(plan.warnings), ""
    if plan.needs_environment:
        env_key = _environment(request, deps, reporter, runner, tree, warnings)
    root = tree.root
    if plan.build_command:
        reporter.phase(BuildPhase.INSTALL, "running app_build_command")
        root = build_site(plan, tree, deps.sandbox, runner, building)
    if request.preload_from_hub and plan.needs_environment:
        warnings.append("preload_from_hub: models of this platform are in the cache before the app starts; others it downloads itself")
    for warning in warnings:
        reporter.line(f"warning: {warning}")
    reporter.phase(BuildPhase.PUBLISH, "publishing")
    size = folder_bytes(root)
    final = home / request.build_id
    runner.cancel.check()
    if final.exists():  # an earlier attempt got this far and was not heard
        final.rename(building / "replaced")
    # `<id>/tree`, published by one rename: beside the tree there is room for what belongs to the bundle but not to the app.
    bundle = building / "bundle"
    bundle.mkdir(mode=0o755)
    root.rename(bundle / "tree")
    bundle.rename(final)
    if plan.kind is ArtifactKind.SITE:
        deps.door.send_site(request.build_id, final / "tree")
    artifact = Artifact(kind=plan.kind, ref=f"{request.space_id}/{request.build_id}", env_key=env_key, size_bytes=size)
    return BuildResult(artifact=artifact, launch=plan.launch, warnings=tuple(warnings))


def _environment(
    request: BuildRequest, deps: BuildDeps, reporter: BuildReporter, runner: StepRunner, tree: SourceTree, warnings: list[str]
) -> str:
    python = deps.interpreters.find(request.python_version)
    if (packages := tree.text("packages.txt")) is not None and (names := read_packages(packages)):
        warnings.append(check_present(names, machine_lookup(runner, deps.dpkg_query)))
    declaration = read_declaration(tree.text, sdk=request.sdk, sdk_version=request.sdk_version)
    reporter.phase(BuildPhase.RESOLVE, f"resolving {len(declaration.requirements)} requirements for Python {python.version}")

    def resolved(lock: Lock) -> None:
        reporter.phase(BuildPhase.INSTALL, f"{len(lock.lines)} packages")

    environments = deps.environments
    return environments.provide(declaration, python, tree.root, request.tenant, runner, fresh=request.no_cache, resolved=resolved).key
