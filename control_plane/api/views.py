"""Domain values as the JSON of the Hub's wire contract. Pure functions; field names and shapes are the clients'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from control_plane.domain.accounts import Account, AccountKind, OrgRole
from control_plane.domain.hardware import Flavor, FlavorCatalog
from control_plane.domain.spaces import Repo, RepoType, Sdk, Space
from control_plane.ports.git import Commit, TreeEntry
from control_plane.ports.space_actions import RuntimeView

# What a plain listing leaves out, and `full=true` or `expand` brings in.
_FULL_ONLY = frozenset({"sha", "lastModified", "siblings", "cardData"})


def when(moment: datetime | None) -> str | None:
    """UTC with a `Z`: clients cannot parse `+00:00`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if moment else None


def avatar_url(base: str, name: str) -> str:
    return f"{base}/avatars/{name}.svg"


def runtime_json(view: RuntimeView, app_host: str, catalog: FlavorCatalog, volumes: Sequence[Mapping[str, object]] = ()) -> dict[str, Any]:
    """`volumes` in their wire form, as the caller may see them."""
    is_static = view.sdk is Sdk.STATIC

    requested = None if is_static else view.requested_hardware
    current = None if is_static else view.current_hardware
    hardware: dict[str, Any] = {"current": current, "requested": requested}
    for key, name in (("currentPrettyName", current), ("requestedPrettyName", requested)):
        if flavor := catalog.find(name) if name else None:
            hardware[key] = flavor.pretty_name
    body: dict[str, Any] = {
        "stage": view.stage.value,
        "hardware": hardware,
        "storage": view.storage_tier or None,
        "gcTimeout": None if is_static else view.sleep_after_s,
        "replicas": {"requested": view.requested_replicas, "current": view.current_replicas},
        "devMode": False,
        "domains": [{"domain": app_host, "stage": "READY"}],
        "volumes": list(volumes),
    }
    if view.sha:
        body["sha"] = view.sha
    if view.sdk:
        body["sdk"] = view.sdk.value
    if view.sdk_version:
        body["sdkVersion"] = view.sdk_version
    if view.stage.is_error and view.message:
        body["errorMessage"] = view.message
    if view.reason is not None:
        reason: dict[str, Any] = {"code": view.reason.value, "message": view.message or view.reason.words}
        if view.position is not None:
            reason["position"] = view.position
        if view.eta_s is not None:
            reason["eta_s"] = view.eta_s
        body["reason"] = reason
    return body


