"""What is written to the cluster: the objects of Spaces and of their replicas, made and removed. Blocking; the runtime calls it in threads.

A first start is at most eight requests (where its data lies, policy, service, volume claim, pull secret, environment, deployment,
ownership of the environment), a wake of a known Space three.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import Broken, VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaSpec
from control_plane.runtimes.kubernetes import facts, manifests, names
from control_plane.runtimes.kubernetes.api import Clash, KubeApi
from control_plane.runtimes.kubernetes.cache import ClusterCache
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.namespaces import ensure_namespace
from control_plane.runtimes.kubernetes.own_pod import own_image
from control_plane.runtimes.kubernetes.pull_secrets import PullSecrets

logger = logging.getLogger(__name__)

OURS = f"{names.MANAGED_BY}=vitrine,{names.REPLICA}"


class SpaceObjects:
    def __init__(self, api: KubeApi, cache: ClusterCache, options: ClusterOptions, pulls: PullSecrets | None) -> None:
        self._api, self._cache, self._options, self._pulls = api, cache, options, pulls
        self._applied: dict[str, str] = {}  # path → what we applied last, to spare a wake the call
        self._ready: set[str] = set()  # owners' namespaces that we made sure of

    def apply(self, spec: ReplicaSpec, pool: NodePool) -> None:
        """Everything that this replica needs, the Deployment last. Raises Rejected before anything is written."""
        if spec.fetches and not self._options.volume_image:
            self._options = replace(self._options, volume_image=own_image(self._api))
        options = self._options
        namespace = self._home(spec)
        deployment = manifests.deployment(spec, pool, namespace, options)
        secret = manifests.secret(spec, namespace)
        policy = manifests.network_policy(spec.space_id, spec.launch.port, namespace, options)
        if options.per_owner_namespaces and namespace not in self._ready:
            ensure_namespace(self._api, namespace, options.account)
            self._ready.add(namespace)
        name = names.space(spec.space_id)
        self._apply_once(path_of("networking.k8s.io/v1", "networkpolicies", namespace, name), policy)
        self._apply_once(path_of("v1", "services", namespace, name), manifests.service(spec, namespace))
        for claim in manifests.volume_claims(spec, namespace, options):
            self._apply_once(path_of("v1", "persistentvolumeclaims", namespace, claim["metadata"]["name"]), claim)
        if self._pulls is not None:
            self._pulls.ensure(namespace, spec.space_id, spec.artifact.ref)
        secret_path = path_of("v1", "secrets", namespace, names.replica(spec.replica_id))
        self._apply_secret(secret_path, secret)
        made = self._api.apply(path_of("apps/v1", "deployments", namespace, names.replica(spec.replica_id)), deployment)
        self._cache.applied(made)
        try:
            self._api.merge(
                secret_path, {"metadata": {"ownerReferences": manifests.secret(spec, namespace, made)["metadata"]["ownerReferences"]}}
            )
        except VitrineError as error:  # the sweep at the next start finds a secret without its replica
            logger.warning("secret.not_owned", extra={"replica_id": spec.replica_id, "error": error.message})

    def stop(self, item: facts.Item, grace_s: int) -> None:
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        replica_id = ReplicaId(item["metadata"]["labels"][names.REPLICA])
        self._api.delete(path_of("apps/v1", "deployments", namespace, name))
        pods = self._cache.pods_of(replica_id)
        self._cache.stopped(replica_id)
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                try:
                    self._api.delete(path_of("v1", "pods", namespace, pod["metadata"]["name"]), grace_s=grace_s)
                except Clash:
                    pass  # the garbage collector was faster
        self._api.delete(path_of("v1", "secrets", namespace, name))  # nor do its secrets wait for that collector

    def remove_space(self, space_id: SpaceId) -> None:
        """In whichever namespaces its objects lie: a Space that changed its owner may have left some behind."""
        for item in self._cache.replicas_of(space_id):
            self.stop(item, 1)
        name = names.space(space_id)
        lying_in = self._delete_named("v1", "services", name)
        if self._pulls is not None:
            for namespace in lying_in:
                self._pulls.forget(namespace, space_id)
        self._delete_named("networking.k8s.io/v1", "networkpolicies", name)
        if self._options.storage_gib:
            self.remove_claim(names.claim(space_id))

    def remove_claim(self, claim: str) -> None:
        self._delete_named("v1", "persistentvolumeclaims", claim)

    def sweep(self) -> None:
        """Secrets whose replica is not there: a start that died half way."""
        known = {item["metadata"]["name"] for item in self._cache.deployments_now()}
        namespaces = {self._options.namespace}
        if self._options.per_owner_namespaces:  # secrets of a whole cluster are nobody's to list
            namespaces = {item["metadata"]["namespace"] for item in self._cache.deployments_now()}
        for namespace in sorted(namespaces):
            for item in self._api.get(f"/api/v1/namespaces/{namespace}/secrets", {"labelSelector": OURS}).get("items") or []:
                metadata = item["metadata"]
                if metadata["name"] not in known and not metadata.get("ownerReferences"):
                    self._api.delete(path_of("v1", "secrets", namespace, metadata["name"]))

    # -- inside

    def _home(self, spec: ReplicaSpec) -> str:
        """The namespace of a Space is its owner's, unless its data lies in another one: a claim cannot move, so a Space that was handed to
        somebody else stays where its data is."""
        namespace = self._options.namespace_of(spec.space_name)
        if self._options.per_owner_namespaces:
            for claim in manifests.volume_claims(spec, namespace, self._options):
                lying_in = self._namespaces_of("v1", "persistentvolumeclaims", claim["metadata"]["name"])
                if lying_in and namespace not in lying_in:
                    return lying_in[0]
        return namespace

    def _apply_once(self, path: str, manifest: Mapping[str, Any]) -> None:
        """Objects of the Space outlive its replicas: a wake does not send again what we sent already."""
        text = repr(manifest)
        if self._applied.get(path) != text:
            self._api.apply(path, manifest)
            self._applied[path] = text

    def _apply_secret(self, path: str, secret: Mapping[str, Any]) -> None:
        """An earlier try of this replica may have left one with older values; it cannot be changed, only made anew."""
        try:
            self._api.apply(path, secret)
        except Broken as error:
            if "immutable" not in error.message:
                raise
            self._api.delete(path)
            self._api.apply(path, secret)

    def _delete_named(self, api_version: str, plural: str, name: str) -> list[str]:
        """One object of a Space, in the one namespace or in whichever of the owners' it lies; these."""
        namespaces = [self._options.namespace]
        if self._options.per_owner_namespaces:
            namespaces = self._namespaces_of(api_version, plural, name)
        for namespace in namespaces:
            path = path_of(api_version, plural, namespace, name)
            self._applied.pop(path, None)
            self._api.delete(path)
        return namespaces

    def _namespaces_of(self, api_version: str, plural: str, name: str) -> list[str]:
        query = {"labelSelector": f"{names.MANAGED_BY}=vitrine", "fieldSelector": f"metadata.name={name}"}
        items: Iterable[facts.Item] = self._api.get(f"{_root(api_version)}/{plural}", query).get("items") or []
        return [item["metadata"]["namespace"] for item in items if "deletionTimestamp" not in item["metadata"]]


def _root(api_version: str) -> str:
    return f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"


def path_of(api_version: str, plural: str, namespace: str, name: str) -> str:
    return f"{_root(api_version)}/namespaces/{namespace}/{plural}/{name}"
