"""The shipped rights against the real authoriser: a scheduler with nothing but its service account's token does all its work,
and is refused everything else. And the shipped overlays against the server's schema and admission."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from control_plane.domain.errors import Broken
from control_plane.domain.replicas import ReplicaState
from control_plane.runtimes.kubernetes import manifests
from control_plane.runtimes.kubernetes.api import KubeApi, plain_client
from control_plane.runtimes.kubernetes.lease import LeaderLease
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.cluster.conftest import Cluster, until, until_state
from tests.cluster.kubectl import kubectl_or_skip
from tests.restricted_pods import violations

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

INFRA = Path(__file__).parents[2] / "infra" / "kubernetes"
_PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}


@dataclass
class Installed:
    """Namespaces of the platform and of its apps, and the scheduler's own credentials."""

    system: str
    apps: str
    scheduler: KubeApi


def path_of(item: dict[str, Any]) -> str:
    version, kind = item["apiVersion"], item["kind"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    namespace = item["metadata"].get("namespace")
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{_PLURALS.get(kind, kind.lower() + 's')}/{item['metadata']['name']}"


def renamed(item: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same object in namespaces of this test; cluster-wide ones get a name of their own."""
    metadata = item["metadata"]
    if item["kind"] == "Namespace":
        metadata["name"] = names[metadata["name"]]
    elif metadata.get("namespace") == "kube-node-lease":
        metadata["name"] = f"{names['vitrine-system']}-{metadata['name']}"
        if "roleRef" in item:
            item["roleRef"]["name"] = f"{names['vitrine-system']}-{item['roleRef']['name']}"
    elif "namespace" in metadata:
        metadata["namespace"] = names[metadata["namespace"]]
    else:
        metadata["name"] = f"{names['vitrine-system']}-{metadata['name']}"
    for subject in item.get("subjects", []):
        subject["namespace"] = names[subject["namespace"]]
    if item.get("roleRef", {}).get("kind") == "ClusterRole":
        item["roleRef"]["name"] = f"{names['vitrine-system']}-{item['roleRef']['name']}"
    for rule in item.get("rules", []):
        if "resourceNames" in rule:
            rule["resourceNames"] = [names.get(name, name) for name in rule["resourceNames"]]
    return item


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Installed]:
    tag = secrets.token_hex(4)
    names = {"vitrine-system": f"vitrine-test-{tag}-system", "vitrine": f"vitrine-test-{tag}", "vitrine-build": f"vitrine-test-{tag}-build"}
    made: list[str] = []
    for file in ("namespaces.yaml", "rbac.yaml"):
        for item in yaml.safe_load_all((INFRA / "base" / file).read_text()):
            path = path_of(renamed(item, names))
            cluster.api.apply(path, item)
            if "/namespaces/" not in path or item["kind"] == "Namespace" or "/kube-node-lease/" in path:
                made.append(path)
    cluster.api.apply(
        f"/apis/networking.k8s.io/v1/namespaces/{names['vitrine']}/networkpolicies/default-deny", manifests.default_deny(names["vitrine"])
    )
    asked = cluster.api.create(
        f"/api/v1/namespaces/{names['vitrine-system']}/serviceaccounts/vitrine-scheduler/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}},
    )
    theirs: Any = cluster.api.configuration
    settings = client.Configuration()
    settings.host, settings.ssl_ca_cert, settings.verify_ssl = (
        theirs.host,
        theirs.ssl_ca_cert,
        theirs.verify_ssl,
    )
    settings.api_key = {"authorization": f"Bearer {asked['status']['token']}"}
    scheduler = KubeApi(plain_client(settings))
    try:
        yield Installed(names["vitrine-system"], names["vitrine"], scheduler)
    finally:
        scheduler.close()
        for path in reversed(made):
            cluster.api.delete(path)


async def test_the_schedulers_own_rights_are_enough(cluster: Cluster, installed: Installed) -> None:
    options = ClusterOptions(namespace=installed.apps, platform_namespace=installed.system, storage_gib=0)
    runtime = KubernetesRuntime(KubeApi(plain_client(installed.scheduler.configuration)), lambda: (cluster.pool,), options, log=_drop)
    await runtime.start()
    lease = LeaderLease(installed.scheduler, namespace=installed.system, identity="one")
    try:
        await lease.acquire()
        assert lease.is_leading()
        spec = cluster.spec()
        await runtime.apply(spec)
        await until_state(runtime, spec, ReplicaState.READY)
        assert runtime._beats.synced.wait(30), "heartbeats may be read"
        assert any(spec.replica_id in node.replicas for node in (await runtime.capacity()).nodes)
        await until(lambda: _said(runtime, spec.replica_id), "its log arrives")
        await runtime.usage(spec.replica_id)
        await runtime.stop(spec.replica_id, grace_s=1)
        await runtime.remove_space(spec.space_id, spec.space_name)
        assert await runtime.observe(spec.space_id) == ()
    finally:
        await lease.release()
        await runtime.close()


async def _drop(space_id: str, replica_id: str, lines: object) -> None:
    return


async def _said(runtime: KubernetesRuntime, replica_id: str) -> bool:
    return "ready" in runtime._followers.tail(replica_id)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("get", "/api/v1/namespaces/kube-system/secrets"),
        ("get", "/api/v1/namespaces/{system}/secrets"),
        ("get", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("create", "/api/v1/namespaces/{apps}/pods"),
        ("create", "/apis/apps/v1/namespaces/{system}/deployments"),
        ("create", "/apis/apps/v1/namespaces/default/deployments"),
        ("create", "/api/v1/namespaces/{apps}/serviceaccounts/default/token"),
        ("create", "/api/v1/namespaces"),
    ],
)
def test_everything_else_is_refused(installed: Installed, verb: str, path: str) -> None:
    path = path.format(system=installed.system, apps=installed.apps)
    with pytest.raises(Broken, match="403"):
        if verb == "get":
            installed.scheduler.get(path)
        else:
            installed.scheduler.create(path, {"metadata": {"generateName": "x-"}})


@pytest.mark.parametrize(
    ("overlay", "component"),
    [
        ("production", ""), ("single", ""), ("production", "per-owner"), ("production", "without-engine"),
        ("production", "builder-cache, ../../builder-cache/engine"),
    ],
)  # fmt: skip
def test_the_server_accepts_the_overlay(cluster: Cluster, installed: Installed, overlay: str, component: str, tmp_path: Path) -> None:
    """Every object as `kubectl apply -k` sends it, dry run: schema, defaults, admission; in namespaces of this test."""
    kubectl = kubectl_or_skip()
    copy = tmp_path / "kubernetes"
    shutil.copytree(INFRA, copy)
    for example in copy.glob(f"overlays/{overlay}/*.example"):
        example.rename(example.with_suffix(""))
    if component:
        plan = copy / "overlays" / overlay / "kustomization.yaml"
        plan.write_text(f"{plan.read_text()}components: [../../{component}]\n")
    done = subprocess.run([kubectl, "kustomize", str(copy / "overlays" / overlay)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    names = {"vitrine-system": installed.system, "vitrine": installed.apps, "vitrine-build": installed.system}
    seen = []
    for item in yaml.safe_load_all(done.stdout):
        if item["kind"] == "Namespace":
            continue
        if item["metadata"]["name"] == "vitrine-builder" and component == "without-engine":
            spec = item["spec"]["template"]["spec"]
            assert [c["name"] for c in spec["containers"]] == ["builder"]
            assert violations(spec) == []
        cluster.api.apply(path_of(renamed(item, names)), item, dry_run=True)
        seen.append(item["kind"])
    assert {"Deployment", "Service", "ConfigMap", "Secret", "NetworkPolicy"} <= set(seen)
