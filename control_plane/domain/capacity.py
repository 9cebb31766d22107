"""What is free where. One `Node` per host; a pool groups nodes that serve the same flavors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.domain.ids import ReplicaId


@dataclass(frozen=True, slots=True)
class Node:
    """Allocatable and used amounts of one host: `vcpu` cores, memory in bytes, GPUs by count."""

    name: str
    pool: str
    vcpu: float
    memory_bytes: int
    gpus: int = 0
    used_vcpu: float = 0.0
    used_memory_bytes: int = 0
    used_gpus: int = 0
    is_schedulable: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    replicas: frozenset[ReplicaId] = frozenset()  # ours, already counted in the used amounts


@dataclass(frozen=True, slots=True)
class NodePool:
    """`flavors` in order of preference. `overcommit` multiplies CPU and memory that may be promised (1.0 = none).

    `shrinks`: a flavor larger than a node gets the whole node, as on a single machine.
    """

    name: str
    flavors: tuple[str, ...]
    is_spot: bool = False
    min_nodes: int = 0
    max_nodes: int | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    runtime_class: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    overcommit: float = 1.0
    shrinks: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    pools: tuple[NodePool, ...]
    nodes: tuple[Node, ...]
    warning: str = ""  # what operators should know about these machines, in words
