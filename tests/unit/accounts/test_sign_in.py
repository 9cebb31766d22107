"""Passwords, sessions, links and throttling over the real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import argon2
import pytest
from sqlalchemy import text

from control_plane.accounts import people, sign_in, tokens
from control_plane.accounts.sign_in import authenticate
from control_plane.accounts.throttle import Throttle
from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account, OrgRole, TokenRole, Via
from control_plane.domain.errors import NameTaken, NotSignedIn, RateLimited, Rejected
from tests.fakes.clock import FixedClock

PASSWORD = "correct horse"


class Quiet:
    """Signals that nobody hears."""

    async def notify(self, topic: str, key: str) -> None:
        return None

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        return
        yield ("", "")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def database(tmp_path: Path, clock: FixedClock) -> AsyncIterator[Database]:
    database = create_database(f"sqlite:///{tmp_path / 'a.db'}", clock=clock)
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
async def alice(database: Database, clock: FixedClock) -> Account:
    async with database.write() as uow:
        return await people.add_user(uow, clock, "alice", password=PASSWORD)


async def test_password_opens_a_session_once_known(database: Database, clock: FixedClock, alice: Account) -> None:
    throttle = Throttle(database, clock)
    session, cookie = await sign_in.sign_in(database, clock, throttle, name="Alice", password=PASSWORD, address="1.2.3.4")
    actor = await authenticate(database, clock, cookie=cookie)
    assert actor.via is Via.SESSION
    assert actor.name == "alice"
    assert session.secret_sha256 != cookie
    assert sign_in.csrf_matches(actor, session.csrf)
    assert not sign_in.csrf_matches(actor, None)
    assert not sign_in.csrf_matches(actor, "x")
    clock.advance(31 * 24 * 3600)
    assert (await authenticate(database, clock, cookie=cookie)).is_anonymous


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong horse"), ("nobody", PASSWORD), ("", ""), ("a" * 10_000, "x"), ("alice", "x" * 10_000_000)]
)
async def test_wrong_is_one_answer(database: Database, clock: FixedClock, alice: Account, name: str, password: str) -> None:
    with pytest.raises(NotSignedIn, match="Wrong user name or password") as refused:
        await sign_in.sign_in(database, clock, Throttle(database, clock), name=name, password=password)
    assert len(str(refused.value)) < 200


async def test_an_unknown_name_costs_what_a_wrong_password_costs() -> None:
    known = await sign_in.hash_password(PASSWORD)
    assert argon2.extract_parameters(sign_in.DECOY_HASH) == argon2.extract_parameters(known)


async def test_guessing_is_slowed_by_name_and_by_address(database: Database, clock: FixedClock, alice: Account) -> None:
    throttle = Throttle(database, clock, limit=3)
    for _ in range(3):
        with pytest.raises(NotSignedIn):
            await sign_in.sign_in(database, clock, throttle, name="alice", password="guess-guess", address="6.6.6.6")
    with pytest.raises(RateLimited) as closed:
        await sign_in.sign_in(database, clock, throttle, name="alice", password=PASSWORD, address="7.7.7.7")
    assert closed.value.retry_after_s > 0
    with pytest.raises(RateLimited):
        await sign_in.sign_in(database, clock, throttle, name="bob", password=PASSWORD, address="6.6.6.6")
    clock.advance(301)
    await sign_in.sign_in(database, clock, throttle, name="alice", password=PASSWORD, address="7.7.7.7")


async def test_strangers_cannot_lock_a_person_out(database: Database, clock: FixedClock, alice: Account) -> None:
    """Where she has signed in before she still can; a link signs in from everywhere."""
    throttle = Throttle(database, clock, limit=3)
    enter = partial(sign_in.sign_in, database, clock, throttle, name="Alice")
    await enter(password=PASSWORD, address="2001:db8:1:2::5")
    for number in range(3):
        with pytest.raises(NotSignedIn):
            await enter(password="guess-guess", address=f"6.6.6.{number}")
    with pytest.raises(RateLimited):
        await enter(password=PASSWORD, address="7.7.7.7")
    for number in range(5):
        await enter(password=PASSWORD, address=f"2001:db8:1:2::{number + 10}")
    async with database.write() as uow:
        secret = await sign_in.create_sign_in_link(uow, clock, alice)
    assert (await sign_in.redeem_sign_in_link(database, clock, secret, address="7.7.7.7"))[2].id == alice.id


async def test_a_guesser_with_a_network_of_addresses_is_one(database: Database, clock: FixedClock, alice: Account) -> None:
    throttle = Throttle(database, clock, limit=3)
    for number in range(3):
        with pytest.raises(NotSignedIn):
            await sign_in.sign_in(database, clock, throttle, name=f"n{number}", password="guess-guess", address=f"2001:db8::{number}")
    with pytest.raises(RateLimited):
        await sign_in.sign_in(database, clock, throttle, name="n9", password="guess-guess", address="2001:db8::ffff")


async def test_what_people_type_is_not_kept(database: Database, clock: FixedClock, alice: Account, tmp_path: Path) -> None:
    with pytest.raises(NotSignedIn):
        await sign_in.sign_in(database, clock, Throttle(database, clock), name="my-password-in-the-wrong-field", password="x")
    async with database._reader.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM tries"))).fetchall()
    assert rows and "my-password" not in repr(rows)


async def test_a_link_works_once_and_for_a_day(database: Database, clock: FixedClock, alice: Account) -> None:
    async with database.write() as uow:
        first = await sign_in.create_sign_in_link(uow, clock, alice)
        second = await sign_in.create_sign_in_link(uow, clock, alice)
    _, cookie, user = await sign_in.redeem_sign_in_link(database, clock, first)
    assert user.id == alice.id
    assert not (await authenticate(database, clock, cookie=cookie)).is_anonymous
    with pytest.raises(NotSignedIn):
        await sign_in.redeem_sign_in_link(database, clock, first)
    clock.advance(24 * 3600 + 1)
    with pytest.raises(NotSignedIn):
        await sign_in.redeem_sign_in_link(database, clock, second)


async def test_tokens_end_by_revocation_expiry_suspension(database: Database, clock: FixedClock, alice: Account) -> None:
    async def mint() -> tuple[str, str]:
        async with database.write() as uow:
            token, text = await tokens.create_token(uow, clock, alice, "t", TokenRole.READ)
        return token.id, text

    async def refused(text: str) -> bool:
        try:
            await authenticate(database, clock, authorization=f"Bearer {text}")
        except NotSignedIn as error:
            return error.bad_credentials
        return False

    token_id, text = await mint()
    assert not await refused(text)
    async with database.read() as uow:
        kept = (await uow.tokens.of_user(alice.id))[0]
    assert text not in repr(kept)
    assert kept.last_used_at == clock.now()
    async with database.write() as uow:
        await tokens.revoke_token(uow, clock, Quiet(), kept.id)
    assert await refused(text)
    _, text = await mint()
    async with database.write() as uow:
        assert len(await tokens.revoke_leaked(uow, clock, Quiet(), [text, "hf_unknown", tokens.mint()])) == 1
    assert await refused(text)
    _, text = await mint()
    async with database.write() as uow:
        await people.set_suspended(uow, Quiet(), alice, True)
    assert await refused(text)
    with pytest.raises(NotSignedIn):
        await sign_in.sign_in(database, clock, Throttle(database, clock), name="alice", password=PASSWORD)
    async with database.write() as uow:
        await people.set_suspended(uow, Quiet(), replace(alice, is_suspended=True), False)
    assert not await refused(text)


async def test_bad_orders_of_tokens(database: Database, clock: FixedClock, alice: Account) -> None:
    async with database.write() as uow:
        org = await people.add_org(uow, clock, "acme", creator=alice)
        with pytest.raises(Rejected):
            await tokens.create_token(uow, clock, org, "t", TokenRole.READ)
        with pytest.raises(Rejected):
            await tokens.create_token(uow, clock, alice, "t", TokenRole.READ, clock.now())
        with pytest.raises(Rejected):
            await tokens.create_token(uow, clock, alice, "t", TokenRole.WRITE, scopes={"a": "read"})
        with pytest.raises(Rejected):
            await tokens.create_token(uow, clock, alice, "t", TokenRole.FINE_GRAINED, scopes={"a": "rule"})
        with pytest.raises(Rejected):
            await tokens.create_token(uow, clock, alice, " ", TokenRole.WRITE)


async def test_people(database: Database, clock: FixedClock, alice: Account) -> None:
    async with database.write() as uow:
        for bad in ("a--b", "-a", "a.", "a b", "", "x" * 97, "a.git", "api", "Spaces", "../x", "é"):
            with pytest.raises(Rejected):
                await people.add_user(uow, clock, bad)
        org = await people.add_org(uow, clock, "acme", creator=alice)
        with pytest.raises(Rejected, match="last admin"):
            await people.remove_member(uow, Quiet(), org, alice)
        with pytest.raises(Rejected, match="last admin"):
            await people.set_member(uow, Quiet(), org, alice, OrgRole.READ)
        bob = await people.add_user(uow, clock, "bob")
        await people.set_member(uow, Quiet(), org, bob, OrgRole.ADMIN)
        await people.remove_member(uow, Quiet(), org, alice)
    with pytest.raises(NameTaken):
        async with database.write() as uow:
            await people.add_user(uow, clock, "ALICE")


async def test_a_new_password_ends_all_sessions(database: Database, clock: FixedClock, alice: Account) -> None:
    _, cookie = await sign_in.sign_in(database, clock, Throttle(database, clock), name="alice", password=PASSWORD)
    async with database.write() as uow:
        await people.set_password(uow, Quiet(), alice, "another secret")
    assert (await authenticate(database, clock, cookie=cookie)).is_anonymous
    with pytest.raises(Rejected):
        await sign_in.hash_password("short")
