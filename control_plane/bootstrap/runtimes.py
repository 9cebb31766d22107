"""Which runtime runs apps here, and what this machine cannot isolate."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_plane.bootstrap.services import Services, registry_login
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.net.registry import NODE
from control_plane.settings import Settings

if TYPE_CHECKING:
    from control_plane.net.registry import Sign
    from control_plane.ports.volumes import Volumes
    from control_plane.runtimes.kubernetes.manifests import ClusterOptions
    from control_plane.runtimes.process.floor import FloorReport

_NODE_PASSWORD_S = 7 * 86_400.0  # a running Space's is made anew every day


def floor_file(settings: Settings) -> Path:
    return settings.run_dir / "floor.txt"


def floor_warning(settings: Settings) -> str:
    """What the scheduler found missing for isolating apps, in words; "" = nothing. Read where people are warned."""
    try:
        return floor_file(settings).read_text("utf-8")
    except OSError:
        return ""


def note_floor(settings: Settings, report: FloorReport | None) -> str:
    """Leave the words for the other processes. Where the floor is not met, only admins' own apps start."""
    if report is None or report.is_met:
        floor_file(settings).unlink(missing_ok=True)
        return ""
    words = f"This machine cannot isolate apps fully, so only those of its administrators start. {report.words} See `vitrine doctor`."
    floor_file(settings).write_text(words, "utf-8")
    return words


def _loopback(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "", "localhost") else "[::1]" if host in ("::", "[::]") else host


def build_runtime(settings: Settings, services: Services) -> Any:
    """`auto` is the process runtime: it needs no daemon. Docker and Kubernetes are chosen by name."""
    from control_plane.ports.log_store import LogLine

    async def sink(space_id: SpaceId, replica_id: ReplicaId, lines: Sequence[str]) -> None:
        now = services.clock.now()
        await services.logs.append(f"run/{space_id}", [LogLine(now, line) for line in lines])

    if settings.runtime == "docker":
        from control_plane.runtimes.docker.assemble import docker_runtime

        gpus = _local_gpus()

        # Which model a card is only the operator knows: GPU flavors are served where the hardware file was written for this machine.
        def flavors() -> tuple[str, ...]:
            return tuple(f.name for f in services.catalog.flavors if not f.has_gpu or (settings.pools_file and f.gpu_count <= len(gpus)))

        return docker_runtime(
            settings.docker_host, sink, settings.data_dir, flavors=flavors, gpus=gpus, hub=(settings.host, settings.port),
            egress_ports=settings.egress_ports, egress_allow=settings.egress_allow, login=registry_login(settings),
            pull_token=pull_token(services.registry_sign),
        )  # fmt: skip
    if settings.runtime == "kubernetes":
        from control_plane.runtimes.kubernetes.assemble import kubernetes_runtime

        async def cluster_sink(space_id: str, replica_id: str, lines: Sequence[LogLine]) -> None:
            await services.logs.append(f"run/{space_id}", lines)

        return kubernetes_runtime(
            namespace=settings.kube_namespace, pools=services.pools, log=cluster_sink, options=cluster_options(settings),
            reach=settings.kube_reach, sockets=settings.run_dir / "forward", pull_login=node_login(services),
        )  # fmt: skip
    from control_plane.runtimes.process.runtime import ProcessRuntime

    return ProcessRuntime(
        settings.data_dir,
        sink,
        run_dir=settings.run_dir,
        flavors=lambda: tuple(flavor.name for flavor in services.catalog.flavors if not flavor.has_gpu),
        egress_ports=tuple(int(port) for port in settings.egress_ports.split(",") if port.strip()),
        egress_allow=tuple(pair.strip() for pair in settings.egress_allow.split(",") if pair.strip()),
    )


def pull_token(sign: Sign | None) -> Callable[[str], str]:
    """For `host/name@digest`: a token that pulls that name and nothing else, "" where the registry takes none of ours."""

    def token(ref: str) -> str:
        return sign({f"repository:{_repository(ref)}": ("pull",)}) if sign else ""

    return token


def _repository(ref: str) -> str:
    return ref.partition("/")[2].partition("@")[0]


def node_login(services: Services) -> Callable[[str], tuple[str, str]] | None:
    """What nodes of a cluster pull an image with: a password for that repository, else the platform's own for the registry.
    None where the operator made a Secret, or nothing is asked for."""
    settings, tokens, own = services.settings, services.registry_tokens, registry_login(services.settings)
    if settings.kube_pull_secret:
        return None
    if tokens is not None:
        return lambda ref: (NODE, tokens.password(_repository(ref), services.clock.now(), life_s=_NODE_PASSWORD_S))
    return (lambda ref: own) if own else None


def build_volumes(settings: Settings, runtime: Any) -> Volumes:
    """Where `/data` of Spaces lies: claims of the cluster, else directories of this machine."""
    if settings.runtime == "kubernetes":
        from control_plane.runtimes.kubernetes.volumes import Claims

        return Claims(runtime)
    from control_plane.runtimes.docker.roots import USER
    from control_plane.runtimes.volumes import VolumeFolders

    # In a container the app is one fixed user; in a process sandbox the platform's own ids are translated.
    return VolumeFolders(settings.data_dir / "volumes", uid=int(USER.partition(":")[0]) if settings.runtime == "docker" else None)


def cluster_options(settings: Settings) -> ClusterOptions:
    """What the operator decided about the cluster."""
    from control_plane.runtimes.kubernetes.assemble import own_account, proxy_address
    from control_plane.runtimes.kubernetes.manifests import ClusterOptions
    from control_plane.runtimes.kubernetes.own_pod import own_namespace

    def listed(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    return ClusterOptions(
        namespace=settings.kube_namespace, per_owner_namespaces=settings.kube_namespace_per_owner, account=own_account(),
        platform_namespace=own_namespace() or settings.kube_namespace, proxy_ranges=listed(settings.kube_proxy_ranges),
        dns_addresses=listed(settings.kube_dns_addresses), cluster_ranges=listed(settings.kube_cluster_ranges),
        egress_ports=tuple(int(port) for port in listed(settings.egress_ports)), image_pull_secret=settings.kube_pull_secret or None,
        storage_class=settings.kube_storage_class or None, storage_gib=settings.kube_storage_gb,
        user_namespaces=settings.kube_user_namespaces, hub_address=proxy_address(), volume_image=settings.kube_volume_image,
    )  # fmt: skip


def _local_gpus() -> tuple[str, ...]:
    """Device ids of this machine's NVIDIA cards, by the driver's own list."""
    try:
        return tuple(str(number) for number in range(len(os.listdir("/proc/driver/nvidia/gpus"))))
    except OSError:
        return ()
