"""`make bench [ONLY=name]`: a table on the screen and `bench-results.json`. Each figure stands beside its reference of the same run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

# Which function makes which rows; imported only when asked for, because they need different tools.
SOURCES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("proxy.cpu", "proxy.rps", "proxy.p99", "proxy.connect", "proxy.stream"), "tests.bench.proxy", "http_rows"),
    (("proxy.cpu", "proxy.rps", "proxy.p99"), "tests.bench.peers", "rows"),
    (("proxy.ws",), "tests.bench.proxy", "ws_rows"),
    (("proxy.sockets",), "tests.bench.sockets", "rows"),
    (("proxy.soak",), "tests.bench.sockets", "soak_rows"),
    (("push.first", "push.code", "push.shared", "wake.http", "wake.many"), "tests.bench.push", "rows"),
    (("image.code", "image.shared", "image.start"), "tests.bench.image", "rows"),
    (("place.rate",), "tests.bench.place", "rows"),
    (("kube.start", "kube.idle"), "tests.bench.cluster", "rows"),
    (("api.list",), "tests.bench.api", "rows"),
    (("web.gallery",), "tests.bench.web", "gallery"),
    (("web.weight", "web.lcp"), "tests.bench.web", "first_page"),
    (("web.streams",), "tests.bench.web", "streams"),
    (("web.search", "web.search.postgresql"), "tests.bench.web", "searches"),
    (("git.clone", "git.push"), "tests.bench.git", "rows"),
    (("admin.revoke",), "tests.bench.admin", "rows"),
    (("lfs.memory", "lfs.upload", "lfs.download", "lfs.bystander"), "tests.bench.lfs", "rows"),
)

# Minutes of waiting: made only when named to the letter.
LONG = frozenset(("proxy.soak",))


def _plain(row: Any) -> dict[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row)


def _show(row: Mapping[str, Any]) -> str:
    reference = row.get("reference_value")
    beside = f"{row.get('reference')}: {reference:g}" if isinstance(reference, int | float) else str(row.get("reference") or "–")
    ratio = f"{row['ratio']:.2f}" if isinstance(row.get("ratio"), int | float) else "–"
    return f"{row['name']:<18} {row['value']:>12.4g} {row['unit']:<12} ratio {ratio:>6}   n={row['n']:<4} {beside}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a name such as proxy.cpu, or its first part such as proxy")
    only = parser.parse_args().only
    known = [name for names, _, _ in SOURCES for name in names]
    if only and not any(name == only or name.startswith(f"{only}.") for name in known):
        print(f"bench: unknown name '{only}'; known: {', '.join(known)}", file=sys.stderr)
        return 2
    results: list[dict[str, Any]] = []
    for names, module, function in SOURCES:
        if only and not any(name == only or name.startswith(f"{only}.") for name in names):
            continue
        if only not in names and LONG.issuperset(names):
            continue
        print(f"… {', '.join(names)}", flush=True)
        make: Callable[[], Iterable[Any]] = getattr(__import__(module, fromlist=[function]), function)
        for row in map(_plain, make()):
            if not only or row["name"] == only or row["name"].startswith(f"{only}."):
                results.append(row)
                print(_show(row), flush=True)
    Path("bench-results.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
