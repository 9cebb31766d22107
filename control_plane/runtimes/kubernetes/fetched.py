"""Repositories that an app mounts, on nodes that do not see the platform's disk: a container before it fetches them. Pure.

Each is a folder of the pod, of bounded size, which the app gets read-only. The fetching container has the app's own user and limits, and no
account of the cluster; it leaves through the app's own network policy. What it fetches with stands in the replica's Secret under ENV, which
the app's container gets as an empty text.
"""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from control_plane.domain.errors import Rejected
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Fetch, ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.kubernetes import names

Manifest = dict[str, Any]

CONTAINER = "volumes"
ENV = "VITRINE_VOLUMES"
_FILE_BYTES = 4096  # what each file may take beside its bytes
_SPARE_BYTES = 16 << 20
_MIB = 1 << 20


def needed_bytes(fetch: Fetch) -> int:
    """The most that its folder may hold."""
    return fetch.total_bytes + fetch.files * _FILE_BYTES + _SPARE_BYTES


def pod_volumes(spec: ReplicaSpec) -> list[Manifest]:
    return [{"name": f"repo-{n}", "emptyDir": {"sizeLimit": _quantity(needed_bytes(fetch))}} for n, fetch in enumerate(spec.fetches)]


def app_mounts(spec: ReplicaSpec) -> list[Manifest]:
    made: list[Manifest] = []
    for number, fetch in enumerate(spec.fetches):
        mount: Manifest = {"name": f"repo-{number}", "mountPath": fetch.path, "readOnly": True}
        made.append({**mount, "subPath": "content"} if fetch.is_file else mount)
    return made


def orders(spec: ReplicaSpec) -> dict[str, Sensitive]:
    """What the fetching container is told, to be put into the replica's Secret."""
    if not spec.fetches:
        return {}
    told = [{"url": f.url, "token": f.token.reveal(), "into": _folder(n), "file": f.is_file} for n, f in enumerate(spec.fetches)]
    return {ENV: Sensitive(json.dumps(told))}


def container(spec: ReplicaSpec, image: str, resources: Manifest) -> Manifest:
    """`resources`: the app's own. Raises Rejected where nobody said which image fetches."""
    if not image:
        raise Rejected(
            "This platform does not know in which image its nodes fetch repositories, so it cannot mount any.",
            hint="An operator sets VITRINE_KUBE_VOLUME_IMAGE to an image with Python 3.",
            facts={"reason": Reason.UNSUPPORTED_HERE.value},
        )
    program = importlib.resources.files(__package__).joinpath("volume_fetch.py").read_text("utf-8")
    amount = sum(map(needed_bytes, spec.fetches))
    disk = {"ephemeral-storage": _quantity(int(resources["limits"]["ephemeral-storage"].removesuffix("Mi")) * _MIB + amount)}
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-I", "-c", program.replace("$", "$$")],  # the kubelet turns $$ into $
        "env": [{"name": ENV, "valueFrom": {"secretKeyRef": {"name": names.replica(spec.replica_id), "key": ENV}}}],
        "resources": {
            "limits": {**{key: resources["limits"][key] for key in ("cpu", "memory")}, **disk},
            "requests": {key: resources["requests"][key] for key in ("cpu", "memory")},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": f"repo-{number}", "mountPath": _folder(number)} for number, _ in enumerate(spec.fetches)],
    }


def _folder(number: int) -> str:
    return f"/volumes/{number}"


def _quantity(amount: int) -> str:
    return f"{-(-amount // _MIB)}Mi"
