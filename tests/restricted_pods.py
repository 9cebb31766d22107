"""The rules of the Pod Security Standard "restricted" (which includes "baseline"), as the public page states them.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ — `violations` gives one line per broken rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_PROFILES = {"RuntimeDefault", "Localhost"}


def violations(spec: dict[str, Any], annotations: dict[str, str] | None = None) -> list[str]:
    """What a pod spec breaks; empty = restricted."""
    return [*_pod(spec), *_annotations(annotations or {}), *(line for c in _containers(spec) for line in _container(c, spec))]


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key) or []]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    security = spec.get("securityContext") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is set"
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is a {', '.join(sorted(kinds - _VOLUMES))}"
    for sysctl in security.get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _shared(security, "pod")
    if security.get("runAsNonRoot") is False:
        yield "pod: runAsNonRoot is false"
    if security.get("runAsUser") == 0:
        yield "pod: runAsUser is 0"


def _annotations(annotations: dict[str, str]) -> Iterator[str]:
    for key, value in annotations.items():
        if (
            key.startswith("container.apparmor.security.beta.kubernetes.io/")
            and value != "runtime/default"
            and not value.startswith("localhost/")
        ):
            yield f"AppArmor annotation {value}"


def _shared(security: dict[str, Any], where: str) -> Iterator[str]:
    if (security.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{where}: seccomp {security['seccompProfile']['type']}"
    if (security.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{where}: AppArmor {security['appArmorProfile']['type']}"
    selinux = security.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{where}: SELinux options"
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{where}: Windows host process"


def _container(container: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    security = container.get("securityContext") or {}
    pod = spec.get("securityContext") or {}
    if security.get("privileged"):
        yield f"{name}: privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    capabilities = security.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{name}: does not drop ALL capabilities"
    if added := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{name}: adds {', '.join(sorted(added))}"
    if security.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{name}: runAsNonRoot is not true"
    if security.get("runAsUser") == 0:
        yield f"{name}: runAsUser is 0"
    if (security.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in _PROFILES:
        yield f"{name}: seccomp profile"
    if security.get("procMount", "Default") != "Default":
        yield f"{name}: procMount {security['procMount']}"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{name}: hostPort"
    hooks = [container.get(probe) or {} for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    hooks += list((container.get("lifecycle") or {}).values())
    if any((hook.get(kind) or {}).get("host") for hook in hooks for kind in ("httpGet", "tcpSocket")):
        yield f"{name}: a probe or hook names a host"
    yield from _shared(security, name)
