"""A `ReplicaSpec` becomes Kubernetes objects. Pure: plain dictionaries, no client, no clock, no environment.

    one Space     NetworkPolicy (who may talk to it, and where it may talk), headless Service, PersistentVolumeClaim, pull Secret
    one replica   Deployment with one pod (image by digest), Secret with its environment, owned by that Deployment

Every pod meets the Pod Security Standard "restricted"
(https://kubernetes.io/docs/concepts/security/pod-security-standards/), which the namespace enforces as well. What an
owner can choose (environment, command, port, sizes) reaches none of the fields that the standard restricts.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.domain.builds import ArtifactKind
from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import Rejected
from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import HUB_HOST, PUBLIC_HUB, Mount, ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.kubernetes import fetched, names

Manifest = dict[str, Any]

GIB = 1 << 30
# Never reachable from an app: this network, private, shared, loopback, link-local (metadata), test, multicast, reserved.
# IANA special-purpose registries, v4 and v6; the two NAT64 prefixes would lead back to v4. The v4-mapped range is not named: the API
# server refuses it, and the kernel sends such a connection as IPv4, where the first list holds.
BLOCKED_V4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
BLOCKED_V6 = (
    "::/128", "::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16",
    "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)  # fmt: skip

_DIGEST_REF = re.compile(r"[a-z0-9][a-z0-9._:/-]*[a-z0-9]@sha256:[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# A pod leaves a node that stopped answering after this long; Kubernetes' own default is 300 s.
_LOST_NODE_S = 10
_SCRATCH_REQUEST_BYTES = 1 * GIB


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What the operator decides about the cluster. `cluster_ranges`: pod, service and node networks, v4 and v6.

    `platform_namespace` and `proxy_labels` say which pods may connect to apps; `hub_ports` are the proxy's ports that
    apps may reach as their Hub endpoint. `storage_gib` 0 = no persistent storage.
    """

    namespace: str = "vitrine"
    per_owner_namespaces: bool = False
    account: str = ""  # "namespace/name" of our own service account, which gets its rights in each owner's namespace; "" = not needed
    platform_namespace: str = "vitrine-system"
    proxy_labels: tuple[tuple[str, str], ...] = (("app.kubernetes.io/name", "vitrine"), ("app.kubernetes.io/component", "proxy"))
    proxy_ranges: tuple[str, ...] = ()  # addresses of proxies that run outside the cluster, such as 192.0.2.7/32
    hub_ports: tuple[int, ...] = (8080,)
    hub_address: str = ""  # where apps find the Hub by its inner name; "" = they use its public address
    dns_namespace: str = "kube-system"
    dns_labels: tuple[tuple[str, str], ...] = (("k8s-app", "kube-dns"),)
    dns_addresses: tuple[str, ...] = ()  # a node-local cache, such as 169.254.20.10
    cluster_ranges: tuple[str, ...] = ()
    egress_ports: tuple[int, ...] = (80, 443)
    image_pull_secret: str | None = None  # one for all, which the operator made
    own_pull_secrets: bool = False  # one per Space, which we make
    storage_class: str | None = None
    storage_gib: int = 0
    user_namespaces: bool = False  # hostUsers: false; needs Kubernetes 1.33 and a kernel with id-mapped mounts
    volume_image: str = ""  # in which nodes fetch repositories that apps mount; needs Python 3
    run_as_user: int = 1000
    grace_s: int = 10

    def namespace_of(self, space_name: str) -> str:
        return names.namespace(self.namespace, space_name.partition("/")[0] if self.per_owner_namespaces else None)


def namespace(name: str) -> Manifest:
    """A namespace that enforces "restricted" for every pod in it, whoever makes it."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    labels = {"app.kubernetes.io/part-of": "vitrine", names.MANAGED_BY: "vitrine", **level}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def default_deny(namespace_name: str) -> Manifest:
    """Nothing in, nothing out, for every pod of the namespace; each Space's own policy then opens what it needs."""
    return {
        **_object("networking.k8s.io/v1", "NetworkPolicy", "default-deny", namespace_name, _platform_labels()),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }


