"""`vitrine images`: the base images that Spaces' images are built on. Talks to the container engine of this machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from control_plane.domain.errors import VitrineError
from control_plane.settings import load_settings

if TYPE_CHECKING:
    from builder.base_images import BaseImages


def _bases(docker_host: str | None, mirror: str, network: str) -> BaseImages:
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
        lambda line: click.echo(line, err=True),
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
        found = _bases(docker_host, "", "bridge").list()
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
def build_images(
    docker_host: str | None, python: str | None, family: str | None, bootstrap: str | None, slim: bool, mirror: str, network: str
) -> None:
    """Build base images, from their upstream images or from Debian packages."""
    from builder.catalog import load_catalog
    from builder.errors import BuildFailed

    chosen = [one for one in load_catalog().images if python in (None, one.python) and family in (None, one.family)]
    if not chosen:
        _fail(f"the catalogue has no {family or 'base'} image with Python {python or 'of any version'}; see: vitrine images list")
    bases = _bases(docker_host, mirror, network)
    for one in chosen:
        if bootstrap and not one.suite and not python:
            click.echo(f"{one.name}  skipped: Debian has no release with Python {one.python}; build it from its upstream image", err=True)
            continue
        try:
            built = bases.build(one, bootstrap=bootstrap or "", slim=slim)
        except BuildFailed as error:
            _fail(f"{one.name}: {error}")
        else:
            click.echo(f"{one.name}  {built.id}  {built.size_bytes >> 20} MiB")


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
@click.option("--dry-run", is_flag=True, help="Only tell")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of names")
def prune_images(docker_host: str | None, keep: int, dry_run: bool, as_json: bool) -> None:
    """Forget old images on this machine's engine: of Spaces (the registry still has them), and base images out of the catalogue.

    What runs stays. The registry's own garbage goes with `vitrine admin gc`.
    """
    from builder.errors import BuildFailed

    try:
        gone = _bases(docker_host, "", "bridge").prune(keep=keep, dry_run=dry_run)
    except BuildFailed as error:
        _fail(str(error))
        raise AssertionError from error
    if as_json:
        click.echo(json.dumps(gone))
    else:
        for name in gone:
            click.echo(name)
