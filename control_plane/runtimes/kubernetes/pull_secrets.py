"""What nodes sign in to the registry with: a Secret of each Space, beside its pods, good for that Space's images and nothing else.

A kubelet asks for it whenever it pulls, weeks after the start where a node was lost: so it is made anew once a day for as long as a
replica runs. Each Space has its own moment of the day: a thousand of them cost about a request per minute, and which scheduler leads, or
since when, does not matter.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterable

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import SpaceId
from control_plane.runtimes.kubernetes import manifests, names
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.facts import Item

logger = logging.getLogger(__name__)

# For the reference of an image: name and password that pull it. They have to be good for several days.
PullLogin = Callable[[str], tuple[str, str]]
DAY_S = 86_400.0
_FRESH_S = DAY_S / 2


class PullSecrets:
    """Blocking. `now` in seconds since the epoch."""

    def __init__(self, api: KubeApi, login: PullLogin, now: Callable[[], float] = time.time) -> None:
        self._api, self._login, self._now = api, login, now
        self._made: dict[str, float] = {}  # path → when this process wrote it
        self._looked = now()

    def ensure(self, namespace: str, space_id: SpaceId, ref: str) -> None:
        """One request, or none for a wake soon after."""
        path = _path(namespace, space_id)
        if self._now() - self._made.get(path, 0.0) > _FRESH_S:
            self._write(path, namespace, space_id, ref)

    def renew(self, deployments: Iterable[Item]) -> None:
        """Those whose moment of the day came since the last call. One that fails is written again at its start, or tomorrow."""
        since, self._looked = self._looked, self._now()
        running = {(item["metadata"]["namespace"], SpaceId(item["metadata"]["labels"][names.SPACE])): item for item in deployments}
        for (namespace, space_id), item in running.items():
            moment = zlib.crc32(space_id.encode()) % DAY_S
            if since + (moment - since) % DAY_S <= self._looked:
                try:
                    ref = item["spec"]["template"]["spec"]["containers"][0]["image"]
                    self._write(_path(namespace, space_id), namespace, space_id, ref)
                except VitrineError as error:
                    logger.warning("pull_secret.not_renewed", extra={"space_id": space_id, "error": error.message})

    def forget(self, namespace: str, space_id: SpaceId) -> None:
        path = _path(namespace, space_id)
        self._made.pop(path, None)
        self._api.delete(path)

    def _write(self, path: str, namespace: str, space_id: SpaceId, ref: str) -> None:
        self._api.apply(path, manifests.pull_secret(space_id, namespace, ref, self._login(ref)))
        self._made[path] = self._now()


def _path(namespace: str, space_id: SpaceId) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/{names.pull_secret(space_id)}"
