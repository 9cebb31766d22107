"""What a Space keeps between its replicas: namespace, policy, stored data, the way to its images."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace

import pytest

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import Mount
from control_plane.domain.spaces import Sdk, Space, SpaceConfig
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.pull_secrets import DAY_S, PullSecrets
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from control_plane.runtimes.kubernetes.volumes import Claims
from tests.fakes.api_server import api_server
from tests.unit.runtimes_kubernetes.specs import REPLICA, SPACE, spec
from tests.unit.runtimes_kubernetes.world import POOLS, world


async def test_one_namespace_per_owner() -> None:
    async with world(ClusterOptions(per_owner_namespaces=True)) as w:
        await w.runtime.apply(spec(pool="cpu"))
        (namespace,) = [k[2] for k in w.server.objects if k[0] == "namespaces"]
        assert namespace.startswith("vitrine-ann-")
        assert w.server.objects["namespaces", "", namespace]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert ("networkpolicies", namespace, "default-deny") in w.server.objects
        assert await w.one() is not None


async def test_a_deleted_space_leaves_nothing_in_any_owners_namespace() -> None:
    """Its name is gone when its objects go, and it may have had another owner before."""
    options = ClusterOptions(per_owner_namespaces=True, account="vitrine-system/vitrine-scheduler", own_pull_secrets=True)
    async with world(options, lambda ref: ("node", "word")) as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.runtime.stop(ReplicaId(REPLICA))
        await w.runtime.apply(replace(spec(pool="cpu", replica="r2"), space_name="Bob/hello"))
        await w.runtime.apply(replace(spec(pool="cpu", replica="r3"), space_id=SpaceId("other")))
        bindings = [found for key, found in w.server.objects.items() if key[0] == "rolebindings"]
        assert {(b["subjects"][0]["namespace"], b["subjects"][0]["name"]) for b in bindings} == {("vitrine-system", "vitrine-scheduler")}
        assert len(bindings) == 2, "rights in the two owners' namespaces, nowhere else"
        pulls = {key[1].split("-")[1] for key in w.server.objects if key[2] == f"pull-{SPACE}"}
        assert pulls == {"ann", "bob"}, "what a node signs in with lies beside each pod"
        await w.runtime.remove_space(SPACE, "")
        kinds = ("services", "networkpolicies", "persistentvolumeclaims", "secrets", "deployments")
        left = {key[2] for key in w.server.objects if key[0] in kinds}
        assert left == {"default-deny", "space-other", "pull-other", "replica-r3"}


@pytest.mark.parametrize("is_for_all", [True, False])
async def test_a_space_with_data_stays_where_its_data_is(is_for_all: bool) -> None:
    """A claim cannot move to another namespace: neither does a Space that was handed to somebody else, until it gives its data up."""
    mounts = () if is_for_all else (Mount("volume-k1", "/data", read_only=False, size_bytes=10**9),)
    claim = f"storage-{SPACE}" if is_for_all else "volume-k1"
    options = ClusterOptions(per_owner_namespaces=True, storage_gib=5 if is_for_all else 0, own_pull_secrets=True)
    async with world(options, lambda ref: ("node", "word")) as w:

        def where(plural: str, name: str) -> list[str]:
            return [key[1].split("-")[1] for key in w.server.objects if (key[0], key[2]) == (plural, name)]

        await w.runtime.apply(replace(spec(pool="cpu"), mounts=mounts))
        await w.runtime.stop(ReplicaId(REPLICA))
        before = len(w.server.requests)
        await w.runtime.apply(replace(spec(pool="cpu", replica="r2"), space_name="Bob/hello", mounts=mounts))
        assert len(w.server.requests) - before <= 8
        for plural, name in (
            ("deployments", "replica-r2"), ("secrets", f"pull-{SPACE}"), ("persistentvolumeclaims", claim), ("secrets", "replica-r2"),
        ):  # fmt: skip
            assert where(plural, name) == ["ann"], plural
        await w.runtime.apply(replace(spec(pool="cpu", replica="r3"), space_name="Bob/other", space_id=SpaceId("other"), mounts=()))
        assert where("deployments", "replica-r3") == ["bob"], "nobody else follows it there"

        await w.runtime.stop(ReplicaId("r2"))
        await w.runtime.remove_volume(claim)
        await w.runtime.apply(replace(spec(pool="cpu", replica="r4"), space_name="Bob/hello", mounts=mounts))
        assert where("deployments", "replica-r4") == ["bob"], "without data it lies with its owner again"
        assert where("persistentvolumeclaims", claim) == ["bob"]


async def test_each_space_has_its_own_word_for_the_registry() -> None:
    asked: list[str] = []

    def login(ref: str) -> tuple[str, str]:
        asked.append(ref)
        return "node", f"good for {ref.rpartition('/')[2][:4]}"

    async with world(ClusterOptions(own_pull_secrets=True), login) as w:
        before = len(w.server.requests)
        await w.runtime.apply(spec(pool="cpu"))
        assert len(w.server.requests) - before <= 8
        secret = w.server.objects["secrets", "vitrine", f"pull-{SPACE}"]
        assert secret["type"] == "kubernetes.io/dockerconfigjson"
        kept = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
        assert kept == {"auths": {"registry.example": {"auth": base64.b64encode(b"node:good for 5f0c").decode()}}}
        pod = w.server.pod_of(REPLICA)["spec"]
        assert pod["imagePullSecrets"] == [{"name": f"pull-{SPACE}"}]
        await w.runtime.stop(ReplicaId(REPLICA))
        await w.runtime.apply(spec(pool="cpu", replica="r2"))
        assert len(asked) == 1, "a wake soon after finds it fresh"
        await w.runtime.remove_space(SPACE, "Ann/hello")
        assert {k[2] for k in w.server.objects if k[1] == "vitrine"} == {"default-deny"}


async def test_the_operators_secret_is_used_where_there_is_one() -> None:
    async with world(ClusterOptions(image_pull_secret="of-all")) as w:
        await w.runtime.apply(spec(pool="cpu"))
        assert w.server.pod_of(REPLICA)["spec"]["imagePullSecrets"] == [{"name": "of-all"}]
        assert not any(key[2].startswith("pull-") for key in w.server.objects)


async def test_words_for_the_registry_are_made_anew_once_a_day() -> None:
    """Whoever leads, and however often that changes: each Space has its own moment."""
    now = [1_700_000_000.0]
    made: list[str] = []

    def login(ref: str) -> tuple[str, str]:
        made.append(ref)
        return "node", "word"

    items = [
        {
            "metadata": {"namespace": "vitrine", "labels": {"vitrine.dev/space": f"s{n}"}},
            "spec": {"template": {"spec": {"containers": [{"image": f"registry.example/spaces/s{n}@sha256:0"}]}}},
        }
        for n in range(50)
    ]
    async with api_server() as server:
        api = server.api()
        try:
            pulls = PullSecrets(api, login, lambda: now[0])
            most = 0
            for minute in range(24 * 60):
                if minute == 700:  # another scheduler begins to lead
                    pulls = PullSecrets(api, login, lambda: now[0])
                before = len(made)
                now[0] += 60
                await asyncio.to_thread(pulls.renew, items)
                most = max(most, len(made) - before)
            assert sorted(made) == sorted(item["spec"]["template"]["spec"]["containers"][0]["image"] for item in items)  # type: ignore[index]
            assert most < 10, "not all at one moment"
            server.deny("PATCH", r"/secrets/", 500, times=50)
            now[0] += DAY_S
            await asyncio.to_thread(pulls.renew, items)  # what fails is said and tried again another day
        finally:
            api.close()


async def test_a_volume_is_found_in_whichever_namespace_it_is() -> None:
    async with world(ClusterOptions(per_owner_namespaces=True)) as w:
        mount = Mount("volume-k1", "/data", read_only=False, size_bytes=10**9)
        await w.runtime.apply(replace(spec(pool="cpu"), mounts=(mount,)))
        assert any(key[0] == "persistentvolumeclaims" for key in w.server.objects)
        await Claims(w.runtime).remove(SPACE, "", "k1")
        assert not any(key[0] == "persistentvolumeclaims" for key in w.server.objects)


async def test_a_namespace_that_is_not_restricted_is_refused() -> None:
    async with api_server() as server:
        await server.put("namespaces", {"metadata": {"name": "vitrine", "labels": {}}})
        server.deny("PATCH", r"/namespaces/vitrine\?", 403, times=5)
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        with pytest.raises(Rejected, match="restricted"):
            await runtime.start()
        await runtime.close()


async def test_remove_space_takes_everything() -> None:
    async with world(ClusterOptions(storage_gib=5)) as w:
        await w.runtime.apply(spec(pool="cpu"))
        assert ("persistentvolumeclaims", "vitrine", f"storage-{SPACE}") in w.server.objects
        await w.runtime.remove_space(SPACE, "Ann/hello")
        assert {k[2] for k in w.server.objects if k[1] == "vitrine"} == {"default-deny"}


async def test_a_volume_that_was_asked_for_is_a_claim_of_its_own() -> None:
    space = Space(SPACE, "ann-hello", Sdk.GRADIO, SpaceConfig(Sdk.GRADIO), storage_tier="small", storage_key="k1", storage_bytes=20 * 10**9)
    async with world(ClusterOptions(storage_gib=5, storage_class="fast")) as w:
        claims = Claims(w.runtime)
        mounts = claims.mounts_of(space)
        assert claims.mounts_of(replace(space, storage_tier="")) == ()
        await w.runtime.apply(replace(spec(pool="cpu"), mounts=mounts))
        made = {name: found for (plural, _, name), found in w.server.objects.items() if plural == "persistentvolumeclaims"}
        assert list(made) == ["volume-k1"], "not beside the one that every Space gets"
        assert made["volume-k1"]["spec"]["resources"] == {"requests": {"storage": "19074Mi"}}
        assert made["volume-k1"]["spec"]["storageClassName"] == "fast"
        pod = next(d for (plural, _, _), d in w.server.objects.items() if plural == "deployments")["spec"]["template"]["spec"]
        assert [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/data"] == [
            {"name": "mount-0", "mountPath": "/data", "readOnly": False}
        ]
        await claims.remove_all(space, "Ann/hello")
        await claims.remove(space.id, "Ann/hello", "k0")
        assert not [key for key in w.server.objects if key[0] == "persistentvolumeclaims"]
