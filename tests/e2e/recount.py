"""What an account uses, counted by somebody else than the platform: rows of what there is, bytes of folders, processes of the machine."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from control_plane.db.ledger_tables import usage
from control_plane.db.tables import accounts, builds, replicas, repos
from control_plane.domain.hardware import FlavorCatalog

_OPEN_BUILD = ("queued", "running")


class Recount:
    """`database_url` as the platform has it, "" = the SQLite file in its data dir."""

    def __init__(self, data_dir: Path, database_url: str, owner: str) -> None:
        self._data_dir, self._owner = data_dir, owner
        url = database_url.replace("postgresql://", "postgresql+psycopg://", 1) or f"sqlite:///{data_dir / 'vitrine.db'}"
        self._engine = sql.create_engine(url, poolclass=sql.NullPool)

    def counters(self) -> dict[str, float]:
        """Quota key → use, for what the rows and the disk say now."""
        catalog = FlavorCatalog()
        with self._engine.begin() as rows:
            owned = rows.execute(sql.select(repos).where(repos.c.owner_id == self._owner_id(rows))).mappings().all()
            ids = [repo["id"] for repo in owned]
            running = [r for r in self._of(rows, replicas, ids) if r["state"] not in ("stopped", "failed")]
        flavors = [flavor for r in running if (flavor := catalog.find(r["hardware"]))]
        return {
            "spaces": len([repo for repo in owned if repo["type"] == "space"]),
            "running": len(running),
            "vcpu": sum(flavor.vcpu for flavor in flavors),
            "memory-gb": sum(flavor.memory_gb for flavor in flavors),
            "storage-gb": sum(self._bytes_of(repo_id) for repo_id in ids) / 1e9,
        }

    def metered(self) -> tuple[dict[str, float], dict[str, float]]:
        """Key → amount as it was written down, and as builds and replicas that ended say."""
        with self._engine.begin() as rows:
            owner = self._owner_id(rows)
            ids = [row.id for row in rows.execute(sql.select(repos.c.id).where(repos.c.owner_id == owner))]
            written = defaultdict[str, float](float)
            for row in rows.execute(sql.select(usage).where(usage.c.account_id == owner)).mappings():
                written[row["key"]] += row["amount"]
            seconds = {
                "build-minutes": [_seconds(b, "finished_at") for b in self._of(rows, builds, ids) if b["status"] not in _OPEN_BUILD],
                "hours": [_seconds(r, "stopped_at") for r in self._of(rows, replicas, ids) if r["state"] in ("stopped", "failed")],
            }
        return dict(written), {"build-minutes": sum(seconds["build-minutes"]) / 60, "hours": sum(seconds["hours"]) / 3600}

    def processes(self, name: str) -> int:
        """How many of an app's own processes run on this machine."""
        found = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    is_app = f"SPACE_ID={self._owner}/{name}\0".encode() in (entry / "environ").read_bytes()
                    found += is_app and b"app.py" in (entry / "cmdline").read_bytes()
                except OSError:
                    continue
        return found

    def _owner_id(self, rows: sql.Connection) -> str:
        return str(rows.execute(sql.select(accounts.c.id).where(accounts.c.name == self._owner)).scalar_one())

    def _of(self, rows: sql.Connection, table: sql.Table, ids: list[str]) -> list[Any]:
        return list(rows.execute(sql.select(table).where(table.c.space_id.in_(ids))).mappings())

    def _bytes_of(self, repo_id: str) -> int:
        folders = (self._data_dir / "repos" / f"{repo_id}.git", self._data_dir / "lfs" / repo_id)
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def _seconds(row: Any, end: str) -> float:
    return (row[end] - row["started_at"]).total_seconds() if row["started_at"] and row[end] else 0.0
