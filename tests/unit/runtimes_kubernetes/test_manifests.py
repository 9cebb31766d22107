"""Rendered objects: golden files, the restricted profile, and the network policy evaluated like a firewall.

Rewrite the golden files with VITRINE_GOLDEN=rewrite; the diff is reviewed.
"""

from __future__ import annotations

import copy
import ipaddress
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import Rejected
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import HUB_HOST, Mount
from control_plane.runtimes.kubernetes import manifests, names
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from tests.restricted_pods import violations
from tests.unit.runtimes_kubernetes.specs import IMAGE, SPACE, pool_of, spec

GOLDEN = Path(__file__).parents[2] / "golden" / "kubernetes"
OPTIONS = ClusterOptions(cluster_ranges=("10.42.0.0/16", "10.43.0.0/16", "2a00:1:2::/48", "100.127.0.0/16", "34.118.224.0/20"))


def rendered(flavor: str, options: ClusterOptions = OPTIONS, **more: Any) -> dict[str, Any]:
    return manifests.deployment(spec(flavor, **more), pool_of(flavor), "vitrine", options)


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def whole_set(flavor: str, options: ClusterOptions) -> list[dict[str, Any]]:
    one, pool = spec(flavor), pool_of(flavor)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": names.replica(one.replica_id), "uid": "uid-1"}}
    made = [
        manifests.namespace("vitrine"),
        manifests.default_deny("vitrine"),
        manifests.network_policy(one.space_id, one.launch.port, "vitrine", options),
        manifests.service(one, "vitrine"),
        manifests.secret(one, "vitrine", owner),
        manifests.deployment(one, pool, "vitrine", options),
    ]
    return [*made, manifests.volume_claim(one.space_id, "vitrine", options)] if options.storage_gib else made


@pytest.mark.parametrize(
    ("name", "flavor", "options"),
    [
        ("cpu-basic", "cpu-basic", OPTIONS),
        ("a10g-largex4", "a10g-largex4", OPTIONS),
        (
            "cpu-upgrade-storage", "cpu-upgrade",
            replace(OPTIONS, storage_gib=20, storage_class="fast", user_namespaces=True, image_pull_secret="pull",
                    dns_addresses=("169.254.20.10",)),
        ),
    ],
)  # fmt: skip
def test_golden(name: str, flavor: str, options: ClusterOptions) -> None:
    text = yaml.safe_dump_all(whole_set(flavor, options), sort_keys=False, allow_unicode=True, width=140)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("VITRINE_GOLDEN") == "rewrite":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("flavor", [f.name for f in DEFAULT_FLAVORS])
@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, storage_gib=5, user_namespaces=True)])
def test_every_pod_is_restricted(flavor: str, options: ClusterOptions) -> None:
    assert violations(pod_of(rendered(flavor, options))) == []


