"""Run by Alembic. The connection, its transaction and its lock come from `control_plane.db.migrate`."""

from __future__ import annotations

from typing import Any

from alembic import context

from control_plane.db.tables import metadata


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """The search indexes are SQLite's own affair; they are not part of the metadata."""
    return not (type_ == "table" and (name or "").startswith("repo_search"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=include_name,
    render_as_batch=False,
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
