"""Why a thing waits, stopped or failed: one enum; words, retry policy and blame derive from the value."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    # waits
    BUILD_QUEUED = "BUILD_QUEUED"
    NO_CAPACITY = "NO_CAPACITY"
    QUOTA = "QUOTA"
    STARTING = "STARTING"
    BACK_OFF = "BACK_OFF"
    VOLUME_FETCHING = "VOLUME_FETCHING"
    # configuration
    CONFIG_ERROR = "CONFIG_ERROR"
    NO_APP_FILE = "NO_APP_FILE"
    UNSUPPORTED_HERE = "UNSUPPORTED_HERE"  # needs another runtime (Docker Space, system packages, GPU)
    SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"
    VOLUME_UNAVAILABLE = "VOLUME_UNAVAILABLE"
    # builds
    REQUIREMENTS_UNRESOLVED = "REQUIREMENTS_UNRESOLVED"
    REQUIREMENTS_FAILED = "REQUIREMENTS_FAILED"
    PYTHON_MISSING = "PYTHON_MISSING"
    SOURCE_REJECTED = "SOURCE_REJECTED"
    DOCKERFILE_FAILED = "DOCKERFILE_FAILED"
    REGISTRY_UNAVAILABLE = "REGISTRY_UNAVAILABLE"
    BUILD_TIMEOUT = "BUILD_TIMEOUT"
    BUILD_MEMORY = "BUILD_MEMORY"
    BUILD_DISK = "BUILD_DISK"
    BUILD_LOG_FLOOD = "BUILD_LOG_FLOOD"
    BUILD_LOST = "BUILD_LOST"
    BUILD_CANCELLED = "BUILD_CANCELLED"
    BUILD_FAILED = "BUILD_FAILED"
    # running
    APP_EXITED = "APP_EXITED"
    APP_NEVER_LISTENED = "APP_NEVER_LISTENED"
    APP_WRONG_PORT = "APP_WRONG_PORT"
    APP_UNHEALTHY = "APP_UNHEALTHY"
    APP_OUT_OF_MEMORY = "APP_OUT_OF_MEMORY"
    APP_DISK_FULL = "APP_DISK_FULL"
    IMAGE_PULL_FAILED = "IMAGE_PULL_FAILED"
    NODE_LOST = "NODE_LOST"
    PREEMPTED = "PREEMPTED"
    # owner or operator
    IDLE = "IDLE"
    PAUSED_BY_OWNER = "PAUSED_BY_OWNER"
    OWNER_SUSPENDED = "OWNER_SUSPENDED"
    REPLACED = "REPLACED"
    # ours
    PLATFORM_ERROR = "PLATFORM_ERROR"

    @property
    def is_retryable(self) -> bool:
        """Whether the platform tries again by itself (with back-off), without the owner doing anything."""
        return self in _RETRYABLE

    @property
    def words(self) -> str:
        """One sentence for the owner: what is true, and what to do."""
        return _WORDS[self]


_RETRYABLE = frozenset(
    {
        Reason.BUILD_QUEUED,
        Reason.NO_CAPACITY,
        Reason.QUOTA,
        Reason.STARTING,
        Reason.BACK_OFF,
        Reason.VOLUME_FETCHING,
        Reason.BUILD_LOST,
        Reason.REGISTRY_UNAVAILABLE,
        Reason.NODE_LOST,
        Reason.PREEMPTED,
        Reason.PLATFORM_ERROR,
        Reason.IMAGE_PULL_FAILED,
        Reason.APP_EXITED,
        Reason.APP_OUT_OF_MEMORY,
    }
)

_WORDS: dict[Reason, str] = {
    Reason.BUILD_QUEUED: "Waiting for a build slot.",
    Reason.NO_CAPACITY: "No machine of this hardware is free yet; it starts as soon as one is.",
    Reason.QUOTA: "A quota is reached; it starts when something else stops or the limit is raised.",
    Reason.STARTING: "The app is starting; it goes live when it answers.",
    Reason.BACK_OFF: "The app stopped several times; the next try follows after a pause.",
    Reason.VOLUME_FETCHING: "The repositories that it mounts are being fetched.",
    Reason.CONFIG_ERROR: "The README front matter has a mistake; fix it and push again.",
    Reason.NO_APP_FILE: "There is no app file yet; push one.",
    Reason.UNSUPPORTED_HERE: "This Space needs a runtime that this platform does not run.",
    Reason.SANDBOX_UNAVAILABLE: "This machine cannot isolate apps; an operator sees the fix in `vitrine doctor`.",
    Reason.VOLUME_UNAVAILABLE: "A repository that it mounts cannot be had any more; look at its volumes in the settings.",
    Reason.REQUIREMENTS_UNRESOLVED: "The requirements cannot be resolved; the build log names the ones that conflict.",
    Reason.REQUIREMENTS_FAILED: "A requirement could not be installed; the build log has its error.",
    Reason.PYTHON_MISSING: "The Python version asked for is not on this machine.",
    Reason.SOURCE_REJECTED: "The repository holds something that cannot be built safely; the build log names it.",
    Reason.DOCKERFILE_FAILED: "A step of the Dockerfile failed; the build log shows which.",
    Reason.REGISTRY_UNAVAILABLE: "The image registry does not answer; the build is tried again.",
    Reason.BUILD_TIMEOUT: "The build ran longer than its limit and was stopped.",
    Reason.BUILD_MEMORY: "The build used more memory than its limit and was stopped.",
    Reason.BUILD_DISK: "The build used more disk than its limit and was stopped.",
    Reason.BUILD_LOG_FLOOD: "The build printed more than its log may hold and was stopped.",
    Reason.BUILD_LOST: "The build machine went away; the build is tried again.",
    Reason.BUILD_CANCELLED: "The build was cancelled.",
    Reason.BUILD_FAILED: "The build failed; its log has the reason.",
    Reason.APP_EXITED: "The app exited; its log has the reason.",
    Reason.APP_NEVER_LISTENED: "The app never listened on its port within the start-up time.",
    Reason.APP_WRONG_PORT: "The app listens on another port than the one it was given.",
    Reason.APP_UNHEALTHY: "The app answers with server errors.",
    Reason.APP_OUT_OF_MEMORY: "The app used more memory than its hardware has and was stopped.",
    Reason.APP_DISK_FULL: "The app filled its disk.",
    Reason.IMAGE_PULL_FAILED: "The image could not be pulled.",
    Reason.NODE_LOST: "The machine it ran on went away; it is being moved.",
    Reason.PREEMPTED: "It was idle and gave its place to one that waits; a visit wakes it.",
    Reason.IDLE: "Asleep; the next visit wakes it.",
    Reason.PAUSED_BY_OWNER: "Paused by its owner; only a restart brings it back.",
    Reason.OWNER_SUSPENDED: "The owner's account is suspended.",
    Reason.REPLACED: "A newer version took over.",
    Reason.PLATFORM_ERROR: "The platform had a fault; it is being tried again.",
}
