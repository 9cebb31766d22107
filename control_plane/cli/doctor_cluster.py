"""What `vitrine doctor --runtime kubernetes` says about the cluster: reads a few lists, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import VitrineError
from control_plane.runtimes.kubernetes import facts, policy_engines
from control_plane.runtimes.kubernetes.api import Absent, KubeApi
from control_plane.runtimes.process.doctor import Finding, Level
from control_plane.scheduler.pools import PoolFile
from control_plane.settings import Settings

_LEAST = (1, 28)
Item = Mapping[str, Any]


def examine_cluster(settings: Settings) -> tuple[Finding, ...]:
    """Blocking. One finding when there is no connection."""
    try:
        api = KubeApi.connect()
    except VitrineError as error:
        return (Finding("kubernetes", Level.PROBLEM, error.message, "Set KUBECONFIG, or run inside the cluster."),)
    try:
        pools = PoolFile(Path(settings.pools_file) if settings.pools_file else None).current.pools
        return tuple(look(api, pools, settings))
    except VitrineError as error:
        return (Finding("kubernetes", Level.PROBLEM, error.message, error.hint or "Look at the address and the credentials."),)
    finally:
        api.close()


def look(api: KubeApi, pools: tuple[NodePool, ...], settings: Settings) -> Iterator[Finding]:
    yield version(api.get("/version", timeout_s=4.0))
    nodes = api.get("/api/v1/nodes", timeout_s=4.0).get("items") or []
    yield from nodes_of(pools, nodes)
    pods: list[Item] = []
    for selector in policy_engines.label_selectors():
        pods += api.get("/api/v1/pods", {"labelSelector": selector, "limit": "50"}, timeout_s=4.0).get("items") or []
    yield network_policy(pods, nodes)
    if not settings.kube_namespace_per_owner:
        yield namespace(api, settings.kube_namespace)
    yield registry(settings.registry)


def version(said: Item) -> Finding:
    major, minor = (int("".join(c for c in str(said.get(key, "")) if c.isdigit()) or 0) for key in ("major", "minor"))
    name = str(said.get("gitVersion", "?"))
    if (major, minor) < _LEAST and major:
        return Finding("kubernetes", Level.WARNING, f"{name} is older than 1.28", "Upgrade the cluster.")
    return Finding("kubernetes", Level.OK, name)


def nodes_of(pools: Iterable[NodePool], nodes: Iterable[Item]) -> Iterator[Finding]:
    """Ready nodes of each pool; a pool of none only where nobody else could bring them."""
    counts: dict[str, int] = {}
    pools, nodes = tuple(pools), tuple(nodes)
    for node in nodes:
        pool = facts.pool_of(dict(node), pools)
        if pool is not None and facts.is_node_ready(dict(node)):
            counts[pool.name] = counts.get(pool.name, 0) + 1
    for pool in pools:
        count = counts.get(pool.name, 0)
        labels = ",".join(f"{key}={value}" for key, value in pool.node_selector.items())
        if count or pool.max_nodes:
            grows = f", grows to {pool.max_nodes}" if pool.max_nodes else ""
            yield Finding(f"pool {pool.name}", Level.OK, f"{count} {'node' if count == 1 else 'nodes'} ready{grows}")
        else:
            level = Level.OK if counts else Level.PROBLEM
            yield Finding(f"pool {pool.name}", level, "no node is ready", f"kubectl label node NODE {labels}, or change the pools file.")


def network_policy(pods: Iterable[Item], nodes: Iterable[Item]) -> Finding:
    found = (policy_engines.engine_of_pod(pod["metadata"].get("labels") or {}) for pod in pods)
    engine = next(filter(None, found), "") or policy_engines.engine_of_nodes(nodes)
    if engine:
        return Finding("network policy", Level.OK, f"{engine} enforces it")
    return Finding("network policy", Level.WARNING, policy_engines.NOT_KNOWN, "Install a network plugin that enforces NetworkPolicy.")


def namespace(api: KubeApi, name: str) -> Finding:
    try:
        labels = api.get(f"/api/v1/namespaces/{name}", timeout_s=4.0)["metadata"].get("labels") or {}
    except Absent:
        return Finding("apps' namespace", Level.OK, f"'{name}' is not there yet; the scheduler makes it")
    if labels.get("pod-security.kubernetes.io/enforce") == "restricted":
        return Finding("apps' namespace", Level.OK, f"'{name}' enforces the restricted Pod Security Standard")
    fix = f"kubectl label namespace {name} pod-security.kubernetes.io/enforce=restricted"
    return Finding("apps' namespace", Level.PROBLEM, f"'{name}' does not enforce the restricted Pod Security Standard", fix)


def registry(address: str) -> Finding:
    if not address:
        return Finding("registry", Level.PROBLEM, "none is set", "Set VITRINE_REGISTRY to host:port/prefix that builder and nodes reach.")
    host = address.partition("/")[0]
    for scheme in ("https", "http"):
        try:
            if httpx.get(f"{scheme}://{host}/v2/", timeout=4.0, trust_env=False).status_code < 500:
                return Finding("registry", Level.OK, f"{scheme}://{host} answers")
        except httpx.HTTPError:
            continue
    return Finding("registry", Level.PROBLEM, f"nothing answers at {host}", "Start it, or change VITRINE_REGISTRY.")
