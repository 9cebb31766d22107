"""What `kubectl apply -k` would send, read as text: everything named exists, every setting is one of ours, pods are restricted."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.namespaces import APP_RIGHTS
from control_plane.scheduler.pools import default_text, parse
from control_plane.settings import Settings, env_name, load_settings
from tests.restricted_pods import violations

ROOT = Path(__file__).parents[3] / "infra"
KUBE = ROOT / "kubernetes"
OVERLAYS = ("production", "single")
SETTINGS = {env_name(f.name) for f in fields(Settings)}
# Who makes sandboxes for build steps: the documented exception from the restricted profile, in a user namespace.
ENGINE = "engine"
SANDBOXING = {ENGINE, "builder"}


def _env_file(path: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {key: value for key, _, value in lines}


@cache
def build(folder: Path) -> tuple[dict[str, Any], ...]:
    """The objects of a kustomization, generators included; patches and image names are checked apart."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[dict[str, Any]] = []
    for entry in plan.get("resources", []):
        path = (folder / entry).resolve()
        assert path.exists(), f"{folder.name}: {entry} is not there"
        found += build(path) if path.is_dir() else [d for d in yaml.safe_load_all(path.read_text()) if d]
    for kind, key in (("ConfigMap", "configMapGenerator"), ("Secret", "secretGenerator")):
        for made in plan.get(key, []):
            data: dict[str, str] = {}
            for env in made.get("envs", []):
                path = folder / env
                data |= _env_file(path if path.exists() else folder / f"{env}.example")
            for file in made.get("files", []):
                data[file] = (folder / file).read_text()
            found.append({"kind": kind, "metadata": {"name": made["name"], "namespace": made["namespace"]}, "data": data})
    return tuple(found)


def overlay(name: str) -> tuple[dict[str, Any], ...]:
    return build(KUBE / "overlays" / name)


