"""The platform's own pages, for its admins; for everybody else they do not exist."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.domain.errors import NotFound, Rejected, VitrineError
from control_plane.http.error_map import status_of
from web.page import Pages, Visit, error_view, page_route
from web.pages.account import signed_in


def admin_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend

    def admin(visit: Visit) -> Visit:
        if not signed_in(visit).viewer.is_admin:
            raise NotFound("There is no page at this address.")
        return visit

    @router.get("/admin")
    async def overview(request: Request) -> Response:
        visit = admin(await pages.visit(request))
        return pages.page(visit, "admin.html", view=await backend.admin_overview(visit.actor))

    @router.post("/admin/maintenance")
    async def maintenance(request: Request) -> Response:
        visit = admin(await pages.submitted(request))
        try:
            await backend.admin_maintenance(visit.actor, visit.text("message") if visit.text("on") == "1" else None)
        except Rejected as error:
            view = await backend.admin_overview(visit.actor)
            return pages.page(visit, "admin.html", status=status_of(error, anonymous=False), view=view, error=error_view(error))
        return pages.go("/admin", "maintenance" if visit.text("on") == "1" else "saved")

    async def users_page(visit: Visit, error: VitrineError | None = None) -> Response:
        status = status_of(error, anonymous=False) if error else 200
        users = await backend.admin_users(visit.actor)
        return pages.page(visit, "admin_users.html", status=status, users=users, error=error_view(error) if error else None)

    @router.get("/admin/users")
    async def users(request: Request) -> Response:
        return await users_page(admin(await pages.visit(request)))

    @router.post("/admin/users")
    async def add_user(request: Request) -> Response:
        visit = admin(await pages.submitted(request))
        password = visit.form.get("password")
        try:
            await backend.admin_add_user(
                visit.actor, visit.text("name"), visit.text("email"), password if isinstance(password, str) else "",
                admin=visit.text("admin") == "1",
            )  # fmt: skip
        except Rejected as error:
            return await users_page(visit, error)
        return pages.go("/admin/users", "user")

    @router.post("/admin/suspend")
    async def suspend(request: Request) -> Response:
        visit = admin(await pages.submitted(request))
        await backend.admin_suspend(visit.actor, visit.text("name"), visit.text("suspended") == "1")
        return pages.go("/admin/users", "saved")

    async def quotas_page(visit: Visit, subject: str, error: VitrineError | None = None) -> Response:
        status = status_of(error, anonymous=False) if error else 200
        rows = await backend.admin_quotas(visit.actor, subject)
        return pages.page(
            visit, "admin_quotas.html", status=status, subject=subject, quotas=rows, error=error_view(error) if error else None
        )

    @router.get("/admin/quotas")
    async def quotas(request: Request) -> Response:
        return await quotas_page(admin(await pages.visit(request)), request.query_params.get("subject", "").strip()[:96])

    @router.post("/admin/quotas")
    async def set_quota(request: Request) -> Response:
        visit = admin(await pages.submitted(request))
        subject = visit.text("subject")[:96]
        try:
            await backend.admin_set_quota(visit.actor, subject, visit.text("key"), visit.text("value"))
        except Rejected as error:
            return await quotas_page(visit, subject, error)
        return pages.go("/admin/quotas" + (f"?subject={subject}" if subject else ""), "saved")

    @router.get("/admin/usage")
    async def usage(request: Request) -> Response:
        visit = admin(await pages.visit(request))
        return pages.page(visit, "admin_usage.html", usage=await backend.admin_usage(visit.actor))

    @router.get("/admin/audit")
    async def audit(request: Request) -> Response:
        visit = admin(await pages.visit(request))
        rows, whole = await backend.admin_audit(visit.actor)
        return pages.page(visit, "admin_audit.html", rows=rows, whole=whole)

    return router
