"""Events of a Space in words. Pure; a kind that is not listed is shown by its own name."""

from __future__ import annotations

from control_plane.domain.spaces import SpaceEvent

WORDS: dict[str, str] = {
    "push.received": "Push received",
    "push.checked": "Push checked",
    "build.queued": "Build queued",
    "build.started": "Build started",
    "build.succeeded": "Build done",
    "build.failed": "Build failed",
    "build.cancelled": "Build cancelled",
    "build.lost": "Build machine lost",
    "deploy.created": "New version ordered",
    "deploy.failed": "New version failed",
    "replica.pending": "Waiting for a place",
    "replica.starting": "Starting",
    "replica.ready": "Answers",
    "replica.draining": "Draining",
    "replica.stopped": "Stopped",
    "replica.failed": "Failed",
    "route.live": "Live",
    "sleep": "Asleep",
    "wake": "Woken",
    "paused": "Paused",
    "restarted": "Restarted",
    "hardware.requested": "Hardware requested",
    "settings.changed": "Settings changed",
    "space.created": "Created",
    "space.deleted": "Deleted",
}


def happened(event: SpaceEvent) -> tuple[str, str]:
    """What happened, and the facts worth a line."""
    facts = event.facts
    parts = []
    revision = facts.get("revision")
    if isinstance(revision, str):
        parts.append(revision[:7])
    for key in ("title", "message", "cause", "flavor"):
        if isinstance(facts.get(key), str) and facts[key]:
            parts.append(str(facts[key])[:160])
    if event.kind == "hardware.requested":
        parts.append(f"{facts.get('before')} → {facts.get('after')}")
    seconds = facts.get("seconds")
    if isinstance(seconds, int | float):
        parts.append(f"{seconds:.1f} s")
    if isinstance(facts.get("by"), str):
        parts.append(str(facts["by"]))
    return WORDS.get(event.kind, event.kind), " · ".join(parts)
