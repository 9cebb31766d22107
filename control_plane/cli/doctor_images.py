"""What the Docker runtime needs besides an engine: a registry that answers, and the base images of Python Spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx

from builder.catalog import load_catalog
from control_plane.domain.errors import VitrineError
from control_plane.runtimes.docker.engine import Engine
from control_plane.runtimes.process.doctor import Finding, Level
from control_plane.settings import Settings

_LOOK_S = 5


def examine_images(settings: Settings) -> tuple[Finding, ...]:
    engine = Engine(settings.docker_host, timeout_s=_LOOK_S)
    try:
        return (registry(settings.registry), *bases(engine.has_image))
    finally:
        engine.close()


def registry(address: str) -> Finding:
    """Whether it speaks; its sign-in is found out by the first push."""
    if not address:
        return Finding(
            "registry",
            Level.PROBLEM,
            "none is named, and the docker runtime runs images from one",
            "Set VITRINE_REGISTRY to host:port[/prefix].",
        )
    host = address.partition("/")[0]
    for scheme in ("https", "http"):
        try:
            answer = httpx.get(f"{scheme}://{host}/v2/", timeout=_LOOK_S, trust_env=False)
        except httpx.HTTPError:
            continue
        if answer.status_code in (200, 401):
            asks = "asks for a sign-in" if answer.status_code == 401 else "takes everybody: keep it off public networks"
            return Finding("registry", Level.OK, f"{address} answers, and {asks}")
        return Finding("registry", Level.PROBLEM, f"{address} answered {answer.status_code} to /v2/", "Look at the registry's log.")
    fix = "Start it, or name another with VITRINE_REGISTRY. Debian has one: sudo apt install docker-registry"
    return Finding("registry", Level.PROBLEM, f"{address} does not answer", fix)


def bases(has_image: Callable[[str], bool]) -> Iterator[Finding]:
    """`has_image`: whether the engine has an image of this name."""
    try:
        built = [one.name for one in load_catalog().images if has_image(one.name)]
        usual = load_catalog().find("cpu", None).name
    except VitrineError:
        return  # the engine's own finding says that it does not answer
    if usual in built:
        yield Finding("base images", Level.OK, ", ".join(built))
    else:
        fix = "vitrine images build --python 3.11 --hardware cpu (with --bootstrap debian where no registry can be reached)"
        yield Finding("base images", Level.WARNING, f"{usual} is not built: Gradio and Streamlit Spaces cannot be", fix)
