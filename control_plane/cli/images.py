"""`vitrine images`: the base images that Spaces' images are built on. Talks to the container engine of this machine."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from control_plane.cli.progress import Task, Unit, bar
from control_plane.domain.errors import VitrineError
from control_plane.settings import load_settings

if TYPE_CHECKING:
    from builder.base_images import BaseImages

_LAST_LINES = 40  # of a build that failed, where a bar stood in their place


def _told(line: str) -> None:
    click.echo(line, err=True)


def _bases(docker_host: str | None, mirror: str = "", network: str = "bridge", say: Callable[[str], None] = _told) -> BaseImages:
    from builder.base_images import BaseImages
    from builder.config import ToolConfig
    from builder.engines.docker_engine import DockerConfig, DockerEngine
    from builder.worker import uv_config

    try:
        host = load_settings(overrides={"docker_host": docker_host}).docker_host
    except VitrineError as error:
        _fail(error.message)
        raise AssertionError from error
    return BaseImages(
        DockerEngine(DockerConfig(host)),
        uv_config(ToolConfig()).path,
        say,
        mirror=mirror,
        network=network,
    )


def _fail(message: str) -> None:
    click.echo(f"vitrine: {message}", err=True)
    sys.exit(1)


_host = click.option("--docker-host", help="Container engine (default: VITRINE_DOCKER_HOST, else its usual socket)")


@click.group()
def images() -> None:
    """Base images of Spaces, per Python version and hardware: list, build and prune them on this machine's engine."""


@images.command("list", epilog="Example: vitrine images list --json")
@_host
@click.option("--json", "as_json", is_flag=True, help="For machines; `size_bytes` is null for what is not built here")
def list_images(docker_host: str | None, as_json: bool) -> None:
    """The catalogue, and which of it is built here."""
    from builder.errors import BuildFailed

    try:
        found = _bases(docker_host).list()
    except BuildFailed as error:
        _fail(str(error))
        raise AssertionError from error
    if as_json:
        rows = [{"name": s.image.name, "hardware": s.image.family, "python": s.image.python, "size_bytes": s.size_bytes} for s in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for status in found:
        size = "not built" if status.size_bytes is None else f"{status.size_bytes >> 20} MiB"
        click.echo(f"{status.image.name:<32} {status.image.family:<4} python {status.image.python:<6} {size}")


@images.command("build", epilog="Example: vitrine images build --python 3.11 --bootstrap debian")
@_host
@click.option("--python", help="Only this Python version (default: every image of the catalogue)")
@click.option("--hardware", "family", type=click.Choice(["cpu", "gpu"]), help="Only this hardware")
@click.option("--bootstrap", type=click.Choice(["debian"]), help="From Debian packages alone, where no registry can be reached")
@click.option("--slim", is_flag=True, help="Without ffmpeg, git and the graphics libraries")
@click.option("--mirror", default="", help="Debian mirror for --bootstrap")
@click.option("--network", default="bridge", help="The engine's network for the build's own steps")
@click.option("--verbose", is_flag=True, help="Every line of the builds instead of a bar; so it is where nobody looks at a terminal")
def build_images(
    docker_host: str | None,
    python: str | None,
    family: str | None,
    bootstrap: str | None,
    slim: bool,
    mirror: str,
    network: str,
    verbose: bool,
) -> None:
    """Build base images, from their upstream images or from Debian packages."""
    from builder.catalog import load_catalog
    from builder.errors import BuildFailed

    chosen = [one for one in load_catalog().images if python in (None, one.python) and family in (None, one.family)]
    if not chosen:
        _fail(f"the catalogue has no {family or 'base'} image with Python {python or 'of any version'}; see: vitrine images list")
    has_bar = sys.stderr.isatty() and not verbose
    made, failed = list[str](), ""  # told when the bar is gone: it takes standard output for itself meanwhile
    with bar("Base images", len(chosen), wanted=has_bar, unit=Unit.THINGS) as task:
        shown = _Shown(task, len(chosen), has_bar)
        bases = _bases(docker_host, mirror, network, shown.line)  # one for all: images of one Debian release share its root
        for one in chosen:
            if bootstrap and not one.suite and not python:
                made.append(f"{one.name}  skipped: Debian has no release with Python {one.python}; build it from its upstream image")
            else:
                try:
                    built = bases.build(one, bootstrap=bootstrap or "", slim=slim)
                except BuildFailed as error:
                    failed = f"{one.name}: {error}"
                    break
                made.append(f"{one.name}  {built.id}  {built.size_bytes >> 20} MiB")
            shown.next()
    for line in made:
        click.echo(line, err="  skipped: " in line)
    if failed:
        _fail("\n".join((*shown.last, failed)) if has_bar else failed)


class _Shown:
    """What the builds print: the bar's words, or lines of standard error where there is no bar."""

    def __init__(self, task: Task, total: int, has_bar: bool) -> None:
        self._task, self._total, self._has_bar, self._done = task, total, has_bar, 0
        self.last = deque[str](maxlen=_LAST_LINES)

    def line(self, text: str) -> None:
        self.last.append(text)
        self._task.now(self._done, self._total, text)
        if not self._has_bar:
            _told(text)

    def next(self) -> None:
        self.last.clear()
        self._done += 1
        self._task.now(self._done, self._total)


@images.command("certificate", epilog="Example: vitrine images certificate > registry-tokens.pem")
def certificate() -> None:
    """Print what a registry must trust to take this platform's tokens (VITRINE_REGISTRY_TOKENS)."""
    from control_plane.bootstrap import load_platform_keys
    from control_plane.secrets.registry_tokens import RegistryTokens

    try:
        keys = load_platform_keys(load_settings())
    except VitrineError as error:
        _fail(error.message)
        raise AssertionError from error
    click.echo(RegistryTokens(keys.registry).certificate(), nl=False)


@images.command("prune", epilog="Example: vitrine images prune --keep 1 --dry-run")
@_host
@click.option("--keep", type=click.IntRange(min=0), default=5, show_default=True, help="Newest images of each Space that stay")
@click.option("--cache-gb", type=click.IntRange(min=0), default=20, show_default=True, help="Newest GiB of BuildKit's cache that stay")
@click.option("--dry-run", is_flag=True, help="Only tell")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of names")
def prune_images(docker_host: str | None, keep: int, cache_gb: int, dry_run: bool, as_json: bool) -> None:
    """Forget old images on this machine's engine (of Spaces: the registry still has them; base images out of the catalogue) and its
    build cache.

    What runs stays. The registry's own garbage goes with `vitrine admin gc`.
    """
    from builder.errors import BuildFailed

    try:
        with bar("Removing old images", None, wanted=not as_json, unit=Unit.THINGS):
            gone = _bases(docker_host).prune(keep=keep, dry_run=dry_run, cache_bytes=cache_gb << 30)
    except BuildFailed as error:
        _fail(str(error))
        raise AssertionError from error
    if as_json:
        click.echo(json.dumps(gone))
    else:
        for name in gone:
            click.echo(name)
