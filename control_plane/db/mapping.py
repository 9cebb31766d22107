"""Rows ↔ domain values, written out by hand. A value that an enum does not know raises `ValueError`.

Keys absent from a JSON value-object take their default, so that a row of an older version reads under newer code.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from control_plane.db.rows import Row
from control_plane.domain.accounts import Account, AccountKind, OrgRole, Session, Token, TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildResult, BuildStatus, LaunchPlan
from control_plane.domain.gates import Gate
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, SessionId, Sha, SpaceId, TokenId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import Endpoint, EndpointKind, IdleRule
from control_plane.domain.spaces import (
    Build,
    Deployment,
    DesiredState,
    Replica,
    Repo,
    RepoType,
    RepoVolume,
    Sdk,
    Setting,
    Space,
    SpaceConfig,
    SpaceEvent,
    Visibility,
)


def account_to_row(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "kind": account.kind.value,
        "name": account.name,
        "name_lower": account.name.lower(),
        "fullname": account.fullname,
        "email": account.email,
        "is_admin": account.is_admin,
        "is_suspended": account.is_suspended,
        "password_hash": account.password_hash,
        "created_at": account.created_at,
    }


def account_to_domain(row: Row) -> Account:
    return Account(
        id=AccountId(row["id"]),
        kind=AccountKind(row["kind"]),
        name=row["name"],
        fullname=row["fullname"],
        created_at=row["created_at"],
        email=row["email"],
        is_admin=row["is_admin"],
        is_suspended=row["is_suspended"],
        password_hash=row["password_hash"],
    )


def role_to_domain(row: Row) -> tuple[Account, OrgRole]:
    return account_to_domain(row), OrgRole(row["role"])


def token_to_row(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "user_id": token.user_id,
        "name": token.name,
        "role": token.role.value,
        "sha256": token.sha256,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
        "scopes": dict(token.scopes),
    }


def token_to_domain(row: Row) -> Token:
    return Token(
        id=TokenId(row["id"]),
        user_id=AccountId(row["user_id"]),
        name=row["name"],
        role=TokenRole(row["role"]),
        sha256=row["sha256"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
        scopes=dict(row["scopes"]),
    )


def session_to_row(session: Session) -> dict[str, Any]:
    return asdict(session)


def session_to_domain(row: Row) -> Session:
    return Session(
        id=SessionId(row["id"]),
        user_id=AccountId(row["user_id"]),
        secret_sha256=row["secret_sha256"],
        csrf=row["csrf"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        user_agent=row["user_agent"],
        address=row["address"],
    )


def repo_to_row(repo: Repo) -> dict[str, Any]:
    """Without `trending`, which only likes and time move."""
    return {
        "id": repo.id,
        "type": repo.type.value,
        "owner_id": repo.owner_id,
        "owner_name": repo.owner_name,
        "name": repo.name,
        "visibility": repo.visibility.value,
        "created_at": repo.created_at,
        "updated_at": repo.updated_at,
        "created_by": repo.created_by,
        "head": repo.head,
        "likes": repo.likes,
        "tags": list(repo.tags),
        "card": dict(repo.card),
        "storage_bytes": repo.storage_bytes,
        "discussions_disabled": repo.discussions_disabled,
        "origin": repo.origin,
        "owner_lower": repo.owner_name.lower(),
        "name_lower": repo.name.lower(),
        "is_private": repo.visibility is Visibility.PRIVATE,
        "search_text": search_text(repo),
        "gate": repo.gate.value,
    }


def search_text(repo: Repo) -> str:
    """What a search looks through: the name, the title and short description of the card, the tags; lower case."""
    words = (repo.full_name, repo.card.get("title"), repo.card.get("short_description"), *repo.tags)
    return " ".join(str(w) for w in words if w).lower().replace("\x00", "")


def repo_to_domain(row: Row) -> Repo:
    return Repo(
        id=RepoId(row["id"]),
        type=RepoType(row["type"]),
        owner_id=AccountId(row["owner_id"]),
        owner_name=row["owner_name"],
        name=row["name"],
        visibility=Visibility(row["visibility"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        created_by=AccountId(row["created_by"]),
        head=Sha(row["head"]) if row["head"] else None,
        likes=row["likes"],
        tags=tuple(row["tags"]),
        card=dict(row["card"]),
        storage_bytes=row["storage_bytes"],
        discussions_disabled=row["discussions_disabled"],
        origin=row["origin"],
        gate=Gate(row["gate"]),
    )


def config_to_json(config: SpaceConfig) -> dict[str, Any]:
    return asdict(config)


_CONFIG_KEYS = frozenset(f.name for f in fields(SpaceConfig))
_CONFIG_TUPLES = ("models", "datasets", "tags", "hf_oauth_scopes", "hf_oauth_authorized_org", "preload_from_hub")


def config_to_domain(body: Row) -> SpaceConfig:
    known = {key: value for key, value in body.items() if key in _CONFIG_KEYS}  # a newer version may have written more
    return SpaceConfig(**{**known, "sdk": Sdk(body["sdk"]), **{key: tuple(body.get(key, ())) for key in _CONFIG_TUPLES}})


def space_to_row(space: Space) -> dict[str, Any]:
    return {
        "id": space.id,
        "subdomain": space.subdomain,
        "sdk": space.sdk.value,
        "config": config_to_json(space.config),
        "desired": space.desired.value,
        "asleep": space.asleep,
        "sleep_reason": space.sleep_reason.value if space.sleep_reason else "",
        "sleep_message": space.sleep_message,
        "storage_tier": space.storage_tier,
        "storage_key": space.storage_key,
        "storage_bytes": space.storage_bytes,
        "volumes": [asdict(volume) for volume in space.volumes],
        "hardware": space.hardware,
        "sleep_after_s": space.sleep_after_s,
        "idle_rule": space.idle_rule.value,
        "replicas": space.replicas,
        "generation": space.generation,
        "live_generation": space.live_generation,
        "restart_count": space.restart_count,
        "has_app_file": space.has_app_file,
        "config_error": space.config_error,
        "last_used_at": space.last_used_at,
        "suspended": space.suspended,
        "updated_at": space.updated_at,
    }


def space_to_domain(row: Row) -> Space:
    return Space(
        id=SpaceId(row["id"]),
        subdomain=row["subdomain"],
        sdk=Sdk(row["sdk"]),
        config=config_to_domain(row["config"]),
        desired=DesiredState(row["desired"]),
        asleep=row["asleep"],
        sleep_reason=_reason(row["sleep_reason"] or None),
        sleep_message=row["sleep_message"],
        storage_tier=row["storage_tier"],
        storage_key=row["storage_key"],
        storage_bytes=row["storage_bytes"],
        volumes=_volumes(row["volumes"]),
        hardware=row["hardware"],
        sleep_after_s=row["sleep_after_s"],
        idle_rule=IdleRule(row["idle_rule"]),
        replicas=row["replicas"],
        generation=row["generation"],
        live_generation=row["live_generation"],
        restart_count=row["restart_count"],
        has_app_file=row["has_app_file"],
        config_error=row["config_error"],
        last_used_at=row["last_used_at"],
        suspended=row["suspended"],
        updated_at=row["updated_at"],
    )


def setting_to_row(setting: Setting) -> dict[str, Any]:
    """The plain text of a secret never reaches a row, whatever the caller left in `value`."""
    return {
        "space_id": setting.space_id,
        "key": setting.key,
        "is_secret": setting.is_secret,
        "value": "" if setting.is_secret else setting.value,
        "sealed": setting.sealed,
        "description": setting.description,
        "updated_at": setting.updated_at,
    }


def setting_to_domain(row: Row) -> Setting:
    return Setting(
        space_id=SpaceId(row["space_id"]),
        key=row["key"],
        is_secret=row["is_secret"],
        value=row["value"],
        sealed=row["sealed"],
        description=row["description"],
        updated_at=row["updated_at"],
    )


def _reason(value: str | None) -> Reason | None:
    return Reason(value) if value is not None else None


def build_to_row(build: Build) -> dict[str, Any]:
    return {
        "id": build.id,
        "space_id": build.space_id,
        "revision": build.revision,
        "status": build.status.value,
        "created_at": build.created_at,
        "attempt": build.attempt,
        "no_cache": build.no_cache,
        "phase": build.phase.value if build.phase else None,
        "progress": build.progress,
        "message": build.message,
        "reason": build.reason.value if build.reason else None,
        "worker": build.worker,
        "started_at": build.started_at,
        "finished_at": build.finished_at,
        "heartbeat_at": build.heartbeat_at,
        "submitted_at": build.submitted_at,
        "result": build.result.to_payload() if build.result else None,
        "commit_title": build.commit_title,
        "author": build.author,
    }


def build_to_domain(row: Row) -> Build:
    return Build(
        id=BuildId(row["id"]),
        space_id=SpaceId(row["space_id"]),
        revision=Sha(row["revision"]),
        status=BuildStatus(row["status"]),
        created_at=row["created_at"],
        attempt=row["attempt"],
        no_cache=row["no_cache"],
        phase=BuildPhase(row["phase"]) if row["phase"] is not None else None,
        progress=row["progress"],
        message=row["message"],
        reason=_reason(row["reason"]),
        worker=row["worker"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        heartbeat_at=row["heartbeat_at"],
        submitted_at=row["submitted_at"],
        result=BuildResult.from_payload(row["result"]) if row["result"] else None,
        commit_title=row["commit_title"],
        author=row["author"],
    )


def deployment_to_row(deployment: Deployment) -> dict[str, Any]:
    return {
        "space_id": deployment.space_id,
        "generation": deployment.generation,
        "build_id": deployment.build_id,
        "revision": deployment.revision,
        "artifact": asdict(deployment.artifact),
        "launch": asdict(deployment.launch),
        "hardware": deployment.hardware,
        "created_at": deployment.created_at,
        "config": config_to_json(deployment.config),
        "cause": deployment.cause,
        "failed_reason": deployment.failed_reason.value if deployment.failed_reason else None,
        "failed_message": deployment.failed_message,
        "log_tail": list(deployment.log_tail),
        "live_at": deployment.live_at,
        "volumes": [asdict(volume) for volume in deployment.volumes],
    }


def deployment_to_domain(row: Row) -> Deployment:
    artifact, launch = row["artifact"], row["launch"]
    return Deployment(
        space_id=SpaceId(row["space_id"]),
        generation=row["generation"],
        build_id=BuildId(row["build_id"]),
        revision=Sha(row["revision"]),
        artifact=Artifact(**{**artifact, "kind": ArtifactKind(artifact["kind"])}),
        launch=LaunchPlan(**{**launch, "argv": tuple(launch.get("argv", ()))}),
        hardware=row["hardware"],
        created_at=row["created_at"],
        config=config_to_domain(row["config"]),
        cause=row["cause"],
        failed_reason=_reason(row["failed_reason"]),
        failed_message=row["failed_message"],
        log_tail=tuple(row["log_tail"]),
        live_at=row["live_at"],
        volumes=_volumes(row["volumes"]),
    )


def _volumes(body: list[dict[str, Any]] | None) -> tuple[RepoVolume, ...]:
    return tuple(RepoVolume(**{**one, "type": RepoType(one["type"])}) for one in body or ())


def replica_to_row(replica: Replica) -> dict[str, Any]:
    return {
        "id": replica.id,
        "space_id": replica.space_id,
        "generation": replica.generation,
        "state": replica.state.value,
        "created_at": replica.created_at,
        "hardware": replica.hardware,
        "node": replica.node,
        "endpoint": asdict(replica.endpoint) if replica.endpoint else None,
        "reason": replica.reason.value if replica.reason else None,
        "message": replica.message,
        "started_at": replica.started_at,
        "ready_at": replica.ready_at,
        "stopped_at": replica.stopped_at,
        "drain_until": replica.drain_until,
        "restarts": replica.restarts,
        "queue_position": replica.queue_position,
        "eta_s": replica.eta_s,
    }


def replica_to_domain(row: Row) -> Replica:
    endpoint = row["endpoint"]
    return Replica(
        id=ReplicaId(row["id"]),
        space_id=SpaceId(row["space_id"]),
        generation=row["generation"],
        state=ReplicaState(row["state"]),
        created_at=row["created_at"],
        hardware=row["hardware"],
        node=row["node"],
        endpoint=Endpoint(**{**endpoint, "kind": EndpointKind(endpoint["kind"])}) if endpoint else None,
        reason=_reason(row["reason"]),
        message=row["message"],
        started_at=row["started_at"],
        ready_at=row["ready_at"],
        stopped_at=row["stopped_at"],
        drain_until=row["drain_until"],
        restarts=row["restarts"],
        queue_position=row["queue_position"],
        eta_s=row["eta_s"],
    )


def event_to_domain(row: Row) -> SpaceEvent:
    return SpaceEvent(id=row["id"], space_id=SpaceId(row["space_id"]), at=row["at"], kind=row["kind"], facts=dict(row["facts"]))
