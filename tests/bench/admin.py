"""admin.revoke: from the return of the command that ends a right to the first refusal, at each surface.

`admin.revoke.SURFACE` is a `vitrine up`; `admin.revoke.apart.SURFACE` two APIs and two proxies on PostgreSQL and Redis, the worse of the
one that the command went through and the other. Rounds end a token, suspend the user, a token, … in turn; each value is the worst round.
Beside what is open stands the timer that would find it out without the news, beside requests the second that is promised.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Platform, start_platform, stop_platform
from tests.e2e.surfaces import Rights, furnish, seconds_until_refused
from tests.fakes.postgres import find_server

_PERSON = "sue"
_TIMER_S, _PROMISED_S = 30.0, 1.0


def _suspend(platform: Platform, suspended: bool) -> None:
    answer = platform.api("POST", f"/api/admin/users/{_PERSON}/suspension", json={"suspended": suspended})
    assert answer.status_code == 200, answer.text


def _revoke(platform: Platform, token_ids: list[str]) -> None:
    for token_id in token_ids:
        answer = platform.api("DELETE", f"/api/admin/tokens/{token_id}")
        assert answer.status_code == 200, answer.text


def _rows(name: str, doors: list[Platform], folder: Path, rounds: int) -> list[dict[str, Any]]:
    furnish(doors[0], folder, _PERSON)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        suspends = bool(number % 2)
        with ExitStack() as held:
            rights = [held.enter_context(Rights(door, _PERSON, sessions=suspends).held()) for door in doors]
            tokens = [one.token_id for one in rights]
            seconds = seconds_until_refused(rights, partial(_suspend, doors[0], True) if suspends else partial(_revoke, doors[0], tokens))
        if suspends:
            _suspend(doors[0], False)
        for surface, value in seconds.items():
            found[surface.partition(" @")[0]].append(value)
    return [
        _row(f"{name}.{surface.replace(' ', '-')}", values, "its timer" if surface.startswith("open ") else "promised")
        for surface, values in [*sorted(found.items()), ("all", [max(values) for values in found.values()])]
    ]


def _row(name: str, values: list[float], reference: str) -> dict[str, Any]:
    worst, median = max(values), statistics.median(values)
    beside = _TIMER_S if reference == "its timer" else _PROMISED_S
    return {
        "name": name,
        "value": round(worst, 3),
        "unit": "s, worst",
        "median": round(median, 3),
        "reference": f"median {median:.3f}; {reference}",
        "reference_value": beside,
        "ratio": round(beside / max(0.001, worst), 1),
        "n": len(values),
    }


def rows(*, rounds: int = 10) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        platform = start_platform(Path(folder) / "d")
        try:
            found = _rows("admin.revoke", [platform], Path(folder), rounds)
        finally:
            stop_platform(platform)
    if find_server() is None:
        return found
    from tests.e2e.test_separate_services import running_site

    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder, running_site(Path(folder)) as site:
        return [*found, *_rows("admin.revoke.apart", [site.first, site.second], Path(folder), rounds)]
