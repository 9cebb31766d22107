"""`/spaces/NS/NAME/agents.md`: how a program uses a running app, in plain words. Gradio names this address to programs that ask."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse

from control_plane.api.deps import Hub
from control_plane.domain.accounts import Action
from control_plane.domain.spaces import Repo, Sdk, Space, Visibility
from control_plane.http.addresses import base_url

_GRADIO = """
## Calling it
1. `GET {app}/gradio_api/info` lists the endpoints under `named_endpoints`, each with its parameters and what it returns.
2. `POST {app}/gradio_api/call/ENDPOINT` with `{{"data": [first parameter, second parameter]}}` answers `{{"event_id": "ID"}}`.
3. `GET {app}/gradio_api/call/ENDPOINT/ID` streams the result; the line after `event: complete` has it as JSON.

Files go first to `POST {app}/gradio_api/upload` (form field `files`); the path it answers is the parameter `{{"path": "PATH"}}`.

From Python, with `pip install gradio_client` and `HF_ENDPOINT={hub}`:

    from gradio_client import Client
    client = Client("{name}")
    print(client.view_api())
"""
_OTHER = """
## Calling it
It is a web server of its own making: what it answers below {app}/ is up to its code.
"""
_STATIC = """
## Reading it
It has no server: its files are at {app}/
"""
_PRIVATE = """
## Token
The app is private. Send `Authorization: Bearer TOKEN` with each request; tokens are made at {hub}/settings/tokens
"""


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["Spaces"])

    @api.get("/spaces/{ns:seg}/{name:seg}/agents.md")
    async def agents(request: Request, ns: str, name: str) -> PlainTextResponse:
        _, repo, space = await hub.space(request, ns, name, Action.VIEW)
        text = usage(repo, space, app=hub.app_url(space.subdomain), hub=base_url(request))
        return PlainTextResponse(text, media_type="text/markdown", headers={"X-Content-Type-Options": "nosniff"})

    return api


def usage(repo: Repo, space: Space, *, app: str, hub: str) -> str:
    """`app` and `hub`: addresses without a slash at the end."""
    title = " ".join((space.config.title or repo.name).split())
    about = " ".join(space.config.short_description.split())
    head = f"# {title}\n{about}\n\nThe app runs at {app}/ ; a request to one that sleeps wakes it and waits.\n"
    body = {Sdk.GRADIO: _GRADIO, Sdk.STATIC: _STATIC}.get(space.sdk, _OTHER)
    token = _PRIVATE if repo.visibility is Visibility.PRIVATE else ""
    return head + (body + token).format(app=app, hub=hub, name=repo.full_name)
