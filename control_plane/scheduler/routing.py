"""From a Space's facts to the one record that the proxy serves from. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from control_plane.domain.builds import ArtifactKind
from control_plane.domain.routes import Endpoint, Route, RouteAccess, RouteState
from control_plane.domain.spaces import Deployment, DesiredState, Replica, Repo, Space, Visibility
from control_plane.domain.stage import Stage, StageView


def route_of(
    repo: Repo, space: Space, live: Deployment | None, replicas: tuple[Replica, ...], view: StageView,
    *, host: str, static_site: Callable[[str], Endpoint], eta_s: float | None = None,
) -> Route:  # fmt: skip
    """The route of one Space as it is now."""
    endpoints = endpoints_of(space, live, replicas, static_site)
    headers: Mapping[str, str] = dict((live.config if live else space.config).custom_headers)
    return Route(
        host=host, space_id=space.id, space_name=repo.full_name, state=_state(space, view, bool(endpoints)),
        generation=live.generation if live else 0, revision=live.revision if live else "", endpoints=endpoints,
        access=RouteAccess.PRIVATE if repo.visibility is Visibility.PRIVATE else RouteAccess.PUBLIC, idle_rule=space.idle_rule,
        allow_embedding=not space.config.disable_embedding, headers=headers, title=space.config.title or repo.name,
        emoji=space.config.emoji, reason=view.reason.value if view.reason else "", message=view.message,
        eta_s=eta_s if view.eta_s is None else view.eta_s,
    )  # fmt: skip


def endpoints_of(
    space: Space, live: Deployment | None, replicas: tuple[Replica, ...], static_site: Callable[[str], Endpoint]
) -> tuple[Endpoint, ...]:
    if live is None or space.desired is not DesiredState.RUNNING or space.suspended:
        return ()
    if live.artifact.kind is ArtifactKind.SITE:
        return (static_site(live.artifact.ref),)
    if space.asleep:
        return ()
    return tuple(r.endpoint for r in replicas if r.generation == live.generation and r.state.may_serve and r.endpoint)


def _state(space: Space, view: StageView, serves: bool) -> RouteState:
    if serves:
        return RouteState.READY
    if view.stage is Stage.PAUSED:
        return RouteState.PAUSED
    if view.stage is Stage.SLEEPING:
        return RouteState.ASLEEP
    if view.stage in (Stage.NO_APP_FILE, Stage.DELETING):
        return RouteState.EMPTY
    if view.stage.is_error:
        return RouteState.FAILED
    return RouteState.STARTING
