"""The doors that anybody may try: guesses and new accounts are limited, and registration can be off."""

from __future__ import annotations

from dataclasses import replace

from control_plane.accounts import people
from control_plane.bootstrap import Services
from tests.functional.web.conftest import Browser


async def test_guesses_are_limited_by_name_and_the_right_word_waits_too(stranger: Browser, services: Services) -> None:
    async with services.uow.write() as uow:
        await people.add_user(uow, services.clock, "victim", password="the right words here")
    tried = [await stranger.post("/sign-in", {"name": "victim", "password": f"guess {n}"}) for n in range(11)]
    assert [answer.status_code for answer in tried] == [401] * 10 + [429]
    assert "wait" in tried[-1].text and int(tried[-1].headers["retry-after"]) > 0
    locked = await stranger.post("/sign-in", {"name": "VICTIM", "password": "the right words here"})
    assert locked.status_code == 429, "another spelling is the same account"
    async with services.uow.read() as uow:
        assert "session.open" not in [row["action"] for row in await uow.audit.list()]


async def test_one_address_makes_few_accounts(stranger: Browser) -> None:
    new = [
        await stranger.post("/sign-up", {"name": f"crowd-{n}", "password": "a long sentence", "email": ""}, page="/sign-up")
        for n in range(11)
    ]
    assert [answer.status_code for answer in new] == [303] * 10 + [429]


async def test_registration_is_off_unless_it_is_switched_on(stranger: Browser, services: Services) -> None:
    backend = stranger.http._transport.app.state.web_backend  # type: ignore[attr-defined]
    backend.d = replace(backend.d, sign_up_open=False)
    assert (await stranger.get("/sign-up")).status_code == 403
    assert 'href="/sign-up' not in (await stranger.get("/sign-in")).text
    form = {"name": "sneaky", "password": "a long sentence", "email": ""}
    assert (await stranger.post("/sign-up", form)).status_code == 403
    async with services.uow.read() as uow:
        assert await uow.accounts.by_name("sneaky") is None
