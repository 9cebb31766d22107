"""Repositories that a Space mounts, as pages show them."""

from __future__ import annotations

from collections.abc import Sequence

from control_plane.accounts.mounting import ShownVolume
from web.views import VolumeRow


def volume_rows(found: Sequence[ShownVolume]) -> tuple[VolumeRow, ...]:
    """As pages show them; of a hidden one, where it lies and nothing else."""
    rows = []
    for one in found:
        volume = one.volume
        if one.is_hidden:
            rows.append(VolumeRow(volume.type.value, "", "", volume.mount_path))
        else:
            address = f"/{volume.type.url_prefix}{one.source}"
            rows.append(VolumeRow(volume.type.value, one.source, address, volume.mount_path, volume.revision, volume.path, volume.commit))
    return tuple(rows)
