"""Webhooks: who watches what, and telling them. Delivery runs beside the request, is tried three times, and never blocks it.

Targets are people's input: the host is looked up once, private addresses are refused (unless the platform itself lives on
loopback), the connection goes to the address that was checked, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from control_plane.accounts import policy
from control_plane.community.discussions import Discussion, Event
from control_plane.community.pulls import MAIN
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import Rejected
from control_plane.domain.ids import AccountId, Sha, SpaceId, new_id
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Repo, RepoType, Visibility
from control_plane.net.authorities import trust
from control_plane.ports.stores import UnitOfWork

if TYPE_CHECKING:
    from control_plane.api.deps import Services

_log = logging.getLogger("vitrine.webhooks")
KIND = "webhook"
WATCHABLE = ("user", "org", "model", "dataset", "space")
DOMAINS = ("repo", "discussion")
_MAX_PER_USER = 50
_MAX_IN_FLIGHT = 200
_TIME_LIMIT_S = 10.0
_PAUSES_S = (0.0, 2.0, 10.0)


@dataclass(frozen=True, slots=True)
class Webhook:
    """`secret` is sealed. `watched`: (type, name) pairs."""

    id: str
    user_id: str
    url: str
    watched: tuple[tuple[str, str], ...]
    domains: tuple[str, ...] = DOMAINS
    secret: str = ""
    disabled: bool = False

    def watches(self, repo: Repo, scope: str) -> bool:
        if self.disabled or scope.partition(".")[0] not in self.domains:
            return False
        owner, full = repo.owner_name.lower(), repo.full_name.lower()
        return any(
            n.lower() == (owner if t in ("user", "org") else full) and t in ("user", "org", repo.type.value) for t, n in self.watched
        )


def _load(body: Mapping[str, Any]) -> Webhook:
    return Webhook(**{**body, "watched": tuple((t, n) for t, n in body["watched"]), "domains": tuple(body["domains"])})


async def of_user(uow: UnitOfWork, user: Account) -> list[Webhook]:
    return [_load(b) for b in await uow.documents.list(KIND, user.id)]


async def save(uow: UnitOfWork, hook: Webhook) -> None:
    await uow.documents.put(KIND, hook.id, hook.user_id, asdict(hook))


def checked(
    url: str, watched: list[tuple[str, str]], domains: list[str] | None
) -> tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The parts of a webhook when they make sense; Rejected with the rule otherwise."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and (parts.port or 1) > 0
    except ValueError:
        fine = False
    if not fine or len(url) > 2000 or not url.isprintable():
        raise Rejected("url: give an http or https address without user name")
    if not 1 <= len(watched) <= 100 or any(t not in WATCHABLE or not n or len(n) > 200 for t, n in watched):
        raise Rejected(f"watched: give 1 to 100 of {{type, name}} with type one of {', '.join(WATCHABLE)}")
    chosen = tuple(domains) if domains else DOMAINS
    if any(d not in DOMAINS for d in chosen):
        raise Rejected(f"domains: any of {', '.join(DOMAINS)}")
    return url, tuple(watched), chosen


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to connect and what to say there."""

    url: httpx.URL  # with the address instead of the name
    host: str  # the Host header
    name: str  # what a certificate must be for


