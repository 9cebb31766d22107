"""Users, organisations, tokens."""

from __future__ import annotations

import sys

import click

from control_plane.cli import names
from control_plane.cli.client import Platform, part
from control_plane.cli.output import Duration, Out, cell, confirm, talks
from control_plane.cli.progress import counting

_ACCOUNT = {"name": "User", "admin": "Admin", "suspended": "Suspended", "email": "E-mail", "created_at": "Since"}


@click.group()
def user() -> None:
    """Add, list, let in, suspend and remove users."""


@user.command("add", epilog="Example: vitrine admin user add ann --email ann@example.org --password-stdin < password.txt")
@click.argument("name")
@click.option("--admin", "is_admin", is_flag=True, help="A platform administrator.")
@click.option("--email", help="E-mail address.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input; without one: `user link`.")
@talks
def add_user(name: str, is_admin: bool, email: str | None, password_stdin: bool, platform: Platform, out: Out) -> None:
    """Add a user."""
    body: dict[str, object] = {"name": name, "admin": is_admin, "email": email}
    if password_stdin:
        body["password"] = sys.stdin.readline().rstrip("\r\n")
    made = platform.call("POST", "/api/admin/users", body=body)
    line = f"User {made['name']} added{' as platform admin' if is_admin else ''}."
    if not password_stdin:
        line += f" A first sign-in: vitrine admin user link {made['name']}"
    out.one(made, line, bare=made["name"])


@user.command("list", epilog="Example: vitrine admin user list --json")
@talks
def list_users(platform: Platform, out: Out) -> None:
    """List users."""
    out.table(platform.call("GET", "/api/admin/users")["items"], _ACCOUNT, bare="name", empty="No users.")


@user.command("suspend", epilog="\b\nExamples:\n  vitrine admin user suspend ann\n  vitrine admin user suspend ann --undo")
@click.argument("name", shell_complete=names.users)
@click.option("--undo", is_flag=True, help="Lift the suspension.")
@talks
def suspend_user(name: str, undo: bool, platform: Platform, out: Out) -> None:
    """Stop a user's apps, builds and tokens at once; nothing is deleted."""
    with counting("Spaces", out) as task:
        found = platform.follow("POST", f"/api/admin/users/{part(name)}/suspension", task, body={"suspended": not undo})
    line = (
        f"{found['name']} is back; {found['spaces']} Spaces may run again."
        if undo
        else f"{found['name']} is suspended; {found['spaces']} Spaces stop."
    )
    out.one(found, line, bare=found["name"])


@user.command("link", epilog="Example: vitrine admin user link ann --quiet")
@click.argument("name", shell_complete=names.users)
@talks
def sign_in_link(name: str, platform: Platform, out: Out) -> None:
    """Make an address that signs a user in once, within a day.

    For the first visit, or when a password is lost. Whoever has it is that user: send it only to them.
    """
    made = platform.call("POST", f"/api/admin/users/{part(name)}/sign-in-link")
    out.one(made, f"{made['user']} signs in once until {cell(made['expires_at'])} at:\n{made['link']}", bare=made["link"])


@user.command("remove", epilog="Example: vitrine admin user remove ann --yes")
@click.argument("name", shell_complete=names.users)
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def remove_user(name: str, yes: bool, platform: Platform, out: Out) -> None:
    """Remove a user who owns nothing any more."""
    confirm(f"Remove user {name}?", yes)
    found = platform.call("DELETE", f"/api/admin/users/{part(name)}")
    out.one(found, f"User {found['name']} removed.", bare=found["name"])


@click.group()
def org() -> None:
    """Organisations and their members."""


@org.command("add", epilog="Example: vitrine admin org add research")
@click.argument("name")
@talks
def add_org(name: str, platform: Platform, out: Out) -> None:
    """Add an organisation."""
    made = platform.call("POST", "/api/admin/orgs", body={"name": name})
    out.one(
        made,
        f"Organisation {made['name']} added. Give it an admin: vitrine admin org member {made['name']} USER --role admin",
        bare=made["name"],
    )


@org.command("list", epilog="Example: vitrine admin org list")
@talks
def list_orgs(platform: Platform, out: Out) -> None:
    """List organisations."""
    rows = platform.call("GET", "/api/admin/orgs")["items"]
    if not out.as_json:
        rows = [{**row, "members": ", ".join(f"{name} ({role})" for name, role in row["members"].items())} for row in rows]
    out.table(rows, {"name": "Organisation", "members": "Members", "created_at": "Since"}, bare="name", empty="No organisations.")


@org.command("member", epilog="Example: vitrine admin org member research ann --role write")
@click.argument("org_name", metavar="ORG", shell_complete=names.orgs)
@click.argument("user_name", metavar="USER", shell_complete=names.users)
@click.option("--role", type=click.Choice(["admin", "write", "contributor", "read"]), help="The member's role.")
@click.option("--remove", is_flag=True, help="End the membership instead.")
@talks
def member(org_name: str, user_name: str, role: str | None, remove: bool, platform: Platform, out: Out) -> None:
    """Add USER to ORG, or change the role."""
    if (role is None) is not remove:
        raise click.UsageError("give either --role or --remove")
    path = f"/api/admin/orgs/{part(org_name)}/members/{part(user_name)}"
    found = platform.call("DELETE", path) if remove else platform.call("PUT", path, body={"role": role})
    line = f"{found['user']} left {found['org']}." if remove else f"{found['user']} is {found['role']} in {found['org']}."
    out.one(found, line, bare=found["user"])


@click.group()
def token() -> None:
    """Access tokens."""


@token.command("add", epilog="Example: export VITRINE_TOKEN=$(vitrine admin token add ann --role write --expires 30d --quiet)")
@click.argument("user_name", metavar="USER", shell_complete=names.users)
@click.option("--role", type=click.Choice(["read", "write"]), required=True, help="What it may do.")
@click.option("--name", default="cli", show_default=True, help="A name to know it by.")
@click.option("--expires", type=Duration(), metavar="30d", help="Life, for example 30d; default: no end.")
@talks
def add_token(user_name: str, role: str, name: str, expires: int | None, platform: Platform, out: Out) -> None:
    """Make a token for USER; it is shown this once."""
    made = platform.call("POST", "/api/admin/tokens", body={"user": user_name, "role": role, "name": name, "expires_s": expires})
    out.one(made, f"Token {made['id']} for {made['user']} ({made['role']}). It is shown only now:\n{made['token']}", bare=made["token"])


@token.command("list", epilog="Example: vitrine admin token list ann")
@click.argument("user_name", metavar="USER", shell_complete=names.users)
@talks
def list_tokens(user_name: str, platform: Platform, out: Out) -> None:
    """List the tokens of USER."""
    rows = platform.call("GET", "/api/admin/tokens", params={"user": user_name})["items"]
    columns = {"id": "Id", "name": "Name", "role": "Role", "expires_at": "Expires", "revoked_at": "Revoked"}
    out.table(rows, columns, bare="id", empty=f"{user_name} has no tokens.")


@token.command("revoke", epilog="Example: vitrine admin token revoke 6f1f5a0c9e7d4b3a2c1d0e9f")
@click.argument("token_id", metavar="ID")
@talks
def revoke_token(token_id: str, platform: Platform, out: Out) -> None:
    """End a token now."""
    found = platform.call("DELETE", f"/api/admin/tokens/{part(token_id)}")
    out.one(found, f"Token {found['id']} ({found['name']}) of {found['user']} is revoked.", bare=found["id"])


COMMANDS = (user, org, token)
