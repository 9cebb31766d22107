"""Accounts, memberships, tokens and what people are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from control_plane.db.engine import Database
from control_plane.domain.accounts import Account, AccountKind, Membership, OrgRole, Session, Token, TokenRole
from control_plane.domain.errors import NameTaken
from control_plane.domain.gates import AccessRequest, Gate, RequestStatus
from control_plane.domain.ids import AccountId, RepoId, SessionId, TokenId, new_id
from control_plane.domain.notices import Notice, NoticeKind
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from tests.contract.stores.rows import NOW, every_field_differs, repo, user


async def test_an_account_comes_back_whole(db: Database) -> None:
    full = Account(AccountId(new_id()), AccountKind.ORG, "BigCo", "Big Company", NOW, "a@b.c", True, True, "$argon2id$x")
    assert every_field_differs(full, user())
    async with db.write() as work:
        await work.accounts.add(full)
    async with db.read() as work:
        assert await work.accounts.get(full.id) == full
        assert await work.accounts.by_name("bigCO") == full
        assert await work.accounts.list() == (full,)
        assert await work.accounts.list(AccountKind.USER) == ()
        assert await work.accounts.get(AccountId("none")) is None


async def test_a_name_is_taken_in_any_case_and_the_unit_of_work_goes_on(db: Database, ann: Account) -> None:
    bob = user("bob")
    async with db.write() as work:
        with pytest.raises(NameTaken):
            await work.accounts.add(user("ANN"))
        await work.accounts.add(bob)
    async with db.write() as work:
        with pytest.raises(NameTaken):
            await work.accounts.save(replace(bob, name="Ann"))
        await work.accounts.save(replace(ann, fullname="Ann B"))
    async with db.read() as work:
        assert [a.fullname for a in await work.accounts.list()] == ["Ann B", "bob"]


async def test_memberships_follow_both_sides(db: Database, ann: Account) -> None:
    org = replace(user("org"), kind=AccountKind.ORG)
    async with db.write() as work:
        await work.accounts.add(org)
        await work.accounts.set_member(Membership(org.id, ann.id, OrgRole.READ))
        await work.accounts.set_member(Membership(org.id, ann.id, OrgRole.ADMIN))
    async with db.read() as work:
        assert await work.accounts.memberships(ann.id) == ((org, OrgRole.ADMIN),)
        assert await work.accounts.members(org.id) == ((ann, OrgRole.ADMIN),)
    async with db.write() as work:
        await work.accounts.remove_member(org.id, ann.id)
        assert await work.accounts.members(org.id) == ()


async def test_tokens_and_sessions_come_back_whole_and_die_with_their_user(db: Database, ann: Account) -> None:
    later = NOW + timedelta(days=1)
    token = Token(TokenId(new_id()), ann.id, "ci", TokenRole.FINE_GRAINED, "f" * 64, NOW, later, later, later, {"ann/demo": "write"})
    session = Session(SessionId(new_id()), ann.id, "e" * 64, "csrf", NOW, later, "agent", "1.2.3.4")
    async with db.write() as work:
        await work.tokens.add(token)
        await work.tokens.add_session(session)
        with pytest.raises(NameTaken):
            await work.tokens.add(replace(token, id=TokenId(new_id())))
    async with db.read() as work:
        assert await work.tokens.by_hash("f" * 64) == token
        assert await work.tokens.get(token.id) == token
        assert await work.tokens.of_user(ann.id) == (token,)
        assert await work.tokens.session_by_hash("e" * 64) == session
        assert await work.tokens.sessions_of(ann.id) == (session,)
    async with db.write() as work:
        await work.tokens.save(replace(token, revoked_at=None))
        await work.tokens.remove_session(session.id)
        found = await work.tokens.get(token.id)
        assert found is not None
        assert found.revoked_at is None
        assert await work.tokens.sessions_of(ann.id) == ()
        await work.accounts.remove(ann.id)
        assert await work.tokens.by_hash("f" * 64) is None


async def test_a_notice_is_one_row_per_person_and_topic(db: Database) -> None:
    ann, bob = user(), user("bob")
    its_repo = repo(ann)
    first = Notice(ann.id, "t", NoticeKind.COMMENT, its_repo.id, NOW, "bob", "Which edition?", "The first?", 3)
    async with db.write() as work:
        await work.accounts.add(ann)
        await work.accounts.add(bob)
        await work.repos.add(its_repo)
        await work.notices.tell(first)
        assert await work.notices.get(ann.id, "t") == first
        later = replace(first, at=NOW + timedelta(hours=1), kind=NoticeKind.CLOSED, words="")
        await work.notices.tell(later)  # nobody read the first
        await work.notices.tell(replace(first, topic="u", at=NOW - timedelta(days=1)))
        await work.notices.tell(replace(first, account_id=bob.id))
        assert await work.notices.of_account(ann.id) == (
            replace(later, count=2),
            replace(first, topic="u", at=NOW - timedelta(days=1)),
        )
        assert [n.topic for n in await work.notices.of_account(ann.id, limit=1, offset=1)] == ["u"]
        assert await work.notices.mark(ann.id, NOW, ["t", "nothing"]) == 1
        assert await work.notices.mark(ann.id, NOW, ["t"]) == 0
        assert (await work.notices.count(ann.id), await work.notices.count(ann.id, unread_only=True)) == (2, 1)
        assert [n.topic for n in await work.notices.of_account(ann.id, unread_only=True)] == ["u"]
        await work.notices.tell(later)  # after it was read, the count begins again
        told = await work.notices.get(ann.id, "t")
        assert told is not None and (told.count, told.read_at) == (1, None)
        assert await work.notices.mark(ann.id, NOW) == 2
        assert await work.notices.mark(ann.id, None, ["u"]) == 1
        assert await work.notices.count(bob.id, unread_only=True) == 1, "another person's stay"
        assert await work.notices.prune(NOW) == 1
        await work.repos.remove(its_repo.id)
        assert await work.notices.of_account(bob.id) == ()


async def test_a_request_for_access_is_one_row_per_person_and_repository(db: Database) -> None:
    ann, bob, eve = user(), user("bob"), user("eve")
    model = repo(ann, type=RepoType.MODEL, gate=Gate.MANUAL)
    first = AccessRequest("one", model.id, bob.id, RequestStatus.PENDING, NOW, {"why": "work"})
    later = AccessRequest("two", model.id, eve.id, RequestStatus.PENDING, NOW + timedelta(hours=1), is_granted=True)
    async with db.write() as work:
        for account in (ann, bob, eve):
            await work.accounts.add(account)
        await work.repos.add(model)
        await work.repos.add(repo(ann, "open", type=RepoType.MODEL))
        for request in (first, later):
            await work.gates.put(request)
        assert await work.gates.get(model.id, bob.id) == first == await work.gates.by_id(model.id, "one")
        assert await work.gates.by_id(RepoId("other"), "one") is None
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING) == (later, first)
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING, limit=1, offset=1) == (first,)
        await work.gates.put(replace(first, id="never", status=RequestStatus.REJECTED, reason="no"))
        assert await work.gates.get(model.id, bob.id) == replace(first, status=RequestStatus.REJECTED, reason="no"), "the id stays"
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING) == (later,)
        await work.accounts.save(replace(eve, is_suspended=True))
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING) == ()
        for gated, names in ((True, ["demo"]), (False, ["open"]), (None, ["open", "demo"])):
            assert [r.name for r in await work.repos.list(RepoQuery(RepoType.MODEL, gated=gated), sort="created")] == names
        await work.repos.remove(model.id)
        assert await work.gates.get(model.id, bob.id) is None
