"""Settings of a Space: hardware, quotas, variables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from web.views.spaces import VolumeRow


@dataclass(frozen=True, slots=True)
class HardwareOption:
    """One tier. `units_total` None = not bounded here. `refusal` says why it cannot be chosen ("" = it can)."""

    name: str
    pretty_name: str
    vcpu: float
    memory_gb: float
    gpu: str
    gpu_memory_gb: int
    price_per_hour: float
    units_total: int | None = None
    units_free: int | None = None
    queue_position: int | None = None
    wait_s: float | None = None
    refusal: str = ""
    is_requested: bool = False
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """`limit` None = unlimited; amounts in the unit of the key."""

    key: str
    limit: float | None
    used: float
    source: str = ""
    frees_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SettingRow:
    key: str
    value: str  # always "" for a secret
    description: str
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class SettingsView:
    options: tuple[HardwareOption, ...]
    quotas: tuple[QuotaRow, ...]
    sleep_after_s: int | None
    variables: tuple[SettingRow, ...]
    secrets: tuple[SettingRow, ...]
    visibility: str
    desired: str  # running or paused
    storage_bytes: int = 0
    replicas: int = 1  # asked for
    replicas_now: int = 0
    storage_tier: str = ""  # what the app has at /data, "" = nothing
    storage_offers: tuple[tuple[str, int], ...] = ()  # tiers that may be asked for, with their bytes
    volumes: tuple[VolumeRow, ...] = ()
