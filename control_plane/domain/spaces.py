"""Repositories and Spaces: what an owner owns and wants.

DesiredState:  RUNNING ⇄ PAUSED ; both ─▶ DELETED
`asleep` is not a desired state: it is the autoscaler's fact beside RUNNING (a Space scaled to zero is healthy).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from control_plane.domain.builds import Artifact, BuildPhase, BuildResult, BuildStatus, LaunchPlan
from control_plane.domain.gates import Gate
from control_plane.domain.hardware import DEFAULT_FLAVOR
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import Endpoint, IdleRule


class RepoType(StrEnum):
    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"

    @property
    def plural(self) -> str:
        return f"{self.value}s"

    @property
    def url_prefix(self) -> str:
        """The `{P}` of the Hub's addresses: empty for models, `spaces/` and `datasets/` otherwise."""
        return "" if self is RepoType.MODEL else f"{self.plural}/"


class Visibility(StrEnum):
    PUBLIC = "public"
    PROTECTED = "protected"  # Spaces: code private, app public
    PRIVATE = "private"


class Sdk(StrEnum):
    GRADIO = "gradio"
    STREAMLIT = "streamlit"
    DOCKER = "docker"
    STATIC = "static"


class DesiredState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Repo:
    """A git repository with a name. `owner_name/name` is unique per type without regard to case."""

    id: RepoId
    type: RepoType
    owner_id: AccountId
    owner_name: str
    name: str
    visibility: Visibility
    created_at: datetime
    updated_at: datetime
    created_by: AccountId
    head: Sha | None = None  # main's commit as last accepted
    likes: int = 0
    tags: tuple[str, ...] = ()
    card: Mapping[str, object] = field(default_factory=dict)  # README front matter, JSON-safe
    storage_bytes: int = 0
    discussions_disabled: bool = False
    origin: str = ""  # "ns/name" it was duplicated from
    gate: Gate = Gate.OPEN  # models and datasets only

    @property
    def full_name(self) -> str:
        return f"{self.owner_name}/{self.name}"


def is_open(repo: Repo) -> bool:
    """Whether anybody at all may read its files."""
    return repo.visibility is Visibility.PUBLIC and repo.gate is Gate.OPEN


