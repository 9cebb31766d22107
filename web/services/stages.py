"""Stages as badges, and a Space as a card. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from control_plane.domain.spaces import Repo, Space
from control_plane.domain.stage import Stage
from control_plane.ports.space_actions import RuntimeView
from web.views import SpaceCard, StageBadge

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")

_BADGES: dict[Stage, tuple[str, str, str]] = {
    Stage.NO_APP_FILE: ("off", "Nothing pushed yet", ""),
    Stage.CONFIG_ERROR: ("fail", "Mistake in the README", ""),
    Stage.BUILDING: ("work", "Building", ""),
    Stage.BUILD_ERROR: ("fail", "Build failed", ""),
    Stage.APP_STARTING: ("work", "Starting", ""),
    Stage.RUNNING: ("run", "Running", ""),
    Stage.RUNNING_BUILDING: ("run", "Running", "next version is being built"),
    Stage.RUNNING_APP_STARTING: ("run", "Running", "next version is starting"),
    Stage.RUNTIME_ERROR: ("fail", "Failed", ""),
    Stage.STOPPED: ("off", "Stopped", ""),
    Stage.SLEEPING: ("sleep", "Asleep", "wakes when you knock"),
    Stage.PAUSED: ("off", "Paused", ""),
    Stage.DELETING: ("off", "Going away", ""),
}


def badge(stage: Stage) -> StageBadge:
    tone, label, detail = _BADGES[stage]
    return StageBadge(stage.value, tone, label, detail)


def card(repo: Repo, space: Space, view: RuntimeView, thumbnail: str = "") -> SpaceCard:
    config = space.config
    return SpaceCard(
        owner=repo.owner_name,
        name=repo.name,
        title=config.title or repo.name,
        emoji=config.emoji,
        color_from=colour(config.color_from, repo.full_name, 0),
        color_to=colour(config.color_to, repo.full_name, 3),
        description=config.short_description,
        sdk=space.sdk.value,
        hardware=view.current_hardware or space.hardware,
        stage=badge(view.stage),
        likes=repo.likes,
        updated_at=repo.updated_at,
        visibility=repo.visibility.value,
        thumbnail=thumbnail,
        tags=tuple(config.tags),
    )


def cards(
    repos: Sequence[Repo], spaces: Sequence[Space], views: dict[str, RuntimeView], thumbnail: Callable[[Repo], str]
) -> tuple[SpaceCard, ...]:
    """In the order of `repos`; a repository whose Space is on its way out has no card."""
    by_id = {str(s.id): s for s in spaces}
    return tuple(card(r, by_id[r.id], views[r.id], thumbnail(r)) for r in repos if r.id in by_id and r.id in views)


def colour(name: str, seed: str, shift: int) -> str:
    """The colour asked for, else one that a name always gets."""
    return name if name in COLOURS else COLOURS[(sum(seed.encode()) + shift) % len(COLOURS)]
