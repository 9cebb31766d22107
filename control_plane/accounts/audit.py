"""The audit log: one event per change, written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from control_plane.domain.accounts import Actor
from control_plane.domain.sensitive import Sensitive
from control_plane.ports.stores import UnitOfWork

# Facts under these names are dropped, should a caller ever pass them: an audit row can never be taken back.
_NEVER = ("password", "secret_value", "token", "value", "sealed", "cookie", "csrf")
_MAX_TEXT = 500


async def record(uow: UnitOfWork, actor: Actor, action: str, subject: str, facts: Mapping[str, object], now: datetime) -> None:
    """`action` is `room.verb`, `subject` is `kind:name`; `facts` say before and after, never a secret."""
    await uow.audit.append(at=now, actor=actor.name, action=action, subject=subject[:200], address=actor.address, facts=_clean(facts))


def _clean(facts: Mapping[str, object]) -> dict[str, object]:
    return {key: _plain(value) for key, value in facts.items() if key not in _NEVER}


def _plain(value: object) -> object:
    if isinstance(value, Sensitive):
        return "(not shown)"
    if isinstance(value, Mapping):
        return _clean({str(k): v for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:_MAX_TEXT]
