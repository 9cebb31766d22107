"""Builds the base images of the catalog: from an upstream image, or from Debian packages where no registry can be reached."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.catalog import DEFAULT_FOLDER, BaseImage, load_catalog
from builder.engines.docker_engine import DockerEngine
from builder.engines.docker_prune import CACHE_BYTES
from builder.engines.engine import BuiltImage, ImageBuild
from builder.errors import BuildFailed
from builder.reporter import CancelToken
from builder.steps import StepRunner
from control_plane.domain.builds import BuildLimits
from control_plane.domain.reasons import Reason

# What apps expect to be there (the public service documents these as pre-installed)
PACKAGES = ("ca-certificates", "curl", "ffmpeg", "git", "libgl1", "libglib2.0-0", "libsm6", "libxext6")
SLIM_PACKAGES = ("ca-certificates",)
DEBIAN_PYTHON = ("python3", "python3-venv")


@dataclass(frozen=True, slots=True)
class BaseStatus:
    """One image of the catalog; `size_bytes` is None when it is not built here."""

    image: BaseImage
    size_bytes: int | None


class BaseImages:
    """`say` receives progress lines. `mirror`: a Debian mirror's URL, "" = the release's own."""

    def __init__(
        self,
        engine: DockerEngine,
        uv: str,
        say: Callable[[str], None],
        *,
        folder: Path = DEFAULT_FOLDER,
        mirror: str = "",
        network: str = "bridge",
    ) -> None:
        self._engine = engine
        self._uv = uv
        self._folder = folder
        self._mirror = mirror
        self._network = network
        self._catalog = load_catalog(folder)
        self._roots: set[tuple[str, tuple[str, ...]]] = set()  # Debian roots that this run has made
        self._runner = StepRunner(_Lines(say), BuildLimits(time_s=3600, log_bytes=1 << 30), CancelToken())

    def list(self) -> tuple[BaseStatus, ...]:
        return tuple(BaseStatus(one, self._engine.size(one.name, self._runner)) for one in self._catalog.images)

    def build(self, image: BaseImage, *, bootstrap: str = "", slim: bool = False) -> BuiltImage:
        """`bootstrap`: "" = from the upstream image, "debian" = from Debian packages. Raises BuildFailed."""
        if bootstrap not in ("", "debian"):
            raise BuildFailed(Reason.CONFIG_ERROR, f"bootstrap {bootstrap!r} is not known; allowed: debian.")
        packages: tuple[str, ...] = SLIM_PACKAGES if slim else PACKAGES
        with tempfile.TemporaryDirectory(prefix="vitrine-base-") as scratch:
            context = Path(scratch, "context")
            context.mkdir()
            source = self._folder / image.dockerfile
            shutil.copy(source, context / "Dockerfile")
            shutil.copy(source.parent / "setup.sh", context / "setup.sh")
            shutil.copy(self._uv, context / "uv")
            (context / "uv").chmod(0o755)
            base, to_install = image.upstream, packages
            if bootstrap:
                base, to_install = self._bootstrap(image, packages, Path(scratch)), ()
            args = {"BASE": base, "PACKAGES": " ".join(to_install)}
            # From Debian packages everything is there already, so no step needs a network.
            network = "none" if bootstrap else self._network
            build = ImageBuild(context=context, dockerfile="Dockerfile", tag=image.name, network=network, args=args)
            return self._engine.build(build, self._runner)

    def prune(self, *, keep: int, dry_run: bool = False, cache_bytes: int = CACHE_BYTES) -> tuple[str, ...]:
        """Forgets base images that the catalog does not name any more, Spaces' images beyond the newest `keep` of each Space, and what
        BuildKit's cache holds beyond `cache_bytes`.

        What runs stays, and what is forgotten is still in the registry. Returns the names.
        """
        names = {one.name for one in self._catalog.images}
        gone = tuple(tag for tag in self._engine.tags("vitrine/python", self._runner) if tag not in names)
        for tag in () if dry_run else gone:
            self._engine.untag(tag, self._runner)
        return (*gone, *self._engine.prune(self._runner, keep=keep, dry_run=dry_run, cache_bytes=cache_bytes))

    def _bootstrap(self, image: BaseImage, packages: Sequence[str], scratch: Path) -> str:
        if not image.suite:
            raise BuildFailed(
                Reason.PYTHON_MISSING, f"Debian has no release with Python {image.python}; build {image.name} from its upstream image."
            )
        tag = f"vitrine/debian:{image.suite}"
        if (image.suite, tuple(packages)) in self._roots:
            return tag
        root = scratch / "root.tar"
        done = self._runner.run(debian_argv(image.suite, (*DEBIAN_PYTHON, *packages), root, self._mirror), env=_tool_environment(scratch))
        if not done.ok:
            raise BuildFailed(
                Reason.BUILD_FAILED, f"mmdebstrap ended with status {done.exit_code}: {done.tail[-1][:300] if done.tail else ''}"
            )
        self._engine.load_root(root, tag, self._runner)
        self._roots.add((image.suite, tuple(packages)))
        return tag


def debian_argv(suite: str, packages: Sequence[str], output: Path, mirror: str) -> tuple[str, ...]:
    """mmdebstrap's command. Pure. Needs root, or user namespaces with a range of ids. A `mirror` is used and not left in the image."""
    public = "".join(
        f"deb http://{host} {name} main\n"
        for host, name in (
            ("deb.debian.org/debian", suite), ("deb.debian.org/debian", f"{suite}-updates"),
            ("security.debian.org/debian-security", f"{suite}-security"),
        )
    )  # fmt: skip
    put_back = f'--customize-hook=printf %s {shlex.quote(public)} > "$1/etc/apt/sources.list"'
    return (
        "mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", "--aptopt=Apt::Install-Recommends false",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        *((put_back,) if mirror else ()), suite, str(output), *((mirror,) if mirror else ()),
    )  # fmt: skip


def _tool_environment(scratch: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.fspath(scratch),
        "TMPDIR": os.fspath(scratch),
    }


class _Lines:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def line(self, text: str) -> None:
        self._say(text)