def pods(objects: tuple[dict[str, Any], ...]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(o, o["spec"]["template"]["spec"]) for o in objects if o["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")]


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_object_twice(name: str) -> None:
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in overlay(name)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_restricted_but_the_build_engine(name: str) -> None:
    for owner, spec in pods(overlay(name)):
        is_build_pod = any(c["name"] == ENGINE for c in spec["containers"])
        engines = [c for c in spec["containers"] if is_build_pod and c["name"] in SANDBOXING]
        others = {**spec, "containers": [c for c in spec["containers"] if c not in engines]}
        if others["containers"]:
            assert violations(others) == [], owner["metadata"]["name"]
        for engine in engines:
            assert spec["hostUsers"] is False, "an engine runs in a user namespace only"
            assert not engine["securityContext"].get("privileged")
            added = engine["securityContext"].get("capabilities", {}).get("add", [])
            assert added == (["SYS_ADMIN"] if engine["name"] == ENGINE else []), "for newuidmap, in the pod's own user namespace"
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_engines_run_only_where_the_namespace_allows_it(name: str) -> None:
    levels = {
        o["metadata"]["name"]: o["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for o in overlay(name)
        if o["kind"] == "Namespace"
    }
    plan = yaml.safe_load((KUBE / "overlays" / name / "kustomization.yaml").read_text())
    for patch in plan.get("patches", []):
        levels[patch["target"]["name"]] = yaml.safe_load(patch["patch"])[0]["value"]
    assert levels["vitrine"] == "restricted"
    for owner, spec in pods(overlay(name)):
        expected = "privileged" if any(c["name"] == ENGINE for c in spec["containers"]) else "restricted"
        assert levels[owner["metadata"]["namespace"]] == expected


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_pods_name_exists(name: str) -> None:
    objects = overlay(name)
    there = {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects}
    for owner, spec in pods(objects):
        namespace = owner["metadata"]["namespace"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", namespace, spec["serviceAccountName"]) in there
        volumes = {v["name"]: v for v in spec["volumes"]} | {
            v["metadata"]["name"]: {} for v in owner["spec"].get("volumeClaimTemplates", [])
        }
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", namespace, volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", namespace, volume["persistentVolumeClaim"]["claimName"]) in there
        for container in spec["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= set(volumes), container["name"]
            for source in container.get("envFrom", []):
                for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                    if key in source:
                        assert (kind, namespace, source[key]["name"]) in there
            ports = {p["name"] for p in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for how in container.get(probe, {}).values():
                    if isinstance(how, dict) and "port" in how:
                        assert how["port"] in ports
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_meet_pods(name: str) -> None:
    objects = overlay(name)
    labels = [(o["metadata"]["namespace"], o["spec"]["template"]["metadata"]["labels"]) for o, _ in pods(objects)]
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "Service":
            wanted = spec["selector"]
        elif item["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            wanted = spec["selector"]["matchLabels"]
        else:
            continue
        assert any(ns == item["metadata"]["namespace"] and wanted.items() <= have.items() for ns, have in labels), item["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_settings_are_ours_and_load(name: str, tmp_path: Path) -> None:
    objects = overlay(name)
    used: dict[str, str] = {}
    for item in objects:
        if item["metadata"]["name"] in ("vitrine-settings", "vitrine-secrets"):
            used |= item["data"]
    for _, spec in pods(objects):
        for container in spec["containers"]:
            used |= {e["name"]: e.get("value", "") for e in container.get("env", []) if e["name"].startswith("VITRINE_")}
    used.pop("VITRINE_ENDPOINT", None)  # the command line's
    assert set(used) <= SETTINGS
    loaded = load_settings(environ={**used, "VITRINE_DATA_DIR": str(tmp_path)})
    assert loaded.runtime == "kubernetes"
    assert loaded.kube_namespace == ClusterOptions().namespace


@pytest.mark.parametrize("name", OVERLAYS)
def test_commands_exist(name: str) -> None:
    from control_plane.cli.platform import serve

    for _, spec in pods(overlay(name)):
        for container in spec["containers"]:
            if container["image"] == "vitrine":
                verb, component, *rest = container["args"]
                assert verb == "serve"
                known = {option for parameter in serve.commands[component].params for option in parameter.opts}
                assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("name", OVERLAYS)
def test_rights_are_least(name: str) -> None:
    everywhere = {item["roleRef"]["name"] for item in overlay(name) if item["kind"] == "ClusterRoleBinding"}
    for item in overlay(name):
        if item["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in item["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert not {"pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"])
            if item["metadata"]["name"] in everywhere:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}
                assert "secrets" not in rule["resources"]
    bound = [s for item in overlay(name) if item["kind"].endswith("Binding") for s in item["subjects"]]
    assert {s["name"] for s in bound} == {"vitrine-scheduler"}


def test_a_namespace_per_owner_lets_nobody_read_secrets_elsewhere() -> None:
    found = list(yaml.safe_load_all((KUBE / "per-owner" / "rbac.yaml").read_text()))
    (role,) = [d for d in found if d["kind"] == "ClusterRole"]
    for rule in role["rules"]:
        assert not {"secrets", "pods", "pods/exec"} & set(rule["resources"]) or rule["apiGroups"] == ["metrics.k8s.io"]
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert "bind" not in rule["verbs"] or rule["resourceNames"] == [APP_RIGHTS]
    assert APP_RIGHTS in {o["metadata"]["name"] for o in overlay("production") if o["kind"] == "ClusterRole"}


def test_the_gateway_leads_where_the_ingress_does() -> None:
    (ingress,) = [o for o in overlay("production") if o["kind"] == "Ingress"]
    hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
    gateway, *routes = build(KUBE / "gateway")
    listeners = {each["name"]: each for each in gateway["spec"]["listeners"]}
    assert {each["hostname"] for each in listeners.values() if "hostname" in each} == hosts
    services = {
        (o["metadata"]["name"], port["port"]) for o in overlay("production") if o["kind"] == "Service" for port in o["spec"]["ports"]
    }
    for route in routes:
        assert set(route["spec"]["hostnames"]) == hosts
        assert {parent["sectionName"] for parent in route["spec"]["parentRefs"]} <= set(listeners)
        for rule in route["spec"]["rules"]:
            assert {(ref["name"], ref["port"]) for ref in rule.get("backendRefs", [])} <= services


def test_only_the_scheduler_holds_a_token() -> None:
    for owner, spec in pods(overlay("production")):
        assert spec["automountServiceAccountToken"] is (owner["metadata"]["name"] == "vitrine-scheduler")
    ((_, spec),) = pods(overlay("single"))
    assert spec["automountServiceAccountToken"] is False
    holders = [c["name"] for c in spec["containers"] if any(m["name"] == "token" for m in c["volumeMounts"])]
    assert holders == ["scheduler"]


def test_the_engines_ids_lie_in_its_pods_user_namespace() -> None:
    """A pod has 65,536 ids; root and the engine's own are not given away, and `nobody` of an image gets one."""
    (ids,) = [o["data"] for o in overlay("production") if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "engine-ids"]
    (engine,) = [c for _, spec in pods(overlay("production")) for c in spec["containers"] if c["name"] == ENGINE]
    assert {m["mountPath"]: m["subPath"] for m in engine["volumeMounts"] if m["name"] == "engine-ids"} == {
        "/etc/subuid": "subuid", "/etc/subgid": "subgid",
    }  # fmt: skip
    for text in ids.values():
        given = [range(int(first), int(first) + int(count)) for _, first, count in (line.split(":") for line in text.split())]
        assert all(0 not in part and 1000 not in part and part.stop <= 65536 for part in given)
        assert sum(map(len, given)) + 1 > 65534


@pytest.mark.parametrize("folder", ["builder-cache", "builder-cache/engine"])
def test_a_build_cache_on_a_claim_replaces_a_volume_that_is_there(folder: str) -> None:
    claims = [o["metadata"]["name"] for o in build(KUBE / folder)]
    plan = yaml.safe_load((KUBE / folder / "kustomization.yaml").read_text())
    (builder,) = [spec for owner, spec in pods(overlay("production")) if owner["metadata"]["name"] == "vitrine-builder"]
    for patch in plan["patches"]:
        for volume in yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]["volumes"]:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
            assert volume["name"] in {one["name"] for one in builder["volumes"] if "emptyDir" in one}


def test_builders_get_neither_master_key_nor_database() -> None:
    (secret,) = [o for o in overlay("production") if o["kind"] == "Secret" and o["metadata"]["namespace"] == "vitrine-build"]
    assert set(secret["data"]) == {"VITRINE_WORKER_SECRET", "VITRINE_REDIS_URL"}


def test_two_proxies_two_schedulers() -> None:
    counts = {o["metadata"]["name"]: o["spec"]["replicas"] for o, _ in pods(overlay("production"))}
    assert counts["vitrine-proxy"] == counts["vitrine-scheduler"] == 2


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_proxy_is_who_apps_may_talk_to(name: str) -> None:
    options = ClusterOptions()
    found = [
        (o, spec)
        for o, spec in pods(overlay(name))
        if dict(options.proxy_labels).items() <= o["spec"]["template"]["metadata"]["labels"].items()
    ]
    ((owner, spec),) = found
    assert owner["metadata"]["namespace"] == options.platform_namespace
    ports = {p["containerPort"] for c in spec["containers"] for p in c.get("ports", [])}
    assert set(options.hub_ports) <= ports


def test_the_pool_file_is_the_default_one() -> None:
    text = (KUBE / "base" / "pools.yaml").read_text()
    assert text == default_text()
    assert parse(text).pools


def test_compose_settings_are_ours() -> None:
    compose = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text())
    services, ours = compose["services"], {}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services)
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        # What one service of ours or another's offers on the host is for this machine only; the proxy has no such list.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if service.get("command", [""])[0] == "serve":
            ours[name] = service
            assert {setting.removesuffix("_FILE") for setting in service["environment"]} <= SETTINGS | {"VITRINE_ENDPOINT"}
            named = {value.removeprefix("/run/secrets/") for key, value in service["environment"].items() if key.endswith("_FILE")}
            assert named <= set(service.get("secrets", []))
    assert set(ours) == {"proxy", "api", "scheduler", "builder", "guard"} == {service["command"][1] for service in ours.values()}
    guard = ours["guard"]  # the one that is root on the host's processes: nobody can talk to it but the builder, nor it to anybody
    assert guard["network_mode"] == "none" and "secrets" not in guard and not any("docker.sock" in volume for volume in guard["volumes"])
    assert [name for name, service in services.items() if "guard:/guard" in service.get("volumes", [])] == ["builder", "guard"]
    default = ours["scheduler"]["environment"]["VITRINE_RUNTIME"].partition(":-")[2].rstrip("}")
    assert load_settings(environ={"VITRINE_RUNTIME": default}).runtime == "docker"
    assert "secret_key" not in ours["proxy"]["secrets"] + ours["builder"]["secrets"]


def test_dockerfile_copies_what_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]]
    root = ROOT.parent
    missing = [s for s in sources if not (root / s).exists() and s != "README.md"]
    assert missing == []
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