def network_policy(space_id: SpaceId, port: int, namespace_name: str, options: ClusterOptions) -> Manifest:
    """In: the proxy on the app's port. Out: DNS, the Hub endpoint, and the internet on the allowed ports."""
    proxy = _pods_in(options.platform_namespace, options.proxy_labels)
    dns_ports = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    dns_peers: list[Manifest] = [_pods_in(options.dns_namespace, options.dns_labels)]
    dns_peers += [{"ipBlock": {"cidr": _host_block(address)}} for address in options.dns_addresses]
    outside = [{"ipBlock": {"cidr": _host_block(block)}} for block in options.proxy_ranges]
    blocked = blocked_ranges(options.cluster_ranges)
    internet = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": blocked[4]}}, {"ipBlock": {"cidr": "::/0", "except": blocked[6]}}]
    egress: list[Manifest] = [{"to": dns_peers, "ports": dns_ports}]
    if options.egress_ports:
        egress.append({"to": internet, "ports": [{"protocol": "TCP", "port": p} for p in options.egress_ports]})
    if options.hub_ports:
        egress.append({"to": [proxy], "ports": [{"protocol": "TCP", "port": p} for p in options.hub_ports]})
    return {
        **_object("networking.k8s.io/v1", "NetworkPolicy", names.space(space_id), namespace_name, names.space_labels(space_id)),
        "spec": {
            "podSelector": {"matchLabels": {names.SPACE: space_id}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [proxy, *outside], "ports": [{"protocol": "TCP", "port": port}]}],
            "egress": egress,
        },
    }


