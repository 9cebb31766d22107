"""The proxy process."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from control_plane.bootstrap.services import API_SOCKET, PROXY_SOCKET, bus_of, load_worker_secret, prepare_data_dir
from control_plane.domain.errors import Rejected
from control_plane.domain.replicas import HUB_HOST
from control_plane.settings import Settings

if TYPE_CHECKING:
    from control_plane.proxy.server import ProxyConfig


# --- the proxy -----------------------------------------------------------------------------------------------------
def proxy_config(settings: Settings, listen_fds: tuple[int, ...] = (), slot: int = 1) -> ProxyConfig:
    """`listen_fds` are inherited listeners: the port's, then the redirecting one's. `slot` counts the processes on one port."""
    from control_plane.net.api_address import api_endpoint
    from control_plane.proxy.server import ProxyConfig
    from control_plane.proxy.tls import certificate_files

    try:
        sample = min(1.0, max(0.0, float(settings.access_log_sample)))
        for network in (trusted := tuple(net.strip() for net in settings.trusted_proxies.split(",") if net.strip())):
            ipaddress.ip_network(network)
    except ValueError as error:
        raise Rejected(f"setting trusted_proxies or access_log_sample: {error}") from error
    api = api_endpoint(settings.api_url, settings.run_dir / API_SOCKET)
    return ProxyConfig(
        host=settings.host,
        port=settings.port,
        api_socket="" if settings.api_url else api.address,
        api_address=api.address if settings.api_url else "",
        apps_domain=settings.apps_domain,
        public_url=settings.resolved_public_url,
        platform_hosts=(HUB_HOST,),
        listen_fd=listen_fds[0] if listen_fds else None,
        redirect_fd=listen_fds[1] if len(listen_fds) > 1 else None,
        redirect_port=settings.http_port,
        tls=certificate_files(settings.tls_certificates),
        proxy_protocol=settings.proxy_protocol,
        trusted_proxies=trusted,
        access_log="" if settings.access_log == "off" else settings.access_log,
        access_log_sample=sample,
        client_rate=float(settings.client_rate),
        client_burst=5.0 * settings.client_rate,
        connections_per_client=settings.client_connections,
        space_rate=float(settings.space_rate),
        space_burst=5.0 * settings.space_rate,
        drain_s=float(settings.drain_s),
        finish_s=float(settings.finish_s),
        recheck_s=float(max(1, settings.rights_recheck_s)),
        admin_socket=str(settings.run_dir / (PROXY_SOCKET if slot == 1 else f"{slot}-{PROXY_SOCKET}")),
        metrics_token=settings.metrics_token,
        table_file=settings.data_dir / "routes.json",
        wake_timeout_s=float(settings.wake_timeout_s),
    )


async def run_proxy(
    settings: Settings, ready: Callable[[dict[str, Any]], None], *, listen_fds: tuple[int, ...] = (), slot: int = 1
) -> None:
    from control_plane.net.api_address import api_endpoint
    from control_plane.net.internal_call import post_json
    from control_plane.proxy.guard import GuardUnavailable, Verdict
    from control_plane.proxy.server import serve_proxy

    secret = load_worker_secret(settings)
    api = api_endpoint(settings.api_url, settings.run_dir / API_SOCKET)
    prepare_data_dir(settings)
    bus = bus_of(settings)

    async def authorize(host: str, kind: str, credential: str) -> Verdict:
        body = {"host": host, "kind": "bearer" if kind == "token" else kind, "credential": credential}
        try:
            status, answer = await post_json(api, "/internal/authorize", secret, body)
        except (OSError, TimeoutError, ValueError) as error:
            raise GuardUnavailable(str(error)) from error
        if status != 200:
            raise GuardUnavailable(f"the API answered {status}")
        return Verdict(
            bool(answer.get("allowed")), str(answer.get("user", "")), str(answer.get("cookie", "")), int(answer.get("max_age_s", 0))
        )

    try:
        await serve_proxy(proxy_config(settings, listen_fds, slot), bus, authorize, ready=lambda port: ready({"port": port}))
    finally:
        await bus.close()
