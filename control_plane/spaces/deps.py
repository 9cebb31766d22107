"""The ports that Space use cases need, as one frozen value made by bootstrap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildLimits
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import Sha, SpaceId
from control_plane.domain.spaces import Build, Repo, SpaceConfig
from control_plane.domain.storage import TIER_BYTES, StorageTier
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore
from control_plane.ports.log_store import LogStore
from control_plane.ports.secret_box import SecretBox
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory


class QuotaCheck(Protocol):
    """Raises QuotaExceeded when `asked` more of `key` does not fit; runs inside the caller's write transaction.

    `space_id`: the Space that asks, which may hold something already and gives it back.
    """

    def __call__(
        self, uow: UnitOfWork, account: Account, key: str, asked: float, space_id: SpaceId | None = None, /
    ) -> Awaitable[None]: ...


# Adds what an ended build used to its owner's month; inside the caller's write transaction.
BuildMeter = Callable[[UnitOfWork, Build], Awaitable[None]]


@dataclass(frozen=True)
class SpaceDeps:
    uow: UnitOfWorkFactory
    clock: Clock
    git: GitStore
    logs: LogStore
    signals: Signals
    secret_box: SecretBox
    catalog: Callable[[], FlavorCatalog]
    check_quota: QuotaCheck
    meter_build: BuildMeter
    parse_card: Callable[[bytes], SpaceConfig]  # SpaceConfigError on a mistake
    card_of: Callable[[bytes], dict[str, object]]  # front matter as JSON-safe values, {} when unreadable
    initial_files: Callable[..., dict[str, bytes]]
    build_limits: BuildLimits
    apps_domain: str
    app_url: Callable[[str], str]  # subdomain → origin
    public_url: str
    tiers: Mapping[StorageTier, int] = field(default_factory=lambda: TIER_BYTES)  # persistent storage on offer, in bytes
    pull_moved: Callable[[Repo, str, Sha | None], Awaitable[None]] | None = None  # the ref of a pull request moved or went away
