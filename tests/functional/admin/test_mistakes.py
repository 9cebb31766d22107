"""Wrong input to `vitrine admin`, through the installed console script against a running API."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.admin.platform import Platform, vitrine


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    running = Platform(tmp_path / "d").start()
    yield running
    running.stop()


# What operators type when they are tired: arguments, exit code, words of the one line.
_MISTAKES: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("quota", "set", "nobody", "spaces=1"), 1, "no account 'nobody'"),
    (("quota", "show", "x" * 500), 1, "no account"),
    (("quota", "set", "root-admin", "spces=1"), 1, "did you mean 'spaces'"),
    (("quota", "set", "root-admin", "running.t4=1"), 1, "t4-small"),
    (("quota", "set", "root-admin", "gpu_hours=1"), 1, "did you mean 'gpu-hours'"),
    (("quota", "set", "root-admin", "spaces=-1"), 1, "not a quota value"),
    (("quota", "set", "root-admin", "spaces=" + "9" * 400), 1, "not a quota value"),
    (("quota", "set", "root-admin", "spaces=1e9"), 1, "not a quota value"),
    (("quota", "set", "root-admin", "spaces=1.5"), 1, "whole number"),
    (("quota", "set", "root-admin", "storage-gb=5GB"), 1, "the key's name has the unit"),
    (("quota", "set", "root-admin", "gpu-hours=10h"), 1, "the key's name has the unit"),
    (("quota", "set", "root-admin", "spaces=\u0663"), 1, "not a quota value"),
    (("user", "add", "..%2f..%2fetc"), 1, "not a valid user name"),
    (("user", "add", "emoji-\U0001f600"), 1, "not a valid user name"),
    (("user", "suspend", "\x1b[31mred"), 1, "no user"),
    (("user", "remove", "a b/../c?x=1#y", "--yes"), 1, "no user"),
    (("user", "add", "fine", "--email", "not-an-address"), 1, "not an e-mail address"),
    (("org", "member", "no-org", "root-admin", "--role", "read"), 1, "no organisation 'no-org'"),
    (("token", "add", "root-admin", "--role", "read", "--expires", "1e3d"), 2, "not a duration"),
    (("space", "pause", "one/two/three"), 2, "OWNER/NAME"),
    (("space", "restart", "--", "-x/-y"), 1, "no Space '-x/-y'"),
    (("build", "list", "--space", "nobody/nothing"), 1, "no Space"),
    (("usage", "--since", "999999999d"), 2, "not a duration"),
    (("audit", "--since", "2026-13-45"), 2, "neither a duration"),
    (("maintenance", "on", "--message", "two\nlines\x07"), 1, "one printable line"),
    (("restore", "/no/such/backup"), 2, "does not exist"),
    (("user", "list", "--endpoint", "http://127.0.0.1:1"), 1, "does not answer"),
    (("user", "list", "--endpoint", "http://exa mple:99999/"), 1, "does not answer"),
    (("user", "list", "--token", "hf_wrong"), 1, "token is not accepted"),
    (("user", "list", "--token", "\u00fc\u00f1"), 1, "token"),
)


def test_mistakes_are_one_clear_line_from_the_real_script(platform: Platform) -> None:
    """Each through the installed console script: no traceback, and the exit code that scripts rely on."""
    wrong = []
    with ThreadPoolExecutor(2) as pool:
        env = {"VITRINE_ENDPOINT": platform.url, "VITRINE_TOKEN": platform.token}
        done = pool.map(lambda mistake: vitrine("admin", *mistake[0], **env), _MISTAKES)
        for (args, code, words), result in zip(_MISTAKES, done, strict=True):
            lines = result.stderr.strip().splitlines() or result.stdout.strip().splitlines()
            said = " ".join(lines)
            clear = code != 1 or len(lines) == 1
            if result.returncode != code or words not in said or not clear or "Traceback" in said or "\x1b" in said:
                wrong.append((args, result.returncode, result.stderr))
    assert wrong == []
