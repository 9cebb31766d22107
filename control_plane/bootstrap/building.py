"""The builder process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_plane.bootstrap.services import (
    API_SOCKET,
    build_limits,
    load_worker_secret,
    prepare_data_dir,
    redis_check,
    registry_login,
    target_of,
)
from control_plane.domain.builds import BuildLimits, SourceKind
from control_plane.domain.errors import Rejected, Unavailable
from control_plane.settings import Settings

if TYPE_CHECKING:
    from builder.config import WorkerConfig
    from builder.engines.kit_guard import Limit
    from builder.layered import LayeredImages
    from builder.pipeline import ImagePipeline
    from control_plane.net.listen import Address


# Where builds usually get packages; on a site behind a gateway these names lead to private addresses, which builds may reach all the same.
PUBLIC_MIRRORS = (
    "https://pypi.org", "https://files.pythonhosted.org", "http://deb.debian.org", "http://security.debian.org", "https://registry.npmjs.org",
)  # fmt: skip


# --- the builder ---------------------------------------------------------------------------------------------------
def worker_config(settings: Settings) -> WorkerConfig:
    import sys

    from builder.broker import broker_options
    from builder.config import DoorConfig, ToolConfig, WorkerConfig

    launcher = Path(__file__).parent.parent / "runtimes" / "process" / "launcher.py"
    inherited = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return WorkerConfig(
        broker=broker_options(settings.redis_url or None, settings.data_dir / "queue"),
        door=DoorConfig(
            secret=load_worker_secret(settings),
            socket_path="" if settings.api_url else str(settings.run_dir / API_SOCKET),
            base_url=settings.api_url or "http://vitrine",
        ),
        data_dir=settings.data_dir,
        concurrency=settings.build_concurrency,
        tools=ToolConfig(
            pypi_index_url=settings.pypi_index_url, ca_bundle=settings.ca_bundle,
            tool_env={name: os.environ[name] for name in inherited if name in os.environ},
            sandbox_command=(sys.executable, "-I", "-S", str(launcher)), trusted=settings.trusted,
        ),
    )  # fmt: skip


def run_builder(settings: Settings, ready: Callable[[dict[str, Any]], None], *, listen: Address | None = None) -> None:
    """A worker until SIGTERM. `listen`: where `/healthz` and `/readyz` answer."""
    from celery.signals import worker_ready

    from builder.worker import run_worker
    from control_plane.net.listen import listen_tcp
    from control_plane.telemetry.health import Health

    consuming = False
    facts: dict[str, Any] = {}

    def told(**_: Any) -> None:
        nonlocal consuming
        consuming = True
        ready(facts)

    config = worker_config(settings)
    prepare_data_dir(settings)
    worker_ready.connect(told, weak=False)
    health = None
    if listen:
        health = Health(
            listen_tcp(listen), lambda: {"queue": "ok" if consuming else "not connected yet", **redis_check(settings)}, beats=False
        )
        facts.update(health.told)
    try:
        run_worker(config, images=build_images(settings), layers=build_layers(settings))
    finally:
        if health:
            health.close()


def build_layers(settings: Settings) -> LayeredImages | None:
    """On a cluster, images of Python Spaces are put together without an engine; the Docker runtime has one anyway."""
    if settings.runtime != "kubernetes":
        return None
    from builder.layered import LayeredImages

    return LayeredImages(settings.registry, settings.data_dir / "cache" / "layers", registry_login(settings))


def build_images(settings: Settings) -> ImagePipeline | None:
    """The container path, where the runtime runs containers. Raises Rejected without a registry, or where RUN steps cannot be contained."""
    if target_of(settings) is not SourceKind.IMAGE:
        return None
    if not settings.registry:
        raise Rejected(
            f"the {settings.runtime} runtime runs images from a registry, and none is set",
            hint="Set VITRINE_REGISTRY to host:port/prefix of a registry that builder and runtime can reach.",
        )
    from builder.catalog import load_catalog
    from builder.engines.docker_engine import DockerConfig, DockerEngine, RegistryLogin, find_buildkit_client
    from builder.images import ImageBuilder, ImageConfig
    from builder.reporter import CancelToken
    from builder.steps import StepRunner

    # On a cluster the builder's own pod bounds it (infra/kubernetes/builder).
    config = ImageConfig(
        settings.registry, pypi_index_url=settings.pypi_index_url, kit_index_url=settings.pypi_index_url,
        apt_mirror=settings.apt_mirror, kit_apt_mirror=settings.apt_mirror,
        # what this machine's own tools were told to trust, builds trust as well
        ca_bundle=settings.ca_bundle or os.environ.get("SSL_CERT_FILE", ""),
    )  # fmt: skip
    if settings.runtime == "kubernetes" and not (settings.docker_host or os.path.exists("/var/run/docker.sock")):
        return None  # Python Spaces are built without one (`build_layers`); Dockerfiles are refused with words
    client = find_buildkit_client(StepRunner(_Unheard(), BuildLimits(), CancelToken()))
    if settings.runtime == "docker":
        from control_plane.runtimes.docker.build_limits import limit_buildkit
        from control_plane.runtimes.docker.build_network import ensure_build_network, reach

        mirrors = (settings.pypi_index_url, settings.apt_mirror, *PUBLIC_MIRRORS)
        found = ensure_build_network(
            settings.docker_host, settings.data_dir, urls=mirrors, trusted=settings.trusted,
            memory_bytes=settings.build_memory_bytes * settings.build_concurrency,
            cpu=build_limits(settings).cpu * settings.build_concurrency if settings.build_cpu else 0.0,
            limit=_limit_by_guard(settings.build_guard) if settings.build_guard else limit_buildkit,
        )  # fmt: skip
        if client and found.no_buildkit:
            logging.getLogger("vitrine.builder").warning("builder.no_buildkit", extra={"because": found.no_buildkit})
            client = ()
        config = replace(
            config, build_network=found.name, no_buildkit=found.no_buildkit,
            pypi_index_url=reach(settings.pypi_index_url, found.gateway), apt_mirror=reach(settings.apt_mirror, found.gateway),
            kit_index_url=reach(settings.pypi_index_url, found.buildkit_gateway),
            kit_apt_mirror=reach(settings.apt_mirror, found.buildkit_gateway),
        )  # fmt: skip
    if settings.runtime == "kubernetes" and client:
        from control_plane.runtimes.docker.build_network import has_bridge

        if not has_bridge(settings.docker_host):
            config = replace(config, build_network="host", only_buildkit=True)
    login = registry_login(settings)
    engine = DockerEngine(DockerConfig(settings.docker_host, RegistryLogin(*login) if login else None, client, settings.build_guard))
    return ImageBuilder(engine, load_catalog(), config)


def _limit_by_guard(guard: str) -> Limit:
    """Raises Unavailable where the guard does not answer."""
    from builder.engines.kit_guard import GuardClient
    from builder.errors import BuildFailed

    def limit(info: Mapping[str, Any], memory_bytes: int, cpu: float) -> bool:
        told = {name: info.get(name) for name in ("CgroupDriver", "CgroupVersion")}
        try:
            return bool(GuardClient(guard).ask(do="limit", info=told, memory_bytes=memory_bytes, cpu=cpu)["limited"])
        except BuildFailed as failure:
            raise Unavailable(failure.message) from failure

    return limit


def run_guard(settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    """Until SIGTERM. Raises Rejected where it is not said on which socket."""
    import signal

    from builder.engines.kit_guard import KitGuard
    from control_plane.runtimes.docker.build_limits import limit_buildkit

    if not settings.build_guard:
        raise Rejected("no socket is named for the guard", hint="Set VITRINE_BUILD_GUARD to a path that the builder reaches too.")
    with KitGuard(Path(settings.build_guard), limit_buildkit) as guard:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        ready({"listen": settings.build_guard})
        guard.serve_forever()


class _Unheard:
    def line(self, text: str) -> None:
        return
