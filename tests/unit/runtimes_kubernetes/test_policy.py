"""Who enforces NetworkPolicy, by what runs there and by a knock at a door that should be shut."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest

from control_plane.bus.usage import UsageDoor, ask_capacity
from control_plane.cli import doctor_cluster
from control_plane.domain.capacity import NodePool
from control_plane.domain.replicas import ReplicaState
from control_plane.runtimes.kubernetes import policy_engines, policy_proof
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.policy_proof import PolicyProof
from control_plane.runtimes.process.doctor import Level
from tests.fakes.api_server import api_server
from tests.unit.runtimes_kubernetes.specs import spec
from tests.unit.runtimes_kubernetes.world import POOLS, world

PROXY = {"app.kubernetes.io/name": "vitrine", "app.kubernetes.io/component": "proxy"}


def agent(**labels: str) -> dict[str, Any]:
    metadata = {"name": "agent", "namespace": "kube-system", "labels": {k.replace("_", "-"): v for k, v in labels.items()}}
    return {"metadata": metadata, "spec": {}, "status": {}}


def test_engines_are_known_by_their_pods_and_by_distributions_that_bring_one() -> None:
    assert policy_engines.engine_of_pod({"k8s-app": "calico-node", "x": "y"}) == "Calico"
    assert policy_engines.engine_of_pod({"k8s-app": "flannel"}) == ""
    assert policy_engines.engine_of_nodes([{"status": {"nodeInfo": {"kubeletVersion": "v1.33.4+k3s1"}}}]) == "k3s"
    assert policy_engines.engine_of_nodes([{"status": {"nodeInfo": {"kubeletVersion": "v1.36.0"}}}]) == ""
    assert any("calico-node" in text and text.startswith("k8s-app in (") for text in policy_engines.label_selectors())


async def test_the_warning_comes_with_the_capacity_and_goes_when_an_engine_is_seen(tmp_path: Any) -> None:
    async with world() as w:
        assert (await w.runtime.capacity()).warning == policy_engines.NOT_KNOWN
        door = UsageDoor(None, w.runtime)  # type: ignore[arg-type]  # capacity asks no database
        await door.open_socket(tmp_path / "usage.sock")
        try:
            told = await ask_capacity(tmp_path / "usage.sock")
            assert told is not None
            assert told.warning == policy_engines.NOT_KNOWN
        finally:
            await door.close()
        await w.server.put("pods", agent(k8s_app="cilium"))

        async def quiet() -> bool:
            return not (await w.runtime.capacity()).warning

        await w.until(quiet, "cilium is seen")
        await w.server.remove("pods", "kube-system", "agent")

        async def warned() -> bool:
            return bool((await w.runtime.capacity()).warning)

        await w.until(warned, "it is gone again")


@pytest.mark.parametrize(("labels", "expected"), [({}, True), (PROXY, None)])
async def test_a_connection_that_policy_should_stop_proves_that_nobody_enforces_it(labels: dict[str, str], expected: bool | None) -> None:
    async with api_server() as server:
        await server.put("pods", {"metadata": {"name": "me", "namespace": "sys", "labels": labels}, "spec": {}, "status": {}})
        with socket.create_server(("127.0.0.1", 0)) as app:
            proof = PolicyProof(server.api(), "sys", PROXY, pod="me")
            proof.try_once(f"127.0.0.1:{app.getsockname()[1]}")
            assert proof._task is not None
            await proof._task
        assert proof.is_ignored is expected, "a proxy is let in, so its connection says nothing"


async def test_a_connection_that_is_dropped_proves_that_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(policy_proof, "_KNOCK_S", 0.01)
    monkeypatch.setattr(policy_proof.asyncio, "open_connection", never)
    async with api_server() as server:
        await server.put("pods", {"metadata": {"name": "me", "namespace": "sys"}, "spec": {}, "status": {}})
        proof = PolicyProof(server.api(), "sys", PROXY, pod="me")
        proof.try_once("192.0.2.1:7860")
        assert proof._task is not None
        await proof._task
        assert proof.is_ignored is False


async def test_inside_a_cluster_the_first_app_that_is_up_is_knocked_at() -> None:
    options = ClusterOptions(account="vitrine-system/vitrine-scheduler")
    async with world(options) as w:
        me = {"metadata": {"name": socket.gethostname(), "namespace": options.platform_namespace}, "spec": {}, "status": {}}
        await w.server.put("pods", me)
        with socket.create_server(("127.0.0.1", 0)) as app:
            port = app.getsockname()[1]
            made = spec(pool="cpu")
            await w.runtime.apply(replace(made, launch=replace(made.launch, port=port)))
            await w.server.run_pod(w.server.pod_of(made.replica_id), "node-1", address="127.0.0.1")
            await w.until_state(ReplicaState.READY)

            async def proven() -> bool:
                return (await w.runtime.capacity()).warning == policy_engines.IGNORED

            await w.until(proven, "the knock was answered")


def test_doctor_names_pools_without_nodes_and_clusters_without_enforcement() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    node = {"metadata": {"name": "n", "labels": {"pool": "cpu"}}, "status": ready}
    grows = NodePool("spot", ("cpu-basic",), node_selector={"pool": "spot"}, max_nodes=5)
    found = {f.name: f for f in doctor_cluster.nodes_of((*POOLS, grows), [node])}
    assert found["pool cpu"].detail == "1 node ready"
    assert "kubectl label node NODE pool=gpu" in found["pool a10g-x4"].fix
    assert "grows to 5" in found["pool spot"].detail
    nothing = [f.level for f in doctor_cluster.nodes_of(POOLS, [])]
    assert nothing == [Level.PROBLEM, Level.PROBLEM], "no node at all serves any hardware"
    assert doctor_cluster.network_policy([], [node]).level is Level.WARNING
    assert doctor_cluster.network_policy([agent(app="antrea")], [node]).level is Level.OK
    assert doctor_cluster.version({"major": "1", "minor": "27+", "gitVersion": "v1.27.3"}).level is Level.WARNING
    assert doctor_cluster.version({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}).level is Level.OK
    assert doctor_cluster.registry("").level is Level.PROBLEM
