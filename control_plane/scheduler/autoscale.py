"""When a Space sleeps. Pure: use is reported by the proxies, the clock is an argument."""

from __future__ import annotations

from datetime import datetime, timedelta

from control_plane.domain.builds import ArtifactKind
from control_plane.domain.hardware import Flavor
from control_plane.domain.routes import IdleRule
from control_plane.domain.spaces import Deployment, DesiredState, Space

NEVER = 0


def sleep_time_s(space: Space, flavor: Flavor, platform_default_s: int) -> int | None:
    """Seconds without use before sleep; None = never. Owner's word, then the platform's, then the flavor's."""
    if space.sleep_after_s is not None:
        return None if space.sleep_after_s == NEVER else space.sleep_after_s
    return platform_default_s or flavor.default_sleep_s


def should_sleep(
    space: Space, live: Deployment | None, flavor: Flavor, *, last_used_at: datetime, open_sockets: int, open_tabs: int,
    now: datetime, platform_default_s: int = 0,
) -> bool:  # fmt: skip
    """Whether to put it to sleep now. Under the TABS rule an open tab keeps it awake; a live session is never cut."""
    if live is None or space.asleep or space.desired is not DesiredState.RUNNING or live.artifact.kind is ArtifactKind.SITE:
        return False
    if space.live_generation != space.generation and live.generation != space.generation:
        return False  # a newer version is on its way
    limit = sleep_time_s(space, flavor, platform_default_s)
    if limit is None:
        return False
    if space.idle_rule is IdleRule.TABS and (open_tabs or open_sockets):
        return False
    return now - last_used_at >= timedelta(seconds=limit)
