"""The address at which one replica's machine fetches one volume, and the token for it. Pure.

The token names the replica and the number of the volume and does not run out by itself: whoever answers asks each time whether that
replica still runs and whether the volume may still be mounted.
"""

from __future__ import annotations

from control_plane.domain.ids import ReplicaId
from control_plane.domain.sensitive import Sensitive
from control_plane.git.signing import Signer

_NO_END = 1 << 40  # unix seconds


class VolumeLinks:
    def __init__(self, key: bytes) -> None:
        self._signer = Signer(key, "volume")

    def path(self, replica_id: ReplicaId, number: int) -> str:
        return f"/api/volumes/{replica_id}/{number}"

    def token(self, replica_id: ReplicaId, number: int) -> Sensitive:
        return Sensitive(self._signer.sign(_fields(replica_id, number)))

    def check(self, replica_id: str, number: int, token: str) -> None:
        """Raises Forbidden unless the token is ours and for just this."""
        self._signer.check(_fields(replica_id, number), token, expires=str(_NO_END), now=0.0)


def _fields(replica_id: str, number: int) -> dict[str, str | int]:
    return {"replica": replica_id, "number": number}
