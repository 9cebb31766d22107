"""Replica specs for the Kubernetes tests."""

from __future__ import annotations

from dataclasses import replace

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.capacity import NodePool
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import ReplicaId, Sha, SpaceId
from control_plane.domain.replicas import ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.scheduler.pools import default_hardware

IMAGE = "registry.example/spaces/5f0c@sha256:" + "ab" * 32
SPACE = SpaceId("5f0c2b7e9d3a4c1b8e6f0a12")
REPLICA = ReplicaId("0123456789abcdef01234567")


def spec(flavor: str = "cpu-basic", *, replica: str = REPLICA, space: str = SPACE, generation: int = 3, **more: object) -> ReplicaSpec:
    found = FlavorCatalog().find(flavor)
    assert found is not None
    made = ReplicaSpec(
        replica_id=ReplicaId(replica),
        space_id=SpaceId(space),
        space_name="Ann/hello",
        generation=generation,
        revision=Sha("c" * 40),
        artifact=Artifact(ArtifactKind.IMAGE, IMAGE),
        launch=LaunchPlan(("python", "app.py"), 7860, {"GRADIO_ANALYTICS_ENABLED": "False"}),
        flavor=found,
        env={"SPACE_ID": "Ann/hello", "API_KEY": Sensitive("canary-7f3a")},
        start_timeout_s=1800,
        node="node-1",
        pool=pool_of(flavor).name,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def pool_of(flavor: str) -> NodePool:
    return next(p for p in default_hardware().pools if flavor in p.flavors)
