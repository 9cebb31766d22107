"""The apps' namespace and its closed door, made before anything is put into it."""

from __future__ import annotations

import logging

from control_plane.domain.errors import Rejected, Unavailable, VitrineError
from control_plane.runtimes.kubernetes import manifests
from control_plane.runtimes.kubernetes.api import KubeApi

logger = logging.getLogger(__name__)


def ensure_namespace(api: KubeApi, name: str) -> None:
    """Blocking. Best effort where we may not make namespaces: then the operator's manifests already hold it.

    Raises Rejected when the one that is there does not enforce the restricted Pod Security Standard.
    """
    try:
        api.apply(f"/api/v1/namespaces/{name}", manifests.namespace(name))
    except Unavailable:
        raise
    except VitrineError as error:
        logger.warning("namespace.not_applied", extra={"namespace": name, "error": error.message})
        labels = api.get(f"/api/v1/namespaces/{name}")["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            raise Rejected(
                f"the namespace '{name}' does not enforce the restricted Pod Security Standard",
                hint=f"kubectl label namespace {name} pod-security.kubernetes.io/enforce=restricted",
            ) from error
    door = f"/apis/networking.k8s.io/v1/namespaces/{name}/networkpolicies/default-deny"
    api.apply(door, manifests.default_deny(name))
