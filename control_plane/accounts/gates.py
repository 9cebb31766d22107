"""Who is let in to a gated model or dataset: asking, deciding, looking it up.

Members of the owner's organisation, the owner and administrators need no request. A request belongs to a person, not
to a token; leaving the platform takes it away, and so does removing the repository.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from control_plane.accounts import policy
from control_plane.accounts.audit import record
from control_plane.domain.accounts import Account, AccountKind, Action, Actor
from control_plane.domain.errors import NotFound, Rejected, RepoNotFound
from control_plane.domain.gates import AccessRequest, Gate, RequestStatus
from control_plane.domain.spaces import Repo, RepoType, Visibility
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

_MAX_FIELDS, _MAX_TEXT = 30, 2000


async def request_of(uow: UnitOfWork, actor: Actor, action: Action, repo: Repo | None) -> AccessRequest | None:
    """What the caller asked of a gated repository; looked up only where it can matter: a private one is for members alone."""
    if repo is None or repo.gate is Gate.OPEN or repo.visibility is not Visibility.PUBLIC or action is not Action.READ_FILES:
        return None
    if actor.user is None:
        return None
    return await uow.gates.get(repo.id, actor.user.id)


def gate_of(value: object, repo_type: RepoType) -> Gate:
    """The `gated` setting as clients send it: "auto", "manual" or false."""
    if value is False:
        return Gate.OPEN
    if value not in (Gate.AUTO.value, Gate.MANUAL.value):
        raise Rejected("gated: allowed are 'auto', 'manual' and false")
    if repo_type is RepoType.SPACE:
        raise Rejected("Spaces cannot be gated; use visibility private or protected")
    return Gate(value)


async def ask(uow: UnitOfWork, clock: Clock, actor: Actor, repo: Repo, fields: Mapping[str, object]) -> tuple[AccessRequest, bool]:
    """The caller's request, and whether it is new; let in at once where the gate is automatic."""
    user = policy.require_user(actor, write=True)
    _require_gate(repo)
    known = await uow.gates.get(repo.id, user.id)
    if known is not None and (known.status is not RequestStatus.PENDING or repo.gate is Gate.MANUAL):
        return known, False
    status = RequestStatus.ACCEPTED if repo.gate is Gate.AUTO else RequestStatus.PENDING
    made = AccessRequest(secrets.token_hex(12), repo.id, user.id, status, clock.now(), _texts(fields))
    await uow.gates.put(made)
    await _record(uow, clock, actor, "repo.ask_access", repo, user, status)
    return await uow.gates.get(repo.id, user.id) or made, True


async def decide(
    uow: UnitOfWork,
    clock: Clock,
    actor: Actor,
    repo: Repo,
    status: RequestStatus,
    *,
    user: str = "",
    request_id: str = "",
    reason: str = "",
) -> AccessRequest:
    """Move somebody's request to another list. NotFound: no such person, no request of theirs, or it is there already."""
    _require_gate(repo)
    if request_id:
        found, account = await uow.gates.by_id(repo.id, request_id), None
    else:
        account = await _person(uow, user)
        found = await uow.gates.get(repo.id, account.id)
    if found is None:
        raise NotFound("there is no such request; `list_pending_access_requests` shows those that wait", code="RequestNotFound")
    if found.status is status:
        raise NotFound(f"the request is {status.value} already", code="RequestNotFound")
    account = account or await uow.accounts.get(found.user_id)
    if account is None:
        raise RepoNotFound()
    decided = replace(found, status=status, reason=reason[:_MAX_TEXT] if status is RequestStatus.REJECTED else "")
    await uow.gates.put(decided)
    await _record(uow, clock, actor, "repo.decide_access", repo, account, status)
    return decided


async def grant(uow: UnitOfWork, clock: Clock, actor: Actor, repo: Repo, user: str) -> AccessRequest:
    """Let somebody in who has not asked. Rejected when they have access already."""
    _require_gate(repo)
    account = await _person(uow, user)
    known = await uow.gates.get(repo.id, account.id)
    if known is not None and known.status is RequestStatus.ACCEPTED:
        raise Rejected(f"{account.name} has access already")
    made = AccessRequest(secrets.token_hex(12), repo.id, account.id, RequestStatus.ACCEPTED, clock.now(), is_granted=True)
    made = replace(known, status=RequestStatus.ACCEPTED, reason="") if known is not None else made
    await uow.gates.put(made)
    await _record(uow, clock, actor, "repo.grant_access", repo, account, RequestStatus.ACCEPTED)
    return made


async def set_gate(uow: UnitOfWork, clock: Clock, signals: Signals, actor: Actor, repo: Repo, gate: Gate) -> Repo:
    """Told like a change of visibility: apps stop sharing what they downloaded."""
    current = await uow.repos.get(repo.id)
    if current is None:
        raise RepoNotFound()
    if current.gate is gate:
        return current
    changed = replace(current, gate=gate)
    await uow.repos.save(changed)
    facts = {"before": current.gate.value or "open", "after": gate.value or "open"}
    await record(uow, actor, "repo.gate", f"{repo.type.value}:{repo.full_name}", facts, clock.now())

    async def told() -> None:
        await signals.notify("access", repo.id)

    uow.after_commit(told)
    return changed


def _require_gate(repo: Repo) -> None:
    if repo.gate is Gate.OPEN:
        raise Rejected(f"{repo.type.value} {repo.full_name} is not gated; set `gated` to 'auto' or 'manual' in its settings first")


async def _person(uow: UnitOfWork, name: str) -> Account:
    account = await uow.accounts.by_name(name) if 0 < len(name) <= 96 else None
    if account is None or account.kind is not AccountKind.USER:
        raise NotFound(f"there is no user '{name[:96]}'", code="UserNotFound")
    return account


def _texts(fields: Mapping[str, object]) -> dict[str, str]:
    """What was filled in, as texts that every database keeps: no NUL, no half of a surrogate pair."""

    def clean(text: object, most: int) -> str:
        return str(text)[:most].replace("\x00", "").encode(errors="replace").decode()

    return {clean(key, 200): clean(value, _MAX_TEXT) for key, value in list(fields.items())[:_MAX_FIELDS]}


async def _record(uow: UnitOfWork, clock: Clock, actor: Actor, action: str, repo: Repo, user: Account, status: RequestStatus) -> None:
    await record(uow, actor, action, f"{repo.type.value}:{repo.full_name}", {"user": user.name, "status": status.value}, clock.now())
