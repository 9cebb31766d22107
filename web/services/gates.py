"""The gate of a model or dataset: asking for access, and deciding."""

from __future__ import annotations

from control_plane.accounts import gates, policy
from control_plane.community import notices
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Rejected
from control_plane.domain.gates import Gate, RequestStatus
from control_plane.domain.spaces import Repo, RepoType
from control_plane.ports.stores import UnitOfWork
from web.services.deps import Base
from web.views import AccessRow

_SHOWN = 200  # requests of one list; the API pages through more


class GatesFamily(Base):
    async def ask_access(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None:
        repo = await self.repo_for(actor, kind, owner, name, Action.READ_CODE)
        async with self.d.uow.write() as uow:
            made, is_new = await gates.ask(uow, self.d.clock, actor, repo, {})
            if is_new and made.status is RequestStatus.PENDING:
                await notices.of_asked(uow, self.d.signals, repo, policy.require_user(actor), made.at)

    async def set_gate(self, actor: Actor, kind: RepoType, owner: str, name: str, gate: str) -> None:
        repo = await self.repo_for(actor, kind, owner, name, Action.ADMIN)
        wanted = gates.gate_of(gate or False, kind)
        async with self.d.uow.write() as uow:
            await gates.set_gate(uow, self.d.clock, self.d.signals, actor, repo, wanted)

    async def decide_access(self, actor: Actor, kind: RepoType, owner: str, name: str, request_id: str, status: str) -> None:
        repo = await self.repo_for(actor, kind, owner, name, Action.WRITE)
        if status not in (RequestStatus.ACCEPTED, RequestStatus.REJECTED) or not request_id:
            raise Rejected("a request is accepted or rejected")
        async with self.d.uow.write() as uow:
            decided = await gates.decide(uow, self.d.clock, actor, repo, RequestStatus(status), request_id=request_id)
            accepted = decided.status is RequestStatus.ACCEPTED
            await notices.of_decided(uow, self.d.signals, repo, decided.user_id, accepted=accepted, reason="", at=self.d.clock.now())


async def access_rows(uow: UnitOfWork, repo: Repo) -> tuple[AccessRow, ...]:
    """Who waits, then who was let in, then who was not."""
    if repo.gate is Gate.OPEN:
        return ()
    rows = []
    for status in (RequestStatus.PENDING, RequestStatus.ACCEPTED, RequestStatus.REJECTED):
        for request in await uow.gates.of_repo(repo.id, status, limit=_SHOWN):
            if user := await uow.accounts.get(request.user_id):
                rows.append(AccessRow(request.id, user.name, status.value, request.at))
    return tuple(rows)
