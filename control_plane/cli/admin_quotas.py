"""Quotas, usage, pools."""

from __future__ import annotations

import csv
import sys
from typing import Any

import click

from control_plane.cli import names
from control_plane.cli.client import Platform, part
from control_plane.cli.output import Duration, Out, cell, talks

_SHOW = {"key": "Quota", "limit": "Limit", "used": "In use", "over": "Over", "source": "From", "frees_at": "Resets"}


@click.group()
def quota() -> None:
    """Limits of users and organisations, and the defaults.

    Keys: spaces, running, running.FLAVOR (0 forbids a flavor), gpu-hours and build-minutes (per calendar month),
    storage-gb, memory-gb, vcpu. A value is a plain number or `unlimited`.
    """


def _shown(rows: list[dict[str, Any]], out: Out) -> list[dict[str, Any]]:
    return rows if out.as_json else [{**row, "limit": "unlimited" if row["limit"] is None else row["limit"]} for row in rows]


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        key, equals, limit = value.partition("=")
        if not key or not equals or not limit:
            raise click.UsageError(f"'{value}' is not KEY=VALUE; for example spaces=5 or running.t4-small=0")
        if key in found:
            raise click.UsageError(f"the key '{key}' is given twice")
        found[key] = limit
    return found


def _changed(found: dict[str, Any], out: Out, what: str) -> None:
    over = found["over"]
    head = "Nothing was changed; this would be so: " if found["dry_run"] else ""
    lines = [f"{head}{what}"]
    lines += [f"  over: {o['subject']} uses {cell(o['used'])} of {o['key']}, limit {cell(o['limit'])}; nothing is stopped" for o in over]
    if found["dry_run"] and not over:
        lines.append("  nobody would be over")
    out.one(found, "\n".join(lines), bare=found["subject"])


_DRY_RUN = click.option("--dry-run", is_flag=True, help="Change nothing; tell who would be over.")


@quota.command("show", epilog="Example: vitrine admin quota show ann")
@click.argument("subject", shell_complete=names.subjects)
@talks
def show(subject: str, platform: Platform, out: Out) -> None:
    """Every limit of SUBJECT, where it comes from, and its use."""
    rows = platform.call("GET", f"/api/admin/quotas/{part(subject)}")["items"]
    out.table(_shown(rows, out), _SHOW, bare="key", empty="No quotas.")


@quota.command("set", epilog="Example: vitrine admin quota set ann spaces=5 running.a100-large=0 gpu-hours=20")
@click.argument("subject", shell_complete=names.subjects)
@click.argument("values", metavar="KEY=VALUE...", nargs=-1, required=True, shell_complete=names.limits)
@_DRY_RUN
@talks
def set_quota(subject: str, values: tuple[str, ...], dry_run: bool, platform: Platform, out: Out) -> None:
    """Set limits of SUBJECT. Lowering one below its use stops nothing; it refuses more."""
    pairs = _pairs(values)
    found = platform.call("PATCH", f"/api/admin/quotas/{part(subject)}", body={"limits": pairs}, params={"dry_run": dry_run or None})
    _changed(found, out, f"{found['subject']}: " + ", ".join(f"{k} = {v}" for k, v in pairs.items()))


@quota.command("unset", epilog="Example: vitrine admin quota unset ann spaces")
@click.argument("subject", shell_complete=names.subjects)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, shell_complete=names.limits)
@_DRY_RUN
@talks
def unset(subject: str, keys: tuple[str, ...], dry_run: bool, platform: Platform, out: Out) -> None:
    """Let SUBJECT fall back to the defaults for KEYs."""
    found = platform.call("PATCH", f"/api/admin/quotas/{part(subject)}", body={"unset": list(keys)}, params={"dry_run": dry_run or None})
    _changed(found, out, f"{found['subject']}: {', '.join(keys)} by default again")


@quota.command("list", epilog="Example: vitrine admin quota list --json")
@talks
def list_quotas(platform: Platform, out: Out) -> None:
    """Every limit that somebody has for themselves."""
    rows = platform.call("GET", "/api/admin/quotas")["items"]
    columns = {"subject": "Subject", "key": "Quota", "limit": "Limit", "used": "In use", "over": "Over"}
    out.table(_shown(rows, out), columns, bare="subject", empty="Nobody has limits of their own; see `vitrine admin quota defaults`.")


@quota.command("defaults", epilog="Example: vitrine admin quota defaults spaces=10 running=2")
@click.argument("values", metavar="[KEY=VALUE...]", nargs=-1, shell_complete=names.limits)
@click.option("--unset", "unset_keys", multiple=True, metavar="KEY", help="Back to the built-in value; may be given several times.")
@_DRY_RUN
@talks
def defaults(values: tuple[str, ...], unset_keys: tuple[str, ...], dry_run: bool, platform: Platform, out: Out) -> None:
    """Show the defaults, or change them."""
    if not values and not unset_keys:
        rows = platform.call("GET", "/api/admin/quota-defaults")["items"]
        out.table(_shown(rows, out), {"key": "Quota", "limit": "Limit", "source": "From"}, bare="key", empty="No defaults.")
        return
    pairs = _pairs(values)
    body = {"limits": pairs, "unset": list(unset_keys)}
    found = platform.call("PATCH", "/api/admin/quota-defaults", body=body, params={"dry_run": dry_run or None})
    _changed(found, out, "defaults: " + ", ".join([*(f"{k} = {v}" for k, v in pairs.items()), *(f"{k} unset" for k in unset_keys)]))


@click.command(epilog="\b\nExamples:\n  vitrine admin usage ann --since 7d\n  vitrine admin usage --since 30d --csv > usage.csv")
@click.argument("subject", required=False, shell_complete=names.subjects)
@click.option("--since", type=Duration(), default="30d", show_default=True, help="How far back.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@talks
def usage(subject: str | None, since: int, as_csv: bool, platform: Platform, out: Out) -> None:
    """Metered use per day, Space and flavor, with cost. Running replicas are metered when they end."""
    rows = platform.call("GET", "/api/admin/usage", params={"subject": subject, "since_s": since})["items"]
    columns = {"day": "Day", "space": "Space", "key": "What", "flavor": "Hardware", "amount": "Amount", "cost_usd": "USD"}
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["subject", *columns])
        # A leading =, +, - or @ would be run as a formula by a spreadsheet.
        writer.writerows([_inert(row["subject"]), *(_inert(row[key]) for key in columns)] for row in rows)
        return
    out.table(rows, columns, bare="amount", empty="Nothing was metered in this time.")


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


@click.group()
def pool() -> None:
    """Pools of machines."""


@pool.command("list", epilog="Example: vitrine admin pool list")
@talks
def list_pools(platform: Platform, out: Out) -> None:
    """Per pool and flavor: nodes, and units total, used, free and queued."""
    columns = {"pool": "Pool", "flavor": "Hardware", "nodes": "Nodes", "total": "Total", "used": "Used", "free": "Free", "queued": "Queued"}
    found = platform.call("GET", "/api/admin/pools")
    out.table(found["items"], columns, bare="pool", empty="No pools.")
    if found.get("warning") and not out.quiet:
        click.echo(f"warning: {found['warning']}", err=True)


COMMANDS = (quota, usage, pool)