def service(spec: ReplicaSpec, namespace_name: str) -> Manifest:
    """Headless: it gives the replicas' addresses. The proxy itself routes to pod addresses, one endpoint per replica."""
    labels = names.space_labels(spec.space_id)
    return {
        **_object("v1", "Service", names.space(spec.space_id), namespace_name, labels, {names.SPACE_NAME: spec.space_name}),
        "spec": {
            "clusterIP": "None",
            "selector": {names.SPACE: spec.space_id, names.MANAGED_BY: "vitrine"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def secret(spec: ReplicaSpec, namespace_name: str, owner: Manifest | None = None) -> Manifest:
    """The environment of one replica; the one place where secret values are opened. `owner`: its Deployment as the API gave it."""
    data: dict[str, str] = {}
    for key, value in {**spec.launch.env, **spec.env, **fetched.orders(spec)}.items():
        if not _ENV_NAME.fullmatch(key):
            raise Rejected(f"'{key}' cannot be the name of an environment variable on Kubernetes")
        data[key] = base64.b64encode((value.reveal() if isinstance(value, Sensitive) else value).encode()).decode()
    labels = names.replica_labels(spec.space_id, spec.replica_id, spec.generation)
    made: Manifest = {
        **_object("v1", "Secret", names.replica(spec.replica_id), namespace_name, labels),
        "type": "Opaque",
        "immutable": True,
        "data": data,
    }
    if owner is not None:
        made["metadata"]["ownerReferences"] = [_owned_by(owner)]
    return made


def pull_secret(space_id: SpaceId, namespace_name: str, ref: str, login: tuple[str, str]) -> Manifest:
    """What the kubelet signs in with at the registry of `ref`: name and password."""
    auths = {"auths": {ref.partition("/")[0]: {"auth": base64.b64encode(":".join(login).encode()).decode()}}}
    return {
        **_object("v1", "Secret", names.pull_secret(space_id), namespace_name, names.space_labels(space_id)),
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()},
    }


def volume_claim(space_id: SpaceId, namespace_name: str, options: ClusterOptions, own: Mount | None = None) -> Manifest:
    """Storage that outlives replicas, sleep and generations: `own`, which its owner asked for, else what every Space gets here."""
    size = f"{math.ceil(own.size_bytes / (1 << 20))}Mi" if own else f"{options.storage_gib}Gi"
    wanted: Manifest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if options.storage_class:
        wanted["storageClassName"] = options.storage_class
    name = own.source if own else names.claim(space_id)
    return {
        **_object("v1", "PersistentVolumeClaim", name, namespace_name, names.space_labels(space_id)),
        "spec": wanted,
    }


def volume_claims(spec: ReplicaSpec, namespace_name: str, options: ClusterOptions) -> list[Manifest]:
    """The claims that this replica's pod needs."""
    made = [volume_claim(spec.space_id, namespace_name, options, mount) for mount in spec.mounts if mount.size_bytes]
    return [volume_claim(spec.space_id, namespace_name, options)] if every_space_has_data(spec, options) else made


def every_space_has_data(spec: ReplicaSpec, options: ClusterOptions) -> bool:
    """Whether this replica gets the `/data` that the operator gives to all, and not what its owner asked for there."""
    return options.storage_gib > 0 and not any(m.size_bytes for m in spec.mounts) and not any(f.path == "/data" for f in spec.fetches)


def deployment(spec: ReplicaSpec, pool: NodePool, namespace_name: str, options: ClusterOptions) -> Manifest:
    """One replica as a Deployment of one pod: the cluster brings it back after an eviction, under the same replica id.

    Raises Rejected when the artifact is not an image by digest.
    """
    if spec.artifact.kind is not ArtifactKind.IMAGE or not _DIGEST_REF.fullmatch(spec.artifact.ref):
        raise Rejected("the Kubernetes runtime starts images by digest only", hint="Build the Space again for this runtime.")
    labels = names.replica_labels(spec.space_id, spec.replica_id, spec.generation)
    notes = {names.SPACE_NAME: spec.space_name, names.REVISION: spec.revision, names.FLAVOR: spec.flavor.name, names.POOL: pool.name}
    return {
        **_object("apps/v1", "Deployment", names.replica(spec.replica_id), namespace_name, labels, notes),
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 0,
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": spec.start_timeout_s + 600,
            "selector": {"matchLabels": {names.REPLICA: spec.replica_id}},
            "template": {"metadata": {"labels": labels, "annotations": notes}, "spec": _pod(spec, pool, options)},
        },
    }


def _pod(spec: ReplicaSpec, pool: NodePool, options: ClusterOptions) -> Manifest:
    user = options.run_as_user
    scratch = spec.flavor.disk_gb * GIB
    volumes: list[Manifest] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": _quantity(scratch)}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(round(spec.flavor.memory_gb * GIB) // 2)}},
    ]
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    if every_space_has_data(spec, options):
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": names.claim(spec.space_id)}})
        mounts.append({"name": "data", "mountPath": "/data"})
    for number, mount in enumerate(spec.mounts):
        volumes.append({"name": f"mount-{number}", "persistentVolumeClaim": {"claimName": mount.source, "readOnly": mount.read_only}})
        mounts.append({"name": f"mount-{number}", "mountPath": _mount_path(mount), "readOnly": mount.read_only})
    volumes += fetched.pod_volumes(spec)
    mounts += fetched.app_mounts(spec)
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostAliases": [
            {"ip": "0.0.0.0", "hostnames": list(PUBLIC_HUB)},
            *([{"ip": options.hub_address, "hostnames": [HUB_HOST]}] if options.hub_address else ()),
        ],
        "terminationGracePeriodSeconds": options.grace_s,
        "restartPolicy": "Always",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, pool, mounts)],
        "volumes": volumes,
        "affinity": _affinity(spec),
        "tolerations": [dict(t) for t in pool.tolerations] + [_leave_lost(what) for what in ("not-ready", "unreachable")],
    }
    if spec.fetches:
        pod["initContainers"] = [fetched.container(spec, options.volume_image, resources(spec, pool))]
    if pool.node_selector:
        pod["nodeSelector"] = dict(pool.node_selector)
    if pool.runtime_class:
        pod["runtimeClassName"] = pool.runtime_class
    if options.user_namespaces:
        pod["hostUsers"] = False
    if options.image_pull_secret or options.own_pull_secrets:
        pod["imagePullSecrets"] = [{"name": options.image_pull_secret or names.pull_secret(spec.space_id)}]
    return pod