class Deliveries:
    """Fires events. Keep one per process; `drain()` at shutdown."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()
        host = urlsplit(services.public_url).hostname or ""
        self._allow_private = host == "localhost" or host.endswith(".localhost") or host.startswith("127.")

    async def content(self, repo: Repo, ref: str, old: Sha | None, new: Sha | None) -> None:
        """A ref moved."""
        refs = [{"ref": ref, "oldSha": old, "newSha": new}]
        await self.fire(repo, "update", "repo.content", head=new, more={"updatedRefs": refs})

    async def discussion(self, repo: Repo, item: Discussion, action: str, comment: Event | None = None) -> None:
        """A discussion or pull request began or changed; with a comment, that was written."""
        public_url = self._services.public_url
        web = f"{public_url}/{repo.type.url_prefix}{repo.full_name}/discussions/{item.num}"
        more: dict[str, Any] = {
            "discussion": {
                "id": f"{repo.id}-{item.num}",
                "num": item.num,
                "title": item.title,
                "status": item.status,
                "isPullRequest": item.is_pull,
                "author": {"id": item.author},
                "url": {"web": web, "api": f"{public_url}/api/{repo.type.plural}/{repo.full_name}/discussions/{item.num}"},
                "changes": {"base": MAIN} if item.is_pull else None,
            }
        }
        if comment is not None:
            latest = comment.data["latest"]
            more["comment"] = {
                "id": comment.id, "author": {"id": comment.author}, "content": latest["raw"], "hidden": False, "url": {"web": web},
            }  # fmt: skip
        await self.fire(repo, action, "discussion.comment" if comment else "discussion", more=more)

    async def fire(self, repo: Repo, action: str, scope: str, *, head: Sha | None = None, more: Mapping[str, Any] | None = None) -> None:
        """`action`: create, update, delete, move. Only watchers who may see the repository hear of it."""
        async with self._services.uow.read() as uow:
            hooks = [h for h in map(_load, await uow.documents.list(KIND)) if h.watches(repo, scope)]
            if not hooks:
                return
            hooks = [h for h in hooks if await self._may_hear(uow, h, repo)]
            space = await uow.spaces.get(SpaceId(repo.id)) if repo.type is RepoType.SPACE else None
        base = self._services.public_url
        about: dict[str, Any] = {
            "type": repo.type.value,
            "name": repo.full_name,
            "id": repo.id,
            "private": repo.visibility is Visibility.PRIVATE,
            "url": {"web": f"{base}/{repo.type.url_prefix}{repo.full_name}", "api": f"{base}/api/{repo.type.plural}/{repo.full_name}"},
            "owner": {"id": repo.owner_id},
            "headSha": head or repo.head,
            "tags": list(repo.tags),
        }
        if space is not None:
            about["subdomain"] = space.subdomain
        for hook in hooks:
            body = {"event": {"action": action, "scope": scope}, "repo": about, **(more or {}), "webhook": {"id": hook.id, "version": 3}}
            self._start(hook, body)

    async def _may_hear(self, uow: UnitOfWork, hook: Webhook, repo: Repo) -> bool:
        user = await uow.accounts.get(AccountId(hook.user_id))
        if user is None or user.is_suspended:
            return False
        roles = {org.name.lower(): role for org, role in await uow.accounts.memberships(user.id)}
        return policy.allowed(Actor(user=user, roles=roles), Action.VIEW, repo)

    def _start(self, hook: Webhook, body: Mapping[str, Any]) -> None:
        if len(self._tasks) >= _MAX_IN_FLIGHT:
            _log.warning("webhook_dropped", extra={"webhook_id": hook.id})
            return
        task = asyncio.create_task(self._deliver(hook, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, hook: Webhook, body: Mapping[str, Any]) -> None:
        headers = {"User-Agent": "vitrine-webhook/1", "X-Vitrine-Delivery": new_id()}
        if hook.secret:
            headers["X-Webhook-Secret"] = self._services.secret_box.open(hook.secret, context=f"webhook:{hook.id}").reveal()
        for pause in _PAUSES_S:
            await asyncio.sleep(pause)
            try:
                target = await self._target(hook.url)
                async with httpx.AsyncClient(timeout=_TIME_LIMIT_S, follow_redirects=False, trust_env=False, verify=trust()) as client:
                    reply = await client.post(
                        target.url, json=body, headers=headers | {"Host": target.host}, extensions={"sni_hostname": target.name}
                    )
                if reply.status_code < 500 and reply.status_code != 429:
                    return
            except Rejected as error:
                _log.warning("webhook_refused", extra={"webhook_id": hook.id, "detail": error.message})
                return
            except (httpx.HTTPError, OSError) as error:
                _log.info("webhook_failed", extra={"webhook_id": hook.id, "detail": type(error).__name__})

    async def _target(self, url: str) -> _Target:
        """Looks the host up once and pins what was checked, so that a name cannot change between check and use."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or (not self._allow_private and not all(a.is_global and not a.is_multicast for a in addresses)):
            raise Rejected("webhooks may not go to private addresses")
        return _Target(httpx.URL(url).copy_with(host=str(addresses[0])), parts.netloc, host)

    def seal(self, hook_id: str, secret: str | None) -> str:
        return self._services.secret_box.seal(Sensitive(secret), context=f"webhook:{hook_id}") if secret else ""

    async def drain(self) -> None:
        """Waits for what is under way; for shutdown and tests."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def check_room(uow: UnitOfWork, user: Account) -> None:
    if len(await uow.documents.list(KIND, user.id)) >= _MAX_PER_USER:
        raise Rejected(f"you have {_MAX_PER_USER} webhooks already; delete some first")
