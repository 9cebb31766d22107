"""Audit, garbage, backup and restore."""

from __future__ import annotations

from pathlib import Path

import click

from control_plane.cli.client import Platform
from control_plane.cli.output import Out, Since, confirm, size, talks


@click.command(epilog="Example: vitrine admin audit --since 7d --actor ann        or: vitrine admin audit --verify")
@click.option("--since", type=Since(), metavar="7d", help="A duration back, or a date or time in UTC.")
@click.option("--actor", help="Only what this user did.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Newest this many.")
@click.option("--verify", is_flag=True, help="Check the hash chain of the whole log instead.")
@talks
def audit(since: str | None, actor: str | None, limit: int, verify: bool, platform: Platform, out: Out) -> None:
    """Who changed what, newest first."""
    if verify:
        found = platform.call("GET", "/api/admin/audit/verification")
        if not found["whole"]:
            out.one(found, "", bare=None) if out.as_json else None
            raise click.ClickException(f"the audit log was changed: row {found['first_broken_id']} does not fit the one before it")
        out.one(found, "The audit log is whole.", bare="ok")
        return
    rows = platform.call("GET", "/api/admin/audit", params={"since": since, "actor": actor, "limit": limit})["items"]
    columns = {"at": "When", "actor": "Who", "action": "What", "subject": "On"}
    out.table(rows, columns, bare="id", empty="Nothing was recorded in this time.")


@click.command(epilog="Example: vitrine admin gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def gc(dry_run: bool, yes: bool, platform: Platform, out: Out) -> None:
    """Delete what nothing refers to any more: old bundles, logs and files of removed Spaces."""
    if not dry_run:
        confirm("Delete everything that nothing refers to?", yes)
    found = platform.call("POST", "/api/admin/gc", params={"dry_run": "true" if dry_run else "false"})
    if out.as_json or out.quiet:
        out.one(found, "", bare=found["bytes"])
        return
    rows = [{**row, "bytes": size(row["bytes"])} for row in found["items"]]
    out.table(rows, {"kind": "Kind", "name": "Name", "bytes": "Size", "why": "Why"}, bare="name", empty="Nothing to collect.")
    if rows:
        click.echo(f"{'Would free' if dry_run else 'Freed'} {size(found['bytes'])}.")


@click.command(epilog="Example: vitrine admin backup /backups/$(date +%F)")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@talks
def backup(folder: Path, platform: Platform, out: Out) -> None:
    """Write database, repositories and large files to DIR while the platform runs.

    Secrets stay encrypted; the key that opens them (secret.key or VITRINE_SECRET_KEY) is not in it. Keep it elsewhere.
    """
    from control_plane.cli.backup import receive

    found = receive(platform.stream("/api/admin/backup"), folder, show=not (out.as_json or out.quiet))
    out.one(found, f"{found['files']} files, {size(found['bytes'])}, every hash checked: {folder}", bare=str(folder))


@click.command(epilog="Example: vitrine admin restore /backups/2026-08-01 --into /srv/vitrine")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), required=True, help="Data dir to make: empty or absent.")
@click.option("--database-url", envvar="VITRINE_DATABASE_URL", help="Restore the rows to this empty PostgreSQL database instead of SQLite.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print the bare value only.")
def restore(folder: Path, into: Path, database_url: str | None, as_json: bool, quiet: bool) -> None:
    """Make a data dir from a backup, checking every hash. No platform may run there."""
    from control_plane.cli.backup import restore_into

    found = restore_into(folder, into, database_url)
    words = f"{found['files']} files restored to {into}, every hash equal. Put the old secret.key there, then: vitrine up --data-dir {into}"
    Out(as_json, quiet).one(found, words, bare=str(into))


COMMANDS = (audit, gc, backup, restore)
