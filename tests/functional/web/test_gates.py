"""The gate of a model, by form: closed to strangers, asked for, decided, shown to its owner only."""

from __future__ import annotations

from control_plane.bootstrap import Services
from control_plane.domain.accounts import Actor
from control_plane.domain.spaces import RepoType, Visibility
from control_plane.ports.space_actions import NewRepo
from tests.functional.web.conftest import Browser

PAGE = "/alice/weights"


async def test_a_model_behind_a_gate(alice: Browser, bob: Browser, services: Services) -> None:
    async with services.uow.read() as uow:
        owner = await uow.accounts.by_name("alice")
    assert owner is not None
    actor = Actor(user=owner)
    files = {"README.md": b"---\nlicense: mit\n---\n# Weights\n", "config.json": b'{"pineapple": 1}'}
    await services.actions.create_repo(actor, NewRepo(RepoType.MODEL, owner, "weights", Visibility.PUBLIC, files=files))
    source = f"{PAGE}/blob/main/config.json"
    assert "pineapple" in (await bob.get(source)).text

    assert "Whoever asks is let in" not in (await bob.get(f"{PAGE}/settings")).text
    assert (await bob.post(f"{PAGE}/settings/gate", {"gate": "auto"}, page=PAGE)).status_code == 403
    assert (await alice.post(f"{PAGE}/settings/gate", {"gate": "manual"}, page=f"{PAGE}/settings")).status_code == 303
    closed = await bob.get(source)
    assert closed.status_code == 403 and "restricted" in closed.text and "pineapple" not in closed.text
    for other in (f"{PAGE}/raw/main/config.json", f"{PAGE}/edit/main/config.json", f"{PAGE}/commit/main"):
        refused = await bob.get(other)
        assert refused.status_code == 403 and "pineapple" not in refused.text, other
    card = (await bob.get(PAGE)).text
    assert "Ask for access" in card and "Weights" in card
    assert "Ask for access" not in (await alice.get(PAGE)).text

    assert (await bob.post(f"{PAGE}/gate/ask", {}, page=PAGE)).status_code == 303
    assert "You asked for access" in (await bob.get(PAGE)).text
    assert "Access requested" in (await alice.get("/notifications")).text
    settings = (await alice.get(f"{PAGE}/settings")).text
    assert "pending" in settings and 'href="/bob"' in settings
    request = settings.partition('name="request" value="')[2].partition('"')[0]
    refused = await bob.post(f"{PAGE}/settings/access", {"request": request, "status": "accepted"}, page=PAGE)
    assert refused.status_code == 403
    accepted = {"request": request, "status": "accepted"}
    assert (await alice.post(f"{PAGE}/settings/access", accepted, page=f"{PAGE}/settings")).status_code == 303
    assert "pineapple" in (await bob.get(source)).text
    assert (await alice.post(f"{PAGE}/settings/access", accepted, page=f"{PAGE}/settings")).status_code == 404, "accepted already"
    assert "Access granted" in (await bob.get("/notifications")).text
