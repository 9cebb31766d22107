"""Where the API answers: its Unix socket on this machine, or the host and port of `VITRINE_API_URL`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from control_plane.domain.errors import Rejected
from control_plane.domain.routes import Endpoint, EndpointKind


def api_endpoint(api_url: str, socket_path: Path) -> Endpoint:
    """The address to dial. Raises Rejected, in the setting's words, for a URL that cannot be one."""
    if not api_url:
        return Endpoint(EndpointKind.UNIX, str(socket_path))
    host, port = host_and_port(api_url)
    return Endpoint(EndpointKind.TCP, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def host_and_port(api_url: str) -> tuple[str, int]:
    """Raises Rejected, in the setting's words, for a URL that cannot be the API's."""
    parts = urlsplit(api_url)
    try:
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        host, port = "", 0
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query or parts.username:
        raise Rejected(
            f"setting api_url: '{api_url}' is not usable; give http://HOST:PORT",
            hint="Proxy, builders and API talk over a network of their own; TLS ends in front of the proxy.",
        )
    return host, port


def is_here(api_url: str) -> bool:
    """Whether the API is on this machine, and so on the same data dir."""
    return host_and_port(api_url)[0] in ("localhost", "127.0.0.1", "::1")