def repo_tags(repo: Repo, space: Space | None) -> list[str]:
    tags = list(repo.tags)
    if space is not None and space.sdk.value not in tags:
        tags.insert(0, space.sdk.value)
    return tags


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def repo_json(
    repo: Repo,
    *,
    space: Space | None = None,
    host: str = "",
    runtime: Mapping[str, Any] | None = None,
    sha: str | None = None,
    siblings: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The full info object. Listings and `expand` choose from it with `select`."""
    body: dict[str, Any] = {
        "_id": repo.id,
        "id": repo.full_name,
        "author": repo.owner_name,
        "sha": sha or repo.head,
        "lastModified": when(repo.updated_at),
        "createdAt": when(repo.created_at),
        "private": repo.visibility.value == "private",
        "visibility": repo.visibility.value,
        "gated": repo.gate.value or False,
        "disabled": False,
        "likes": repo.likes,
        "trendingScore": repo.likes,
        "usedStorage": repo.storage_bytes,
        "tags": repo_tags(repo, space),
        "cardData": dict(repo.card),
        "discussionsDisabled": repo.discussions_disabled,
        "region": None,
        "resourceGroup": None,
        "xetEnabled": True,
    }
    if repo.type is RepoType.SPACE and space is not None:
        config = space.config
        body |= {
            "title": config.title or repo.name,
            "emoji": config.emoji,
            "colorFrom": config.color_from,
            "colorTo": config.color_to,
            "pinned": config.pinned,
            "shortDescription": config.short_description,
            "sdk": space.sdk.value,
            "subdomain": space.subdomain,
            "host": host,
            "models": _listed(repo.card.get("models")),
            "datasets": _listed(repo.card.get("datasets")),
            "duplicationDisabled": False,
        }
        if runtime is not None:
            body["runtime"] = dict(runtime)
        if repo.origin:
            body["originSpace"] = {"name": repo.origin, "author": {"name": repo.origin.partition("/")[0]}}
    else:
        body |= {"downloads": 0, "downloadsAllTime": 0}
    if repo.type is RepoType.MODEL:
        body |= {
            "modelId": repo.full_name,
            "pipeline_tag": repo.card.get("pipeline_tag"),
            "library_name": repo.card.get("library_name"),
            "config": {},
        }
    if siblings is not None:
        body["siblings"] = list(siblings)
    return body


def select(body: Mapping[str, Any], expand: Sequence[str]) -> dict[str, Any]:
    """With `expand`, only the ids and the named properties."""
    return {key: body[key] for key in ("_id", "id", *expand) if key in body}


def listed(body: Mapping[str, Any], *, full: bool) -> dict[str, Any]:
    return {k: v for k, v in body.items() if full or k not in _FULL_ONLY}


def entry_json(entry: TreeEntry, last: Commit | None = None, *, expand: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "directory" if entry.is_dir else "file",
        "oid": entry.oid,
        "size": 0 if entry.is_dir else entry.size,
        "path": entry.path,
    }
    if entry.lfs is not None:
        body["lfs"] = {"oid": entry.lfs.oid, "size": entry.lfs.size, "pointerSize": entry.lfs.pointer_size}
    if expand and last is not None:
        body["lastCommit"] = {"id": last.sha, "title": last.title, "date": when(last.at)}
    return body


def sibling_json(entry: TreeEntry, *, blobs: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        body |= {"size": entry.size, "blobId": entry.oid}
        if entry.lfs is not None:
            body["lfs"] = {"size": entry.lfs.size, "sha256": entry.lfs.oid, "pointerSize": entry.lfs.pointer_size}
    return body


def commit_json(commit: Commit, *, formatted: bool = False) -> dict[str, Any]:
    title, _, rest = commit.message.partition("\n")
    body: dict[str, Any] = {
        "id": commit.sha,
        "title": commit.title or title,
        "message": rest.strip(),
        "authors": [{"user": commit.author}],
        "date": when(commit.at),
    }
    if formatted:
        body["formatted"] = {"title": body["title"], "message": body["message"]}
    return body


def flavor_json(flavor: Flavor) -> dict[str, Any]:
    per_minute = flavor.price_per_hour / 60
    accelerator = flavor.accelerator
    return {
        "name": flavor.name,
        "prettyName": flavor.pretty_name,
        "cpu": f"{flavor.vcpu:g} vCPU",
        "ram": f"{flavor.memory_gb:g} GB",
        "ephemeralStorage": f"{flavor.disk_gb} GB",
        "accelerator": {
            "type": "gpu",
            "model": accelerator.model.upper(),
            "quantity": str(accelerator.count),
            "vram": f"{accelerator.memory_gb * accelerator.count} GB",
            "manufacturer": accelerator.manufacturer,
        }
        if accelerator
        else None,
        "unitCostMicroUSD": round(per_minute * 1_000_000),
        "unitCostUSD": round(per_minute, 6),
        "unitLabel": "minute",
    }


def person_json(account: Account, base: str) -> dict[str, Any]:
    return {
        "_id": account.id,
        "user": account.name,
        "name": account.name,
        "fullname": account.fullname or account.name,
        "avatarUrl": avatar_url(base, account.name),
        "isPro": False,
        "type": account.kind.value,
    }


def membership_json(org: Account, role: OrgRole, base: str) -> dict[str, Any]:
    return {
        "type": AccountKind.ORG.value,
        "id": org.id,
        "name": org.name,
        "fullname": org.fullname or org.name,
        "email": org.email,
        "avatarUrl": avatar_url(base, org.name),
        "isEnterprise": False,
        "canPay": False,
        "periodEnd": None,
        "roleInOrg": role.value,
    }