BREAKS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("hostNetwork", lambda p: p.update(hostNetwork=True)),
    ("hostPID", lambda p: p.update(hostPID=True)),
    ("hostIPC", lambda p: p.update(hostIPC=True)),
    ("hostPath", lambda p: p["volumes"].append({"name": "h", "hostPath": {"path": "/"}})),
    ("nfs", lambda p: p["volumes"].append({"name": "n", "nfs": {"server": "s", "path": "/"}})),
    ("iscsi", lambda p: p["volumes"].append({"name": "n", "iscsi": {}})),
    ("sysctl", lambda p: p["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("pod non-root", lambda p: p["securityContext"].update(runAsNonRoot=False)),
    ("pod user 0", lambda p: p["securityContext"].update(runAsUser=0)),
    ("pod seccomp", lambda p: p["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("pod selinux", lambda p: p["securityContext"].update(seLinuxOptions={"type": "spc_t"})),
    ("pod selinux user", lambda p: p["securityContext"].update(seLinuxOptions={"user": "system_u"})),
    ("pod apparmor", lambda p: p["securityContext"].update(appArmorProfile={"type": "Unconfined"})),
    ("windows", lambda p: p["securityContext"].update(windowsOptions={"hostProcess": True})),
    ("privileged", lambda p: p["containers"][0]["securityContext"].update(privileged=True)),
    ("escalation", lambda p: p["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")),
    ("escalation true", lambda p: p["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True)),
    ("keeps caps", lambda p: p["containers"][0]["securityContext"].update(capabilities={"drop": ["NET_RAW"]})),
    ("adds caps", lambda p: p["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"])),
    ("user 0", lambda p: p["containers"][0]["securityContext"].update(runAsUser=0)),
    ("non-root", lambda p: p["containers"][0]["securityContext"].update(runAsNonRoot=False)),
    ("seccomp", lambda p: p["containers"][0]["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("procMount", lambda p: p["containers"][0]["securityContext"].update(procMount="Unmasked")),
    ("hostPort", lambda p: p["containers"][0]["ports"][0].update(hostPort=80)),
    ("probe host", lambda p: p["containers"][0]["readinessProbe"]["tcpSocket"].update(host="10.0.0.1")),
    ("hook host", lambda p: p["containers"][0].update(lifecycle={"preStop": {"httpGet": {"host": "10.0.0.1"}}})),
    ("init container", lambda p: p.update(initContainers=[{"name": "i"}])),
    ("ephemeral container", lambda p: p.update(ephemeralContainers=[{"name": "e"}])),
]


@pytest.mark.parametrize(("what", "breaks"), BREAKS, ids=[what for what, _ in BREAKS])
def test_the_checker_sees_each_forbidden_shape(what: str, breaks: Callable[[dict[str, Any]], object]) -> None:
    pod = copy.deepcopy(pod_of(rendered("cpu-basic")))
    breaks(pod)
    assert violations(pod), what


NASTY = ["$(API_KEY)", "--privileged", "hostNetwork: true\nhostPID: true", '"},"hostPID":true,"x":{"', "; rm -rf /", "\u2028", "a" * 4000]


@pytest.mark.parametrize("nasty", NASTY)
def test_an_owners_words_reach_no_field_that_is_restricted(nasty: str) -> None:
    made = rendered(
        "cpu-basic", launch=LaunchPlan((nasty, nasty), 7860, {"A": nasty}, workdir=nasty), env={"B": nasty}, space_name=f"Ann/{nasty}"
    )
    pod = pod_of(made)
    assert violations(pod) == []
    plain = pod_of(rendered("cpu-basic"))
    container, expected = pod["containers"][0], plain["containers"][0]
    changed = {key for key in container if container[key] != expected.get(key)}
    assert changed <= {"command", "workingDir"}
    assert {k for k in pod if pod[k] != plain.get(k)} <= {"containers"}


def test_commands_are_not_expanded_by_the_kubelet() -> None:
    made = rendered("cpu-basic", launch=LaunchPlan(("sh", "-c", "echo $(HOME) $HOME $$(X)"), 7860))
    assert pod_of(made)["containers"][0]["command"][2] == "echo $$(HOME) $$HOME $$$$(X)"


@pytest.mark.parametrize(
    "artifact",
    [
        Artifact(ArtifactKind.IMAGE, "registry.example/a:latest"),
        Artifact(ArtifactKind.IMAGE, "registry.example/a@sha256:short"),
        Artifact(ArtifactKind.IMAGE, IMAGE + " --x"),
        Artifact(ArtifactKind.BUNDLE, IMAGE),
    ],
)
def test_only_images_by_digest(artifact: Artifact) -> None:
    with pytest.raises(Rejected, match="digest"):
        rendered("cpu-basic", artifact=artifact)


def test_secret_values_stand_in_the_secret_only() -> None:
    *others, _, deployment = [m for m in whole_set("cpu-basic", OPTIONS) if m["kind"] != "Secret"]
    assert "canary-7f3a" not in yaml.safe_dump_all([*others, deployment])
    (secret,) = [m for m in whole_set("cpu-basic", OPTIONS) if m["kind"] == "Secret"]
    assert secret["immutable"] is True
    assert secret["metadata"]["ownerReferences"][0]["kind"] == "Deployment"


def test_bad_environment_name_is_refused() -> None:
    with pytest.raises(Rejected):
        manifests.secret(spec(env={"A=B": "x"}), "vitrine")


def test_gpu_comes_from_the_pool_and_is_hidden_from_cpu_replicas() -> None:
    pool = NodePool("amd", ("a10g-largex4",), gpu_resource="amd.com/gpu", runtime_class="kata", node_selector={"x": "y"})
    pod = pod_of(manifests.deployment(spec("a10g-largex4"), pool, "vitrine", OPTIONS))
    assert pod["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "4"
    assert (pod["runtimeClassName"], pod["nodeSelector"]) == ("kata", {"x": "y"})
    assert "env" not in pod["containers"][0]
    assert pod_of(rendered("cpu-basic"))["containers"][0]["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]


def test_requests_follow_overcommit_and_limits_the_flavor() -> None:
    made = manifests.resources(spec("cpu-basic"), NodePool("p", ("cpu-basic",), overcommit=2.0))
    assert made["limits"] == {"cpu": "2000m", "memory": "16384Mi", "ephemeral-storage": "51200Mi"}
    assert made["requests"] == {"cpu": "1000m", "memory": "8192Mi", "ephemeral-storage": "1024Mi"}


# -- the network policy, evaluated


def allows(policy: dict[str, Any], address: str, port: int) -> bool:
    """Whether the egress rules let an address outside the cluster through."""
    ip = ipaddress.ip_address(address)
    for rule in policy["spec"]["egress"]:
        if not any(p["protocol"] == "TCP" and p["port"] == port for p in rule["ports"]):
            continue
        for peer in rule["to"]:
            block = peer.get("ipBlock")
            if block is None or ipaddress.ip_network(block["cidr"]).version != ip.version:
                continue
            inside = ip in ipaddress.ip_network(block["cidr"])
            if inside and not any(ip in ipaddress.ip_network(e) for e in block.get("except", [])):
                return True
    return False


POLICY = manifests.network_policy(SPACE, 7860, "vitrine", OPTIONS)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "172.31.255.254",
        "192.168.1.1", "127.0.0.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.127.3.4",
        "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "34.118.224.1", "198.18.0.1", "::1", "::", "fd00:ec2::254", "fe80::1", "fc00::1", "ff02::1",
        "64:ff9b::a00:1", "2002:a00:1::", "2a00:1:2:3::4", "10.42.1.1", "10.43.0.1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("port", [80, 443])
def test_inside_addresses_are_out_of_reach(address: str, port: int) -> None:
    assert not allows(POLICY, address, port)


@pytest.mark.parametrize(
    ("address", "port", "expected"), [("1.1.1.1", 443, True), ("2606:4700::1111", 80, True), ("1.1.1.1", 25, False), ("1.1.1.1", 22, False)]
)
def test_the_internet_on_two_ports(address: str, port: int, expected: bool) -> None:
    assert allows(POLICY, address, port) is expected


def test_no_exception_is_a_range_that_a_real_api_server_refuses() -> None:
    """NetworkPolicy's validation since 1.33: no v4-mapped v6 ranges, and every exception inside its block."""
    for rule in POLICY["spec"]["egress"]:
        for peer in rule["to"]:
            block = peer.get("ipBlock", {})
            for text in block.get("except", []):
                network = ipaddress.ip_network(text)
                assert network.subnet_of(ipaddress.ip_network(block["cidr"])), text  # type: ignore[arg-type]
                assert network.version == 4 or not network.overlaps(ipaddress.ip_network("::ffff:0:0/96")) or network.prefixlen < 96, text


def test_policy_selects_every_pod_of_the_space_in_both_directions() -> None:
    labels = rendered("cpu-basic")["spec"]["template"]["metadata"]["labels"]
    assert POLICY["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert manifests.default_deny("x")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (ingress,) = POLICY["spec"]["ingress"]
    assert [set(peer) for peer in ingress["from"]] == [{"namespaceSelector", "podSelector"}]
    assert ingress["ports"] == [{"protocol": "TCP", "port": 7860}]
    dns = POLICY["spec"]["egress"][0]
    assert [set(peer) for peer in dns["to"]] == [{"namespaceSelector", "podSelector"}]
    assert {p["port"] for p in dns["ports"]} == {53}


def test_a_cluster_of_v6_alone() -> None:
    """Its own public-looking ranges are out of reach, its node-local DNS and its proxies outside are not, the internet is."""
    options = ClusterOptions(
        cluster_ranges=("2001:db8:42::/48", "2001:db8:96::/108"), dns_addresses=("2001:db8:96::a",), proxy_ranges=("2001:db8:7::7",)
    )
    policy = manifests.network_policy(SPACE, 7860, "vitrine", options)
    for inside in ("2001:db8:42::9", "2001:db8:96::1", "fd00:ec2::254", "fe80::a9fe:a9fe"):
        assert not allows(policy, inside, 443), inside
    assert allows(policy, "2606:4700::1111", 443)
    assert {"ipBlock": {"cidr": "2001:db8:96::a/128"}} in policy["spec"]["egress"][0]["to"]
    assert {"ipBlock": {"cidr": "2001:db8:7::7/128"}} in policy["spec"]["ingress"][0]["from"]


def test_exceptions_lie_inside_their_block() -> None:
    for rule in POLICY["spec"]["egress"]:
        for peer in rule["to"]:
            for exception in peer.get("ipBlock", {}).get("except", []):
                block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
                assert ipaddress.ip_network(exception).subnet_of(block)  # type: ignore[arg-type]
                assert exception != str(block)


@pytest.mark.parametrize("bad", ["10.0.0.1/8", "cluster", "0.0.0.0/0", "::/0"])
def test_bad_cluster_range(bad: str) -> None:
    with pytest.raises(Rejected):
        manifests.blocked_ranges([bad])


def test_a_proxy_outside_the_cluster_is_let_in_by_address() -> None:
    policy = manifests.network_policy(SPACE, 7860, "vitrine", replace(OPTIONS, proxy_ranges=("192.0.2.7", "2001:db8::/64")))
    (ingress,) = policy["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in ingress["from"] if "ipBlock" in peer] == ["192.0.2.7/32", "2001:db8::/64"]
    with pytest.raises(Rejected):
        manifests.network_policy(SPACE, 7860, "vitrine", replace(OPTIONS, proxy_ranges=("anywhere",)))


# -- names


def test_names_of_owners_do_not_collide() -> None:
    made = {names.namespace("vitrine", owner) for owner in ("a.b", "a-b", "a_b", "x" * 90, "ünïcode", "---")}
    assert len(made) == 6
    assert all(len(name) <= 63 and name.strip("-") == name for name in made)
    assert names.namespace("vitrine", "Ann") == names.namespace("vitrine", "ann")


@pytest.mark.parametrize("bad", ["", "../x", "A", "a b", "a" * 60, "-a", "a/b"])
def test_an_id_that_is_no_name_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="object name"):
        names.space(SpaceId(bad))


def test_mount_paths() -> None:
    made = pod_of(rendered("cpu-basic", mounts=(Mount("models", "/models"),)))
    assert made["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert violations(made) == []
    with pytest.raises(Rejected):
        rendered("cpu-basic", mounts=(Mount("models", "/models/../etc"),))


def test_the_hub_by_its_inner_name_is_the_proxy_and_the_public_one_stays_shut() -> None:
    pod = pod_of(rendered("cpu-basic", replace(OPTIONS, hub_address="10.43.0.7")))
    aliases = {name: entry["ip"] for entry in pod["hostAliases"] for name in entry["hostnames"]}
    assert aliases[HUB_HOST] == "10.43.0.7"
    assert aliases["huggingface.co"] == "0.0.0.0"
    assert violations(pod) == []
    assert HUB_HOST not in str(pod_of(rendered("cpu-basic"))), "without an address apps use the public one"
