"""What the engine is asked for: every part of the sandbox floor that the engine keeps, and what owners cannot reach."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import Rejected
from control_plane.domain.hardware import Accelerator, Flavor
from control_plane.domain.ids import ReplicaId, Sha, SpaceId
from control_plane.domain.replicas import Mount, ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.docker import manifests
from control_plane.runtimes.docker.manifests import GIB, Machine, Names
from control_plane.runtimes.docker.rules import Openings, firewall

IMAGE = Artifact(ArtifactKind.IMAGE, "registry.example/spaces/demo@sha256:" + "0f" * 32)
FLAVOR = Flavor("small", "Small", vcpu=2, memory_gb=4, disk_gb=5, price_per_hour=0, pids_max=64, open_files_max=512)
SPEC = ReplicaSpec(ReplicaId("a" * 24), SpaceId("b" * 24), "alice/demo", 7, Sha("0" * 40), IMAGE, LaunchPlan(port=7861), FLAVOR)
MACHINE = Machine(8, 64 * GIB)
NAMES = Names("0123456789")


def made(
    spec: ReplicaSpec = SPEC, *, machine: Machine = MACHINE, gpus: tuple[str, ...] = (), disk_by_engine: bool = False
) -> manifests.Body:
    return manifests.container(spec, manifests.grant(spec, machine, gpus), NAMES, "10.213.0.1", disk_by_engine=disk_by_engine)


def test_the_floor_is_in_every_container() -> None:
    body = made()
    host = body["HostConfig"]
    assert body["User"] == "1000:1000"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"], host["Devices"]) == (["ALL"], [], False, [])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["IpcMode"], host["CgroupnsMode"], host["PidMode"], host["UTSMode"]) == ("private", "private", "", "")
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (2_000_000_000, 4 * GIB, 4 * GIB, 64)
    assert {"Name": "nofile", "Soft": 512, "Hard": 512} in host["Ulimits"]
    assert "nosuid" in host["Tmpfs"]["/tmp"]
    assert f"size={2 * GIB}" in host["Tmpfs"]["/tmp"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["NetworkMode"] == NAMES.of(SPEC.replica_id)
    assert "DeviceRequests" not in host
    assert "Entrypoint" not in body  # the image's own command


def test_limits_never_exceed_the_machine() -> None:
    host = made(machine=Machine(1, GIB))["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (1_000_000_000, GIB)


def test_secrets_are_opened_and_gpu_words_of_the_owner_never_count() -> None:
    body = made(replace(SPEC, env={"TOKEN": Sensitive("s3cret"), "NVIDIA_VISIBLE_DEVICES": "all"}))
    assert "TOKEN=s3cret" in body["Env"]
    assert [one for one in body["Env"] if one.startswith("NVIDIA_VISIBLE_DEVICES")] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert "s3cret" not in str(body["Labels"])


def test_gpus_are_the_granted_ones_by_id() -> None:
    spec = replace(SPEC, flavor=replace(FLAVOR, accelerator=Accelerator("a10g", 2, 24)))
    body = made(spec, gpus=("1", "3"))
    assert body["HostConfig"]["DeviceRequests"] == [{"Driver": "nvidia", "DeviceIDs": ["1", "3"], "Capabilities": [["gpu"]]}]
    assert "NVIDIA_VISIBLE_DEVICES=1,3" in body["Env"]
    assert manifests.gpus_of(body["Labels"]) == ("1", "3")


def test_the_hub_is_a_name_for_the_gateway() -> None:
    closed = ["huggingface.co:0.0.0.0", "hf.co:0.0.0.0"]  # no visitor's token goes there by mistake
    assert made(replace(SPEC, hub_host="hub.internal"))["HostConfig"]["ExtraHosts"] == ["hub.internal:10.213.0.1", *closed]
    assert made()["HostConfig"]["ExtraHosts"] == closed


def test_a_disk_limit_of_the_engine_is_asked_for_only_where_it_can_be_kept() -> None:
    assert made(disk_by_engine=True)["HostConfig"]["StorageOpt"] == {"size": str(5 * GIB)}
    assert "StorageOpt" not in made()["HostConfig"]


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": Artifact(ArtifactKind.IMAGE, "registry.example/demo:latest")},
        {"artifact": Artifact(ArtifactKind.IMAGE, "--privileged@sha256:" + "0f" * 32)},
        {"artifact": Artifact(ArtifactKind.BUNDLE, "a/b")},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x\0y"}},
        {"mounts": (Mount("data", "/x/../../etc"),)},
        {"mounts": (Mount("data", "relative"),)},
        {"launch": LaunchPlan(workdir="../..")},
    ],
)
def test_bad_orders_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Rejected):
        made(replace(SPEC, **changes))  # type: ignore[arg-type]


def test_mounts_are_volumes_or_directories_of_the_platform() -> None:
    mounts = made(replace(SPEC, mounts=(Mount("vol", "/data", False), Mount("/srv/x", "/models"))))["HostConfig"]["Mounts"]
    assert [(m["Type"], m["Target"], m["ReadOnly"]) for m in mounts] == [("volume", "/data", False), ("bind", "/models", True)]


def test_its_own_volume_is_told_by_its_labels() -> None:
    own = Mount("/var/lib/v/volumes/a/k", "/data", False, 20 * 10**9)
    labels = made(replace(SPEC, mounts=(own, Mount("/srv/x", "/models"))))["Labels"]
    assert manifests.own_volumes(labels) == (own,)
    assert manifests.own_volumes({}) == (), "a container of an earlier version"


def test_networks_are_one_each_and_internal_without_egress() -> None:
    body = manifests.network(SPEC, NAMES, "10.213.0.8/29", has_egress=False)
    assert (body["internal"], body["enable_ipv6"]) == (True, False)
    assert body["ipam"]["Config"] == [{"Subnet": "10.213.0.8/29", "Gateway": "10.213.0.9"}]
    bridge = body["options"]["com.docker.network.bridge.name"]
    assert bridge.startswith(NAMES.bridges)
    assert len(bridge) <= 15
    assert not manifests.network(SPEC, NAMES, "10.213.0.8/29", has_egress=True)["internal"]


def test_subnets_that_are_taken_are_left_out() -> None:
    free = manifests.free_subnets("10.213.0.0/24", ["10.213.0.0/29", "10.213.0.16/28", "172.17.0.0/16", "fd00::/64"])
    assert list(islice(free, 2)) == ["10.213.0.8/29", "10.213.0.32/29"]
    assert not list(manifests.free_subnets("10.213.0.0/28", ["10.0.0.0/8"]))
    with pytest.raises(Rejected):
        next(manifests.free_subnets("fd00::/64", []))


def test_the_firewall_closes_private_ranges_before_it_opens_the_internet() -> None:
    lines = [line.strip() for line in firewall(NAMES.table, f"{NAMES.bridges}*", Openings(hub_port=7860)).splitlines()]
    forward = lines[lines.index("chain forward {") : lines.index("chain input {")]
    ours = 'iifname "v01234*"'
    private = next(i for i, line in enumerate(forward) if "169.254.0.0/16" in line and line.endswith("drop"))
    assert forward.index(f'{ours} oifname "v01234*" drop') < private < forward.index(f"{ours} tcp dport {{ 80, 443 }} accept")
    assert forward[-2] == f"{ours} drop"
    incoming = lines[lines.index("chain input {") :]
    assert [line for line in incoming if line.endswith("accept") and "established" not in line] == [f"{ours} tcp dport 7860 accept"]


def test_builds_have_names_and_rules_of_their_own(tmp_path: Path) -> None:
    names = Names.of_platform(tmp_path, for_builds=True)
    assert names.tag == Names.of_platform(tmp_path).tag
    assert names.table != Names.of_platform(tmp_path).table
    rules = firewall(names.table, f"{names.bridges}*", Openings(allow=(("10.0.0.5", 8080),)))
    assert rules.count("ip daddr 10.0.0.5 tcp dport 8080 accept") == 2
    assert not rules.split("chain input")[1].count("dport 7860")
    assert len(manifests.build_network(names, "10.212.255.0/24")["options"]["com.docker.network.bridge.name"]) <= 15
