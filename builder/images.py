"""The container path: tree → Dockerfile → image → registry → `name@sha256:…`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder import dockerfile
from builder.catalog import Catalog
from builder.dockerfile import PythonImage
from builder.dockerfile_rules import check_dockerfile
from builder.engines.engine import ImageBuild, ImageEngine
from builder.errors import BuildFailed
from builder.recipes import select
from builder.reporter import BuildReporter
from builder.requirements import Declaration, read_declaration, read_packages
from builder.source import SourceTree
from builder.steps import StepRunner
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildRequest, BuildResult, LaunchPlan
from control_plane.domain.reasons import Reason

DOCKERFILE = "vitrine/Dockerfile"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """`registry`: where images go (`host:port/prefix`), "" = they stay in the engine. `build_network`: the engine's network of
    RUN steps; it must not reach the platform."""

    registry: str = ""
    build_network: str = "bridge"
    pypi_index_url: str = ""
    ca_bundle: str = ""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What goes to the engine, before any file is written. Pure."""

    text: str
    requirements: str
    constraints: str
    launch: LaunchPlan
    args: Mapping[str, str]
    secret_ids: frozenset[str] = frozenset()
    needs_buildkit: bool = False
    is_generated: bool = True


class ImageBuilder:
    """Implements `pipeline.ImagePipeline` with an engine."""

    def __init__(self, engine: ImageEngine, catalog: Catalog, config: ImageConfig) -> None:
        self._engine = engine
        self._catalog = catalog
        self._config = config

    def build(self, request: BuildRequest, tree: SourceTree, runner: StepRunner, reporter: BuildReporter) -> BuildResult:
        """Raises BuildFailed or BuildStopped."""
        plan = blueprint(request, tree, self._catalog, self._config)
        if plan.needs_buildkit and not self._engine.has_buildkit:
            raise BuildFailed(
                Reason.UNSUPPORTED_HERE,
                "This Dockerfile needs BuildKit (RUN --mount, COPY --link or a here-document), and this platform's engine client has none.",
            )
        name = f"{self._config.registry}/{request.space_id}" if self._config.registry else f"vitrine/{request.space_id}"
        tag = f"{name}:{request.build_id}"
        with tempfile.TemporaryDirectory(prefix="vitrine-image-") as scratch:
            context = self._write_context(plan, tree, Path(scratch))
            reporter.phase(BuildPhase.IMAGE, "building the image")
            built = self._engine.build(
                ImageBuild(
                    context=context,
                    dockerfile=DOCKERFILE if plan.is_generated else "Dockerfile",
                    tag=tag,
                    network=self._config.build_network,
                    args=plan.args,
                    secrets=self._secrets(plan, reporter, Path(scratch)),
                    labels={"vitrine.space": request.space_id, "vitrine.revision": request.revision},
                    no_cache=request.no_cache,
                    needs_buildkit=plan.needs_buildkit,
                ),
                runner,
            )
        ref = built.id
        if self._config.registry:
            reporter.phase(BuildPhase.PUBLISH, "pushing the image")
            ref = self._engine.push(tag, runner)
        return BuildResult(Artifact(ArtifactKind.IMAGE, ref, size_bytes=built.size_bytes), plan.launch)

    def _write_context(self, plan: Blueprint, tree: SourceTree, scratch: Path) -> Path:
        if not plan.is_generated:
            return tree.root
        context = scratch / "context"
        (context / "vitrine").mkdir(parents=True)
        (context / DOCKERFILE).write_text(plan.text)
        (context / dockerfile.REQUIREMENTS).write_text(plan.requirements)
        (context / dockerfile.CONSTRAINTS).write_text(plan.constraints)
        bundle = Path(self._config.ca_bundle).read_text() if self._config.ca_bundle else ""
        (context / dockerfile.CA_BUNDLE).write_text(bundle)
        shutil.move(tree.root, context / "tree")
        return context

    def _secrets(self, plan: Blueprint, reporter: BuildReporter, scratch: Path) -> dict[str, Path]:
        """Values as files outside of the context; only those the Dockerfile mounts and the Space has."""
        if not plan.secret_ids:
            return {}
        folder = scratch / "secrets"
        folder.mkdir(mode=0o700)
        files: dict[str, Path] = {}
        values = reporter.secrets()
        reporter.hide(values.values())
        for name, value in values.items():
            if name in plan.secret_ids:
                files[name] = folder / f"{len(files)}"
                files[name].touch(mode=0o600)
                files[name].write_text(value)
        return files


def blueprint(request: BuildRequest, tree: SourceTree, catalog: Catalog, config: ImageConfig) -> Blueprint:
    """The plan of an image build. Reads the tree's small files only. Raises BuildFailed."""
    if request.sdk == "docker":
        return _own_dockerfile(request, tree)
    plan = select(request.sdk).plan(request, tree)
    base = catalog.find(request.hardware_family, request.python_version)
    packages = read_packages(tree.text("packages.txt") or "")
    declaration = read_declaration(tree.text, sdk=request.sdk, sdk_version=request.sdk_version)
    if any(line.startswith(("-e", ".", "/", "file:")) for line in declaration.requirements):
        raise BuildFailed(Reason.SOURCE_REJECTED, f"Requirements from paths are not installed in images ({declaration.open_because}).")
    image = PythonImage(base.name, plan.launch.argv, plan.launch.port, packages, needs_compiler=declaration.is_open)
    return Blueprint(
        text=dockerfile.render(image),
        requirements=requirements_text(declaration),
        constraints="".join(f"{line}\n" for line in sorted(declaration.constraints)),
        launch=replace(plan.launch, argv=()),
        args={"UV_DEFAULT_INDEX": config.pypi_index_url} if config.pypi_index_url else {},
    )


def requirements_text(declaration: Declaration) -> str:
    """One declaration, always in the same words: equal text is an equal layer."""
    lines = [*declaration.options, *sorted(declaration.requirements)]
    return "".join(f"{line}\n" for line in (*lines, *(("--pre",) if declaration.prerelease else ())))


def _own_dockerfile(request: BuildRequest, tree: SourceTree) -> Blueprint:
    text = tree.text("Dockerfile")
    if text is None:
        raise BuildFailed(Reason.NO_APP_FILE, "There is no Dockerfile at the root of the repository.")
    facts = check_dockerfile(text)
    return Blueprint(
        text=text,
        requirements="",
        constraints="",
        launch=LaunchPlan(argv=(), port=request.app_port),
        args={name: value for name, value in request.variables.items() if name in facts.args},
        secret_ids=facts.secret_ids & frozenset(request.secret_names),
        needs_buildkit=facts.needs_buildkit,
        is_generated=False,
    )
