"""From settings to a runtime: the one function that `bootstrap` calls, so that nothing else imports the cluster's client."""

from __future__ import annotations

import base64
import json
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol

from control_plane.domain.capacity import NodePool
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.forward import Reach
from control_plane.runtimes.kubernetes.lease import LeaderLease
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.namespaces import ensure_namespace
from control_plane.runtimes.kubernetes.own_pod import MOUNTED, own_namespace
from control_plane.runtimes.kubernetes.pull_secrets import PullLogin
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime, LogSink


class HasPools(Protocol):
    @property
    def pools(self) -> tuple[NodePool, ...]: ...


def kubernetes_runtime(
    *,
    namespace: str,
    pools: Callable[[], HasPools],
    log: LogSink | None,
    options: ClusterOptions | None = None,
    kubeconfig: str | None = None,
    reach: str = "pod",
    sockets: Path | None = None,
    pull_login: PullLogin | None = None,
) -> KubernetesRuntime:
    """Connect (service account inside a cluster, else kubeconfig) and assemble; nothing is asked before `start()`.

    Raises Broken when there is no usable configuration. `options` overrides everything else, `namespace` included.
    `sockets`: where ways to pods without a route are opened (`reach` `auto` or `forward`); inside a cluster none is needed.
    `pull_login`: what nodes pull with; written into a Secret of each Space.
    """
    api = KubeApi.connect(kubeconfig=kubeconfig, connections=256)
    options = replace(options or ClusterOptions(namespace=namespace), own_pull_secrets=pull_login is not None)
    folder = None if own_namespace() and reach == "auto" else sockets
    way = Reach(api, reach, folder, is_let_in=bool(options.proxy_ranges))
    return KubernetesRuntime(api, lambda: pools().pools, options, log=log, reach=way, pull_login=pull_login)


def scheduler_lease(*, namespace: str, kubeconfig: str | None = None) -> LeaderLease:
    """The lease of the scheduler; the identity is new with each start. Inside a cluster it lies in the pod's own namespace, which
    tenants cannot reach; from outside in `namespace`, made when it is missing."""
    identity = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    api = KubeApi.connect(kubeconfig=kubeconfig, connections=2)
    own = own_namespace()
    if not own:
        ensure_namespace(api, namespace)
    return LeaderLease(api, namespace=own or namespace, identity=identity)


@cache
def proxy_address(service: str = "vitrine-proxy") -> str:
    """The address of the proxy's Service beside us, the way for apps to the Hub: out through the ingress and back in again, a policy
    would see a private address. Asked once. "" outside of a cluster, or where that Service is not."""
    namespace = own_namespace()
    try:
        return socket.gethostbyname(f"{service}.{namespace}.svc") if namespace else ""
    except OSError:
        return ""


def own_account(folder: Path = MOUNTED) -> str:
    """This process's service account as "namespace/name", out of its token; "" outside of a cluster."""
    try:
        body = (folder / "token").read_text().split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    kind, _, rest = str(subject).partition(":serviceaccount:")
    return rest.replace(":", "/") if kind == "system" else ""
