"""Audit, maintenance, keys, garbage, backup and restore."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from control_plane.cli.client import EXPECTED_LINES, Platform
from control_plane.cli.output import Out, Row, Since, cell, confirm, size, talks
from control_plane.cli.progress import Task, bar, counting


@click.command(epilog="\b\nExamples:\n  vitrine admin audit --since 7d --actor ann\n  vitrine admin audit --verify")
@click.option("--since", type=Since(), metavar="7d", help="A duration back, or a date or time in UTC.")
@click.option("--actor", help="Only what this user did.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Newest this many.")
@click.option("--verify", is_flag=True, help="Check the hash chain of the whole log instead.")
@click.option(
    "--export",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the whole log, one JSON object a line.",
)
@talks
def audit(since: str | None, actor: str | None, limit: int, verify: bool, target: Path | None, platform: Platform, out: Out) -> None:
    """Who changed what, newest first."""
    if verify and target is not None:
        raise click.UsageError("give either --verify or --export")
    if target is not None:
        with counting("Audit log", out) as task:
            count = _written(platform, target, task)
        out.one({"file": str(target), "events": count}, f"{count} events written to {target}.", bare=count)
        return
    if verify:
        with counting("Audit log", out) as task:
            found = platform.follow("GET", "/api/admin/audit/verification", task)
        if not found["whole"]:
            out.one(found, "", bare=None) if out.as_json else None
            raise click.ClickException(f"the audit log was changed: row {found['first_broken_id']} does not fit the one before it")
        out.one(found, "The audit log is whole.", bare="ok")
        return
    from control_plane.domain.audit_words import change_words

    rows = platform.call("GET", "/api/admin/audit", params={"since": since, "actor": actor, "limit": limit})["items"]

    def tell(row: Row) -> tuple[str, ...]:
        more = " · ".join(part for part in (change_words(row["facts"]), row["address"] and f"from {row['address']}") if part)
        return (row["at"], f"{row['actor']}  {row['action']}  {row['subject']}", *([more] if more else []))

    out.story(rows, tell, bare="id", empty="Nothing was recorded in this time.")


def _written(platform: Platform, target: Path, told: Task) -> int:
    """How many lines came. The file is there whole or not at all."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        count = 0
        with open(draft, "xb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            expected, chunks = platform.download("/api/admin/audit/export", EXPECTED_LINES)
            for chunk in chunks:
                file.write(chunk)
                count += chunk.count(b"\n")
                told.now(count, expected, "events written")
        os.replace(draft, target)
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return count


@click.group()
def maintenance() -> None:
    """Refuse changes while you work on the platform; people read and apps run."""


def _maintenance_line(found: dict[str, Any]) -> str:
    if not found["on"]:
        return "No maintenance: the platform takes changes."
    return f"Maintenance since {cell(found['since'])} by {found['by']}: {found['message']}"


@maintenance.command("show", epilog="Example: vitrine admin maintenance show --quiet")
@talks
def show_maintenance(platform: Platform, out: Out) -> None:
    """Whether maintenance is on, since when, and its message."""
    found = platform.call("GET", "/api/admin/maintenance")
    out.one(found, _maintenance_line(found), bare="on" if found["on"] else "off")


@maintenance.command("on", epilog='Example: vitrine admin maintenance on --message "New disks until 18:00 UTC"')
@click.option("--message", help="What people read in pages, pushes and answers of the API.")
@talks
def maintenance_on(message: str | None, platform: Platform, out: Out) -> None:
    """Refuse changes from now on."""
    body = {"on": True} if message is None else {"on": True, "message": message}
    found = platform.call("PUT", "/api/admin/maintenance", body=body)
    out.one(found, _maintenance_line(found), bare="on")


@maintenance.command("off", epilog="Example: vitrine admin maintenance off")
@talks
def maintenance_off(platform: Platform, out: Out) -> None:
    """Take changes again."""
    found = platform.call("PUT", "/api/admin/maintenance", body={"on": False})
    out.one(found, _maintenance_line(found), bare="off")


@click.group()
def key() -> None:
    """Master keys: what secrets in the database are sealed with."""


_KEYS = {"id": "Key", "seals": "Seals now", "known": "Known here", "secrets": "Secrets"}


@key.command("list", epilog="Example: vitrine admin key list")
@talks
def list_keys(platform: Platform, out: Out) -> None:
    """How many secrets each key opens; ids only, never a key itself."""
    out.table(platform.call("GET", "/api/admin/keys")["items"], _KEYS, bare="id", empty="No keys.")


def _rekeyed(order: dict[str, bool], platform: Platform, out: Out, more: str = "") -> None:
    with counting("Secrets", out) as task:
        found = platform.follow("POST", "/api/admin/keys", task, body=order)
    words = f"Key {found['key']} seals now; {found['rewrapped']} secrets were wrapped with it."
    if found["unreadable"]:
        words += f" {found['unreadable']} secrets cannot be opened with any key known here and stay as they are."
    out.one(found, words + more, bare=found["key"])


@key.command("rotate", epilog="Example: vitrine admin key rotate --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def rotate_key(yes: bool, platform: Platform, out: Out) -> None:
    """Make a new master key, and wrap every secret with it.

    The platform runs on. Old keys stay until `key retire`.
    Copy secret.key to where you keep it, as you did with the first one: backups made from now on need the new key.
    """
    confirm("Make a new master key?", yes)
    _rekeyed({"rotate": True}, platform, out, " Copy secret.key to your safe place.")


@key.command("rewrap", epilog="Example: vitrine admin key rewrap")
@talks
def rewrap_secrets(platform: Platform, out: Out) -> None:
    """Wrap every secret with the newest key.

    For keys that come from VITRINE_SECRET_KEY; `key rotate` does it by itself.
    """
    _rekeyed({}, platform, out)


@key.command("retire", epilog="Example: vitrine admin key retire --yes")
@click.option("--signing", is_flag=True, help="An old key was seen by others: renew what signs cookies and links, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def retire_keys(signing: bool, yes: bool, platform: Platform, out: Out) -> None:
    """Remove every master key but the newest. Backups made before the rotation need the old key; keep it with them.

    Nothing has to be restarted: what signs cookies and links stays as it is. With --signing that comes from the newest key
    as well; restart every process of the platform then, and people sign in to private apps again.
    """
    confirm("Remove the old master keys?", yes)
    more = " Old keys are gone; restart the platform now." if signing else " Old keys are gone."
    _rekeyed({"retire": True, "signing": signing}, platform, out, more)


@click.command(epilog="Example: vitrine admin gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def gc(dry_run: bool, yes: bool, platform: Platform, out: Out) -> None:
    """Delete what nothing refers to any more.

    Old bundles, environments and images, large files without a commit, logs of removed Spaces.
    Audit events go when VITRINE_AUDIT_KEEP_DAYS says so; what stays can still be verified.
    """
    if not dry_run and sys.stdin.isatty():  # a timer needs no word: the platform itself does most of it every few hours
        confirm("Delete everything that nothing refers to?", yes)
    with counting("Garbage", out) as task:
        found = platform.follow("POST", "/api/admin/gc", task, params={"dry_run": "true" if dry_run else "false"})
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
    """Write a backup to DIR while the platform runs.

    Database, repositories and large files. Secrets stay encrypted; the key that opens them (secret.key or
    VITRINE_SECRET_KEY) is not in it. Keep it elsewhere.
    """
    from control_plane.cli.backup import check_empty, receive

    check_empty(folder, "a backup")
    expected, chunks = platform.download("/api/admin/backup")
    with bar("Backup", expected, wanted=not (out.as_json or out.quiet)) as advance:
        found = receive(chunks, folder, advance)
    out.one(found, f"{found['files']} files, {size(found['bytes'])}, every hash checked: {folder}", bare=str(folder))


@click.command(epilog="Example: vitrine admin restore /backups/2026-08-01 --into /srv/vitrine")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--into", "--data-dir", "into", envvar="VITRINE_DATA_DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Data dir to make, empty or absent; default: .vitrine",
)  # fmt: skip
@click.option("--database-url", envvar="VITRINE_DATABASE_URL", help="Restore the rows to this empty PostgreSQL database instead of SQLite.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print the bare value only.")
@click.pass_context
def restore(ctx: click.Context, folder: Path, into: Path | None, database_url: str | None, as_json: bool, quiet: bool) -> None:
    """Make a data dir from a backup, checking every hash. No platform may run there."""
    from control_plane.cli.backup import bytes_of, restore_into

    into = into or (ctx.find_object(dict) or {}).get("data_dir") or Path(".vitrine")
    with bar("Restore", bytes_of(folder), wanted=not (as_json or quiet)) as advance:
        found = restore_into(folder, into, database_url, advance)
    words = f"{found['files']} files restored to {into}, every hash equal. Put the old secret.key there, then: vitrine up --data-dir {into}"
    Out(as_json, quiet).one(found, words, bare=str(into))


COMMANDS = (audit, maintenance, key, gc, backup, restore)
