"""Organisations and the operator's maintenance, by form, on real stores."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from control_plane import asgi
from control_plane.accounts import people
from control_plane.api.maintenance import maintenance_gate
from control_plane.api.webhook_delivery import Deliveries
from control_plane.bootstrap import Services
from control_plane.http import context, error_map
from control_plane.http.route_index import install_index
from tests.functional.web.conftest import Browser

MEMBERS = "/organizations/lab/settings"


async def make_admin(services: Services, name: str) -> None:
    async with services.uow.write() as uow:
        user = await people.find_account(uow, name)
        await uow.accounts.save(replace(user, is_admin=True))


async def new_org(browser: Browser, name: str = "lab") -> httpx.Response:
    return await browser.post("/organizations/new", {"name": name, "fullname": "The Lab"}, page="/organizations/new")


@pytest.fixture
async def lab(alice: Browser, services: Services) -> Browser:
    """alice, admin of the platform and of the organisation lab."""
    await make_admin(services, "alice")
    made = await new_org(alice)
    assert (made.status_code, made.headers["location"]) == (303, f"{MEMBERS}?done=org")
    return alice


async def test_only_administrators_make_organisations_unless_the_operator_says_so(bob: Browser, app: FastAPI) -> None:
    refused = await bob.post("/organizations/new", {"name": "lab", "fullname": ""}, page="/settings/tokens")
    assert refused.status_code == 403 and "Only administrators" in refused.text
    assert 'name="fullname"' not in (await bob.get("/organizations/new")).text
    deps = app.state.web_backend.d
    object.__setattr__(deps, "org_creation", True)
    assert (await new_org(bob)).status_code == 303
    assert (await new_org(bob, "settings")).status_code == 400, "a word of the platform"
    assert (await new_org(bob, "LAB")).status_code == 409, "a name in use"


async def test_a_member_writes_where_the_role_allows(lab: Browser, bob: Browser) -> None:
    space = {"owner": "lab", "name": "demo", "sdk": "gradio", "visibility": "private", "hardware": "cpu-basic"}
    assert (await lab.post("/new-space", space, page="/new-space")).status_code == 303
    assert (await bob.get("/spaces/lab/demo")).status_code == 404
    assert (await bob.get(MEMBERS)).status_code == 403
    added = await lab.post(f"{MEMBERS}/member", {"user": "bob", "role": "read"}, page=MEMBERS)
    assert added.status_code == 303
    assert (await bob.get("/spaces/lab/demo")).status_code == 200
    assert (await bob.get("/spaces/lab/demo/settings")).status_code == 403
    assert f'action="{MEMBERS}/member"' not in (await bob.get(MEMBERS)).text
    refused = await bob.post(f"{MEMBERS}/member", {"user": "bob", "role": "admin"}, page="/settings/tokens")
    assert refused.status_code == 403, "nobody raises themselves"
    await lab.post(f"{MEMBERS}/member", {"user": "bob", "role": "write"}, page=MEMBERS)
    assert (await bob.get("/spaces/lab/demo/settings")).status_code == 200
    assert "<option>lab</option>" in (await bob.get("/new-space")).text
    left = await bob.post(f"{MEMBERS}/remove", {"user": "bob"}, page=MEMBERS)
    assert left.headers["location"] == "/lab?done=left"
    assert (await bob.get("/spaces/lab/demo")).status_code == 404


async def test_what_cannot_be_is_said_on_the_page(lab: Browser, services: Services) -> None:
    for form, status, words in (
        ({"user": "nobody", "role": "read"}, 404, "there is no user"),
        ({"user": "alice", "role": "emperor"}, 400, "a role is one of"),
        ({"user": "alice", "role": "read"}, 400, "last admin of lab"),
    ):
        answer = await lab.post(f"{MEMBERS}/member", form, page=MEMBERS)
        assert (answer.status_code, words in answer.text) == (status, True), form
    gone = await lab.post(f"{MEMBERS}/remove", {"user": "alice"}, page=MEMBERS)
    assert gone.status_code == 400 and "last admin of lab" in gone.text
    await lab.post(f"{MEMBERS}/name", {"fullname": "Laboratory"}, page=MEMBERS)
    assert "Laboratory" in (await lab.get("/lab")).text
    async with services.uow.read() as uow:
        actions = [row["action"] for row in await uow.audit.list()]
    assert {"org.add", "org.rename"} <= set(actions)


async def test_maintenance_begins_and_ends_on_the_operators_page(services: Services) -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    deliveries = Deliveries(services)
    error_map.install(app, html=asgi._web(app, asgi._pages(app, services, deliveries)))
    install_index(app, maintenance_gate(services.uow))
    context.install_context(app)
    operator, bob = await Browser(app).sign_up("ann"), await Browser(app).sign_up("bob")
    await make_admin(services, "ann")
    try:
        form = {"on": "1", "message": "New disks until noon."}
        assert (await bob.post("/admin/maintenance", form, page="/settings/tokens")).status_code == 404, (
            "for others the page does not exist"
        )
        assert (await operator.post("/admin/maintenance", form, page="/admin")).status_code == 303
        assert "New disks until noon." in (await bob.get("/")).text
        space = {"owner": "bob", "name": "demo", "sdk": "gradio", "visibility": "public", "hardware": "cpu-basic"}
        refused = await bob.post("/new-space", space, page="/new-space")
        assert refused.status_code == 503 and "New disks until noon." in refused.text
        assert (await operator.post("/admin/maintenance", {"on": "1", "message": " "}, page="/admin")).status_code == 400
        assert (await operator.post("/admin/maintenance", {"on": ""}, page="/admin")).status_code == 303
        assert (await bob.post("/new-space", space, page="/new-space")).status_code == 303
    finally:
        await operator.http.aclose()
        await bob.http.aclose()
        await app.state.web_backend.close()
