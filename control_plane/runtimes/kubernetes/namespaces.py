"""The apps' namespace and its closed door, made before anything is put into it."""

from __future__ import annotations

import logging
import time

from control_plane.domain.errors import Broken, Rejected, Unavailable, VitrineError
from control_plane.runtimes.kubernetes import manifests
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.manifests import Manifest

logger = logging.getLogger(__name__)

APP_RIGHTS = "vitrine-apps"  # the ClusterRole of infra/kubernetes/per-owner that is bound in each owner's namespace
_RIGHTS_ARRIVE_S = 10.0


def ensure_namespace(api: KubeApi, name: str, account: str = "") -> None:
    """Blocking. Best effort where we may not make namespaces: then the operator's manifests already hold it.

    `account` ("namespace/name") is given the rights that apps need, in this namespace only. Raises Rejected when the namespace that is
    there does not enforce the restricted Pod Security Standard.
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
    if account:
        api.apply(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings/{APP_RIGHTS}", app_rights(name, account))
    deadline = time.monotonic() + (_RIGHTS_ARRIVE_S if account else 0.0)
    while True:
        try:
            api.apply(door, manifests.default_deny(name))
            return
        except Broken:  # the authoriser hears of a new binding a moment later
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def app_rights(name: str, account: str) -> Manifest:
    """The binding that lets the scheduler's account run apps in one owner's namespace."""
    of, _, who = account.partition("/")
    labels = {"app.kubernetes.io/part-of": "vitrine", "app.kubernetes.io/managed-by": "vitrine"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": APP_RIGHTS, "namespace": name, "labels": labels},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": APP_RIGHTS},
        "subjects": [{"kind": "ServiceAccount", "name": who, "namespace": of}],
    }
