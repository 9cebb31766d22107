"""Requests for access to gated repositories: one row per repository and person."""

from __future__ import annotations

from sqlalchemy import select

from control_plane.db.ledger_tables import access_requests
from control_plane.db.rows import Row, Rows
from control_plane.db.tables import accounts
from control_plane.domain.gates import AccessRequest, RequestStatus
from control_plane.domain.ids import AccountId, RepoId


class SqlGateStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, repo_id: RepoId, user_id: AccountId) -> AccessRequest | None:
        row = await self._rows.one(
            select(access_requests).where(access_requests.c.repo_id == repo_id, access_requests.c.user_id == user_id)
        )
        return _request(row) if row is not None else None

    async def by_id(self, repo_id: RepoId, request_id: str) -> AccessRequest | None:
        row = await self._rows.one(select(access_requests).where(access_requests.c.repo_id == repo_id, access_requests.c.id == request_id))
        return _request(row) if row is not None else None

    async def put(self, request: AccessRequest) -> None:
        row = {
            "id": request.id,
            "repo_id": request.repo_id,
            "user_id": request.user_id,
            "status": request.status.value,
            "at": request.at,
            "fields": dict(request.fields),
            "reason": request.reason,
            "is_granted": request.is_granted,
        }
        await self._rows.put(access_requests, row, key=("repo_id", "user_id"), keep=("id",))

    async def of_repo(self, repo_id: RepoId, status: RequestStatus, *, limit: int = 100, offset: int = 0) -> tuple[AccessRequest, ...]:
        query = select(access_requests).where(access_requests.c.repo_id == repo_id, access_requests.c.status == status.value)
        query = query.join(accounts, accounts.c.id == access_requests.c.user_id).where(accounts.c.is_suspended.is_(False))
        rows = await self._rows.all(query.order_by(access_requests.c.at.desc(), access_requests.c.id).limit(limit).offset(offset))
        return tuple(_request(row) for row in rows)


def _request(row: Row) -> AccessRequest:
    return AccessRequest(
        id=row["id"],
        repo_id=RepoId(row["repo_id"]),
        user_id=AccountId(row["user_id"]),
        status=RequestStatus(row["status"]),
        at=row["at"],
        fields=dict(row["fields"]),
        reason=row["reason"],
        is_granted=row["is_granted"],
    )
