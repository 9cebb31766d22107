"""The container path: tree → Dockerfile → image → registry → `name@sha256:…`."""

from __future__ import annotations

import json
import shutil
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder import dockerfile
from builder.catalog import Catalog
from builder.dockerfile import PythonImage
from builder.dockerfile_rules import check_dockerfile
from builder.engines.engine import BuiltImage, ImageBuild, ImageEngine
from builder.errors import BuildFailed, IndexMoved
from builder.generated_failures import LastLines, for_want_of_room, in_owners_words
from builder.kit_dockerfile import Mirrors, for_buildkit, secret_id
from builder.preload import add_models
from builder.recipes import select
from builder.reporter import BuildReporter
from builder.requirements import Declaration, read_declaration, read_packages
from builder.source import SourceTree
from builder.steps import StepRunner
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildRequest, BuildResult, LaunchPlan
from control_plane.domain.reasons import Reason

DOCKERFILE = "vitrine/Dockerfile"
PUSH_PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between tries to push an image
PUSH_PATIENCE_S = 15.0  # no new try after this: a registry that is full takes its time to say so
SMALL_TREE_BYTES = 256 << 20  # a tree that the runtime may copy at each start: a fraction of a second


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """`registry`: where images go (`host:port/prefix`), "" = they stay in the engine. `build_network`: the engine's network of
    RUN steps; it must not reach the platform. `no_buildkit`: why BuildKit is not used although a client is here. `only_buildkit`: the
    classic builder cannot run steps in this engine, and BuildKit's use `build_network`.

    Mirrors as the classic builder's steps reach them, and (`kit_…`) as BuildKit's do. `ca_bundle`: PEM file, trusted besides the usual.
    """

    registry: str = ""
    build_network: str = "bridge"
    pypi_index_url: str = ""
    apt_mirror: str = ""
    kit_index_url: str = ""
    kit_apt_mirror: str = ""
    ca_bundle: str = ""
    no_buildkit: str = ""
    only_buildkit: bool = False


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What goes to the engine, before any file is written. Pure.

    `secrets`: names of the Space's secrets that the Dockerfile mounts, by the id they have there. `mirrors`: for BuildKit's mounts.
    """

    text: str
    requirements: str
    constraints: str
    companions: str
    launch: LaunchPlan
    args: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict, repr=False)
    with_buildkit: bool = False
    is_generated: bool = True
    bases: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ImageBuilder:
    """Implements `pipeline.ImagePipeline` with an engine."""

    def __init__(self, engine: ImageEngine, catalog: Catalog, config: ImageConfig) -> None:
        self._engine = engine
        self._catalog = catalog
        self._config = config
        self._authorities = read_authorities(config.ca_bundle)

    def build(self, request: BuildRequest, tree: SourceTree, runner: StepRunner, reporter: BuildReporter) -> BuildResult:
        """Raises BuildFailed or BuildStopped."""
        plan = blueprint(request, tree, self._catalog, self._config, has_buildkit=self._engine.has_buildkit, authorities=self._authorities)
        for warning in plan.warnings:
            reporter.line(f"warning: {warning}")
        name = f"{self._config.registry}/{request.space_id}" if self._config.registry else f"vitrine/{request.space_id}"
        tag = f"{name}:{request.build_id}"
        with tempfile.TemporaryDirectory(prefix="vitrine-image-") as scratch:
            labels = image_labels(request, tree, is_generated=plan.is_generated)
            context, file = self._write_context(plan, tree, Path(scratch), labels)
            if request.preload_from_hub and plan.is_generated:
                room = request.limits.disk_bytes // 3 - tree.size_bytes
                reporter.phase(BuildPhase.INSTALL, f"{len(request.preload_from_hub)} models of preload_from_hub")
                with reporter.preloaded() as chunks:
                    add_models(context, chunks, room, runner.cancel)
            elif request.preload_from_hub:
                reporter.line("warning: preload_from_hub: a Dockerfile of your own downloads its models itself")
            reporter.phase(BuildPhase.IMAGE, "building the image")
            order = ImageBuild(
                context=context,
                dockerfile=file,
                tag=tag,
                network="" if plan.with_buildkit and not self._config.only_buildkit else self._config.build_network,
                args=plan.args,
                secrets=self._secret_files(plan, reporter, Path(scratch)),
                labels={} if plan.is_generated else labels,
                no_cache=request.no_cache,
                with_buildkit=plan.with_buildkit,
                space=request.space_id,
                bases=plan.bases,
            )
            try:
                built = self._run(order, plan, runner)
            except IndexMoved:
                # No step that failed is cached, and uv keeps nothing in it: the same build asks the index anew.
                reporter.line("the package index does not have what it named before; installing once more, past its caches")
                built = self._run(order, plan, runner)
        ref = built.id
        if self._config.registry:
            reporter.phase(BuildPhase.PUBLISH, "pushing the image")
            ref = self._push(tag, runner, reporter)
        return BuildResult(Artifact(ArtifactKind.IMAGE, ref, size_bytes=built.size_bytes), plan.launch, warnings=plan.warnings)

    def _run(self, order: ImageBuild, plan: Blueprint, runner: StepRunner) -> BuiltImage:
        log = LastLines(runner.log)
        try:
            return self._engine.build(order, runner.with_log(log))
        except BuildFailed as failure:
            told = for_want_of_room(failure, log.step)
            raise (in_owners_words(told, log.step) if plan.is_generated else told) from failure

    def _push(self, tag: str, runner: StepRunner, reporter: BuildReporter) -> str:
        """The reference by digest. A registry that is away for a moment (a restart, an upgrade) does not cost the build."""
        began = time.monotonic()
        for pause_s in PUSH_PAUSES_S:
            try:
                return self._engine.push(tag, runner, reporter.registry_token())
            except BuildFailed as failure:
                if failure.reason is not Reason.REGISTRY_UNAVAILABLE or time.monotonic() - began > PUSH_PATIENCE_S:
                    raise
                reporter.phase(BuildPhase.PUBLISH, f"{failure.message} Trying again in {pause_s:.0f} s.")
                runner.cancel.wait(pause_s)
                runner.cancel.check()
        return self._engine.push(tag, runner, reporter.registry_token())

    def _write_context(self, plan: Blueprint, tree: SourceTree, scratch: Path, labels: Mapping[str, str]) -> tuple[Path, str]:
        """The context's folder, and where the Dockerfile lies (absolute when it is outside)."""
        if not plan.is_generated:
            if not plan.with_buildkit:
                return tree.root, "Dockerfile"
            outside = scratch / "Dockerfile"
            outside.write_text(plan.text)
            return tree.root, str(outside)
        context = scratch / "context"
        (context / "vitrine").mkdir(parents=True)
        # One instruction for all labels: each of its own would be a container that the classic builder starts and commits.
        told = " ".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
        (context / DOCKERFILE).write_text(f"{plan.text}LABEL {told}\n")
        (context / dockerfile.REQUIREMENTS).write_text(plan.requirements)
        (context / dockerfile.CONSTRAINTS).write_text(plan.constraints)
        (context / dockerfile.COMPANIONS).write_text(plan.companions)
        (context / dockerfile.CA_BUNDLE).write_text(self._authorities)
        shutil.move(tree.root, context / "tree")
        return context, DOCKERFILE

    def _secret_files(self, plan: Blueprint, reporter: BuildReporter, scratch: Path) -> dict[str, Path]:
        """Values as files outside of the context; only those the Dockerfile mounts and the Space has."""
        texts = dict(plan.mirrors)
        if plan.secrets:
            values = reporter.secrets()
            reporter.hide(values.values())
            texts |= {mounted: values[name] for mounted, name in plan.secrets.items() if name in values}
        folder = scratch / "secrets"
        folder.mkdir(mode=0o700)
        files: dict[str, Path] = {}
        for name, text in texts.items():
            files[name] = folder / f"{len(files)}"
            files[name].touch(mode=0o600)
            files[name].write_text(text)
        return files