@dataclass(frozen=True, slots=True)
class SpaceConfig:
    """The meaning of a valid front matter. Produced by `spaces.space_card.parse`; defaults follow the public service."""

    sdk: Sdk
    title: str = ""
    emoji: str = ""
    color_from: str = ""
    color_to: str = ""
    short_description: str = ""
    sdk_version: str | None = None
    python_version: str | None = None
    app_file: str = "app.py"
    app_port: int = 7860
    app_build_command: str | None = None
    base_path: str = "/"
    suggested_hardware: str | None = None
    full_width: bool = True
    header: str = "default"
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    thumbnail: str = ""
    pinned: bool = False
    license: str = ""
    hf_oauth: bool = False
    hf_oauth_scopes: tuple[str, ...] = ()
    hf_oauth_expiration_minutes: int = 480
    hf_oauth_authorized_org: tuple[str, ...] = ()
    disable_embedding: bool = False
    startup_timeout_s: int = 1800
    custom_headers: Mapping[str, str] = field(default_factory=dict)
    preload_from_hub: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RepoVolume:
    """A repository, or a part of it, as a read-only folder or file of a Space. Rules: `domain.repo_volumes`.

    `set_by` mounted it: it stays mountable for as long as they may read the repository and change the Space. `commit` and `oid` (of the
    git tree or blob) are what a deployment runs with; "" = it has not started yet.
    """

    type: RepoType
    repo_id: RepoId
    source: str  # "ns/name" as it was when it was set
    mount_path: str
    set_by: AccountId
    revision: str = ""  # as asked for; "" = main
    path: str = ""  # below the repository's root
    commit: str = ""
    oid: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """Settings and desired state of one Space; `id` equals its repository's id.

    `generation` counts desired Deployments; `live_generation` is the one routed now (0 = none).
    `sleep_after_s`: None = never. `config_error`: why the head's front matter cannot be used ("" = fine).
    """

    id: SpaceId
    subdomain: str
    sdk: Sdk
    config: SpaceConfig
    desired: DesiredState = DesiredState.RUNNING
    asleep: bool = False
    hardware: str = DEFAULT_FLAVOR  # requested
    sleep_after_s: int | None = None
    idle_rule: IdleRule = IdleRule.MESSAGES
    replicas: int = 1
    generation: int = 0
    live_generation: int = 0
    restart_count: int = 0  # bumped by a restart request: forces new replicas of the same deployment
    has_app_file: bool = False
    config_error: str = ""
    last_used_at: datetime | None = None
    suspended: bool = False  # owner suspended
    updated_at: datetime | None = None
    sleep_reason: Reason | None = None  # why it sleeps; None = idle
    sleep_message: str = ""
    storage_tier: str = ""  # a StorageTier, "" = nothing at /data
    storage_key: str = ""  # which volume; another one after it was deleted and asked for again
    storage_bytes: int = 0  # its size when it was asked for: what it takes of its owner's quota
    volumes: tuple[RepoVolume, ...] = ()  # what its next deployment mounts


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable or secret. Of a secret, `value` is "" outside the secret box; `sealed` is what the database holds."""

    space_id: SpaceId
    key: str
    is_secret: bool
    value: str = ""
    sealed: str = ""
    description: str = ""
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """One try to make an artifact from a revision."""

    id: BuildId
    space_id: SpaceId
    revision: Sha
    status: BuildStatus
    created_at: datetime
    attempt: int = 1
    no_cache: bool = False
    phase: BuildPhase | None = None
    progress: float | None = None
    message: str = ""
    reason: Reason | None = None
    worker: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    heartbeat_at: datetime | None = None
    submitted_at: datetime | None = None  # when the queue was last told
    result: BuildResult | None = None
    commit_title: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """An immutable desired snapshot. Secrets by name; values are read when a replica starts.

    A new one is made by a successful build, a hardware change, a settings change, a restart and a roll-back.
    """

    space_id: SpaceId
    generation: int
    build_id: BuildId
    revision: Sha
    artifact: Artifact
    launch: LaunchPlan
    hardware: str
    created_at: datetime
    config: SpaceConfig
    cause: str = "push"  # push, restart, hardware, settings, rollback
    failed_reason: Reason | None = None  # its replicas could not become ready; the previous generation serves on
    failed_message: str = ""
    log_tail: tuple[str, ...] = ()
    live_at: datetime | None = None  # first routed
    volumes: tuple[RepoVolume, ...] = ()  # the Space's when it was made; pinned to a commit by its first start


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as the platform remembers it."""

    id: ReplicaId
    space_id: SpaceId
    generation: int
    state: ReplicaState
    created_at: datetime
    hardware: str = DEFAULT_FLAVOR
    node: str = ""
    endpoint: Endpoint | None = None
    reason: Reason | None = None
    message: str = ""
    started_at: datetime | None = None
    ready_at: datetime | None = None
    stopped_at: datetime | None = None
    drain_until: datetime | None = None
    restarts: int = 0  # how many replicas of this generation failed before it
    queue_position: int | None = None  # 1 = next, while it waits for a place
    eta_s: float | None = None  # estimate of that wait


@dataclass(frozen=True, slots=True)
class SpaceEvent:
    """One line of a Space's history, append-only. `kind` is `scope.verb`; `facts` are JSON-safe values for the timeline.

    Kinds: push.received push.checked build.queued build.started build.phase build.succeeded build.failed
    build.cancelled deploy.created replica.pending replica.starting replica.ready replica.failed route.live sleep wake
    paused restarted hardware.requested settings.changed space.created space.deleted
    """

    id: int
    space_id: SpaceId
    at: datetime
    kind: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A waiting reason shown beside the stage."""

    reason: Reason
    message: str
    position: int | None = None
    eta_s: float | None = None
