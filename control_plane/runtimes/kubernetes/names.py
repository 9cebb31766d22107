"""Every object name, label and annotation that Vitrine writes to a cluster, made in one place. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from control_plane.domain.ids import ReplicaId, SpaceId

FIELD_MANAGER = "vitrine"
CONTAINER = "app"

SPACE = "vitrine.dev/space"
REPLICA = "vitrine.dev/replica"
GENERATION = "vitrine.dev/generation"
SPACE_NAME = "vitrine.dev/space-name"
REVISION = "vitrine.dev/revision"
FLAVOR = "vitrine.dev/flavor"
POOL = "vitrine.dev/pool"
MANAGED_BY = "app.kubernetes.io/managed-by"

_ID = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")


def replica(replica_id: ReplicaId) -> str:
    """Name of the Deployment and Secret of one replica. Raises ValueError for an id that is no object name."""
    return f"replica-{_checked(replica_id)}"


def space(space_id: SpaceId) -> str:
    """Name of the Service and NetworkPolicy of one Space."""
    return f"space-{_checked(space_id)}"


def pull_secret(space_id: SpaceId) -> str:
    """Name of the Secret with which nodes pull one Space's images."""
    return f"pull-{_checked(space_id)}"


def claim(space_id: SpaceId) -> str:
    """Name of the PersistentVolumeClaim of one Space."""
    return f"storage-{_checked(space_id)}"


def volume(key: str) -> str:
    """Name of the PersistentVolumeClaim of one volume that a Space asked for."""
    return f"volume-{_checked(key)}"


def namespace(base: str, owner: str | None) -> str:
    """The namespace of an owner's Spaces: `base` for all, or one per owner.

    Owners' names may hold capitals, dots and underscores; a hash keeps two that fold together apart.
    """
    if owner is None:
        return base
    slug = re.sub(r"[^a-z0-9]+", "-", owner.lower()).strip("-")[:24] or "owner"
    return f"{base[:24]}-{slug}-{hashlib.sha256(owner.lower().encode()).hexdigest()[:10]}"


def space_labels(space_id: SpaceId) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "space",
        "app.kubernetes.io/instance": space(space_id),
        "app.kubernetes.io/part-of": "vitrine",
        MANAGED_BY: "vitrine",
        SPACE: space_id,
    }


def replica_labels(space_id: SpaceId, replica_id: ReplicaId, generation: int) -> dict[str, str]:
    return {
        **space_labels(space_id),
        "app.kubernetes.io/component": "replica",
        "app.kubernetes.io/version": f"g{generation}",
        REPLICA: replica_id,
        GENERATION: str(generation),
    }


def is_ours(labels: Mapping[str, str]) -> bool:
    return labels.get(MANAGED_BY) == "vitrine" and REPLICA in labels and SPACE in labels


def _checked(identifier: str) -> str:
    if not _ID.fullmatch(identifier):
        raise ValueError(f"{identifier!r} cannot be part of an object name")
    return identifier
