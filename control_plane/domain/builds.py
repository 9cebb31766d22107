"""What passes between the control plane and the builder. The builder imports nothing else of the control plane.

    BuildStatus:   QUEUED ──start──▶ RUNNING ──succeed──▶ SUCCEEDED
                     │                 ├──fail──▶ FAILED
                     │                 └──lose──▶ QUEUED   (worker died; tried again up to `MAX_ATTEMPTS`)
                     └──cancel / supersede (from QUEUED and RUNNING) ──▶ CANCELLED / SUPERSEDED

Payloads are JSON objects with a `v` field. A reader refuses a version it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from control_plane.domain.errors import IllegalTransition, Rejected
from control_plane.domain.ids import BuildId, Sha, SpaceId

PAYLOAD_VERSION = 1
MAX_ATTEMPTS = 3
TASK_NAME = "vitrine.build_revision"
BuildTry = tuple[BuildId, int]  # a build and the number of its attempt


class BuildStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # a newer push made this build pointless before it finished

    @property
    def is_terminal(self) -> bool:
        return self not in (BuildStatus.QUEUED, BuildStatus.RUNNING)


class BuildChange(StrEnum):
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    LOSE = "lose"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"


_BUILD_TABLE: dict[tuple[BuildStatus, BuildChange], BuildStatus] = {
    (BuildStatus.QUEUED, BuildChange.START): BuildStatus.RUNNING,
    (BuildStatus.QUEUED, BuildChange.FAIL): BuildStatus.FAILED,
    (BuildStatus.QUEUED, BuildChange.CANCEL): BuildStatus.CANCELLED,
    (BuildStatus.QUEUED, BuildChange.SUPERSEDE): BuildStatus.SUPERSEDED,
    (BuildStatus.RUNNING, BuildChange.SUCCEED): BuildStatus.SUCCEEDED,
    (BuildStatus.RUNNING, BuildChange.FAIL): BuildStatus.FAILED,
    (BuildStatus.RUNNING, BuildChange.LOSE): BuildStatus.QUEUED,
    (BuildStatus.RUNNING, BuildChange.CANCEL): BuildStatus.CANCELLED,
    (BuildStatus.RUNNING, BuildChange.SUPERSEDE): BuildStatus.SUPERSEDED,
}


def advance_build(status: BuildStatus, change: BuildChange) -> BuildStatus:
    """The next status. Raises IllegalTransition when the table has no such row."""
    try:
        return _BUILD_TABLE[status, change]
    except KeyError:
        raise IllegalTransition(f"a build that is {status.value} cannot {change.value}") from None


class BuildPhase(StrEnum):
    """Where a running build is; shown on the timeline in this order."""

    FETCH = "fetch"
    PLAN = "plan"
    RESOLVE = "resolve"
    INSTALL = "install"
    IMAGE = "image"
    PUBLISH = "publish"


class SourceKind(StrEnum):
    PROCESS = "process"
    IMAGE = "image"


class ArtifactKind(StrEnum):
    BUNDLE = "bundle"  # process runtime: tree + shared environment under the data dir
    IMAGE = "image"  # container runtimes: `registry/name@sha256:…`
    SITE = "site"  # static Space: a tree of files served by the platform


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a build made. `ref`: IMAGE = image by digest; BUNDLE = `<space_id>/<build_id>`; SITE likewise.

    `env_key` names the shared environment of a BUNDLE ("" for none); `size_bytes` counts what is the artifact's own.
    """

    kind: ArtifactKind
    ref: str
    env_key: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How to start the artifact. An empty `argv` means the image's own command.

    `argv[0]` is looked up in the environment's `bin` first. `port` is where the app must listen inside its network
    namespace. `env` holds settings the recipe needs; user variables and secrets are added at start, never here.
    """

    argv: tuple[str, ...] = ()
    port: int = 7860
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""  # relative to the tree; "" = its root


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What one build may use. Units are in the names."""

    cpu: float = 2.0
    memory_bytes: int = 8 << 30
    disk_bytes: int = 20 << 30
    time_s: int = 1800
    log_bytes: int = 16 << 20
    pids: int = 2048


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything a worker needs to know. Names of secrets only, never values.

    `target` says what kind of artifact the runtime needs. `tenant` keys caches that untrusted build steps may write.
    """

    build_id: BuildId
    space_id: SpaceId
    space_name: str  # "ns/name", for words in the log
    tenant: str
    revision: Sha
    sdk: str
    sdk_version: str | None
    python_version: str | None
    app_file: str
    app_port: int
    target: SourceKind
    attempt: int = 1
    no_cache: bool = False  # factory rebuild
    app_build_command: str | None = None
    preload_from_hub: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)  # build args; readable settings
    secret_names: tuple[str, ...] = ()
    hardware_family: str = "cpu"  # "cpu" or "gpu"
    limits: BuildLimits = field(default_factory=BuildLimits)

    def to_payload(self) -> dict[str, Any]:
        return {"v": PAYLOAD_VERSION, **asdict(self)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> BuildRequest:
        body = _known_version(payload, "BuildRequest")
        try:
            return cls(
                **{
                    **body,
                    "target": SourceKind(body["target"]),
                    "preload_from_hub": tuple(body.get("preload_from_hub", ())),
                    "secret_names": tuple(body.get("secret_names", ())),
                    "limits": BuildLimits(**body.get("limits", {})),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Rejected(f"not a BuildRequest: {error}") from error


@dataclass(frozen=True, slots=True)
class BuildResult:
    artifact: Artifact
    launch: LaunchPlan
    warnings: tuple[str, ...] = ()

    def to_payload(self) -> dict[str, Any]:
        return {"v": PAYLOAD_VERSION, **asdict(self)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> BuildResult:
        body = _known_version(payload, "BuildResult")
        try:
            artifact, launch = body["artifact"], body["launch"]
            return cls(
                artifact=Artifact(**{**artifact, "kind": ArtifactKind(artifact["kind"])}),
                launch=LaunchPlan(**{**launch, "argv": tuple(launch.get("argv", ()))}),
                warnings=tuple(body.get("warnings", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Rejected(f"not a BuildResult: {error}") from error


class BuildEventKind(StrEnum):
    STARTED = "started"  # this worker took the build; `worker` is set
    PHASE = "phase"  # `phase`, `message`, `progress` changed
    SUCCEEDED = "succeeded"  # `result` is set
    FAILED = "failed"  # `reason` and `message` are set
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One report of a worker about one attempt. The control plane answers each with a `BuildVerdict`."""

    build_id: BuildId
    attempt: int
    kind: BuildEventKind
    worker: str = ""
    phase: BuildPhase | None = None
    message: str = ""
    progress: float | None = None  # 0…1
    reason: str = ""  # a value of domain.reasons.Reason
    result: BuildResult | None = None

    def to_payload(self) -> dict[str, Any]:
        body = {"v": PAYLOAD_VERSION, **asdict(self)}
        body["result"] = self.result.to_payload() if self.result else None
        return body

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> BuildEvent:
        body = _known_version(payload, "BuildEvent")
        try:
            return cls(
                **{
                    **body,
                    "kind": BuildEventKind(body["kind"]),
                    "phase": BuildPhase(body["phase"]) if body.get("phase") else None,
                    "result": BuildResult.from_payload(body["result"]) if body.get("result") else None,
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Rejected(f"not a BuildEvent: {error}") from error


class BuildVerdict(StrEnum):
    """What the worker does next: go on, or stop at once because the build is cancelled, superseded or not its own."""

    GO_ON = "go-on"
    STOP = "stop"


def _known_version(payload: Mapping[str, Any], what: str) -> dict[str, Any]:
    if payload.get("v") != PAYLOAD_VERSION:
        raise Rejected(f"{what} has version {payload.get('v')!r}; this side speaks {PAYLOAD_VERSION}")
    return {k: v for k, v in payload.items() if k != "v"}