def _container(spec: ReplicaSpec, pool: NodePool, mounts: list[Manifest]) -> Manifest:
    probe = {"tcpSocket": {"port": "http"}}
    container: Manifest = {
        "name": names.CONTAINER,
        "image": spec.artifact.ref,
        "imagePullPolicy": "IfNotPresent",  # a digest cannot mean something else tomorrow
        "ports": [{"name": "http", "containerPort": spec.launch.port, "protocol": "TCP"}],
        "envFrom": [{"secretRef": {"name": names.replica(spec.replica_id)}}],
        "resources": resources(spec, pool),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "startupProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": max(spec.start_timeout_s, 1)},
        "readinessProbe": {**probe, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 3},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if spec.launch.argv:
        container["command"] = [_literal(word) for word in spec.launch.argv]
    if spec.launch.workdir:
        container["workingDir"] = spec.launch.workdir
    kept_away = {} if spec.flavor.has_gpu else {"NVIDIA_VISIBLE_DEVICES": "void"}
    if spec.fetches:
        kept_away[fetched.ENV] = ""
    if kept_away:  # "env" wins over the owner's "envFrom"
        container["env"] = [{"name": name, "value": value} for name, value in kept_away.items()]
    return container


def resources(spec: ReplicaSpec, pool: NodePool) -> Manifest:
    """Limits are the flavor. Requests are the flavor divided by the pool's overcommit: the share that is promised."""
    flavor = spec.flavor
    memory = round(flavor.memory_gb * GIB)
    scratch = flavor.disk_gb * GIB
    limits = {"cpu": _cpu(flavor.vcpu), "memory": _quantity(memory), "ephemeral-storage": _quantity(scratch)}
    requests = {
        "cpu": _cpu(flavor.vcpu / pool.overcommit),
        "memory": _quantity(math.ceil(memory / pool.overcommit)),
        "ephemeral-storage": _quantity(min(scratch, _SCRATCH_REQUEST_BYTES)),
    }
    if flavor.gpu_count:
        limits[pool.gpu_resource] = requests[pool.gpu_resource] = str(flavor.gpu_count)
    return {"limits": limits, "requests": requests}


def blocked_ranges(cluster_ranges: Iterable[str]) -> dict[int, list[str]]:
    """The except lists by IP version, ours and the cluster's, overlaps merged. Raises Rejected for a bad range."""
    found: dict[int, list[Any]] = {4: [], 6: []}
    for text in (*BLOCKED_V4, *BLOCKED_V6, *cluster_ranges):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise Rejected(f"cluster range '{text}' is not a network such as 10.0.0.0/8") from error
        if network.prefixlen == 0:
            raise Rejected(f"cluster range '{text}' is everything")
        found[network.version].append(network)
    return {version: [str(n) for n in ipaddress.collapse_addresses(networks)] for version, networks in found.items()}


def _affinity(spec: ReplicaSpec) -> Manifest:
    """Hints, not conditions: other nodes for replicas of one generation, and the node that placement chose."""
    same = {"matchLabels": {names.SPACE: spec.space_id, names.GENERATION: str(spec.generation)}}
    apart = {"labelSelector": same, "topologyKey": "kubernetes.io/hostname"}
    made: Manifest = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": apart}]}}
    if spec.node:
        here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [spec.node]}]}
        made["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": here}]}
    return made


def _leave_lost(what: str) -> Manifest:
    return {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_NODE_S}


def _pods_in(namespace_name: str, labels: tuple[tuple[str, str], ...]) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace_name}},
        "podSelector": {"matchLabels": dict(labels)},
    }


def _host_block(address: str) -> str:
    try:
        return str(ipaddress.ip_network(address))
    except ValueError as error:
        raise Rejected(f"'{address}' is not an IP address or network") from error


def _mount_path(mount: Mount) -> str:
    if not mount.path.startswith("/") or ".." in mount.path.split("/") or ":" in mount.path:
        raise Rejected(f"'{mount.path}' cannot be a mount path")
    return mount.path


def _literal(word: str) -> str:
    """The kubelet expands $(NAME) in commands and turns $$ into $; the owner's words are meant as they stand."""
    return word.replace("$", "$$")


def _owned_by(owner: Manifest) -> Manifest:
    found = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": found["name"], "uid": found["uid"]}


def _platform_labels() -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "vitrine", names.MANAGED_BY: "vitrine"}


def _object(
    api_version: str, kind: str, name: str, namespace_name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": namespace_name, "labels": dict(labels)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _cpu(cores: float) -> str:
    return f"{math.ceil(cores * 1000)}m"


def _quantity(amount: int) -> str:
    """Bytes as Mi, rounded up; plain enough to read in kubectl."""
    return f"{math.ceil(amount / (1 << 20))}Mi"
