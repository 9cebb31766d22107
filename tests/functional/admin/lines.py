"""Every command of `vitrine admin`, in the order of a life: what a line needs, an earlier one made.

`{v}` is the way it is called, `{me}` an administrator, `{tmp}` an empty folder, `{token}` and `{build}` ids. Beside it: what --quiet
prints, as a pattern of the whole.
"""

from __future__ import annotations

ID = r"[0-9a-f]{24}"
_NAMES = r"([A-Za-z0-9_./-]+\n)*"
LINES: tuple[tuple[str, str], ...] = (
    ("user add ann-{v} --email ann@example.org", "ann-{v}\n"),
    ("user list", _NAMES),
    ("user link ann-{v}", r"http://\S+token=\S+\n"),
    ("org add lab-{v}", "lab-{v}\n"),
    ("org member lab-{v} ann-{v} --role write", "ann-{v}\n"),
    ("org member lab-{v} ann-{v} --remove", "ann-{v}\n"),
    ("org list", _NAMES),
    ("user add boss-{v} --admin", "boss-{v}\n"),
    ("token add ann-{v} --role read --name ci --expires 30d", r"hf_[0-9A-Za-z]{36}\n"),
    ("token list ann-{v}", f"({ID}\n)+"),
    ("token revoke {token}", f"{ID}\n"),
    ("quota defaults", r"([a-z0-9.-]+\n)+"),
    ("quota defaults spaces=1000 --dry-run", "defaults\n"),
    ("quota defaults spaces=1000 running=unlimited", "defaults\n"),
    ("quota defaults --unset spaces --unset running", "defaults\n"),
    ("quota set ann-{v} spaces=5 running.a100-large=0 gpu-hours=2.5 vcpu=unlimited", "ann-{v}\n"),
    ("quota show ann-{v}", r"([a-z0-9.-]+\n)+"),
    ("quota list", _NAMES),
    ("quota unset ann-{v} spaces", "ann-{v}\n"),
    ("usage", r"([0-9.]+\n)*"),
    ("usage {me} --since 7d", r"([0-9.]+\n)*"),
    ("pool list", _NAMES),
    ("space list", _NAMES),
    ("space list --owner {me}", _NAMES),
    ("space show {me}/demo-{v}", r"[A-Z_]+\n"),
    ("build list", f"({ID}\n)*"),
    ("build list --space {me}/demo-{v}", f"{ID}\n"),
    ("build cancel {build}", "cancelled\n"),
    ("space pause {me}/demo-{v}", "PAUSED\n"),
    ("space restart {me}/demo-{v}", r"[A-Z_]+\n"),
    ("space remove {me}/demo-{v} --yes", "{me}/demo-{v}\n"),
    ("user suspend ann-{v}", "ann-{v}\n"),
    ("user suspend ann-{v} --undo", "ann-{v}\n"),
    ("user remove ann-{v} --yes", "ann-{v}\n"),
    ("maintenance on --message Cables", "on\n"),
    ("maintenance show", "on\n"),
    ("maintenance off", "off\n"),
    ("key list", r"(\S+\n)+"),
    ("key rotate --yes", r"\S+\n"),
    ("key rewrap", r"\S+\n"),
    ("key retire --yes", r"\S+\n"),
    ("audit", r"([0-9]+\n)+"),
    ("audit --since 1h --actor {me} --limit 3", r"([0-9]+\n){1,3}"),
    ("audit --verify", "ok\n"),
    ("audit --export {tmp}/audit-{v}.jsonl", r"[0-9]+\n"),
    ("gc --dry-run", r"[0-9]+\n"),
    ("gc --yes", r"[0-9]+\n"),
    ("backup {tmp}/backup-{v}", "{tmp}/backup-{v}\n"),
    ("restore {tmp}/backup-{v} --into {tmp}/again-{v}", "{tmp}/again-{v}\n"),
)


def assert_readable(command: str, text: str) -> None:
    """Something, within 80 columns; one sentence is the terminal's to wrap, and a path or an address is never broken."""
    assert text.strip(), command
    lines = text.splitlines()
    assert [one for one in lines if len(one) > 80 and "/" not in one and len(lines) > 1] == [], command
