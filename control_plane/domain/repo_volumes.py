"""Repositories of this platform as read-only folders of a Space: what may be asked for, and where it may lie. Pure.

Wire form: `{type, source, mountPath, revision?, readOnly?, path?}`. Repositories are mounted read-only whatever `readOnly` says, as the
Hub's own client documents it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from control_plane.domain.errors import Rejected
from control_plane.domain.spaces import RepoType, RepoVolume
from control_plane.domain.storage import DATA_PATH

MAX_VOLUMES = 10  # of one Space
MAX_MOUNT_PATH, MAX_REVISION, MAX_PATH = 200, 200, 1000  # characters
HIDDEN_SOURCE = "[private]"  # no name that a repository can have

_SAFE_PATH = re.compile(r"/[A-Za-z0-9._+@=-]+(?:/[A-Za-z0-9._+@=-]+)*")
# What an app's system is made of: nothing may lie there or below.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr", "/var/run",
    "/home/user/.cache/huggingface", "/home/user/.local",
)  # fmt: skip
# What the app itself lives in: a volume may lie below, never in its place.
_HOMES = ("/home", "/home/user", "/home/user/app", "/home/user/.cache", "/opt", "/root", "/srv", "/tmp", "/var", "/var/tmp", "/var/lib")


@dataclass(frozen=True, slots=True)
class VolumeOrder:
    """One volume as it was asked for, its form checked and nothing else. `source` is "namespace/name"."""

    type: RepoType
    source: str
    mount_path: str
    revision: str = ""  # "" = main
    path: str = ""  # below the repository's root; "" = all of it


def parse_orders(items: Sequence[Mapping[str, object]]) -> tuple[VolumeOrder, ...]:
    """The list as clients send it. Raises Rejected, naming the volume and what is wrong with it."""
    if len(items) > MAX_VOLUMES:
        raise Rejected(f"a Space mounts at most {MAX_VOLUMES} volumes; this asks for {len(items)}")
    return tuple(_order(number, item) for number, item in enumerate(items))


def _order(number: int, item: Mapping[str, object]) -> VolumeOrder:
    kind = str(item.get("type"))[:40]
    if kind == "bucket":
        raise Rejected(
            f"volumes[{number}]: there are no buckets on this platform; for a disk that the app can write to, ask for persistent storage: "
            "POST /api/spaces/NAMESPACE/NAME/storage",
            code="NotSupported",
        )
    if kind not in set(RepoType):
        raise Rejected(f"volumes[{number}]: type '{kind}' is not one of {', '.join(RepoType)}")
    source, revision, path = (_text(number, item, key) for key in ("source", "revision", "path"))
    if source.count("/") != 1 or not all(source.split("/")) or len(source) > 200:
        raise Rejected(f"volumes[{number}]: source is a repository's NAMESPACE/NAME; got '{source[:100]}'")
    if len(revision) > MAX_REVISION:
        raise Rejected(f"volumes[{number}]: revision is a branch, a tag or a commit, at most {MAX_REVISION} characters")
    if not isinstance(item.get("readOnly"), bool | None):
        raise Rejected(f"volumes[{number}]: readOnly is true or false")
    return VolumeOrder(RepoType(kind), source, _mount_path(number, item), revision, _inner_path(number, path))


def _text(number: int, item: Mapping[str, object], key: str) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isprintable():
        raise Rejected(f"volumes[{number}]: {key} is a text without control characters")
    return value


def _inner_path(number: int, path: str) -> str:
    plain = path.strip("/")
    if len(plain) > MAX_PATH or any(part in ("", ".", "..") for part in plain.split("/") if plain):
        raise Rejected(f"volumes[{number}]: path is a folder or file of the repository, without '..'; got '{path[:100]}'")
    return plain


def _mount_path(number: int, item: Mapping[str, object]) -> str:
    text = _text(number, item, "mountPath").rstrip("/")
    if len(text) > MAX_MOUNT_PATH or not _SAFE_PATH.fullmatch(text) or any(part in (".", "..") for part in text.split("/")):
        raise Rejected(
            f"volumes[{number}]: mountPath is an absolute path such as /data/model, of letters, digits and ._+@=-, at most "
            f"{MAX_MOUNT_PATH} characters; got '{str(item.get('mountPath'))[:100]}'"
        )
    if any(text == place or text.startswith(f"{place}/") for place in _SYSTEM) or text in _HOMES:
        raise Rejected(f"volumes[{number}]: nothing can be mounted at {text}; choose a folder of its own such as /data/model")
    return text


def check_places(mount_paths: Sequence[str], *, has_storage: bool) -> None:
    """Raises Rejected where two volumes, or one and the Space's persistent storage, would lie in each other."""
    for number, one in enumerate(mount_paths):
        for other in mount_paths[:number]:
            if one == other:
                raise Rejected(f"volumes[{number}]: {one} is taken by another volume of this list")
            if one.startswith(f"{other}/") or other.startswith(f"{one}/"):
                raise Rejected(f"volumes[{number}]: {one} and {other} lie in each other; give each a folder of its own")
        if has_storage and (one == DATA_PATH or one.startswith(f"{DATA_PATH}/")):
            raise Rejected(
                f"volumes[{number}]: the Space's persistent storage is at {DATA_PATH}; mount {one} elsewhere, /models for example"
            )


def unpinned(volumes: Sequence[RepoVolume]) -> tuple[RepoVolume, ...]:
    """As a new deployment gets them: which commit it is, is found when it starts."""
    return tuple(replace(volume, commit="", oid="") for volume in volumes)


def is_same(one: RepoVolume, other: RepoVolume) -> bool:
    """Whether both ask for the same thing at the same place, whatever commit that was."""
    return unpinned((one,)) == unpinned((other,))
