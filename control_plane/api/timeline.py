"""The newest push of a Space, phase by phase, with the reason of each wait: the facts that its page shows."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.api import views
from control_plane.api.deps import Hub, ok
from control_plane.domain.accounts import Action
from control_plane.domain.spaces import Sdk
from control_plane.domain.timeline import Timeline
from control_plane.spaces.timeline import timeline, usual_seconds


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["Spaces"])
    services = hub.services

    @api.get("/api/spaces/{ns:seg}/{name:seg}/timeline")
    async def newest(request: Request, ns: str, name: str) -> JSONResponse:
        """`null` before the first push; for visitors also while something serves: how its owner's pushes go is not theirs to see."""
        actor, repo, space = await hub.space(request, ns, name, Action.VIEW)
        view = await services.actions.runtime_view(space)
        if view.stage.serves and not policy.allowed(actor, Action.WRITE, repo):
            return ok(None)
        async with services.uow.read() as uow:
            builds = await uow.builds.of_space(space.id, 10)
            deployments = await uow.deployments.of_space(space.id, 10)
            replicas = await uow.deployments.replicas(space.id)
        line = timeline(
            builds[0] if builds else None, deployments, replicas, now=services.clock.now(), usual_s=usual_seconds(builds, deployments),
            serving=view.sha if view.stage.serves else "", position=view.position, static=space.sdk is Sdk.STATIC,
        )  # fmt: skip
        return ok(_json(line) if line else None)

    return api


def _json(line: Timeline) -> dict[str, Any]:
    return {
        "revision": line.revision,
        "title": line.title,
        "author": line.author or None,
        "createdAt": views.when(line.at),
        "phases": [
            {
                "phase": step.key, "state": step.state, "detail": step.detail, "reason": step.reason or None,
                "seconds": round(step.seconds, 3) if step.seconds is not None else None, "since": views.when(step.since),
            }
            for step in line.steps
        ],
        "progress": round(line.fraction, 3) if line.fraction is not None else None,
        "usualSeconds": round(line.usual_s, 3) if line.usual_s is not None else None,
        "tookSeconds": round(line.took_s, 3) if line.took_s is not None else None,
        "serving": line.serving or None,
        "buildId": line.build_id or None,
        "isOver": line.is_over,
    }  # fmt: skip
