"""Every test of this folder runs on a SQLite file and on PostgreSQL."""

from __future__ import annotations

import pytest

from control_plane.db.engine import Database
from control_plane.domain.accounts import Account
from control_plane.domain.spaces import Space
from tests.contract.stores.databases import clock, db, postgres, sqlite_template, url
from tests.contract.stores.rows import repo, space, user

__all__ = ("clock", "db", "postgres", "sqlite_template", "url")  # fixtures, found by name


@pytest.fixture
async def ann(db: Database) -> Account:
    account = user()
    async with db.write() as work:
        await work.accounts.add(account)
    return account


@pytest.fixture
async def demo(db: Database, ann: Account) -> Space:
    its_repo = repo(ann)
    its_space = space(its_repo)
    async with db.write() as work:
        await work.repos.add(its_repo)
        await work.spaces.add(its_space)
    return its_space
