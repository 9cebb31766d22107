"""Values for the tests of the stores, each with nothing in it that the test does not ask for."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.builds import Artifact, ArtifactKind, BuildStatus, LaunchPlan
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, Replica, Repo, RepoType, Sdk, Space, SpaceConfig, Visibility

NOW = datetime(2026, 8, 1, 12, 0, 0, 123456, tzinfo=UTC)


SHA = Sha("a" * 40)


def user(name: str = "Ann", **more: Any) -> Account:
    return Account(AccountId(new_id()), AccountKind.USER, name, name, NOW, **more)


def repo(owner: Account, name: str = "demo", **more: Any) -> Repo:
    values: dict[str, Any] = {"type": RepoType.SPACE, "visibility": Visibility.PUBLIC, "created_at": NOW, "updated_at": NOW}
    values |= more
    return Repo(id=RepoId(new_id()), owner_id=owner.id, owner_name=owner.name, name=name, created_by=owner.id, **values)


def space(of: Repo, **more: Any) -> Space:
    values: dict[str, Any] = {"sdk": Sdk.GRADIO, "config": SpaceConfig(Sdk.GRADIO)} | more
    return Space(id=SpaceId(of.id), subdomain=values.pop("subdomain", f"{of.owner_name}-{of.name}".lower()), **values)


def build(of: Space, **more: Any) -> Build:
    values: dict[str, Any] = {"status": BuildStatus.QUEUED, "created_at": NOW} | more
    return Build(id=BuildId(new_id()), space_id=of.id, revision=SHA, **values)


def replica(of: Space, **more: Any) -> Replica:
    values: dict[str, Any] = {"generation": 1, "state": ReplicaState.PENDING, "created_at": NOW} | more
    return Replica(id=ReplicaId(new_id()), space_id=of.id, **values)


def deployment(of: Space, generation: int, **more: Any) -> Deployment:
    return Deployment(
        of.id, generation, BuildId("b"), SHA, Artifact(ArtifactKind.BUNDLE, "s/b"), LaunchPlan(), "cpu-basic", NOW, of.config, **more
    )


def every_field_differs(value: object, plain: object) -> bool:
    """So that a field added to the domain and forgotten in the mapping fails here."""
    return all(getattr(value, f.name) != getattr(plain, f.name) for f in fields(value) if f.name not in _IDENTITY)  # type: ignore[arg-type]


_IDENTITY = {
    "id",
    "space_id",
    "created_at",
    "revision",
    "type",
    "owner_id",
    "owner_name",
    "name",
    "created_by",
    "build_id",
    "generation",
    "key",
}
