"""Images of Spaces that an engine may forget: all but the newest of each Space, and never one that a container uses.

What is forgotten here is still in the registry, and pulled again when somebody rolls back to it.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from docker.errors import APIError, ImageNotFound

KEPT = 5  # as many as can be rolled back to
_UNFINISHED_FOR = "24h"
CACHE_BYTES = 20 << 30  # of BuildKit's cache, which Docker Engine before 23 lets grow for ever
_OF_SPACE = re.compile(r"(?P<repository>(?:.+/)?[0-9a-f]{24})(?::[0-9a-f]{24}|@sha256:[0-9a-f]{64})")


def old_images(images: Iterable[Mapping[str, Any]], used: Collection[str], keep: int) -> list[str]:
    """References beyond the newest `keep` of each repository of a Space. `used`: ids of images that containers run from. Pure."""
    of_repository: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for image in images:
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        for reference in tags or image.get("RepoDigests") or ():
            if found := _OF_SPACE.fullmatch(reference):
                of_repository[found["repository"]].append((int(image["Created"]), reference, image["Id"]))
    old = []
    for entries in of_repository.values():
        kept: dict[str, None] = {}
        for _, reference, image_id in sorted(entries, reverse=True):
            if image_id in used or image_id in kept or len(kept) < keep:
                kept[image_id] = None
            else:
                old.append(reference)
    return sorted(old)


def forget_unfinished(client: Any, older_than: str = _UNFINISHED_FOR) -> int:
    """What steps of failed builds made: the classic builder keeps each as a layer without a name, to go on from, and never forgets one.

    `older_than`: as the engine reads times ("24h"); a build that goes on needs its own. Returns the bytes that went.
    """
    try:
        answer = client.prune_images(filters={"dangling": True, "until": older_than})
    except APIError:  # another build's push is at it; the engine does one at a time
        return 0
    return int(answer.get("SpaceReclaimed") or 0)


def forget(client: Any, *, repository: str = "", keep: int = KEPT, dry_run: bool = False) -> list[str]:
    """The references that went, or with `dry_run` would go. `repository`: only of this one."""
    used = {item["ImageID"] for item in client.containers(all=True)}
    gone = []
    for reference in old_images(client.images(name=repository or None), used, keep):
        with contextlib.suppress(ImageNotFound, APIError):  # a build that goes on may need it
            if not dry_run:
                client.remove_image(reference)
            gone.append(reference)
    return gone


def trim_cache(client: Any, keep_bytes: int = CACHE_BYTES) -> int:
    """BuildKit's cache down to so many bytes, what was not used for longest first. Returns the bytes that went."""
    answer = client.post(f"{client.base_url}/v{client.api_version}/build/prune", params={"keep-storage": str(keep_bytes)}, timeout=600)
    return int(answer.json().get("SpaceReclaimed") or 0) if answer.status_code == 200 else 0
