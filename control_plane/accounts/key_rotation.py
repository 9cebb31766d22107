"""A new master key for everything that is sealed: each secret's own data key is wrapped anew, no value is opened.

Secrets of Spaces, of webhooks, and the platform's own signing key. Safe to repeat: what is wrapped with the newest key
already stays as it is. Values that cannot be opened are counted and left alone; they were lost before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from control_plane.domain.errors import Broken
from control_plane.domain.spaces import Setting
from control_plane.ports.secret_box import SecretBox
from control_plane.ports.stores import UnitOfWork

# kind of document → (field that holds the sealed text, its context)
_DOCUMENTS: dict[str, tuple[str, Callable[[dict[str, object]], str]]] = {
    "webhook": ("secret", lambda body: f"webhook:{body['id']}"),
    "oauth-key": ("sealed", lambda body: "oauth-key:1"),
}


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed text and how to put another in its place."""

    text: str
    context: str
    put: Callable[[UnitOfWork, str], Awaitable[None]]


async def every_sealed(uow: UnitOfWork) -> AsyncIterator[Sealed]:
    for space_id in await uow.spaces.all_ids():
        for setting in await uow.spaces.settings(space_id):
            if setting.is_secret:
                yield Sealed(setting.sealed, f"space/{space_id}/{setting.key}", _setting_writer(setting))
    for kind, (field, context_of) in _DOCUMENTS.items():
        for body in await uow.documents.list(kind):
            if body.get(field):
                yield Sealed(str(body[field]), context_of(body), _document_writer(kind, field, body))


def _setting_writer(setting: Setting) -> Callable[[UnitOfWork, str], Awaitable[None]]:
    async def put(uow: UnitOfWork, text: str) -> None:
        await uow.spaces.put_setting(replace(setting, sealed=text))

    return put


def _document_writer(kind: str, field: str, body: dict[str, object]) -> Callable[[UnitOfWork, str], Awaitable[None]]:
    async def put(uow: UnitOfWork, text: str) -> None:
        key, owner = (str(body["id"]), str(body["user_id"])) if kind == "webhook" else ("1", "")
        await uow.documents.put(kind, key, owner, {**body, field: text})

    return put


async def keys_in_use(uow: UnitOfWork, box: SecretBox) -> dict[str, int]:
    """Key id → how many secrets are wrapped with it."""
    return dict(Counter([box.key_id(sealed.text) async for sealed in every_sealed(uow)]))


async def rewrap_all(uow: UnitOfWork, box: SecretBox, newest: str, done: Callable[[int, int], None] | None = None) -> tuple[int, int]:
    """(wrapped anew, cannot be opened). Runs in one write transaction, so that no secret is written in between.

    `done` is told how many of how many were looked at.
    """
    changed, lost = 0, 0
    todo = [sealed async for sealed in every_sealed(uow) if box.key_id(sealed.text) != newest]
    for number, sealed in enumerate(todo):
        if done is not None:
            done(number, len(todo))
        try:
            text = box.rewrap(sealed.text, context=sealed.context)
        except Broken:
            lost += 1
            continue
        await sealed.put(uow, text)
        changed += 1
    return changed, lost
