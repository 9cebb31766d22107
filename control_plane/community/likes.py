"""Likes of repositories. One place for the Hub API and the pages."""

from __future__ import annotations

from datetime import datetime

from control_plane.community.noted import note, repo_subject
from control_plane.domain.accounts import Account, Actor
from control_plane.domain.spaces import Repo
from control_plane.ports.stores import UnitOfWork


async def like(uow: UnitOfWork, actor: Actor, user: Account, repo: Repo, liked: bool, now: datetime) -> None:
    """Give or take back a like. Safe to repeat: only what changed something is in the audit log."""
    if await uow.repos.like(user.id, repo.id, liked, now):
        await note(uow, actor, "repo.like" if liked else "repo.unlike", repo_subject(repo), {}, now)
