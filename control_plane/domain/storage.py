"""Persistent storage of a Space: a disk of its own at `/data` that outlives its replicas. Tiers are names; sizes are the operator's."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from control_plane.domain.errors import Rejected

DATA_PATH = "/data"
VOLUME_GONE = "volume-gone"  # document kind: a volume that nobody wants any more, until its bytes are removed
_GB = 1_000_000_000


class StorageTier(StrEnum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


TIER_BYTES: Mapping[StorageTier, int] = {StorageTier.SMALL: 20 * _GB, StorageTier.MEDIUM: 150 * _GB, StorageTier.LARGE: 1000 * _GB}


def parse_tiers(text: str) -> dict[StorageTier, int]:
    """`small=20,medium=150` in GB → bytes, in order of size; what is not named is not offered. Raises Rejected."""
    found: dict[StorageTier, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, size = part.partition("=")
        try:
            found[StorageTier(name)] = round(float(size) * _GB)
        except (ValueError, OverflowError) as error:
            raise Rejected(f"'{part[:60]}' is not a tier of storage such as small=20; names: {', '.join(StorageTier)}") from error
        if not 0 < found[StorageTier(name)] < 1 << 60:
            raise Rejected(f"the tier '{part[:60]}' has no usable size")
    return dict(sorted(found.items(), key=lambda item: item[1]))


def parse_tier(name: str, offered: Mapping[StorageTier, int]) -> StorageTier:
    """The tier of that name, or Rejected naming those that this platform offers."""
    if not offered:
        raise Rejected("persistent storage is not offered on this platform; keep data in a dataset repository", code="NotSupported")
    if name not in set(offered):
        raise Rejected(f"unknown storage tier '{name[:40]}'; allowed: {', '.join(offered)}")
    return StorageTier(name)