def blueprint(
    request: BuildRequest, tree: SourceTree, catalog: Catalog, config: ImageConfig, *, has_buildkit: bool = False, authorities: str = ""
) -> Blueprint:
    """The plan of an image build. Reads the tree's small files only. `authorities`: PEM text for mirrors. Raises BuildFailed."""
    if request.sdk == "docker":
        return _own_dockerfile(request, tree, catalog, config, has_buildkit=has_buildkit, authorities=authorities)
    plan = select(request.sdk).plan(request, tree)
    base = catalog.find(request.hardware_family, request.python_version)
    packages = read_packages(tree.text("packages.txt") or "")
    declaration = read_declaration(tree.text, sdk=request.sdk, sdk_version=request.sdk_version)
    if any(line.startswith(("-e", ".", "/", "file:")) for line in declaration.requirements):
        raise BuildFailed(Reason.SOURCE_REJECTED, f"Requirements from paths are not installed in images ({declaration.open_because}).")
    image = PythonImage(
        base.name,
        plan.launch.argv,
        plan.launch.port,
        packages,
        needs_compiler=declaration.is_open,
        has_models=bool(request.preload_from_hub),
    )
    uses_apt = bool(packages) or declaration.is_open
    # Only a mount can tell apt of a mirror without a trace in the image; everything else the classic builder does as well.
    with_buildkit = has_buildkit and (config.only_buildkit or (uses_apt and bool(config.kit_apt_mirror)))
    mirrors = Mirrors(apt_mirror=config.kit_apt_mirror, suite=base.debian).files() if with_buildkit else {}
    text = dockerfile.render(image)
    index = config.kit_index_url if with_buildkit else config.pypi_index_url
    warning = "the platform's Debian mirror needs BuildKit, which is not here; packages come from Debian's own servers"
    return Blueprint(
        text=for_buildkit(text, tenant=request.tenant, space_id=request.space_id, mounts=sorted(mirrors)) if mirrors else text,
        requirements=requirements_text(declaration),
        constraints="".join(f"{line}\n" for line in sorted(declaration.constraints)),
        companions="".join(f"{line}\n" for line in declaration.companions),
        launch=replace(plan.launch, argv=()),
        args={"UV_DEFAULT_INDEX": index} if index else {},
        mirrors=mirrors,
        with_buildkit=with_buildkit,
        bases=(base.name,),
        warnings=(warning,) if config.apt_mirror and uses_apt and not has_buildkit else (),
    )


