"""What a process inside a cluster knows of the pod that it runs in."""

from __future__ import annotations

import socket
from pathlib import Path

from control_plane.domain.errors import VitrineError
from control_plane.runtimes.kubernetes.api import KubeApi

MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def own_namespace() -> str:
    """The namespace this process runs in; "" outside of a cluster."""
    try:
        return (MOUNTED / "namespace").read_text().strip()
    except OSError:
        return ""


def own_image(api: KubeApi) -> str:
    """The image of this pod's first container, by digest where the node told it; "" outside of a cluster, or when it cannot be read.

    Listed, not got: listing pods is a right that the scheduler has for its capacity.
    """
    namespace = own_namespace()
    if not namespace:
        return ""
    query = {"fieldSelector": f"metadata.name={socket.gethostname()}"}
    try:
        found = api.get(f"/api/v1/namespaces/{namespace}/pods", query).get("items") or []
        return str(found[0]["spec"]["containers"][0]["image"]) if found else ""
    except VitrineError:
        return ""
