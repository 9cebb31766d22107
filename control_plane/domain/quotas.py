"""Quota keys, their units, and effective values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum

from control_plane.domain.errors import Rejected
from control_plane.domain.spaces import Deployment, DesiredState, Sdk, Space

STORAGE_HOLD = "storage-hold"  # document kind: bytes on their way in, owner = the account whose storage they take


class QuotaKey(StrEnum):
    SPACES = "spaces"  # count
    RUNNING = "running"  # count; `running.FLAVOR` is the same per flavor
    GPU_HOURS = "gpu-hours"  # per calendar month, UTC
    BUILD_MINUTES = "build-minutes"  # per calendar month, UTC
    STORAGE_GB = "storage-gb"
    MEMORY_GB = "memory-gb"
    VCPU = "vcpu"


@dataclass(frozen=True, slots=True)
class QuotaValue:
    """`limit` None = unlimited. `source` says where the effective value came from: "user", "default"."""

    key: str
    limit: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Held:
    """What an account holds at this moment, counted from rows. Static Spaces run nothing and are counted in `spaces` only.

    `storage_bytes` includes what is reserved for pushes and uploads that are coming in, and the volumes of Spaces by their size.

    `running`: Space id → flavor → replicas that run or were let in to run. A Space that changes hardware has two flavors
    for a moment. `open_since`: one (flavor, start) per replica that runs now, for what is not metered yet.
    """

    spaces: int = 0
    storage_bytes: int = 0
    running: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    open_since: tuple[tuple[str, datetime], ...] = ()


DEFAULT_QUOTAS: dict[str, float | None] = {key.value: None for key in QuotaKey}


def parse_key(key: str, flavors: tuple[str, ...]) -> str:
    """The canonical key, or Rejected naming the allowed ones."""
    if key in set(QuotaKey):
        return key
    head, _, flavor = key.partition(".")
    if head == QuotaKey.RUNNING and flavor in flavors:
        return key
    near = get_close_matches(key, (*QuotaKey, *(f"{QuotaKey.RUNNING}.{name}" for name in flavors)), 1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    allowed = ", ".join([*QuotaKey, "running.FLAVOR"])
    raise Rejected(f"unknown quota key '{key[:60]}'; {meant}allowed: {allowed} with FLAVOR one of {', '.join(flavors)}")


def parse_value(text: str) -> float | None:
    """A plain non-negative decimal below 1e12, or `unlimited` (None). Anything else is Rejected."""
    if text == "unlimited":
        return None
    digits = text.replace(".", "", 1)
    if not digits.isascii() or not digits.isdigit() or len(text) > 13:
        raise Rejected(
            f"'{text[:60]}' is not a quota value; use a plain number such as 5 or 2.5 (the key's name has the unit), or 'unlimited'"
        )
    return float(text)


def check_limit(key: str, limit: float | None) -> float | None:
    """`limit` when it makes sense for `key`: Spaces and running copies are counted, so theirs are whole numbers."""
    counted = key == QuotaKey.SPACES or key.partition(".")[0] == QuotaKey.RUNNING
    if counted and limit is not None and not limit.is_integer():
        raise Rejected(f"'{key}' is a count; {limit:g} is not a whole number")
    return limit


def limit_text(limit: float | None) -> str:
    """A limit as people write it."""
    return "unlimited" if limit is None else f"{limit:g}" if limit < 1e6 else f"{limit:.15g}"


def holds_room(space: Space, newest: Deployment | None, live: Deployment | None) -> bool:
    """Whether the running copies of a Space are in its owner's use already, so that nothing has to be asked for them again.

    It is let in, with its newest version or the one that served before. One whose newest version failed and that has nothing to fall
    back to holds nothing: others may have taken its room since. A static Space runs nothing and needs no room.
    """
    if space.sdk is Sdk.STATIC:
        return True
    if space.asleep or space.desired is not DesiredState.RUNNING:
        return False
    return any(version is not None and version.failed_reason is None for version in (newest, live))