def requirements_text(declaration: Declaration) -> str:
    """One declaration, always in the same words: equal text is an equal layer."""
    lines = [*declaration.options, *sorted(declaration.requirements)]
    return "".join(f"{line}\n" for line in (*lines, *(("--pre",) if declaration.prerelease else ())))


def image_labels(request: BuildRequest, tree: SourceTree, *, is_generated: bool) -> dict[str, str]:
    """What is told of an image; the runtime goes by `vitrine.home` (control_plane/runtimes/docker/README.md)."""
    is_small = is_generated and tree.size_bytes <= SMALL_TREE_BYTES
    return {"vitrine.space": request.space_id, "vitrine.revision": request.revision, "vitrine.home": "volume" if is_small else "layer"}


def read_authorities(ca_bundle: str) -> str:
    """PEM text of the usual authorities and those of the file; "" when there is no file. Raises OSError."""
    if not ca_bundle:
        return ""
    usual = ssl.get_default_verify_paths().cafile
    texts = [Path(path).read_text() for path in dict.fromkeys((usual, ca_bundle)) if path]
    return "\n".join(texts)


def _own_dockerfile(
    request: BuildRequest, tree: SourceTree, catalog: Catalog, config: ImageConfig, *, has_buildkit: bool, authorities: str
) -> Blueprint:
    text = tree.text("Dockerfile")
    if text is None:
        raise BuildFailed(Reason.NO_APP_FILE, "There is no Dockerfile at the root of the repository.")
    facts = check_dockerfile(text, request.variables, config.registry)
    if facts.needs_buildkit and not has_buildkit:
        why = config.no_buildkit or "the docker client of this platform cannot drive it"
        raise BuildFailed(
            Reason.UNSUPPORTED_HERE,
            f"This Dockerfile needs BuildKit (RUN --mount, COPY --link or a here-document), and here is none: {why}.",
        )
    suite = next((one.debian for one in catalog.images if one.name in facts.images), "")
    mirrors = Mirrors(config.kit_index_url, config.kit_apt_mirror, suite, authorities).files()
    with_buildkit = has_buildkit and (config.only_buildkit or facts.needs_buildkit or bool(mirrors))
    if with_buildkit:
        text = for_buildkit(text, tenant=request.tenant, space_id=request.space_id, mounts=sorted(mirrors))
    wanted = facts.secret_ids & frozenset(request.secret_names)
    warning = "the platform's package index and certificates reach a Dockerfile only through BuildKit, which is not here"
    return Blueprint(
        text=text,
        requirements="",
        constraints="",
        companions="",
        launch=LaunchPlan(argv=(), port=request.app_port),
        args={name: value for name, value in request.variables.items() if name in facts.args},
        secrets={secret_id(request.space_id, name): name for name in wanted},
        mirrors=mirrors if with_buildkit else {},
        with_buildkit=with_buildkit,
        is_generated=False,
        bases=tuple(sorted(name for name in facts.images if name.startswith("vitrine/"))),
        warnings=(warning,) if mirrors and not with_buildkit else (),
    )
