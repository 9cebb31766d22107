"""Every route that changes something leaves exactly one event: each is called once, against the whole API, and counted.

The list of routes is the application's own, so that a new route without a call here, or without a reason, fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from tests.functional.admin import changes
from tests.functional.admin.auditor import Auditor, Site
from tests.functional.admin.changes import PASSWORD

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

# Routes that may leave no event, and why. A pattern in a reason's place would hide routes of the future: full rows only.
_BYTES = "only bytes arrive; the push or commit that names them is the change and the event"
_ASKS = "asks and changes nothing"
_OFF = "is refused with a sentence on this platform, whoever asks"
_READ = "what somebody has read is theirs and is shown to nobody else"
_OWN = "the platform's own processes; what follows from it is noted where it takes effect, by the scheduler"
WITHOUT: dict[str, str] = {
    "PUT /_lfs/{repo_id}/{oid}": _BYTES,
    "PUT /_lfs/{repo_id}/{oid}/parts/{number}": _BYTES,
    "POST /_lfs/{repo_id}/{oid}/complete": _BYTES,
    "POST /_lfs/{repo_id}/{oid}/verify": _ASKS,
    "POST /_cas/{repo_id}/{generation}/v1/xorb-grants/{prefix}/{name}": _ASKS,
    "POST /_cas/{repo_id}/{generation}/v1/xorbs/{prefix}/{name}": _BYTES,
    "POST /_cas/{repo_id}/{generation}/v1/shards": _BYTES,
    "POST /_cas/{repo_id}/{generation}/v2/shards": _BYTES,
    "POST /api/discussions/mark-as-read": _READ,
    "POST {P}/{owner}/{name}/info/lfs/objects/batch": _BYTES,
    "POST {P}/{owner}/{name}/info/lfs/objects/verify": _ASKS,
    "POST {P}/{owner}/{name}/info/lfs/locks/verify": _ASKS,
    "POST {P}/{owner}/{name}/git-upload-pack": _ASKS,
    "POST /api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files/duplicate": _BYTES,
    "POST /uploads": _OFF,
    "POST /api/validate-yaml": _ASKS,
    "POST /api/{kind:kind}/{ns:seg}/{name:seg}/paths-info/{rev:seg}": _ASKS,
    "POST /api/{kind:kind}/{ns:seg}/{name:seg}/preupload/{rev:seg}": _ASKS,
    "POST /internal/authorize": _ASKS,
    "POST /internal/builds/{build_id}/events": _OWN,
    "POST /internal/builds/{build_id}/log": _OWN,
    "PUT /internal/builds/{build_id}/site": _OWN,
    "POST /oauth/userinfo": _ASKS,
    "POST /oauth/device": "a device waits for a person; /oauth/device/decide is where one decides",
    "POST /v1/telemetry": "what clients report about themselves is thrown away",
    "POST /api/spaces/{ns:seg}/{name:seg}/dev-mode": _OFF,
    "POST /notifications/mark": _READ,
    "POST /notifications/open": _READ,
    **{
        f"{method} /api/{{kind:kind}}/{{name:seg}}/{{part:part}}/{{rest:tail}}": "no repository is without a namespace: answered with 404"
        for method in ("POST", "DELETE")
    },
    **{
        f"{method} {path}": "no such address: answered with 404 or 405"
        for method in sorted(CHANGING)
        for path in ("/api/{rest:tail}", "/api/{word:absent}", "/api/{word:absent}/{rest:tail}", "/v2/{rest:tail}")
        if method != "PATCH" or "absent" not in path
    },
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("audited"))
    running.start()
    yield running
    running.stop()


def test_every_changing_route_leaves_exactly_one_event(site: Site, tmp_path: Path) -> None:
    audit = Auditor(site)
    try:
        audit.person("alice", password=PASSWORD)
        audit.person("bob")
        changes.repositories(audit)
        changes.files_and_refs(audit, tmp_path)
        changes.gates(audit)
        changes.space(audit)
        changes.discussions(audit)
        changes.lists(audit)
        changes.pages(audit)
        changes.accounts(audit)
        changes.operators(audit)
        changes.apps(audit)
        changes.endings(audit)
        routes = {(m, str(r.path)) for r in iter_route_contexts(site.app.routes) for m in r.methods or ()}
        rows = {f"{m} {_per_prefix(p)}" for m, p in routes if m in CHANGING}
        unseen = sorted(rows - audit.called - set(WITHOUT))
        assert unseen == [], "nobody has looked whether these leave an event:\n" + "\n".join(unseen)
        assert sorted(set(WITHOUT) & audit.called) == []
        assert sorted(row for row in {*WITHOUT, *audit.called} - rows if not row.startswith("GET ")) == [], "no such route any more"
    finally:
        audit.client.close()
    first = [(event["actor"], event["action"], event["subject"]) for event in audit.events(0)[:2]]
    assert first == [("vitrine", "user.add", "user:admin"), ("vitrine", "token.add", "user:admin")], "what the first start makes"
    text = json.dumps(audit.events(0), default=str)
    for secret in (PASSWORD, "hidden value", *audit.tokens.values(), *(part for pair in audit.cookies.values() for part in pair)):
        assert secret not in text, "a secret is in the audit log"

    async def verify() -> int | None:
        async with site.built.uow.read() as work:
            return await work.audit.verify()

    assert site.run(verify()) is None


def _per_prefix(path: str) -> str:
    """Pages and git of the three types are one handler each: one row."""
    if path.startswith(("/spaces/{owner", "/datasets/{owner", "/{owner")):
        rest = "/{owner" + path.partition("/{owner")[2]
        only_spaces = re.search(r"\}/(collect|duplicate)$|/preview(-end)?$", path)
        words = "hardware|sleep|replicas|variable|secret|pause|restart|rebuild|deploy|cancel|storage|volume"
        if only_spaces or re.search(rf"/settings/({words})", path):
            return path
        return "{P}" + rest
    return path
