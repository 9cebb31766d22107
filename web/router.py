"""All pages as one router. Include it last: models live at `/NS/NAME` and profiles at `/NS`, which match almost anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request, Response

from control_plane.domain.errors import Broken, Forbidden, NotFound, NotSignedIn, Rejected, Unavailable, VitrineError
from control_plane.domain.spaces import RepoType
from control_plane.http.consent import ConsentPages
from control_plane.http.route_index import join
from control_plane.ports.clock import Clock
from web import security
from web.backend import WebBackend
from web.page import Pages, page_route
from web.pages.account import account_router
from web.pages.admin import admin_router
from web.pages.api import api_router
from web.pages.collections import collections_router
from web.pages.community import community_router
from web.pages.consent import WebConsent
from web.pages.files import files_router, repo_router
from web.pages.gallery import gallery_router, profile_router
from web.pages.gates import gates_router
from web.pages.notices import notices_router
from web.pages.orgs import orgs_router
from web.pages.settings import model_settings_router, settings_router
from web.pages.sign_in import sign_in_router
from web.pages.space import space_router
from web.static_files import static_files

ErrorPage = Callable[[Request, int, str], Awaitable[Response | None]]


def web_pages(backend: WebBackend, clock: Clock, *, secure: bool) -> Pages:
    return Pages(backend, clock, secure=secure)


def web_router(pages: Pages) -> APIRouter:
    """Every page. `secure` of `pages` says whether people reach us by https."""
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    families = (
        gallery_router, sign_in_router, account_router, notices_router, orgs_router, admin_router, space_router, settings_router,
        collections_router, api_router,
    )  # fmt: skip
    for part in families:
        join(router, part(pages))
    for kind in (RepoType.SPACE, RepoType.DATASET, RepoType.MODEL):
        join(router, files_router(pages, kind))
        join(router, community_router(pages, kind))
    join(router, model_settings_router(pages))
    for kind in (RepoType.DATASET, RepoType.MODEL):
        join(router, gates_router(pages, kind))
        join(router, repo_router(pages, kind))
    join(router, profile_router(pages))
    return router


def consent_pages(pages: Pages) -> ConsentPages:
    return WebConsent(pages)


def mount_static(app: FastAPI) -> None:
    """Styles and scripts at `/static`; before the pages, because their last route takes one free segment."""
    app.mount("/static", static_files(), name="static")


def error_page(pages: Pages) -> ErrorPage:
    """For `control_plane.http.error_map.install(html=…)`: the same error page where no page of ours answered."""
    kinds: dict[int, type[VitrineError]] = {401: NotSignedIn, 403: Forbidden, 404: NotFound, 503: Unavailable}

    async def render(request: Request, status: int, message: str) -> Response | None:
        error: VitrineError
        if status in kinds:
            error = kinds[status](message)
        else:
            error = Broken(message) if status >= 500 else Rejected(message)
        response = await pages.error(request, error)
        facts = await pages.backend.platform()
        for name, value in security.page_headers(facts.frame_source, https=pages.secure).items():
            response.headers.setdefault(name, value)
        return response

    return render
